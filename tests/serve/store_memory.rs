//! What a server remembers of a store beside its mirrors.

use std::fs;
use std::path::Path;

use super::bucket_server::BucketServer;
use super::shared_store::{on_bucket, parts, push_and_share, store_of, wait_shared};
use super::support::lab::{self, Lab};
use super::support::rng::Rng;
use super::support::server::{Server, Settings};
use super::support::wait;
use super::{begin, expect_clone, finish, hit, push_and_fetch, small_lab};

const OFTEN: &str = "store-look-ms=200,store-kept-ms=1000";

/// All that there is of repositories leaves the disk of a server that does not run.
fn evict_all(state: &Path) {
    for name in ["mirrors", "snapshots"] {
        fs::remove_dir_all(state.join(name)).unwrap();
    }
}

/// The head of the one repository of a store.
fn head_of(store: &Path) -> serde_json::Value {
    let mut repositories = fs::read_dir(store.join("v1/repos")).unwrap();
    let dir = repositories.next().unwrap().unwrap().path();
    serde_json::from_str(&fs::read_to_string(dir.join("head.json")).unwrap()).unwrap()
}

/// Waits until a server has noted the head that there is; gives its sequence.
fn wait_remembered(lab: &Lab, state: &str) -> u64 {
    let dir = lab.scratch(state).join("shared");
    let sequence = || head_of(&lab.scratch("store"))["sequence"].as_u64().unwrap();
    wait::until_true("it is remembered", || {
        let sequence = sequence();
        let files = fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.any(|text| text.contains(&format!("\"sequence\":{sequence},")))
    });
    sequence()
}

/// What is pushed, forced away and never asked for again is shared; gives a file of it.
fn share_and_force_away(lab: &Lab, server: &Server) -> Vec<u8> {
    let upstream = lab.upstream("small");
    let before = super::git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    hit(server, "small");
    wait_shared(server, 1);
    let secret = Rng::new(12).bytes(3000);
    push_and_fetch(lab, server, "small", "secret.bin", &secret);
    wait_shared(server, 2);
    super::git::run(&upstream, &["update-ref", "refs/heads/main", &before]);
    push_and_fetch(lab, server, "small", "fixed.txt", b"fixed\n");
    wait_shared(server, 3);
    secret
}

const SOON: [&str; 4] = ["--maintenance-idle", "1s", "--unreachable-expiry", "1s"];

/// A server that has had something expire, and was killed before the store had heard of it, tells the others of it though its
/// mirror has left the disk since.
#[test]
fn what_has_expired_is_told_though_the_mirror_is_gone() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let first = on_bucket(&lab, &bucket, "first");
    share_and_force_away(&lab, &first);
    first.stop();
    let settings = || Settings {
        state: lab.scratch("first"),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let settings = || settings().with(&["--store", "s3://farm"]).with_fault(OFTEN);
    bucket.deny(Some("head.json"));
    let mut first = settings().with(&SOON).start();
    first.wait_logged("removing unreachable objects");
    first.kill();
    drop(first);
    evict_all(&lab.scratch("first"));
    bucket.deny(None);
    let store = lab.scratch("s3/farm");
    assert_eq!(head_of(&store)["generation"], 0);

    // Nobody asks for it, and there is no upstream.
    lab.hide("small");
    let first = settings().start();
    first.wait_logged("what has expired is shared no more");
    let head = head_of(&store);
    assert_eq!(
        (&head["generation"], &head["snapshots"]),
        (&1.into(), &serde_json::json!([]))
    );
    // What was there goes as well, also if this one ends before.
    let dir = store.join("v1/repos");
    let dir = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    let parts = dir.join("parts");
    first.stop();
    let first = settings().start();
    wait::until_true("it is removed", || {
        fs::read_dir(&parts).is_ok_and(|parts| parts.count() == 0)
    });
    fs::rename(lab.scratch("hidden-small"), lab.upstream("small")).unwrap();
    expect_clone(&lab, "small", &hit(&first, "small").body);
    wait_shared(&first, 1);
    assert_eq!(head_of(&store)["generation"], 1);
}

/// Of a bucket that was restored to an earlier state nothing is served by who has had a later one, whether it has a mirror or
/// not; of one that is another one it is.
#[test]
fn a_store_that_was_restored_is_not_believed() {
    let lab = small_lab();
    let (url, target) = (store_of(&lab), lab::target("small"));
    let store = ["--store", &*url];
    let first = lab
        .settings()
        .with(&store)
        .with_fault("store-look-ms=100")
        .start();
    let early = hit(&first, "small");
    wait_shared(&first, 1);
    wait::until_true("it is another store", || {
        lab.scratch("store/v1/store.json").exists()
    });
    let saved = lab.scratch("saved");
    lab::copy_tree(&lab.scratch("store"), &saved);
    let newest = push_and_share(&lab, &first);
    first.stop();
    let start = |name: &str| {
        let state = lab.scratch(name);
        let settings = Settings {
            state,
            ..lab.settings()
        };
        settings
            .with(&store)
            .with_fault("store-look-ms=100")
            .start()
    };
    let second = start("second");
    assert!(second.get(&target).expect(200).body == newest.body);
    let seen = wait_remembered(&lab, "second");
    second.stop();
    lab.hide("small");
    evict_all(&lab.scratch("second"));
    fs::remove_dir_all(lab.scratch("store")).unwrap();
    lab::copy_tree(&saved, &lab.scratch("store"));
    let restored = parts(&lab).len();

    let second = start("second");
    let refused = second.get(&target).head.status;
    assert!(matches!(refused, 404 | 502), "{refused}");
    second.wait_logged("the store was emptied or restored");
    assert_eq!(parts(&lab).len(), restored, "something is dropped for it");
    // One that knows nothing better has what is there.
    let third = start("third");
    assert!(third.get(&target).expect(200).body == early.body);
    third.stop();
    fs::rename(lab.scratch("hidden-small"), lab.upstream("small")).unwrap();
    // That there was none is remembered for a while.
    let cloned = wait::until("it is cloned", || {
        let answer = second.get(&target);
        (answer.head.status == 200).then_some(answer)
    });
    expect_clone(&lab, "small", &cloned.body);
    wait_shared(&second, 1);
    assert!(head_of(&lab.scratch("store"))["sequence"].as_u64() > Some(seen));
    second.stop();

    // It is another one now, which has none of that behind it.
    lab.hide("small");
    evict_all(&lab.scratch("second"));
    fs::remove_dir_all(lab.scratch("store")).unwrap();
    lab::copy_tree(&saved, &lab.scratch("store"));
    let other = format!("{{\"id\":\"{:032x}\"}}", 7);
    fs::write(lab.scratch("store/v1/store.json"), other).unwrap();
    let second = start("second");
    assert!(second.get(&target).expect(200).body == early.body);
}

/// The same where another server has had something expire, too, and the upstream does not say what there is now: a server that
/// is behind gives up what it has, and tells what it has to tell without it.
#[test]
fn who_is_behind_tells_what_is_owed_all_the_same() {
    let lab = small_lab();
    let (url, target) = (store_of(&lab), lab::target("small"));
    let store = ["--store", &*url, "--fetch-interval", "720h"];
    let settings = |name: &str| Settings {
        state: lab.scratch(name),
        ..lab.settings()
    };
    let settings = |name: &str| settings(name).with(&store).with_fault(OFTEN);
    let first = settings("first").start();
    share_and_force_away(&lab, &first);
    let second = settings("second").start();
    second.get(&target).expect(200);
    second.wait_logged("\"shared\":true");
    wait_remembered(&lab, "second");
    first.stop();
    second.stop();
    lab.hide("small");
    let first = settings("first").with(&SOON).start();
    first.wait_logged("what has expired is shared no more");
    first.stop();
    let told = head_of(&lab.scratch("store"))["generation"]
        .as_u64()
        .unwrap();
    // As if something had expired there, too, and it was killed then.
    let mut files = fs::read_dir(lab.scratch("second/shared")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    let text = fs::read_to_string(&file).unwrap();
    let due = format!("\"due\":\"{:032x}\"", 7);
    assert!(text.contains("\"due\":null"), "{text}");
    fs::write(&file, text.replace("\"due\":null", &due)).unwrap();

    let second = settings("second").start();
    second.wait_logged("the upstream cannot be compared");
    second.wait_logged("what has expired is shared no more");
    assert!(!lab.scratch("second/mirrors/test/small.git").exists());
    let head = head_of(&lab.scratch("store"));
    assert_eq!(
        (head["generation"].as_u64(), &head["raise"]),
        (Some(told + 1), &format!("{:032x}", 7).into())
    );
}

/// What was begun to be taken is not kept if the store does not say, at the end, that nothing has expired meanwhile.
#[test]
fn what_may_have_expired_on_the_way_is_not_taken() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let first = on_bucket(&lab, &bucket, "first");
    share_and_force_away(&lab, &first);
    first.stop();
    lab.hide("small");
    let taker = on_bucket(&lab, &bucket, "taker");
    bucket.hold(Some(".pack."));
    let (mut early, _, body) = begin(&taker, "small", 1000);
    bucket.deny(Some("head.json"));
    bucket.hold(None);
    // Who has begun with it gets all of it.
    finish(&mut early, body);
    taker.wait_logged("something has expired meanwhile, or may have");
    let refused = taker.get(&lab::target("small")).head.status;
    assert!(matches!(refused, 404 | 502), "{refused}");
}

/// Has a mirror and what is remembered beside it be of a generation that the store has never had.
fn note_generation(lab: &Lab, state: &str, (number, raise): (u64, u64)) {
    let state = lab.scratch(state);
    let noted = state.join("mirrors/test/small.git/tarpon-generation");
    assert!(noted.parent().unwrap().is_dir(), "a mirror");
    fs::write(noted, format!("{number} {raise:032x}\n")).unwrap();
    let mut files = fs::read_dir(state.join("shared")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    let mut memory: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    memory["number"] = number.into();
    memory["raise"] = format!("{raise:032x}").into();
    fs::write(&file, memory.to_string()).unwrap();
}

/// A server that has shared what is in a store, which looks often, and is gone, with a generation that the store has never
/// had; and how it is started again.
fn shared_once(lab: &Lab) -> Settings {
    let settings = || Settings {
        state: lab.scratch("first"),
        ..lab.settings()
    };
    let settings = || {
        settings()
            .with(&["--store", &store_of(lab)])
            .with_fault(OFTEN)
    };
    let first = settings().start();
    hit(&first, "small");
    wait_shared(&first, 1);
    wait_remembered(lab, "first");
    first.stop();
    note_generation(lab, "first", (5, 5));
    settings()
}

/// In a store that was emptied others have begun anew: nothing has expired there, so what is here stays though it cannot be
/// compared for long.
#[test]
fn nothing_is_dropped_for_a_store_that_has_begun_anew() {
    let lab = small_lab();
    let settings = shared_once(&lab);
    // It is another store now.
    let other = format!("{{\"id\":\"{:032x}\"}}", 7);
    fs::write(lab.scratch("store/v1/store.json"), other).unwrap();
    lab.hide("small");
    let first = settings.start();
    first.get(&lab::target("small")).expect(200);
    first.wait_logged("something has expired elsewhere");
    // It looks each 200 ms, and drops what it drops after a second.
    let looks = || first.log().matches("cannot fetch").count();
    wait::until_within("it has looked often", 3 * wait::DEADLINE, || {
        first.get(&lab::target("small")).expect(200);
        (looks() > 20).then_some(())
    });
    assert!(!first.log().contains("\"dropped"), "{}", first.log());
    assert!(lab.scratch("first/mirrors/test/small.git").is_dir());
}

/// Who finds a head that has not followed what is here raises it above both: others that are of the same follow that, and need
/// not raise it once more.
#[test]
fn a_head_is_raised_above_what_it_has_not_followed() {
    let lab = small_lab();
    let settings = shared_once(&lab);
    let mut dirs = fs::read_dir(lab.scratch("store/v1/repos")).unwrap();
    let head = dirs.next().unwrap().unwrap().path().join("head.json");
    let mut next = head_of(&lab.scratch("store"));
    (next["generation"], next["raise"]) = (6.into(), format!("{:032x}", 6).into());
    for snapshot in next["snapshots"].as_array_mut().unwrap() {
        snapshot["generation"] = 6.into();
    }
    fs::write(&head, next.to_string()).unwrap();
    let first = settings.start();
    hit(&first, "small");
    first.wait_logged("what has expired is shared no more");
    let raised = head_of(&lab.scratch("store"));
    let raises = Vec::from_iter(raised["raises"].as_array().unwrap());
    for raise in [5, 6] {
        let raise = format!("{raise:032x}");
        assert!(raises.iter().any(|one| **one == *raise), "{raised}");
    }
}
