//! `snapshot.bundle`: what is new since a snapshot, as a bundle that git takes.

use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::rng::Rng;
use super::support::server::Server;
use super::support::{git, wait};
use super::{at_once, expect_clone, hit, push_and_fetch, small_lab, start_on_mirror};
use std::path::{Path, PathBuf};

fn bundle(server: &Server, base: &str) -> Response {
    let what = format!("snapshot.bundle?base={base}");
    server.get(&lab::endpoint("small", &what))
}

/// Panics unless `count` bundles were made so far, by the log, which may be a little behind.
#[track_caller]
fn expect_made(server: &Server, count: usize) {
    let made = || server.log().matches("made a bundle").count();
    wait::until_true("the bundle is logged", || made() >= count);
    assert_eq!(made(), count);
}

/// Waits until the snapshot that is served is of `commit`; a build is counted before it is.
fn wait_for_commit(server: &Server, commit: &str) {
    wait::until_true("the new snapshot is served", || {
        let answer = server.fetch("HEAD", &lab::target("small"), &[]).expect(200);
        answer.head.get("x-cachew-snapshot-commit") == Some(commit)
    });
}

/// Gets the bundle from `base` and keeps it in a file.
fn download(lab: &Lab, server: &Server, base: &str, name: &str) -> PathBuf {
    let answer = bundle(server, base).expect(200);
    assert_eq!(
        answer.head.get("content-type"),
        Some("application/x-git-bundle")
    );
    let length = answer.body.len() as u64;
    assert_eq!(answer.head.content_length(), Some(length));
    let file = lab.scratch(name);
    std::fs::write(&file, answer.body).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    file
}

/// The commit that the upstream's `main` has.
fn tip(lab: &Lab) -> String {
    git::text(&lab.upstream("small"), &["rev-parse", "refs/heads/main"])
}

/// A commit without parents that has the tree of the upstream's `main`.
fn rewritten(lab: &Lab) -> String {
    let tree = "refs/heads/main^{tree}";
    git::text(
        &lab.upstream("small"),
        &["commit-tree", tree, "-m", "rewritten"],
    )
}

/// Moves the upstream's `main`, whatever it was, and has the mirror follow.
fn force_push(lab: &Lab, server: &Server, to: &str) {
    git::run(
        &lab.upstream("small"),
        &["update-ref", "refs/heads/main", to],
    );
    let json = format!(r#"{{"refs":{{"refs/heads/main":"{to}"}}}}"#);
    let answer = super::ensure(server, "small", &json);
    assert_eq!(answer["refs"]["refs/heads/main"], *to, "{answer}");
}

fn pull(repository: &Path, bundle: &Path) -> std::process::Output {
    let bundle = bundle.to_string_lossy();
    git::output(
        repository,
        &["pull", "--quiet", "--ff-only", &bundle, "main"],
    )
}

/// The bundle goes onto an unpacked snapshot, which is then what a clone is.
#[test]
fn a_bundle_brings_a_snapshot_up_to_date() {
    let lab = small_lab();
    let server = lab.start();
    let snapshot = hit(&server, "small").body;
    let base = tip(&lab);
    push_and_fetch(&lab, &server, "small", "first.txt", b"1\n");
    let head = push_and_fetch(&lab, &server, "small", "second.txt", b"2\n");

    let file = download(&lab, &server, &base, "delta.bundle");
    let restored = lab.unpack(&snapshot, "restored");
    git::run(&restored, &["bundle", "verify", &file.to_string_lossy()]);
    let fetched = [
        "fetch",
        "--quiet",
        &file.to_string_lossy(),
        "refs/heads/main",
    ];
    git::run(&restored, &fetched);
    assert_eq!(git::text(&restored, &["rev-parse", "FETCH_HEAD"]), head);
    let pulled = pull(&restored, &file);
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(git::text(&restored, &["rev-parse", "HEAD"]), head);
    assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
    assert!(restored.join("first.txt").exists() && restored.join("second.txt").exists());
    git::run(&restored, &["fsck", "--strict"]);

    // Upper case is the same commit, and a base further on gives less.
    let upper = download(&lab, &server, &base.to_uppercase(), "upper.bundle");
    assert_eq!(std::fs::read(upper).ok(), std::fs::read(&file).ok());
    let nearer = format!("{head}^");
    let nearer = git::text(&lab.upstream("small"), &["rev-parse", &nearer]);
    let text = std::fs::read(download(&lab, &server, &nearer, "nearer.bundle")).unwrap_or_default();
    assert!(String::from_utf8_lossy(&text).contains(&format!("\n-{nearer}")));
}

/// One bundle whatever the number of requests at once, and it is kept for later ones; new
/// commits make a new one.
#[test]
fn bundles_are_made_once_and_kept() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let base = tip(&lab);
    let content = Rng::new(5).bytes(4 << 20);
    push_and_fetch(&lab, &server, "small", "new.bin", &content);
    let bodies = at_once(8, |_| bundle(&server, &base).expect(200).body);
    assert!(bodies[0].len() > 4 << 20);
    assert!(
        bodies.iter().all(|body| *body == bodies[0]),
        "bundles differ"
    );
    expect_made(&server, 1);
    assert!(bundle(&server, &base).expect(200).body == bodies[0]);
    // It was kept.
    expect_made(&server, 1);

    push_and_fetch(&lab, &server, "small", "more.txt", b"more\n");
    let newer = bundle(&server, &base).expect(200).body;
    assert!(newer != bodies[0], "the old bundle for a new HEAD");
    expect_made(&server, 2);
}

/// "Nothing new" is said only after a look at the upstream that began with the request.
#[test]
fn nothing_new_is_backed_by_a_fetch() {
    let lab = small_lab();
    let server = start_on_mirror(&lab);
    let base = tip(&lab);
    for looks in 2..=3 {
        let answer = bundle(&server, &base).expect(204);
        assert!(answer.head.content_length().unwrap_or(0) == 0 && !answer.head.is_chunked());
        assert_eq!(server.fetches(), looks, "not looked at the upstream");
    }
    // The mirror does not know of this commit yet, and its HEAD is still the base.
    let head = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let answer = bundle(&server, &base).expect(200);
    assert!(String::from_utf8_lossy(&answer.body).contains(&format!("\n{head} HEAD\n")));

    lab.hide("small");
    let stale = bundle(&server, &head).expect(404);
    assert!(
        stale.text().contains("may be behind its upstream"),
        "{}",
        stale.text()
    );
    // What is known to be new needs nobody.
    bundle(&server, &base).expect(200);
}

/// A base that the mirror gets by looking at its upstream is known; one that nobody has is not.
#[test]
fn an_unknown_base() {
    let lab = small_lab();
    lab.place_mirror("small");
    let base = repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let head = repos::add_commit(&lab.upstream("small"), "main", "newer.txt", b"newer\n");
    let server = lab.start();
    let answer = bundle(&server, &base).expect(200);
    assert!(String::from_utf8_lossy(&answer.body).contains(&format!("\n{head} HEAD\n")));

    let tree = format!("{head}^{{tree}}");
    let tree = git::text(&lab.upstream("small"), &["rev-parse", &tree]);
    for unknown in ["0".repeat(40), "ab".repeat(20), "ab".repeat(32), tree] {
        let answer = bundle(&server, &unknown).expect(404);
        assert!(
            answer.text().contains("the base commit is unknown"),
            "{}",
            answer.text()
        );
    }
    // Clients with such bases cannot make the server ask all the time.
    assert!(server.fetches() <= 2, "{} fetches", server.fetches());
    expect_made(&server, 1);
}

#[test]
fn a_base_that_is_no_hash() {
    let lab = small_lab();
    let server = lab.start();
    let base = tip(&lab);
    let queries = [
        String::new(),
        "?".into(),
        "?base=".into(),
        "?base=main".into(),
        format!("?base={}", &base[1..]),
        format!("?base={base}0"),
        format!("?base=g{}", &base[1..]),
        format!("?base=-{}", &base[1..]),
        format!("?base={base}&base={base}"),
    ];
    for query in queries {
        let target = lab::endpoint("small", &format!("snapshot.bundle{query}"));
        let answer = server.get(&target).expect(400);
        assert!(answer.text().contains("base=HASH"), "{}", answer.text());
    }
    let post = server.post_json(&lab::endpoint("small", "snapshot.bundle"), "{}");
    assert_eq!(post.expect(405).head.get("allow"), Some("GET"));
    assert!(!lab.mirror("small").exists(), "a wrong request cloned");
}

/// After a force-push there is a bundle from the old commit, which git takes but cannot
/// fast-forward to; back to an older commit there is nothing to send.
#[test]
fn after_a_force_push() {
    let lab = small_lab();
    let server = lab.start();
    let first = tip(&lab);
    hit(&server, "small");
    let second = push_and_fetch(&lab, &server, "small", "new.txt", b"new\n");
    wait_for_commit(&server, &second);
    let snapshot = hit(&server, "small");
    assert_eq!(server.builds("complete"), 2);
    let restored = lab.unpack(&snapshot.body, "restored");

    let orphan = rewritten(&lab);
    force_push(&lab, &server, &orphan);
    let file = download(&lab, &server, &second, "rewritten.bundle");
    git::run(&restored, &["bundle", "verify", &file.to_string_lossy()]);
    let pulled = pull(&restored, &file);
    assert!(!pulled.status.success(), "not a fast-forward");
    assert_eq!(
        git::text(&restored, &["rev-parse", "HEAD"]),
        second,
        "the client is where it was"
    );

    force_push(&lab, &server, &first);
    let answer = bundle(&server, &second).expect(404);
    assert!(answer.text().contains("no bundle"), "{}", answer.text());
    wait_for_commit(&server, &first);
    expect_clone(&lab, "small", &hit(&server, "small").body);
}

/// Without a mirror it is cloned; without an upstream there is one line that says so.
#[test]
fn without_a_mirror() {
    let lab = small_lab();
    let server = lab.start();
    let base = tip(&lab);
    bundle(&server, &base).expect(204);
    assert!(lab.mirror("small").exists());
    let absent = format!("snapshot.bundle?base={base}");
    let answer = server.get(&lab::endpoint("absent", &absent)).expect(404);
    assert_eq!(answer.text().trim_end().lines().count(), 1);
}

/// A snapshot that the mirror has left behind names the bundle that leads on, whole and in
/// parts; one that is as new as the mirror does not.
#[test]
fn a_snapshot_names_its_bundle() {
    let lab = small_lab();
    // The first snapshot fits, the second does not: the first one stays.
    let fault = "spool-enospc-after-bytes=4000000";
    let server = lab.settings().with_fault(fault).start();
    let cached = hit(&server, "small");
    let base = tip(&lab);
    assert_eq!(cached.head.get("x-cachew-bundle-url"), None);
    let content = Rng::new(6).bytes(8 << 20);
    push_and_fetch(&lab, &server, "small", "large.bin", &content);

    let url = format!("/git/test/small/snapshot.bundle?base={base}");
    let tag = format!("If-Match: {}", cached.head.etag());
    let requests: [(&str, &[&str], u16); 4] = [
        ("GET", &[], 200),
        ("GET", &["Range: bytes=0-99"], 206),
        ("GET", &["Range: bytes=100-", &tag], 206),
        ("HEAD", &[], 200),
    ];
    for (method, fields, status) in requests {
        let answer = server.fetch(method, &lab::target("small"), fields);
        let head = answer.expect(status).head;
        assert_eq!(
            head.get("x-cachew-bundle-url"),
            Some(&*url),
            "{method} {fields:?}"
        );
        assert_eq!(head.get("x-cachew-snapshot-commit"), Some(&*base));
        assert_eq!(head.etag(), cached.head.etag());
    }
    let file = lab.scratch("named.bundle");
    let named = server.get(&url).expect(200).body;
    std::fs::write(&file, named).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let restored = lab.unpack(&cached.body, "restored");
    let pulled = pull(&restored, &file);
    assert!(pulled.status.success(), "{pulled:?}");
    assert_eq!(git::text(&restored, &["rev-parse", "HEAD"]), tip(&lab));
}

/// Of a branch, of a commit that no branch leads to, and of neither.
#[test]
fn a_bundle_leads_to_what_is_named() {
    let lab = small_lab();
    let server = lab.start();
    hit(&server, "small");
    let base = tip(&lab);
    let upstream = lab.upstream("small");
    git::run(
        &upstream,
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    git::run(&upstream, &["branch", "side", "main"]);
    let side = repos::add_commit(&upstream, "side", "side.txt", b"side");
    let pull = ["commit-tree", "side^{tree}", "-p", "side", "-m", "pull"];
    let pull = git::text(&upstream, &pull);
    git::run(&upstream, &["update-ref", "refs/pull/1/merge", &pull]);
    let clone = lab.scratch("clone");
    git::clone(&lab.url("small"), &clone);
    let names = [
        (format!("ref=side&commit={side}"), &side),
        ("ref=side".into(), &side),
        (format!("commit={pull}"), &pull),
        (format!("ref=refs/pull/1/merge&commit={pull}"), &pull),
    ];
    for (number, (name, commit)) in names.iter().enumerate() {
        let answer = bundle(&server, &format!("{base}&{name}")).expect(200);
        let file = lab.scratch(&format!("{number}.bundle"));
        std::fs::write(&file, answer.body).unwrap_or_else(|e| panic!("{e}"));
        let file = file.to_string_lossy();
        git::run(&clone, &["fetch", "--quiet", &file, "HEAD"]);
        assert_eq!(
            git::text(&clone, &["rev-parse", "FETCH_HEAD"]),
            **commit,
            "{name}"
        );
        git::run(&clone, &["rev-list", "--objects", "--quiet", "FETCH_HEAD"]);
    }
    bundle(&server, &format!("{side}&ref=side")).expect(204);
    bundle(&server, &format!("{base}&ref=nowhere")).expect(404);
    bundle(&server, &format!("{}&ref=side", "1".repeat(40))).expect(404);
    bundle(&server, &format!("{base}&ref=a..b")).expect(400);
}
