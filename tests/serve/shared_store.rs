//! Servers that share snapshots through an object store.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gix::bstr::ByteSlice;
use tarpon::store::remote::key::meta_name;

use super::bucket_server::{BucketServer, Fault, KEY, SECRET};
use super::support::certificates::Authority;
use super::support::client::{End, Response};
use super::support::front::{Asked, Does, Front, tls_of};
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::rng::Rng;
use super::support::server::{Server, Settings};
use super::support::wait;
use super::{begin, expect_clone, hit, push_and_fetch, small_lab};

pub(super) fn store_of(lab: &Lab) -> String {
    format!("file://{}", lab.scratch("store").display())
}

/// A server with a state directory of its own.
pub(super) fn other(lab: &Lab, name: &str, arguments: &[&str]) -> Server {
    let state = lab.scratch(name);
    let settings = Settings {
        state,
        ..lab.settings()
    };
    settings.with(arguments).start()
}

/// Settings with a state directory of their own.
pub(super) fn in_state(lab: &Lab, name: &str) -> Settings {
    Settings {
        state: lab.scratch(name),
        ..lab.settings()
    }
}

/// One over a bucket; the server of the tests takes no long keys.
pub(super) fn on_bucket(lab: &Lab, bucket: &BucketServer, name: &str) -> Server {
    let settings = Settings {
        state: lab.scratch(name),
        environment: bucket.environment(),
        ..lab.settings()
    };
    settings.with(&["--store", "s3://farm"]).start()
}

pub(super) fn count(server: &Server, what: &str, result: &str) -> u64 {
    let name = format!("tarpon_{what}_total");
    server.metrics().count(&name, &[("result", result)])
}

pub(super) fn wait_shared(server: &Server, times: u64) {
    wait::until_true("it is shared", || count(server, "offers", "done") == times);
}

/// What is answered once something was pushed, and is shared as the second snapshot.
pub(super) fn push_and_share(lab: &Lab, server: &Server) -> Response {
    push_and_fetch(lab, server, "small", "new.txt", b"new\n");
    let pushed = super::git::text(&lab.upstream("small"), &["rev-parse", "HEAD"]);
    let newest = wait::until("the push is built", || {
        let answer = server.get(&lab::target("small")).expect(200);
        let commit = answer.head.get("x-cachew-snapshot-commit");
        (commit == Some(&*pushed)).then_some(answer)
    });
    wait_shared(server, 2);
    newest
}

/// How old what is answered is said to be.
fn age_s(answer: &Response) -> Option<u64> {
    answer.head.get("age")?.parse().ok()
}

/// Whether nobody has it: there is no upstream any more.
fn is_refused(server: &Server, target: &str) -> bool {
    matches!(server.get(target).head.status, 404 | 502)
}

/// The parts that lie in the store.
pub(super) fn parts(lab: &Lab) -> Vec<PathBuf> {
    let files = |dir: &Path| {
        let files = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        Vec::from_iter(files.map(|file| file.unwrap().path()))
    };
    let repositories = files(&lab.scratch("store/v1/repos"));
    assert_eq!(repositories.len(), 1, "{repositories:?}");
    files(&repositories[0].join("parts"))
}

/// The upstream is gone, and the disk is empty: no clone, no build, the same archive.
#[test]
fn an_empty_server_has_what_another_one_has_shared() {
    let lab = small_lab();
    let url = store_of(&lab);
    let first = lab.start();
    hit(&first, "small");
    first.stop();
    // What was there before there was a store is shared as well.
    let first = lab.settings().with(&["--store", &url]).start();
    hit(&first, "small");
    wait_shared(&first, 1);
    let target = lab::target("small");
    let newest = push_and_share(&lab, &first);
    expect_clone(&lab, "small", &newest.body);
    lab.hide("small");

    let alone = other(&lab, "alone", &[]);
    assert!(is_refused(&alone, &target));
    let reads = ["--store", &*url, "--store-readonly"];
    let second = other(&lab, "second", &reads);
    let taken = second.get(&target).expect(200);
    assert_eq!(taken.head.etag(), newest.head.etag());
    assert!(taken.body == newest.body, "other bytes");
    assert!(
        age_s(&taken).is_some_and(|age_s| age_s < 600),
        "{:?}",
        taken.head
    );
    wait::until_true("it is kept", || count(&second, "imports", "done") == 1);
    assert_eq!(second.builds("complete"), 0);
    assert_eq!(count(&second, "offers", "done"), 0);
    let manifest = second.get(&lab::endpoint("small", "manifest")).expect(200);
    let same = first.get(&lab::endpoint("small", "manifest")).expect(200);
    assert!(manifest.body == same.body, "another manifest");
    // It is an entry as any other.
    second.stop();
    let second = other(&lab, "second", &[]);
    let again = second.get(&target).expect(200);
    assert_eq!(again.head.etag(), newest.head.etag());
    assert!(again.body == newest.body, "other bytes after a restart");
}

/// Whichever part has rotted, or is too short, no byte of it is served; what is whole again is.
#[test]
fn what_is_damaged_in_the_store_is_not_served() {
    let lab = small_lab();
    let url = store_of(&lab);
    let first = lab.settings().with(&["--store", &url]).start();
    let built = hit(&first, "small");
    wait_shared(&first, 1);
    first.stop();
    lab.hide("small");
    // One that writes would have the others do without it.
    let server = other(&lab, "empty", &["--store", &url, "--store-readonly"]);
    let target = lab::target("small");
    let mut parts = parts(&lab);
    // Refs are for mirrors.
    parts.retain(|part| {
        !part
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("refs-")
    });
    assert!(parts.len() >= 7, "{parts:?}");
    let (mut failed, mut cut) = (0, 0);
    let mut expect_refused = |part: &Path| {
        let answer = server.get(&target);
        failed += 1;
        wait::until_true("it has failed", || {
            count(&server, "imports", "failed") == failed
        });
        if answer.head.status == 200 {
            // It had begun: what came of it is sound, and does not look whole.
            assert!(built.body.starts_with(&answer.body), "{}", part.display());
            let is_short = answer.body.len() < built.body.len();
            assert_eq!(answer.end == End::Truncated, is_short, "{}", part.display());
            cut += 1;
            // The next one is built here, and cannot be: the one after that is taken from there again.
        }
        assert!(is_refused(&server, &target), "{}", part.display());
        failed = count(&server, "imports", "failed");
    };
    for (number, part) in parts.iter().enumerate() {
        let sound = fs::read(part).unwrap();
        let mut broken = sound.clone();
        match number % 2 {
            0 => broken[sound.len() / 2] ^= 1,
            _ => broken.truncate(sound.len() - 1),
        }
        fs::write(part, broken).unwrap();
        expect_refused(part);
        fs::write(part, sound).unwrap();
    }
    assert!(cut >= 2, "{cut} of {} were begun", parts.len());
    let taken = server.get(&target).expect(200);
    assert_eq!(taken.head.etag(), built.head.etag());
    assert!(taken.body == built.body, "other bytes");
}

/// What was lost, or has rotted, or all of it: who has it uploads it again, and nobody is held up by it twice.
#[test]
fn what_is_lost_in_the_store_is_uploaded_again() {
    let lab = small_lab();
    let url = store_of(&lab);
    let store = ["--store", &*url];
    let settings = lab.settings().with(&store).with_fault("store-look-ms=100");
    let first = settings.start();
    let built = hit(&first, "small");
    wait_shared(&first, 1);
    let target = lab::target("small");
    let pack = |lab: &Lab| {
        let mut packs = parts(lab).into_iter();
        let is_pack = |path: &PathBuf| path.to_str().unwrap().contains(".pack.");
        packs.rfind(is_pack).expect("a pack")
    };
    let mut taken = 0;
    let mut expect_taken = |what: &str| {
        taken += 1;
        let server = other(&lab, &format!("taker{taken}"), &store);
        let answer = server.get(&target).expect(200);
        assert_eq!(answer.head.etag(), built.head.etag(), "{what}");
        assert!(answer.body == built.body, "{what}: other bytes");
        assert_eq!(server.builds("complete"), 0, "{what}");
    };
    // Somebody removes a part.
    fs::remove_file(pack(&lab)).unwrap();
    wait_shared(&first, 2);
    expect_taken("a lost part");

    // One rots, of which a listing tells nothing: who comes upon it says so, and does without it.
    let rotten = pack(&lab);
    let mut bytes = fs::read(&rotten).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&rotten, bytes).unwrap();
    let finder = other(&lab, "finder", &store);
    finder.get(&target);
    // By whichever of the two is faster.
    let shared = || count(&first, "offers", "done") + count(&finder, "offers", "done");
    wait::until_true("it is shared", || shared() >= 3);
    let again = finder.get(&target).expect(200);
    expect_clone(&lab, "small", &again.body);
    expect_taken("a rotten part");
    drop(finder);

    // All of it.
    let before = count(&first, "offers", "done");
    fs::remove_dir_all(lab.scratch("store/v1")).unwrap();
    first.wait_logged("the store was emptied or restored");
    wait_shared(&first, before + 1);
    expect_taken("all of it");
}

/// What has the content that its name says, and is no metadata all the same, is said to be broken as well.
#[test]
fn what_cannot_be_read_in_the_store_is_uploaded_again() {
    let lab = small_lab();
    let url = store_of(&lab);
    let store = ["--store", &*url];
    let settings = lab.settings().with(&store).with_fault("store-look-ms=100");
    let first = settings.start();
    let built = hit(&first, "small");
    wait_shared(&first, 1);
    let dir = parts(&lab)[0].parent().unwrap().to_owned();
    let head = dir.with_file_name("head.json");
    let text = fs::read_to_string(&head).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let is_meta = |part: &&serde_json::Value| part["key"].as_str().unwrap().starts_with("meta-");
    let meta = json["parts"].as_array().unwrap().iter().find(is_meta);
    let meta = meta.unwrap()["key"].as_str().unwrap().to_owned();
    let other = format!("{}.{:032x}", meta_name(b"no metadata"), 7);
    fs::write(dir.join(&other), b"no metadata").unwrap();
    for part in json["parts"].as_array_mut().unwrap() {
        if part["key"] == meta {
            (part["key"], part["bytes"]) = (other.clone().into(), 11.into());
        }
    }
    let text = json.to_string().replace(&meta, &other);
    fs::write(dir.with_file_name("head.new"), text).unwrap();
    fs::rename(dir.with_file_name("head.new"), &head).unwrap();

    let finder = self::other(&lab, "finder", &store);
    finder.get(&lab::target("small")).expect(200);
    // By whoever comes first: the finder has it by then, too.
    wait::until_true("it is uploaded again", || {
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&head).unwrap()).unwrap();
        let mut named = json["parts"].as_array().unwrap().iter();
        named.any(|part| part["key"].as_str().unwrap().starts_with("meta-"))
            && !json["parts"].to_string().contains(&other)
    });
    lab.hide("small");
    let taker = self::other(&lab, "taker", &store);
    let taken = taker.get(&lab::target("small")).expect(200);
    assert!(taken.body == built.body, "other bytes");
}

/// Whether bytes stand in some file below a directory.
fn is_below(dir: &Path, bytes: &[u8]) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return fs::read(dir).is_ok_and(|file| file.find(bytes).is_some());
    };
    let mut entries = entries.flatten();
    entries.any(|entry| is_below(&entry.path(), bytes))
}

/// What expires at one server is gone at all that share a store, and from there, and nobody brings it back who was not
/// there at the time: neither one whose own expiry is far off, nor one that was stopped.
#[test]
fn what_expires_at_one_server_is_gone_everywhere() {
    let lab = small_lab();
    let (upstream, url, target) = (lab.upstream("small"), store_of(&lab), lab::target("small"));
    let before = super::git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    let often = "store-look-ms=200,store-kept-ms=1000";
    let store = ["--store", &*url, "--fetch-interval", "720h"];
    let soon = ["--maintenance-idle", "1s", "--unreachable-expiry", "4s"];
    let settings = lab.settings().with(&store).with(&soon).with_fault(often);
    let first = settings.start();
    hit(&first, "small");
    wait_shared(&first, 1);
    let secret = Rng::new(12).bytes(3000);
    let id = push_and_fetch(&lab, &first, "small", "secret.bin", &secret);
    wait_shared(&first, 2);
    let start = |name: &str| in_state(&lab, name).with(&store).with_fault(often).start();
    let (second, third) = (start("second"), start("third"));
    for server in [&second, &third] {
        let taken = server.get(&target).expect(200);
        assert_eq!(taken.head.get("x-cachew-snapshot-commit"), Some(&*id));
        server.wait_logged("\"shared\":true");
    }
    third.stop();
    let part = &secret[1000..1100];
    let homes = [lab.state(), lab.scratch("second"), lab.scratch("third")];
    let homes = homes.map(|home| home.join("mirrors"));
    for home in homes.iter().chain([&lab.scratch("store")]) {
        assert!(is_below(home, part), "{}", home.display());
    }
    super::git::run(&upstream, &["update-ref", "refs/heads/main", &before]);
    super::git::run(&upstream, &["gc", "--quiet", "--prune=now"]);
    push_and_fetch(&lab, &first, "small", "fixed.txt", b"fixed\n");
    let wait_gone = |home: &Path| {
        let what = format!("it is gone from {}", home.display());
        wait::until_within(&what, 3 * wait::DEADLINE, || {
            (!is_below(home, part)).then_some(())
        });
    };
    wait_gone(&lab.scratch("store"));
    wait_gone(&homes[0]);
    wait_gone(&homes[1]);
    second.wait_logged("something has expired elsewhere");
    second.wait_logged("removed what has expired elsewhere");
    let by_id = format!("{target}?commit={id}");
    second.get(&by_id).expect(404);
    expect_clone(&lab, "small", &hit(&second, "small").body);
    let fresh = start("fourth");
    expect_clone(&lab, "small", &hit(&fresh, "small").body);
    for server in [&first, &second, &fresh] {
        assert_eq!(count(server, "offers", "failed"), 0);
    }
    // Without an upstream nobody can say what its mirror may have.
    let shared = hit(&fresh, "small");
    lab.hide("small");
    let third = start("third");
    third.wait_logged("the upstream cannot be compared");
    wait_gone(&homes[2]);
    let behind = |server: &Server| server.metrics().count("tarpon_store_behind", &[]);
    wait::until_true("none is behind", || behind(&second) + behind(&third) == 0);
    let taken = third.get(&target).expect(200);
    assert_eq!(taken.head.etag(), shared.head.etag());
    assert!(taken.body == shared.body, "other bytes");
    for home in homes.iter().chain([&lab.scratch("store")]) {
        assert!(!is_below(home, part), "{} again", home.display());
    }
}

/// Where the upstream is away what has expired goes all the same, and whoever has no mirror is served all the time.
#[test]
fn what_expires_while_the_upstream_is_away_leaves_nobody_without() {
    let lab = small_lab();
    let (upstream, url, target) = (lab.upstream("small"), store_of(&lab), lab::target("small"));
    let before = super::git::text(&upstream, &["rev-parse", "refs/heads/main"]);
    let often = "store-look-ms=200,store-kept-ms=1000";
    let store = ["--store", &*url, "--fetch-interval", "720h"];
    let first = lab.settings().with(&store).with_fault(often).start();
    hit(&first, "small");
    wait_shared(&first, 1);
    let secret = Rng::new(12).bytes(3000);
    push_and_fetch(&lab, &first, "small", "secret.bin", &secret);
    wait_shared(&first, 2);
    super::git::run(&upstream, &["update-ref", "refs/heads/main", &before]);
    push_and_fetch(&lab, &first, "small", "fixed.txt", b"fixed\n");
    wait_shared(&first, 3);
    first.stop();
    lab.hide("small");
    let part = &secret[1000..1100];
    assert!(is_below(&lab.scratch("store"), part));
    let settings = Settings {
        state: lab.scratch("taker"),
        ..lab.settings()
    };
    let taker = settings.with(&store).with_fault(often).start();
    let taken = taker.get(&target).expect(200);
    wait::until_true("it is kept", || count(&taker, "imports", "done") == 1);

    let soon = ["--maintenance-idle", "1s", "--unreachable-expiry", "1s"];
    let settings = lab.settings().with(&store).with(&soon);
    let first = settings.with_fault(often).start();
    let now = wait::until_within("the other one follows", 3 * wait::DEADLINE, || {
        let answer = taker.get(&target).expect(200);
        (answer.head.etag() != taken.head.etag()).then_some(answer)
    });
    first.wait_logged("what has expired is shared no more");
    for place in [lab.state().join("mirrors"), lab.scratch("store")] {
        let what = format!("it is gone from {}", place.display());
        wait::until_within(&what, 3 * wait::DEADLINE, || {
            taker.get(&target).expect(200);
            (!is_below(&place, part)).then_some(())
        });
    }
    fs::rename(lab.scratch("hidden-small"), lab.upstream("small")).unwrap();
    expect_clone(&lab, "small", &now.body);
}

/// Of what is in use the head is read on the condition that it has changed, and of what is not nothing is asked.
#[test]
fn what_nobody_uses_costs_no_requests() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let settings = || Settings {
        environment: bucket.environment(),
        ..lab.settings()
    };
    let settings = || settings().with(&["--store", "s3://farm"]);
    let start = || settings().with_fault("store-look-ms=50").start();
    let server = start();
    hit(&server, "small");
    wait_shared(&server, 1);
    wait::until_true("it is known", || bucket.asked(&["304 ", "/head.json"]) > 3);
    server.stop();
    let before = bucket.asked(&["/repos/"]);
    let told = bucket.asked(&["GET ", "/raised.json"]);
    let server = start();
    server.wait_logged("ready");
    wait::until_true("it asks for what concerns all", || {
        bucket.asked(&["GET ", "/raised.json"]) > told + 5
    });
    assert_eq!(bucket.asked(&["/repos/"]), before);
    hit(&server, "small");
    wait::until_true("it is in use", || bucket.asked(&["/repos/"]) > before);
}

/// What was begun to be taken before something expired is nobody's who asks afterwards.
#[test]
fn what_expires_on_the_way_is_not_taken() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (upstream, target) = (lab.upstream("small"), lab::target("small"));
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
    lab.hide("small");
    let taker = on_bucket(&lab, &bucket, "taker");
    bucket.hold(Some(".pack."));
    let (mut early, old, body) = begin(&taker, "small", 1000);
    let settings = Settings {
        state: lab.scratch("first"),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let soon = ["--maintenance-idle", "1s", "--unreachable-expiry", "1s"];
    let settings = settings.with(&["--store", "s3://farm"]).with(&soon);
    let first = settings.start();
    first.wait_logged("what has expired is shared no more");
    bucket.hold(None);
    // Who has begun with it gets all of it.
    super::finish(&mut early, body);
    taker.wait_logged("something has expired meanwhile");
    let taken = wait::until("another one is taken", || {
        let answer = taker.get(&target);
        (answer.head.status == 200).then_some(answer)
    });
    assert_ne!(taken.head.etag(), old.etag());
    assert_eq!(taken.head.etag(), hit(&first, "small").head.etag());
}

/// What is read from a bucket is served while it comes, to however many ask, and each byte of it is read once.
#[test]
fn what_is_in_a_bucket_is_served_as_it_comes() {
    let lab = super::new_lab();
    lab.generate("large", Shape::FewLarge, 12 << 20);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let first = on_bucket(&lab, &bucket, "first");
    let built = hit(&first, "large");
    wait_shared(&first, 1);
    first.stop();
    lab.hide("large");
    let second = on_bucket(&lab, &bucket, "second");
    bucket.hold(Some(".pack."));
    // The pack is the most of it and stands before the worktree; none of it has come.
    let (mut early, head, mut body) = begin(&second, "large", 1000);
    assert_eq!(head.etag(), built.head.etag());
    let mut followers = Vec::from_iter((0..4).map(|_| begin(&second, "large", 1000)));
    bucket.hold(None);
    early.copy_body(&mut body).unwrap();
    assert!(body == built.body, "other bytes");
    for (conn, _, body) in &mut followers {
        conn.copy_body(body).unwrap();
        assert!(*body == built.body, "other bytes for who followed");
    }
    wait::until_true("it is kept", || count(&second, "imports", "done") == 1);
    let read = bucket.read_bytes();
    assert!(read.len() >= 4, "{read:?}");
    let stored = |name: &String| {
        let mut found = Vec::new();
        let dirs = fs::read_dir(lab.scratch("s3/farm/v1/repos")).unwrap();
        found.extend(dirs.map(|dir| dir.unwrap().path().join("parts").join(name)));
        fs::metadata(&found[0]).unwrap().len()
    };
    for (name, bytes) in &read {
        assert_eq!(*bytes, stored(name), "{name}");
    }
    second.stop();
    let third = on_bucket(&lab, &bucket, "second");
    assert!(
        hit(&third, "large").body == built.body,
        "other bytes after a restart"
    );
    assert_eq!(bucket.read_bytes(), read, "read again");

    // What comes no further is left.
    bucket.hold(Some(".pack."));
    let settings = Settings {
        state: lab.scratch("stalled"),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let settings = settings.with(&["--store", "s3://farm"]);
    let stalled = settings.with_fault("store-stall-ms=300").start();
    let cut = stalled.get(&lab::target("large"));
    assert_eq!((cut.head.status, cut.end), (200, End::Truncated));
    wait::until_true("it is left", || count(&stalled, "imports", "failed") == 1);
    bucket.hold(None);
}

/// A bucket, of whose first three heads the store says something else than what it has done.
#[test]
fn a_bucket_is_shared_as_well() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let checked = Command::new(env!("CARGO_BIN_EXE_tarpon"))
        .args(["check", "--store", "s3://farm/tarpon", "--state"])
        .arg(lab.state())
        .envs(bucket.environment())
        .output()
        .unwrap();
    assert!(checked.status.success(), "{checked:?}");
    bucket.break_heads(&[Fault::Lost, Fault::Busy, Fault::Refused]);
    let first = on_bucket(&lab, &bucket, "first");
    hit(&first, "small");
    wait_shared(&first, 1);
    let target = lab::target("small");
    let newest = push_and_share(&lab, &first);
    assert!(bucket.has_broken_all());
    assert_eq!(
        count(&first, "offers", "failed"),
        0,
        "one's own success was no loss"
    );
    lab.hide("small");
    let second = on_bucket(&lab, &bucket, "second");
    let taken = second.get(&target).expect(200);
    assert_eq!(taken.head.etag(), newest.head.etag());
    assert!(taken.body == newest.body, "other bytes");
}

/// Nobody tells the others, and no timer of theirs is due: the head does.
#[test]
fn what_one_server_has_seen_the_others_follow() {
    let lab = small_lab();
    let url = store_of(&lab);
    let far = ["--fetch-interval", "720h", "--ref-check-interval", "1h"];
    let start = |name: &str, store: &[&str]| {
        let settings = Settings {
            state: lab.scratch(name),
            ..lab.settings()
        };
        let settings = settings.with(&far).with(&["--store", &url]).with(store);
        settings.with_fault("store-look-ms=100").start()
    };
    let first = start("first", &[]);
    hit(&first, "small");
    wait_shared(&first, 1);
    let others = [start("second", &[]), start("third", &["--store-readonly"])];
    for server in &others {
        hit(server, "small");
        server.wait_logged("\"shared\":true");
    }
    let pushed = push_and_fetch(&lab, &first, "small", "new.txt", b"new\n");
    wait_shared(&first, 2);
    for server in &others {
        wait::until_true("it follows", || {
            let answer = server.get(&lab::target("small")).expect(200);
            answer.head.get("x-cachew-snapshot-commit") == Some(&*pushed)
        });
    }
}

/// A store that refuses is there, and is not asked again and again. And a server that has to leave an upload leaves
/// nothing of it.
#[test]
fn a_refusal_and_an_end_are_taken_for_what_they_are() {
    let lab = super::new_lab();
    lab.generate("large", Shape::FewLarge, 20 << 20);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    bucket.break_heads(&[Fault::Denied]);
    let server = on_bucket(&lab, &bucket, "refused");
    hit(&server, "large");
    server.wait_logged("the store refuses it");
    assert_eq!(count(&server, "offers", "failed"), 1);
    let metrics = server.metrics();
    assert_eq!(metrics.count("tarpon_store_resting", &[]), 0);
    let failures = metrics.sum("tarpon_store_failures_total", &[]);
    assert_eq!(failures.unwrap_or(0.0), 0.0);
    server.stop();

    // Neither is a piece that it refuses.
    let bucket = BucketServer::start(&lab.scratch("strict-s3"));
    bucket.deny(Some("partNumber=2"));
    let server = on_bucket(&lab, &bucket, "piecewise");
    hit(&server, "large");
    server.wait_logged("the store refuses it");
    assert_eq!(bucket.asked(&["PUT", "partNumber=2"]), 1);
    server.stop();

    let bucket = BucketServer::start(&lab.scratch("other-s3"));
    bucket.hold(Some("partNumber=2"));
    let settings = Settings {
        state: lab.scratch("ended"),
        environment: bucket.environment(),
        ..lab.settings()
    };
    let ends = ["--store", "s3://farm", "--shutdown-grace", "1s"];
    let mut server = settings.with(&ends).start();
    hit(&server, "large");
    let begun = || {
        let files = fs::read_dir(lab.scratch("other-s3")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        Vec::from_iter(names.filter(|name| name.contains("upload")))
    };
    wait::until_true("an upload has begun", || !begun().is_empty());
    server.terminate();
    assert!(server.wait_exit(Duration::from_secs(20)).success());
    assert_eq!(begun(), Vec::<String>::new());
    // What was begun is given up, and nothing is begun in its place.
    assert_eq!(bucket.asked(&["POST", "uploads"]), 1);
}

/// Where there is an upstream, only what is new comes from it; and what is only here is uploaded at the end.
#[test]
fn a_mirror_begins_with_what_was_shared() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let target = lab::target("small");
    let first = on_bucket(&lab, &bucket, "first");
    let shared = hit(&first, "small");
    wait_shared(&first, 1);
    first.stop();
    repos::add_commit(&lab.upstream("small"), "main", "newer.txt", b"newer\n");
    let mut second = on_bucket(&lab, &bucket, "second");
    let taken = second.get(&target).expect(200);
    assert_eq!(taken.head.etag(), shared.head.etag());
    wait::until_true("it is kept", || count(&second, "imports", "done") == 1);
    // Nobody says how fresh it has to be: what was taken from the store is compared all the same.
    let fresh = wait::until("what is new is served", || {
        let answer = second.get(&target).expect(200);
        (answer.head.etag() != shared.head.etag()).then_some(answer)
    });
    second.wait_logged("\"shared\":true");
    expect_clone(&lab, "small", &fresh.body);
    // What it has made of both is shared in its turn.
    wait_shared(&second, 1);

    // One that is told to stop uploads what only it has.
    bucket.hold(Some("/head.json"));
    push_and_fetch(&lab, &second, "small", "newest.txt", b"newest\n");
    let last = second
        .fetch("GET", &target, &["Cache-Control: max-age=0"])
        .expect(200);
    assert_ne!(last.head.etag(), fresh.head.etag());
    // It may not be in its place yet.
    second.terminate();
    second.wait_logged("letting running responses finish");
    bucket.hold(None);
    assert!(second.wait_exit(Duration::from_secs(20)).success());
    fs::rename(lab.upstream("small"), lab.scratch("hidden-small")).unwrap();
    let third = on_bucket(&lab, &bucket, "third");
    assert_eq!(third.get(&target).expect(200).head.etag(), last.head.etag());
}

#[test]
fn check_tries_the_store() {
    let lab = small_lab();
    let check = |store: &str| {
        let command = Command::new(env!("CARGO_BIN_EXE_tarpon"))
            .args(["check", "--state"])
            .arg(lab.state())
            .args(["--store", store])
            .output();
        command.unwrap_or_else(|e| panic!("check: {e}"))
    };
    let sound = check(&store_of(&lab));
    assert!(sound.status.success(), "{sound:?}");
    // Nothing of the trial stays.
    let probes = lab.scratch("store/v1/probe");
    assert_eq!(fs::read_dir(probes).unwrap().count(), 0);
    let file = lab.scratch("file");
    fs::write(&file, "").unwrap();
    let broken = check(&format!("file://{}/store", file.display()));
    let said = String::from_utf8_lossy(&broken.stderr);
    assert_eq!(broken.status.code(), Some(3), "{said}");
    assert!(said.contains("--store file://"), "{said}");
}

/// Keys, region and endpoint stand in profile files, and the store has a certificate of an own authority.
#[test]
fn a_bucket_is_found_as_its_tools_find_it() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let home = lab.scratch("home");
    let dir = home.join(".aws");
    fs::create_dir_all(&dir).unwrap();
    let authority = Authority::new(&home, "authority");
    let tls = Some(tls_of(&authority, None));
    let passes = |asked: &Asked| Does::Passes(asked.target().to_owned());
    let front = Front::start(bucket.address(), tls, passes);
    let keys = format!("[farm]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n");
    fs::write(dir.join("credentials"), keys).unwrap();
    let config = "[profile farm]\nregion = us-east-1\nendpoint_url";
    let config = format!("{config} = {}\n", front.https());
    fs::write(dir.join("config"), config).unwrap();
    let check = |profile: &str, bundle: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tarpon"));
        command
            .args(["check", "--store", "s3://farm/tarpon", "--state"])
            .arg(lab.state())
            .env("HOME", &home)
            .env("NO_PROXY", "localhost")
            .env("AWS_PROFILE", profile);
        if let Some(bundle) = bundle {
            command.env("AWS_CA_BUNDLE", bundle);
        }
        let output = command.output().unwrap_or_else(|e| panic!("check: {e}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = check("farm", Some(&authority.file));
    assert_eq!(code, Some(0), "{said}");
    let asked = front.asked();
    // In a header, or in the query.
    let credential = format!("Credential={KEY}");
    let is_signed = |asked: &Asked| asked.text.contains(&credential);
    assert!(
        !asked.is_empty() && asked.iter().all(is_signed),
        "{asked:?}"
    );
    let (code, said) = check("farm", None);
    assert_eq!(code, Some(3), "{said}");
    let (code, said) = check("other", Some(&authority.file));
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no profile of that name"), "{said}");
    assert_eq!(
        front.asked().len(),
        asked.len(),
        "somebody asks without knowing it"
    );
}

/// A store that takes every request and answers none: nobody waits for it for long, and others not at all. Once it answers
/// again it is given what it has missed.
#[test]
fn a_store_that_does_not_answer_holds_up_nobody() {
    let lab = small_lab();
    lab.generate("other", Shape::ManySmall, 300_000);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    bucket.hold(Some("/"));
    let settings = Settings {
        environment: bucket.environment(),
        ..lab.settings()
    };
    let server = settings.with(&["--store", "s3://farm"]).start();
    let resting = || server.metrics().count("tarpon_store_resting", &[]);
    let small = hit(&server, "small");
    hit(&server, "other");
    // What is used was asked for at the start, and the one was looked for; of the other there is no look, but perhaps
    // somebody tries to upload the one.
    assert_eq!((resting(), count(&server, "imports", "failed")), (1, 1));
    let asked = server.metrics().sum("tarpon_store_requests_total", &[]);
    assert!(
        asked.is_some_and(|asked| asked <= 3.0),
        "{asked:?} requests"
    );
    expect_clone(&lab, "small", &small.body);
    bucket.hold(None);
    wait_shared(&server, 2);
    assert_eq!(resting(), 0);
    let uploaded = server
        .metrics()
        .count("tarpon_store_uploaded_bytes_total", &[]);
    assert!(uploaded > 100_000, "{uploaded}");
}
