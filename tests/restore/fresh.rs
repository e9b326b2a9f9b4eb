//! What a restore gives: a clone's files and refs, a `git status` that reads nothing again, and
//! what is newer than the snapshot.

use crate::lab::{clone, command, expect, new_lab, nobody, restore};
use crate::support::lab::Lab;
use crate::support::{compare, git, repos};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

fn expect_clone(clone: &Path, restored: &Path) {
    let mut findings = compare::differences(clone, restored, &[".git"]);
    for question in [
        &["for-each-ref"][..],
        &["ls-files", "--stage"],
        &["fsck", "--full", "--strict"],
        &[
            "config",
            "--local",
            "--get-regexp",
            "^(remote|branch|core)\\.",
        ],
    ] {
        let lines = |dir: &Path| {
            let out = git::output(dir, question).stdout;
            let mut lines: Vec<_> = out.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        };
        if lines(clone) != lines(restored) {
            findings.push(format!("git {question:?} differs"));
        }
    }
    assert!(findings.is_empty(), "{findings:?}");
}

/// With git's default settings no entry differs from its file in any recorded number, and none is
/// as young as the index: so nothing is read.
fn expect_nothing_reread(restored: &Path) {
    let stale = git::run(restored, &["diff-files", "--name-only"]);
    assert_eq!(String::from_utf8_lossy(&stale), "");
    let index = fs::metadata(restored.join(".git/index")).unwrap_or_else(|e| panic!("{e}"));
    for path in git::text(restored, &["ls-files"]).lines() {
        if let Ok(file) = fs::symlink_metadata(restored.join(path)) {
            let is_older = file.is_dir() || file.is_symlink() || file.mtime() < index.mtime();
            assert!(is_older, "{path} is as young as the index");
        }
    }
}

fn check(lab: &Lab, more: &[&str]) {
    let server = lab.start();
    let expected = clone(lab, "app", "clone");
    for stage in ["miss", "hit"] {
        let target = lab.scratch(stage);
        expect(&restore(server.address(), "test/app", &target, more), 0);
        expect_clone(&expected, &target);
        expect_nothing_reread(&target);
    }
}

#[test]
fn a_restore_is_a_clone() {
    check(&new_lab(), &[]);
}

#[test]
fn one_connection_does() {
    check(&new_lab(), &["--connections", "1", "--quiet"]);
}

#[test]
fn an_edit_right_after_the_restore_is_seen() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("edited");
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    let file = target.join("run.sh");
    fs::write(&file, b"#!/bin/SH\n").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(git::text(&target, &["status", "--porcelain"]), " M run.sh");
}

#[test]
fn overwrite_replaces_what_is_tracked_and_keeps_the_rest() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("old");
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    let write = |name: &str, text: &str| {
        fs::write(target.join(name), text).unwrap_or_else(|e| panic!("{name}: {e}"));
    };
    write("mine", "untracked");
    write("run.sh", "changed");
    write("gone", "tracked by the old checkout only");
    git::run(&target, &["add", "gone"]);
    expect(&restore(server.address(), "test/app", &target, &[]), 1);
    let more = ["--overwrite", "--discard-local"];
    expect(&restore(server.address(), "test/app", &target, &more), 0);
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "?? mine");
    assert!(!target.join("gone").exists());
    expect_nothing_reread(&target);
}

/// Right after a push: what is asked for is what is checked out.
#[test]
fn newer_refs_and_commits_are_fetched_on_demand() {
    let lab = new_lab();
    let server = lab.start();
    let first = lab.scratch("first");
    expect(&restore(server.address(), "test/app", &first, &[]), 0);
    let new = repos::add_commit(&lab.upstream("app"), "main", "new.txt", b"new");
    let target = lab.scratch("fresh");
    let wanted = format!("main={new}");
    let more = ["--ref", &wanted, "--have", &new, "--no-bundle"];
    expect(&restore(server.address(), "test/app", &target, &more), 0);
    let expected = clone(&lab, "app", "clone");
    expect_clone(&expected, &target);
    expect_nothing_reread(&target);
    // Nor does git ask a proxy for what the server has: it was reached without one.
    let newer = repos::add_commit(&lab.upstream("app"), "main", "new.txt", b"newer");
    let wanted = format!("main={newer}");
    let more = ["--ref", &wanted, "--no-bundle"];
    let target = lab.scratch("without-proxy");
    let mut command = command(server.address(), "test/app", &target, &more);
    command.env("http_proxy", format!("http://{}", nobody()));
    command.env_remove("no_proxy");
    expect(&command.output().unwrap(), 0);
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), newer);
    for (more, code) in [
        (["--ref", "nosuch"], 7),
        (["--commit", &"1".repeat(40)], 7),
        (["--commit", "xyz"], 1),
    ] {
        let target = lab.scratch("missing");
        expect(&restore(server.address(), "test/app", &target, &more), code);
        crate::lab::expect_nothing(&target);
    }
}

/// Where nothing is checked out, it is said why.
#[test]
fn an_empty_worktree_is_said() {
    let lab = Lab::new(crate::lab::BINARY);
    let server = lab.start();
    repos::init_bare(&lab.upstream("empty"), "main", "sha1");
    let app = lab.upstream("app");
    repos::init_bare(&app, "main", "sha1");
    let mut import = repos::Importer::start(&app, repos::Layout::Packed);
    import.commit("refs/heads/main", "first");
    import.file(repos::FILE, b"a.txt", b"a");
    import.finish();
    let head = ["symbolic-ref", "HEAD", "refs/heads/nosuch"];
    git::run(&app, &head);
    for (name, note) in [
        ("empty", "the repository is empty: nothing is checked out"),
        (
            "app",
            "HEAD leads to refs/heads/nosuch, which does not exist: nothing is checked out",
        ),
    ] {
        for (how, address, more) in [
            ("served", server.address(), &[][..]),
            ("cloned", nobody(), &["--fallback", "clone"]),
        ] {
            let run = |more: &[&str]| {
                let target = lab.scratch(&format!("{name}-{how}{}", more.len()));
                let url = lab.url(name);
                let repository = format!("test/{name}");
                let named = if how == "served" { &repository } else { &url };
                restore(address, named, &target, more)
            };
            let errors = expect(&run(more), 0);
            assert!(errors.contains(note), "{name} {how}: {errors}");
            let out = run(&[more, &["--json"]].concat());
            expect(&out, 0);
            let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            assert_eq!(summary["note"], note, "{name} {how}");
            assert!(summary["commit"].is_null(), "{summary}");
        }
    }
}
