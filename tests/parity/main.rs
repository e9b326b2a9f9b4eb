//! An unpacked snapshot equals `git clone`: on the miss, for followers, on the hit, after the
//! mirror was repacked, and through `tarpon restore`.

#[path = "../support/mod.rs"]
mod support;

mod annex;
mod cases;
mod tips;
mod updates;
mod wants;
mod ways;

use std::fs;
use support::client::{Conn, Head};
use support::lab::{self, Lab};
use support::server::Server;
use support::{compare, git, parity, restore};

fn new_lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_tarpon"))
}

/// Makes a repository with `make`, then compares what its snapshot unpacks to with a clone: the
/// miss, the hit (which must be the miss's bytes), and a miss on the repacked mirror; the hit and that miss
/// through the client, too, the hit also by its parts, into a seed and out of that.
fn check(name: &str, make: fn(&Lab)) {
    let lab = new_lab();
    make(&lab);
    let clone = lab.scratch("clone");
    clone_as_now(&lab, name, &clone);

    let server = lab.start();
    let (miss, head) = snapshot(&lab, &server, name, "miss");
    expect_parity(&lab, "miss", &clone);
    let expected = git::output(&clone, &["rev-parse", "--quiet", "--verify", "HEAD"]).stdout;
    let expected = String::from_utf8_lossy(&expected).trim().to_owned();
    if !expected.is_empty() {
        assert_eq!(
            head.get("x-cachew-snapshot-commit"),
            Some(expected.as_str()),
            "{head:?}"
        );
    }
    let hit = wait_for_hit(&lab, &server, name);
    let same = compare::first_difference(&miss, &hit);
    assert_eq!(same, None, "{name}: the hit differs from the miss");
    expect_restored(&lab, &server, name, "restored hit", &[]);
    expect_restored(
        &lab,
        &server,
        name,
        "by parts",
        &["--by-parts", "--worktree", "frames"],
    );
    let labels = [("outcome", "part")];
    let parts = || server.metrics().count("tarpon_requests_total", &labels);
    assert!(parts() > 0, "{name}: it was not fetched by parts");
    expect_restored(&lab, &server, name, "from packs", &["--worktree", "packs"]);
    for (stage, verified) in [
        ("verified", ["--verify", "--by-parts"]),
        ("verified of an archive", ["--verify", "--by-archive"]),
        ("wholly verified", ["--verify=full", "--by-parts"]),
        ("wholly so of an archive", ["--verify=full", "--by-archive"]),
    ] {
        expect_restored(&lab, &server, name, stage, &verified);
    }
    let seed = lab.scratch("seed").display().to_string();
    let seeded = ["--by-parts", "--seed", &seed, "--seed-free-floor", "0"];
    let seeded = [&seeded[..], &["--worktree", "frames"]].concat();
    expect_restored(&lab, &server, name, "into a seed", &seeded);
    let before = parts();
    expect_restored(&lab, &server, name, "out of a seed", &seeded);
    assert_eq!(parts(), before, "{name}: the seed has not all of it");
    server.stop();

    git::repack_and_prune(&lab.mirror(name));
    lab.forget_snapshots();
    let server = lab.start();
    snapshot(&lab, &server, name, "repacked");
    expect_parity(&lab, "repacked", &clone);
    server.stop();

    lab.forget_snapshots();
    let server = lab.start();
    expect_restored(&lab, &server, name, "restored miss", &[]);
    server.stop();
    lab.expect_no_orphans();
}

/// Clones as a current git does: Debian 12's makes a SHA-1 repository of an empty one of another format.
fn clone_as_now(lab: &Lab, name: &str, into: &std::path::Path) {
    git::clone(&lab.url(name), into);
    let format = |at: &std::path::Path| git::text(at, &["rev-parse", "--show-object-format"]);
    let real = format(&lab.upstream(name));
    if format(into) != real {
        fs::remove_dir_all(into).unwrap_or_else(|e| panic!("{}: {e}", into.display()));
        let target = into.to_string_lossy();
        let args = ["clone", "--quiet", &lab.url(name), &target];
        let mut command = git::command(&lab.scratch(""), &args);
        let made = command.env("GIT_DEFAULT_HASH", &real).status();
        assert!(made.is_ok_and(|status| status.success()), "{name}");
        assert_eq!(format(into), real);
    }
}

/// Restores with the client, asked so, and compares what it made with the clone.
fn expect_restored(lab: &Lab, server: &Server, name: &str, stage: &str, more: &[&str]) {
    let target = lab.scratch(stage);
    let repository = format!("test/{name}");
    let binary = env!("CARGO_BIN_EXE_tarpon");
    let out = restore::command(binary, server.address(), &repository, &target, more).output();
    restore::expect(
        &out.unwrap_or_else(|e| panic!("tarpon does not start: {e}")),
        0,
    );
    parity::expect_same(&lab.scratch("clone"), &target, stage);
}

/// Downloads a snapshot to `scratch/{stage}.tar.zst`.
fn snapshot(lab: &Lab, server: &Server, name: &str, stage: &str) -> (std::path::PathBuf, Head) {
    let file = lab.scratch(&format!("{stage}.tar.zst"));
    let head = lab::download(server.address(), &lab::target(name), &file);
    (file, head)
}

/// Downloads until the answer has a length: all of it is made then.
fn wait_for_hit(lab: &Lab, server: &Server, name: &str) -> std::path::PathBuf {
    support::wait::until("the snapshot is published", || {
        let (file, head) = snapshot(lab, server, name, "hit");
        head.content_length().map(|_| file)
    })
}

/// Unpacks `scratch/{stage}.tar.zst` and compares it with the clone.
fn expect_parity(lab: &Lab, stage: &str, clone: &std::path::Path) {
    let unpacked = lab.scratch(stage);
    lab::unpack_file(&lab.scratch(&format!("{stage}.tar.zst")), &unpacked);
    parity::expect_same(clone, &unpacked, stage);
    let removed = fs::remove_dir_all(&unpacked);
    removed.unwrap_or_else(|e| panic!("{}: {e}", unpacked.display()));
}

#[test]
fn attributes() {
    check("attributes", cases::attributes);
}

#[test]
fn encodings() {
    check("encodings", cases::encodings);
}

#[test]
fn encodings_that_fail() {
    check("encodings-that-fail", cases::encodings_that_fail);
}

#[test]
fn names() {
    check("names", cases::names);
}

#[test]
fn empty() {
    check("empty", cases::empty);
}

#[test]
fn empty_trunk() {
    check("empty-trunk", cases::empty_trunk);
}

#[test]
fn empty_sha256() {
    check("empty-sha256", cases::empty_sha256);
}

#[test]
fn empty_tree() {
    check("empty-tree", cases::empty_tree);
}

#[test]
fn sha256() {
    check("sha256", cases::sha256);
}

#[test]
fn detached_head() {
    check("detached", cases::detached);
}

#[test]
fn detached_head_at_a_branch() {
    check("detached-at-tip", cases::detached_at_tip);
}

#[test]
fn head_points_nowhere() {
    check("unborn-head", cases::unborn_head);
}

#[test]
fn branch_name_with_everything() {
    check("branch-name", cases::branch_name);
}

#[test]
fn tags() {
    check("tagged", cases::tagged);
}

#[test]
fn five_thousand_refs() {
    check("many-refs", cases::many_refs);
}

#[test]
fn several_packs_and_loose_objects() {
    check("packs-and-loose", cases::packs_and_loose);
}

#[test]
fn only_loose_objects() {
    check("all-loose", cases::all_loose);
}

/// A trailing `.git` names the same repository, so the same entry.
#[test]
fn trailing_dot_git() {
    let lab = new_lab();
    cases::tagged(&lab);
    let server = lab.start();
    let first = server.get(&lab::target("tagged")).expect(200);
    let second = server
        .get("/git/test/tagged.git/snapshot.tar.zst")
        .expect(200);
    assert_eq!(first.head.etag(), second.head.etag());
    assert!(first.body == second.body, "bodies differ");
}

/// A repository in a directory below its host.
#[test]
fn nested_path() {
    let lab = new_lab();
    support::repos::generate(
        &lab.upstream("group/sub/project"),
        support::repos::Shape::ManySmall,
        100_000,
        5,
    );
    let clone = lab.scratch("clone");
    git::clone(&lab.url("group/sub/project"), &clone);
    let server = lab.start();
    snapshot(&lab, &server, "group/sub/project", "miss");
    expect_parity(&lab, "miss", &clone);
}

/// The large repository, where a download is long enough for something to happen in its middle:
/// a second client joins while the first is mid-stream, then the mirror is repacked under both.
#[test]
fn large_with_follower_and_repack() {
    let lab = new_lab();
    cases::large_file(&lab);
    let clone = lab.scratch("clone");
    git::clone(&lab.url("large"), &clone);
    let server = lab.start();

    let mut first = Conn::open(server.address());
    let first_start = begin(&mut first);
    let mut follower = Conn::open(server.address());
    let follower_start = begin(&mut follower);
    git::repack_and_prune(&lab.mirror("large"));

    let files = [lab.scratch("miss.tar.zst"), lab.scratch("follower.tar.zst")];
    for (conn, (start, file)) in [first, follower]
        .iter_mut()
        .zip([first_start, follower_start].iter().zip(&files))
    {
        fs::write(file, start).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        lab::finish_download(conn, file, true);
    }
    expect_parity(&lab, "miss", &clone);
    let same = compare::first_difference(&files[0], &files[1]);
    assert_eq!(same, None, "the follower's bytes differ");

    let hit = wait_for_hit(&lab, &server, "large");
    let same = compare::first_difference(&files[0], &hit);
    assert_eq!(same, None, "the hit's bytes differ");
    assert_eq!(server.builds("complete"), 1);
    server.stop();

    lab.forget_snapshots();
    let server = lab.start();
    snapshot(&lab, &server, "large", "repacked");
    expect_parity(&lab, "repacked", &clone);
    server.stop();
    lab.expect_no_orphans();
}

/// Requests the large repository and reads the first bytes of its body, which must come while
/// the build runs.
fn begin(conn: &mut Conn) -> Vec<u8> {
    conn.request("GET", &lab::target("large"), &[]);
    let head = conn
        .read_head("GET")
        .unwrap_or_else(|e| panic!("no response: {e}"));
    assert_eq!(head.status, 200, "{head:?}");
    assert!(
        head.is_chunked(),
        "this must come while the build runs: {head:?}"
    );
    conn.read_some(64 << 10)
        .unwrap_or_else(|e| panic!("body: {e}"))
}
