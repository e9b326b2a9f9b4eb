//! Servers that show the same come to the same packs, and so to one `ETag`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::bucket_server::BucketServer;
use super::shared_store::{count, in_state, on_bucket, other, store_of, wait_shared};
use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::server::{Server, Settings};
use super::support::wait;
use super::{begin, expect_clone, finish, hit, push_and_fetch, small_lab};

pub(super) fn mirror(lab: &Lab, state: &str) -> PathBuf {
    lab.scratch(state).join("mirrors/test/small.git")
}

/// The names of a mirror's packs.
pub(super) fn packs(mirror: &Path) -> BTreeSet<String> {
    let files = fs::read_dir(mirror.join("objects/pack")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".pack")).collect()
}

/// Whether there is one in a folder of packs.
pub(super) fn has_bitmap(folder: &Path) -> bool {
    let mut files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    files.any(|file| file.extension().is_some_and(|end| end == "bitmap"))
}

/// A mirror has each object once, and all that its refs lead to.
fn expect_sound(mirror: &Path) {
    let mut objects = Vec::new();
    for pack in packs(mirror) {
        let pack = mirror.join("objects/pack").join(pack);
        let listed = super::git::text(mirror, &["verify-pack", "-v", pack.to_str().unwrap()]);
        let ids = listed.lines().filter_map(|line| line.split(' ').next());
        objects.extend(ids.filter(|id| id.len() == 40).map(str::to_owned));
    }
    let once: BTreeSet<&String> = objects.iter().collect();
    assert_eq!(once.len(), objects.len(), "{}", mirror.display());
    super::git::run(mirror, &["fsck", "--full", "--strict"]);
    // It is removed beside what goes on.
    wait::until_true("nothing is left", || {
        let files = fs::read_dir(mirror).unwrap().map(|file| file.unwrap());
        let mut names = files.map(|file| file.file_name().into_string().unwrap());
        names.all(|name| !name.starts_with("tmp_"))
    });
}

pub(super) fn wait_one_tag(servers: &[&Server], tag: Option<&str>) -> Response {
    wait::until("all have one tag", || {
        let answers = servers.iter();
        let answers = Vec::from_iter(answers.map(|one| one.get(&lab::target("small")).expect(200)));
        let tags: BTreeSet<&str> = answers.iter().map(|one| one.head.etag()).collect();
        let is_it = tags.len() == 1 && tag.is_none_or(|tag| tags.contains(tag));
        is_it.then(|| answers.into_iter().next())?
    })
}

/// What is pushed is fetched by a server that has no store, and built.
pub(super) fn push_and_build(lab: &Lab, server: &Server) {
    let id = push_and_fetch(lab, server, "small", "new.txt", b"new\n");
    wait::until_true("it is built", || {
        let answer = hit(server, "small");
        answer.head.get("x-cachew-snapshot-commit") == Some(&*id)
    });
}

/// Each has cloned by itself, in other steps; one is told of it while somebody reads what it had before.
#[test]
fn all_servers_come_to_one_tag() {
    let lab = small_lab();
    let url = store_of(&lab);
    let first = other(&lab, "first", &[]);
    hit(&first, "small");
    push_and_build(&lab, &first);
    first.stop();
    let names = ["second", "third"];
    let before = names.map(|name| {
        let server = other(&lab, name, &[]);
        let before = hit(&server, "small");
        server.stop();
        before
    });
    let often = "store-look-ms=100";
    let store = ["--store", &*url];
    let second = in_state(&lab, "second")
        .with(&store)
        .with(&["--store-readonly"]);
    let second = second.with_fault(often).start();
    let (mut early, old, body) = begin(&second, "small", 1000);
    assert_eq!(old.etag(), before[0].head.etag());
    let first = in_state(&lab, "first")
        .with(&store)
        .with_fault(often)
        .start();
    let shared = hit(&first, "small");
    wait_shared(&first, 1);
    assert_ne!(shared.head.etag(), old.etag());
    let third = in_state(&lab, "third")
        .with(&store)
        .with_fault(often)
        .start();
    let all = [&first, &second, &third];
    let now = wait_one_tag(&all, Some(shared.head.etag()));
    assert!(now.body == shared.body, "other bytes");
    // Who has begun with what was there before gets all of it.
    assert!(
        finish(&mut early, body) == before[0].body,
        "other bytes of the old one"
    );
    expect_clone(&lab, "small", &now.body);
    for (server, name) in [(&second, "second"), (&third, "third")] {
        // Files that are taken over afterwards are counted by the same metric.
        let log = server.log();
        let taken = log.matches("took over the packs that are shared").count();
        assert_eq!(taken, 1, "{name}");
        assert_eq!(count(server, "imports", "done"), 0, "{name}");
        assert_eq!(packs(&mirror(&lab, name)), packs(&mirror(&lab, "first")));
        expect_sound(&mirror(&lab, name));
        // Quiet times are far.
        wait::until_true("git finds all of it quickly", || {
            let objects = mirror(&lab, name).join("objects");
            has_bitmap(&objects.join("pack")) && objects.join("info/commit-graph").exists()
        });
    }
    assert_eq!(count(&third, "offers", "done"), 0);
    // So it is with what comes.
    let pushed = push_and_fetch(&lab, &third, "small", "newer.txt", b"newer\n");
    let newest = wait::until("all follow", || {
        let newest = wait_one_tag(&all, None);
        (newest.head.get("x-cachew-snapshot-commit") == Some(&*pushed)).then_some(newest)
    });
    expect_clone(&lab, "small", &newest.body);
    for name in ["first", "second", "third"] {
        expect_sound(&mirror(&lab, name));
    }
}

/// What only one has seen, before a ref left it, it keeps; then all have that pack.
#[test]
fn what_only_one_has_seen_it_keeps() {
    let lab = small_lab();
    let (url, upstream) = (store_of(&lab), lab.upstream("small"));
    super::git::run(&upstream, &["branch", "side", "main"]);
    let id = repos::add_commit(&upstream, "side", "side.txt", b"side\n");
    let second = other(&lab, "second", &[]);
    hit(&second, "small");
    super::git::run(&upstream, &["update-ref", "-d", "refs/heads/side"]);
    push_and_build(&lab, &second);
    second.stop();
    let store = ["--store", &*url, "--fetch-interval", "720h"];
    let start = |name: &str| {
        let settings = in_state(&lab, name).with(&store);
        settings.with_fault("store-look-ms=100").start()
    };
    let first = start("first");
    let shared = hit(&first, "small");
    wait_shared(&first, 1);
    let second = start("second");
    let own = hit(&second, "small");
    assert_ne!(own.head.etag(), shared.head.etag());
    let now = wait_one_tag(&[&first, &second], None);
    assert_eq!(count(&second, "adoptions", "kept"), 1);
    expect_clone(&lab, "small", &now.body);
    assert_eq!(
        packs(&mirror(&lab, "first")),
        packs(&mirror(&lab, "second"))
    );
    for name in ["first", "second"] {
        expect_sound(&mirror(&lab, name));
        super::git::run(&mirror(&lab, name), &["cat-file", "-e", &id]);
    }
    // Nobody goes on for ever.
    assert_eq!(count(&first, "adoptions", "done"), 1);
    assert_eq!(count(&second, "offers", "done"), 1);
}

/// One that is killed while packs come serves what it had, and takes them when it is there again.
#[test]
fn who_is_killed_meanwhile_has_what_it_had() {
    let lab = small_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let first = other(&lab, "first", &[]);
    hit(&first, "small");
    push_and_build(&lab, &first);
    first.stop();
    let second = other(&lab, "second", &[]);
    let before = hit(&second, "small");
    second.stop();
    let first = on_bucket(&lab, &bucket, "first");
    let shared = hit(&first, "small");
    wait_shared(&first, 1);
    assert_ne!(before.head.etag(), shared.head.etag());
    let start = || {
        let settings = Settings {
            environment: bucket.environment(),
            ..in_state(&lab, "second")
        };
        let settings = settings.with(&["--store", "s3://farm"]);
        settings.with_fault("store-look-ms=100").start()
    };
    bucket.hold(Some(".pack."));
    let mut second = start();
    hit(&second, "small");
    let mirror = mirror(&lab, "second");
    let has_begun = || {
        let files = fs::read_dir(&mirror).unwrap().map(|file| file.unwrap());
        let mut names = files.map(|file| file.file_name().into_string().unwrap());
        names.any(|name| name.starts_with("tmp_others_"))
    };
    wait::until_true("packs are coming", has_begun);
    second.kill();
    drop(second);
    lab.hide("small");
    bucket.hold(None);
    let second = start();
    let answer = second.get(&lab::target("small")).expect(200);
    let tags = [before.head.etag(), shared.head.etag()];
    assert!(tags.contains(&answer.head.etag()));
    wait_one_tag(&[&first, &second], Some(shared.head.etag()));
    expect_sound(&mirror);
}
