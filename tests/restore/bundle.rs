//! Bundles through the client: what the mirror has beyond the snapshot comes with the restore, and
//! a bundle that is of no use leaves a whole snapshot.

use crate::lab::{BINARY, command, expect, expect_nothing, relay, restore};
use crate::support::lab::{self, Lab};
use crate::support::repos::{self, Shape};
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::{ensure, hit, push_and_fetch};
use crate::support::{git, parity};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Output;

/// More than [`start`] lets a new snapshot have: the old one stays.
const LARGE_BYTES: usize = 8 << 20;

pub fn small_lab() -> Lab {
    let lab = Lab::new(BINARY);
    lab.generate("small", Shape::ManySmall, 300_000);
    lab
}

/// A server that keeps small snapshots only.
pub fn start(lab: &Lab) -> Server {
    let fault = "spool-enospc-after-bytes=4000000";
    lab.settings().with_fault(fault).start()
}

pub fn large() -> Vec<u8> {
    Rng::new(6).bytes(LARGE_BYTES)
}

pub fn tip(lab: &Lab) -> String {
    git::text(&lab.upstream("small"), &["rev-parse", "HEAD"])
}

/// Restores with `--json`; gives the directory, the summary and standard error.
pub fn run(
    lab: &Lab,
    server: std::net::SocketAddr,
    name: &str,
    more: &[&str],
) -> (PathBuf, serde_json::Value, String) {
    let target = lab.scratch(name);
    let out = restore(server, "test/small", &target, &[&["--json"], more].concat());
    let errors = expect(&out, 0);
    (target, summary(&out), errors)
}

fn summary(out: &Output) -> serde_json::Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"))
}

/// Panics unless `restored` is what a clone of the upstream is now.
pub fn expect_newest(lab: &Lab, restored: &Path, name: &str) {
    let clone = lab.scratch(&format!("{name}-clone"));
    git::clone(&lab.url("small"), &clone);
    parity::expect_same_clones(&clone, restored, name);
}

/// Panics unless `restored` is at `commit`, whole and clean.
pub fn expect_at(restored: &Path, commit: &str) {
    for name in ["HEAD", "main", "origin/main", "origin/HEAD"] {
        assert_eq!(git::text(restored, &["rev-parse", name]), commit, "{name}");
    }
    assert_eq!(git::text(restored, &["status", "--porcelain"]), "");
    git::run(restored, &["fsck", "--strict"]);
}

/// Moves the upstream's `main` to a commit without parents that has `large.bin` besides.
fn rewrite(lab: &Lab) -> String {
    let upstream = lab.upstream("small");
    repos::add_commit(&upstream, "main", "large.bin", &large());
    let orphan = ["commit-tree", "refs/heads/main^{tree}", "-m", "rewritten"];
    let orphan = git::text(&upstream, &orphan);
    git::run(&upstream, &["update-ref", "refs/heads/main", &orphan]);
    orphan
}

#[test]
fn what_is_newer_than_the_snapshot_comes_with_it() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let old = tip(&lab);
    push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let new = push_and_fetch(&lab, &server, "small", "small.txt", b"small\n");

    let (newest, summary, errors) = run(&lab, server.address(), "newest", &[]);
    assert_eq!(summary["bundle_applied"], true, "{summary} {errors}");
    assert_eq!(summary["commit"], *new);
    assert_eq!(errors, "");
    expect_at(&newest, &new);
    expect_newest(&lab, &newest, "newest");
    assert!(!newest.join(".git/FETCH_HEAD").exists());

    let (plain, summary, errors) = run(&lab, server.address(), "plain", &["--no-bundle"]);
    assert_eq!(summary["bundle_applied"], false);
    assert_eq!((&summary["commit"], &*errors), (&old.clone().into(), ""));
    expect_at(&plain, &old);
    assert!(!plain.join("small.txt").exists());

    // Over an older checkout, with a file that is nobody's.
    std::fs::write(plain.join("mine"), b"mine").unwrap_or_else(|e| panic!("{e}"));
    let (over, summary, _) = run(&lab, server.address(), "plain", &["--overwrite"]);
    assert_eq!(summary["bundle_applied"], true);
    assert_eq!(git::text(&over, &["rev-parse", "HEAD"]), new);
    assert_eq!(git::text(&over, &["status", "--porcelain"]), "?? mine");
}

/// Git takes any bytes as the name of a branch.
#[test]
fn a_branch_whose_name_is_no_text_moves_with_the_bundle() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    let odd = OsStr::from_bytes(b"refs/heads/m\xff");
    // Has it name what `main` does, and `main` go.
    let rename = || {
        let moved = git::command(&upstream, &["update-ref"])
            .args([odd, OsStr::new("main")])
            .status();
        assert!(moved.is_ok_and(|status| status.success()));
        git::run(&upstream, &["update-ref", "-d", "refs/heads/main"]);
    };
    rename();
    let head = git::command(&upstream, &["symbolic-ref", "HEAD"])
        .arg(odd)
        .status();
    assert!(head.is_ok_and(|status| status.success()));
    let server = start(&lab);
    hit(&server, "small");
    git::run(&upstream, &["update-ref", "refs/heads/main", "HEAD"]);
    let new = repos::add_commit(&upstream, "main", "large.bin", &large());
    rename();
    ensure(&server, "small", &format!(r#"{{"commits":["{new}"]}}"#));

    let (restored, summary, errors) = run(&lab, server.address(), "restored", &[]);
    assert_eq!(summary["bundle_applied"], true, "{errors}");
    assert_eq!(summary["commit"], *new);
    expect_newest(&lab, &restored, "restored");
}

/// Files that the bundle does not touch change with the attributes, too.
#[test]
fn attributes_that_a_bundle_changes_are_those_of_all_files() {
    let lab = small_lab();
    repos::add_commit(&lab.upstream("small"), "main", "gone.txt", b"one\ntwo\n");
    repos::add_commit(
        &lab.upstream("small"),
        "main",
        "dir/stays.txt",
        b"one\ntwo\n",
    );
    let server = start(&lab);
    hit(&server, "small");
    push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let mut import = repos::Importer::start(&lab.upstream("small"), repos::Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "without");
    import.delete(b"gone.txt");
    import.finish();
    let attributes = b"*.txt text eol=crlf\n";
    let new = push_and_fetch(&lab, &server, "small", ".gitattributes", attributes);

    let (restored, summary, errors) = run(&lab, server.address(), "restored", &[]);
    assert_eq!(summary["bundle_applied"], true, "{errors}");
    expect_at(&restored, &new);
    let stays = std::fs::read(restored.join("dir/stays.txt"));
    assert_eq!(stays.unwrap_or_else(|e| panic!("{e}")), b"one\r\ntwo\r\n");
    expect_newest(&lab, &restored, "restored");
}

/// Filters and line ends that the user has set up would be in the files that the bundle changes
/// and in no others.
#[test]
fn the_users_configuration_does_not_show_in_the_files_of_a_bundle() {
    let lab = small_lab();
    let attributes = b"*.txt filter=mine\n";
    repos::add_commit(&lab.upstream("small"), "main", ".gitattributes", attributes);
    let server = start(&lab);
    hit(&server, "small");
    push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let new = push_and_fetch(&lab, &server, "small", "small.txt", b"small\n");

    let config = lab.scratch("config");
    let text = "[core]\n\tautocrlf = true\n[filter \"mine\"]\n\tsmudge = echo smudged\n";
    std::fs::write(&config, text).unwrap_or_else(|e| panic!("{e}"));
    let target = lab.scratch("restored");
    let mut command = command(server.address(), "test/small", &target, &["--json"]);
    let out = command.env("GIT_CONFIG_GLOBAL", &config).output();
    let out = out.unwrap_or_else(|e| panic!("tarpon does not start: {e}"));
    expect(&out, 0);
    assert_eq!(summary(&out)["bundle_applied"], true);
    expect_at(&target, &new);
    expect_newest(&lab, &target, "restored");
}

#[test]
fn after_a_force_push_it_is_what_a_clone_would_be() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let new = rewrite(&lab);
    ensure(
        &server,
        "small",
        &format!(r#"{{"refs":{{"refs/heads/main":"{new}"}}}}"#),
    );
    let (restored, summary, errors) = run(&lab, server.address(), "rewritten", &[]);
    assert_eq!(summary["bundle_applied"], true, "{errors}");
    expect_at(&restored, &new);
    expect_newest(&lab, &restored, "rewritten");
}

/// The mirror was made anew and has never heard of the snapshot's commit.
#[test]
fn a_base_that_the_server_does_not_know_needs_no_bundle() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let old = tip(&lab);
    server.stop();
    let new = rewrite(&lab);
    git::repack_and_prune(&lab.upstream("small"));
    let mirror = lab.mirror("small");
    std::fs::remove_dir_all(&mirror).unwrap_or_else(|e| panic!("{e}"));
    lab.place_mirror("small");
    let server = start(&lab);
    let answer = server.get(&lab::endpoint(
        "small",
        &format!("snapshot.bundle?base={old}"),
    ));
    answer.expect(404);
    let (restored, summary, errors) = run(&lab, server.address(), "new", &[]);
    assert!(errors.contains("the base commit is unknown"), "{errors}");
    assert_eq!(summary["bundle_applied"], false);
    assert_eq!(summary["commit"], *new);
    expect_at(&restored, &new);
    expect_newest(&lab, &restored, "new");
}

/// The upstream's HEAD names another branch now.
#[test]
fn another_branch_is_checked_out_when_the_upstream_says_so() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let upstream = lab.upstream("small");
    git::run(&upstream, &["branch", "trunk", "main"]);
    let new = repos::add_commit(&upstream, "trunk", "large.bin", &large());
    git::run(&upstream, &["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    ensure(
        &server,
        "small",
        &format!(r#"{{"refs":{{"refs/heads/trunk":"{new}"}}}}"#),
    );
    let (restored, summary, errors) = run(&lab, server.address(), "trunk", &[]);
    assert_eq!(summary["commit"], *new, "{errors}");
    let head = git::text(&restored, &["symbolic-ref", "HEAD"]);
    assert_eq!(head, "refs/heads/trunk");
    expect_newest(&lab, &restored, "trunk");
}

/// What upstream has made, moved and deleted besides HEAD shows as well: branches and tags, one of
/// them where another one's directory was, and the other way round.
#[test]
fn the_refs_are_those_of_one_moment() {
    let lab = small_lab();
    let upstream = lab.upstream("small");
    for name in ["gone", "a", "b/c", "moved"] {
        git::run(&upstream, &["branch", name, "main"]);
        git::run(&upstream, &["tag", &format!("t-{name}"), "main"]);
    }
    let server = start(&lab);
    hit(&server, "small");
    let new = repos::add_commit(&upstream, "main", "large.bin", &large());
    for name in ["gone", "a", "b/c"] {
        git::run(&upstream, &["branch", "-D", name]);
        git::run(&upstream, &["tag", "-d", &format!("t-{name}")]);
    }
    for name in ["a/below", "b", "new"] {
        git::run(&upstream, &["branch", name, "main"]);
        git::run(&upstream, &["tag", &format!("t-{name}"), "main"]);
    }
    let moved = repos::add_commit(&upstream, "moved", "moved.txt", b"moved");
    git::run(
        &upstream,
        &["tag", "-f", "-a", "-m", "moved", "t-moved", &moved],
    );
    // One that no other ref leads to.
    git::run(
        &upstream,
        &["tag", "-a", "-m", "a tag", "t-annotated", &moved],
    );
    ensure(
        &server,
        "small",
        &format!(r#"{{"refs":{{"refs/heads/main":"{new}"}}}}"#),
    );
    for (name, more) in [("head", &[][..]), ("main", &["--have", "main"])] {
        let (restored, summary, errors) = run(&lab, server.address(), name, more);
        assert_eq!(summary["bundle_applied"], true, "{errors}");
        assert_eq!(summary["commit"], *new);
        expect_at(&restored, &new);
        expect_newest(&lab, &restored, name);
        assert!(!restored.join(".git/FETCH_HEAD").exists());
        assert!(!restored.join(".git/refs/tarpon").exists());
    }
}

/// A bundle that comes damaged, broken off or not at all is done without; so is the newest state if
/// it cannot be had at all.
#[test]
fn a_damaged_bundle_is_done_without() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let old = tip(&lab);
    let new = push_and_fetch(&lab, &server, "small", "large.bin", &large());
    let intact = relay(server.address(), |_| true, |_| {});
    let (_, summary, _) = run(&lab, intact, "intact", &[]);
    assert_eq!(
        summary["commit"], *new,
        "the relay changes what it should not"
    );
    type Damage = fn(&mut Vec<u8>);
    let kinds: [(&str, Damage); 4] = [
        ("flipped", |body| {
            let middle = body.len() / 2;
            body[middle] ^= 1;
        }),
        ("head", |body| body[0] ^= 1),
        ("no-prerequisite", |body| {
            // The line `-HASH` of the header: another commit that nobody has.
            let at = body.windows(2).position(|w| w == b"\n-").unwrap_or(0);
            body[at + 2..at + 42].fill(b'1');
        }),
        ("cut", |body| body.truncate(body.len() / 2)),
    ];
    for (name, damage) in kinds {
        let address = relay(server.address(), |target| target.contains("bundle"), damage);
        let (restored, summary, errors) = run(&lab, address, name, &[]);
        assert_eq!(summary["bundle_applied"], false, "{name}");
        assert_eq!(summary["commit"], *new, "{name}");
        assert!(
            errors.contains("the bundle is of no use"),
            "{name}: {errors}"
        );
        expect_at(&restored, &new);
    }
    // Neither the list of refs nor, after the bundle, what it lacks.
    let side = ["commit-tree", "main^{tree}", "-m", "side"];
    let side = git::text(&lab.upstream("small"), &side);
    git::run(&lab.upstream("small"), &["branch", "side", &side]);
    let json = format!(r#"{{"refs":{{"refs/heads/side":"{side}"}}}}"#);
    ensure(&server, "small", &json);
    for (name, broken) in [("list", "git-upload-pack"), ("objects", "info/refs")] {
        let cut = |body: &mut Vec<u8>| body.truncate(body.len() / 2);
        let address = relay(server.address(), move |target| target.contains(broken), cut);
        let (restored, summary, errors) = run(&lab, address, name, &[]);
        assert!(
            errors.contains("without the newest commits"),
            "{name}: {errors}"
        );
        assert_eq!(summary["bundle_applied"], false, "{name}");
        assert_eq!(summary["commit"], *old, "{name}");
        expect_at(&restored, &old);
        assert!(!restored.join("large.bin").exists());
        assert!(!restored.join(".git/refs/tarpon").exists());
        let target = lab.scratch("wanted");
        let out = restore(address, "test/small", &target, &["--have", "main"]);
        assert_ne!(out.status.code(), Some(0), "{name}");
        expect_nothing(&target);
    }
}

#[test]
fn refs_and_commits_are_those_of_the_upstream_or_nothing_is_restored() {
    let lab = small_lab();
    let server = start(&lab);
    hit(&server, "small");
    let old = tip(&lab);
    let upstream = lab.upstream("small");
    git::run(&upstream, &["branch", "side", "main"]);
    let side = repos::add_commit(&upstream, "side", "side.txt", b"side\n");
    git::run(&upstream, &["tag", "-a", "-m", "a tag", "v1", &side]);
    let tag = git::text(&upstream, &["rev-parse", "v1"]);
    let refs = ["--ref", "side", "--have", "refs/tags/v1", "--have", &side];
    let (restored, summary, _) = run(&lab, server.address(), "side", &refs);
    assert_eq!(summary["commit"], *side);
    let parse = |name: &str| git::text(&restored, &["rev-parse", name]);
    assert_eq!(
        [
            parse("HEAD"),
            parse("origin/side"),
            parse("v1"),
            parse("origin/HEAD")
        ],
        [side.clone(), side.clone(), tag, old]
    );
    assert_eq!(git::text(&restored, &["status", "--porcelain"]), "");
    git::run(&restored, &["fsck", "--strict"]);
    // A commit that no ref names, only reachable.
    let newest = repos::add_commit(&upstream, "side", "more.txt", b"more\n");
    let (restored, summary, _) = run(&lab, server.address(), "commit", &["--commit", &newest]);
    assert_eq!(summary["commit"], *newest);
    assert_eq!(git::text(&restored, &["rev-parse", "HEAD"]), newest);
    assert!(
        !git::output(&restored, &["symbolic-ref", "HEAD"])
            .status
            .success()
    );
    assert!(restored.join("more.txt").exists());

    // One that only `git fetch UPSTREAM ID` gets.
    let hidden = ["commit-tree", "side^{tree}", "-p", "side", "-m", "hidden"];
    let hidden = git::text(&upstream, &hidden);
    let by_id = ["--have", &*hidden];
    let (restored, _, _) = run(&lab, server.address(), "had", &by_id);
    git::run(&restored, &["cat-file", "-e", &hidden]);
    let by_id = ["--commit", &*hidden];
    let (restored, summary, _) = run(&lab, server.address(), "hidden", &by_id);
    assert_eq!(summary["commit"], *hidden);
    assert_eq!(git::text(&restored, &["rev-parse", "HEAD"]), hidden);

    let stale = format!("side={side}");
    let at_stale = ["--ref", &*stale];
    let (restored, summary, _) = run(&lab, server.address(), "at", &at_stale);
    assert_eq!(summary["commit"], *side);
    assert_eq!(git::text(&restored, &["rev-parse", "side"]), side);
}

#[test]
fn what_is_not_as_asked_for_restores_nothing() {
    let lab = small_lab();
    let server = start(&lab);
    let upstream = lab.upstream("small");
    git::run(&upstream, &["branch", "side", "main"]);
    let side = repos::add_commit(&upstream, "side", "side.txt", b"side\n");
    repos::add_commit(&upstream, "side", "more.txt", b"more\n");
    let (stale, absent) = (format!("side={side}"), "1".repeat(40));
    for (more, code) in [
        (["--have", &*stale], 7),
        (["--have", "nosuch"], 7),
        (["--have", &absent], 7),
        (["--ref", "nosuch"], 7),
        (["--commit", &absent], 7),
        (["--commit", &side[1..]], 1),
        (["--ref", "side=main"], 1),
        (["--ref", "a..b"], 1),
        (["--ref", ""], 1),
    ] {
        let target = lab.scratch("refused");
        let out = restore(server.address(), "test/small", &target, &more);
        let errors = expect(&out, code);
        assert!(
            errors.contains(more[1].split('=').next_back().unwrap_or("")),
            "{errors}"
        );
        expect_nothing(&target);
    }
}
