//! Mirrors that begin with what is in the object store, whatever they are needed for.

use std::collections::BTreeSet;
use std::path::Path;

use super::shared_store::{count, store_of, wait_shared};
use super::support::client::Response;
use super::support::git;
use super::support::lab::{self, Lab};
use super::support::repos;
use super::support::server::{Server, Settings};
use super::support::upstream::{Answers, Upstream};
use super::support::wait;
use super::{hit, small_lab};

/// Its upstream is asked by HTTP; one server has shared the repository and has ended.
fn shared_lab() -> (Lab, Upstream) {
    let lab = small_lab();
    // HEAD is not the first of those that it may be.
    let upstream = lab.upstream("small");
    repos::add_commit(&upstream, "main", "second.txt", b"second\n");
    git::run(&upstream, &["branch", "trunk", "main"]);
    git::run(&upstream, &["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    let upstream = Upstream::new(lab.upstreams());
    let first = start(&lab, &upstream, "first", &[]);
    hit(&first, "small");
    wait_shared(&first, 1);
    first.stop();
    (lab, upstream)
}

fn start(lab: &Lab, upstream: &Upstream, name: &str, arguments: &[&str]) -> Server {
    let settings = Settings {
        state: lab.scratch(name),
        upstreams: vec![upstream.named("test")],
        ..lab.settings()
    };
    let store = store_of(lab);
    settings.with(&["--store", &store]).with(arguments).start()
}

fn url(server: &Server) -> String {
    format!("http://{}/git/test/small", server.address())
}

/// What git is told that there is.
fn listed(lab: &Lab, url: &str) -> String {
    git::text(&lab.upstreams(), &["ls-remote", "--symref", url])
}

fn packs(state: &Path) -> BTreeSet<String> {
    let packs = state.join("mirrors/test/small.git/objects/pack");
    let files = std::fs::read_dir(&packs).unwrap_or_else(|e| panic!("{}: {e}", packs.display()));
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".pack")).collect()
}

/// The archive is all of that commit.
fn expect_sound(lab: &Lab, answer: &Response, commit: &str) {
    let unpacked = lab.unpack(&answer.body, "unpacked");
    assert_eq!(git::text(&unpacked, &["rev-parse", "HEAD"]), commit);
    assert_eq!(
        git::text(&unpacked, &["symbolic-ref", "HEAD"]),
        "refs/heads/trunk"
    );
    assert_eq!(git::text(&unpacked, &["status", "--porcelain"]), "");
    git::run(&unpacked, &["fsck", "--strict"]);
}

/// Nobody asks for the archive: what git is answered from is made of what is shared, and of what is new.
#[test]
fn git_alone_is_answered_from_what_is_shared() {
    let (lab, upstream) = shared_lab();
    let shared = packs(&lab.scratch("first"));
    let new = repos::add_commit(&lab.upstream("small"), "trunk", "new.txt", b"new\n");
    let second = start(&lab, &upstream, "second", &[]);
    assert_eq!(listed(&lab, &url(&second)), listed(&lab, &lab.url("small")));
    second.wait_logged("\"shared\":true");
    assert_eq!(count(&second, "imports", "done"), 1);
    let now = packs(&lab.scratch("second"));
    assert!(
        now.is_superset(&shared) && now.len() == shared.len() + 1,
        "{now:?}, of {shared:?}"
    );
    let newest = second.fetch("GET", &lab::target("small"), &["Cache-Control: max-age=0"]);
    expect_sound(&lab, &newest.expect(200), &new);
}

/// Neither git nor one who asks for a commit of the history needs an upstream: what they get is as old as what was shared, and
/// whoever wants it newer hears that it is not to be had. Once it answers the mirror is like any other.
#[test]
fn a_mirror_of_what_is_shared_needs_no_upstream() {
    let (lab, upstream) = shared_lab();
    let there = listed(&lab, &lab.url("small"));
    let parent = git::text(&lab.upstream("small"), &["rev-parse", "HEAD~1"]);
    upstream.answer(Answers::Status("503 Service Unavailable", ""));
    let second = start(&lab, &upstream, "second", &["--ref-check-interval", "1s"]);
    let (target, fresh) = (lab::target("small"), "Cache-Control: max-age=0");
    let old = second.get(&format!("{target}?commit={parent}")).expect(200);
    assert_eq!(old.head.get("x-cachew-snapshot-commit"), Some(&*parent));
    let plain = second.get(&target).expect(200);
    let age_s: Option<u64> = plain.head.get("age").and_then(|age| age.parse().ok());
    assert!(age_s.is_some_and(|age_s| age_s < 600), "{:?}", plain.head);
    assert_eq!(listed(&lab, &url(&second)), there);
    let clone = lab.scratch("clone");
    git::clone(&url(&second), &clone);
    assert_eq!(git::text(&clone, &["rev-parse", "HEAD~1"]), parent);
    second
        .get(&format!("{target}?ref=main&depth=1"))
        .expect(200);
    let refused = second.fetch("GET", &target, &[fresh]);
    assert!(refused.head.status >= 500, "{:?}", refused.head);

    upstream.answer(Answers::Well);
    let new = repos::add_commit(&lab.upstream("small"), "trunk", "new.txt", b"new\n");
    let now = wait::until("it is compared", || {
        let answer = second.get(&target).expect(200);
        (answer.head.get("x-cachew-snapshot-commit") == Some(&*new)).then_some(answer)
    });
    expect_sound(&lab, &now, &new);
}

/// An upstream that says that there is no such repository is believed.
#[test]
fn what_the_upstream_refuses_no_mirror_is_made_of() {
    let (lab, upstream) = shared_lab();
    upstream.answer(Answers::Status("404 Not Found", ""));
    let second = start(&lab, &upstream, "second", &[]);
    let listed = git::output(&lab.upstreams(), &["ls-remote", &url(&second)]);
    assert!(!listed.status.success(), "{listed:?}");
    assert!(
        !lab.scratch("second")
            .join("mirrors/test/small.git")
            .exists()
    );
}

/// Servers of two versions, here of two levels, share packs and refs, and each has snapshots of its own beside those of the other.
#[test]
fn another_version_begins_with_the_same_packs() {
    let (lab, upstream) = shared_lab();
    let shared = packs(&lab.scratch("first"));
    let second = start(&lab, &upstream, "second", &["--level", "9"]);
    hit(&second, "small");
    second.wait_logged("\"shared\":true");
    assert_eq!(
        (
            packs(&lab.scratch("second")),
            count(&second, "imports", "done")
        ),
        (shared.clone(), 0)
    );
    wait_shared(&second, 1);
    second.stop();
    // One that follows other refs has other packs.
    let third = start(&lab, &upstream, "third", &["--follow", "refs/notes/*"]);
    hit(&third, "small");
    third.wait_logged("\"shared\":false");
    third.stop();
    // Neither has taken the place of the other one's.
    upstream.answer(Answers::Status("503 Service Unavailable", ""));
    for (name, level) in [("fourth", "3"), ("fifth", "9")] {
        let arguments: &[&str] = if level == "9" { &["--level", "9"] } else { &[] };
        let server = start(&lab, &upstream, name, arguments);
        server.get(&lab::target("small")).expect(200);
        wait::until_true("it is taken", || count(&server, "imports", "done") == 1);
    }
}
