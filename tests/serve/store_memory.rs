//! What a server remembers of a store beside its mirrors.

use std::fs;
use std::path::Path;

use super::bucket_server::BucketServer;
use super::shared_store::{on_bucket, parts, push_and_share, store_of, wait_shared};
use super::support::lab::{self, Lab};
use super::support::rng::Rng;
use super::support::server::Settings;
use super::support::wait;
use super::{expect_clone, hit, push_and_fetch, small_lab};

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

fn wait_remembered(lab: &Lab, state: &str, sequence: u64) {
    let dir = lab.scratch(state).join("shared");
    wait::until_true("it is remembered", || {
        let files = fs::read_dir(&dir).into_iter().flatten().flatten();
        let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.any(|text| text.contains(&format!("\"sequence\":{sequence},")))
    });
}

/// A server that has had something expire, and was killed before the store had heard of it, tells the others of it though its
/// mirror has left the disk since.
#[test]
fn what_has_expired_is_told_though_the_mirror_is_gone() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let upstream = lab.upstream("small");
    let before = super::git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    let first = on_bucket(&lab, &bucket, "first");
    hit(&first, "small");
    wait_shared(&first, 1);
    push_and_fetch(
        &lab,
        &first,
        "small",
        "secret.bin",
        &Rng::new(12).bytes(3000),
    );
    wait_shared(&first, 2);
    super::git::run(&upstream, &["update-ref", "refs/heads/main", &before]);
    push_and_fetch(&lab, &first, "small", "fixed.txt", b"fixed\n");
    wait_shared(&first, 3);
    first.stop();
    let soon = ["--maintenance-idle", "1s", "--unreachable-expiry", "1s"];
    let settings = || Settings {
        state: lab.scratch("first"),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let settings = || settings().with(&["--store", "s3://farm"]).with_fault(OFTEN);
    bucket.deny(Some("head.json"));
    let mut first = settings().with(&soon).start();
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
    wait_remembered(&lab, "second", 2);
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
    assert!(head_of(&lab.scratch("store"))["sequence"].as_u64() > Some(2));
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
