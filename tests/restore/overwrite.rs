//! `--overwrite`: what nobody else has of the old repository is not lost, nothing of that is run, and
//! a restore that fails changes nothing.

use crate::lab::{expect, new_lab, restore, staged};
use crate::support::lab::Lab;
use crate::support::server::Server;
use crate::support::{git, repos};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;

fn overwrite(server: &Server, target: &Path, more: &[&str]) -> Output {
    let more = [&["--overwrite"], more].concat();
    restore(server.address(), "test/app", target, &more)
}

/// A restored checkout.
fn restored(lab: &Lab, server: &Server, name: &str) -> PathBuf {
    let target = lab.scratch(name);
    expect(&restore(server.address(), "test/app", &target, &[]), 0);
    target
}

/// Commits a new file in `target`.
fn commit(target: &Path, name: &str) -> String {
    fs::write(target.join(name), name).unwrap_or_else(|e| panic!("{e}"));
    git::run(target, &["add", "--", name]);
    git::run(target, &["commit", "--quiet", "-m", name]);
    git::text(target, &["rev-parse", "HEAD"])
}

/// All that is in `target`: kind, mode, inode, date and content of every path.
fn everything(target: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![target.to_owned()];
    while let Some(path) = pending.pop() {
        let found = fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let content = match found.is_file() {
            true => fs::read(&path).unwrap_or_default(),
            false => Vec::new(),
        };
        if found.is_dir() {
            let listing = fs::read_dir(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            pending.extend(listing.flatten().map(|entry| entry.path()));
        }
        let dated = if found.is_dir() { 0 } else { found.mtime() };
        let sum = gix::hash::hasher(gix::hash::Kind::Sha1);
        let mut sum = sum;
        sum.update(&content);
        let sum = sum.try_finalize().unwrap_or_else(|e| panic!("{e}"));
        let what = format!("{:o} {} {dated} {sum}", found.mode(), found.ino());
        all.insert(path, what);
    }
    all
}

#[test]
fn two_pull_requests_in_a_row() {
    let lab = new_lab();
    let server = lab.start();
    let upstream = lab.upstream("app");
    let mut ids = Vec::new();
    for number in 1..=2 {
        let branch = format!("pr{number}");
        git::run(&upstream, &["branch", &branch, "main"]);
        let id = repos::add_commit(&upstream, &branch, "pr.txt", branch.as_bytes());
        let pull = format!("refs/pull/{number}/head");
        git::run(&upstream, &["update-ref", &pull, &id]);
        git::run(&upstream, &["branch", "-D", &branch]);
        ids.push(id);
    }
    git::run(
        &upstream,
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    let target = restored(&lab, &server, "target");
    for id in ids.iter().chain(&ids) {
        expect(&overwrite(&server, &target, &["--commit", id]), 0);
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), *id);
        let noted = fs::read_to_string(target.join(".git/tarpon-restored"));
        assert_eq!(noted.unwrap_or_default().trim(), id);
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
}

#[test]
fn what_only_the_old_repository_has_is_named_and_kept() {
    let lab = new_lab();
    let server = lab.start();
    type Prepare = fn(&Path);
    let kinds: [(&str, Prepare, &[&str]); 5] = [
        (
            "ahead",
            |target| drop(commit(target, "mine.txt")),
            &["main"],
        ),
        (
            "branch",
            |target| {
                git::run(target, &["checkout", "--quiet", "-b", "topic/a"]);
                commit(target, "mine.txt");
                git::run(target, &["checkout", "--quiet", "main"]);
            },
            &["topic/a"],
        ),
        (
            "detached",
            |target| {
                git::run(target, &["checkout", "--quiet", "--detach"]);
                commit(target, "mine.txt");
            },
            &["HEAD"],
        ),
        (
            "stash",
            |target| {
                for text in ["one", "two"] {
                    fs::write(target.join("run.sh"), text).unwrap_or_else(|e| panic!("{e}"));
                    git::run(target, &["stash", "--quiet"]);
                }
            },
            &["stash@{0}", "stash@{1}"],
        ),
        (
            "packed",
            |target| {
                commit(target, "mine.txt");
                git::run(target, &["gc", "--quiet"]);
                git::run(
                    target,
                    &["checkout", "--quiet", "-b", "other", "origin/main"],
                );
            },
            &["main"],
        ),
    ];
    for (name, prepare, named) in kinds {
        let target = restored(&lab, &server, name);
        prepare(&target);
        let before = everything(&target);
        let errors = expect(&overwrite(&server, &target, &[]), 1);
        for named in named {
            assert!(errors.contains(named), "{name}: {errors}");
        }
        assert!(errors.contains("--discard-local"), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        expect(&overwrite(&server, &target, &["--discard-local"]), 0);
        let upstream = git::text(&lab.upstream("app"), &["rev-parse", "main"]);
        assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), upstream);
        assert_eq!(git::text(&target, &["stash", "list"]), "");
    }
}

#[test]
fn what_somebody_else_has_is_replaced_without_a_word() {
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    commit(&target, "pushed.txt");
    // As if it had been pushed, and one tagged.
    git::run(&target, &["update-ref", "refs/remotes/fork/topic", "HEAD"]);
    git::run(&target, &["tag", "mine"]);
    expect(&overwrite(&server, &target, &[]), 0);
    // A clone that is shallow, as checkouts of build farms are.
    let second = repos::add_commit(&lab.upstream("app"), "main", "second.txt", b"2");
    let shallow = lab.scratch("shallow");
    let url = lab.url("app");
    let into = shallow.to_string_lossy();
    git::run(
        &lab.scratch(""),
        &["clone", "--quiet", "--depth", "1", &url, &into],
    );
    let second = format!("main={second}");
    expect(&overwrite(&server, &shallow, &["--ref", &second]), 0);
    assert!(shallow.join("second.txt").exists());
    commit(&shallow, "mine.txt");
    let errors = expect(&overwrite(&server, &shallow, &[]), 1);
    assert!(errors.contains("main"), "{errors}");
}

/// Where it cannot be told what would be lost, nothing is.
#[test]
fn an_old_repository_that_cannot_be_read_is_kept() {
    let lab = new_lab();
    let server = lab.start();
    type Damage = fn(&Path);
    let kinds: [(&str, Damage); 3] = [
        ("head", |git| drop(fs::write(git.join("HEAD"), "what"))),
        ("shallow", |git| {
            drop(fs::write(git.join("shallow"), "what\n"))
        }),
        ("reftable", |git| drop(fs::create_dir(git.join("reftable")))),
    ];
    for (name, damage) in kinds {
        let target = restored(&lab, &server, name);
        damage(&target.join(".git"));
        let before = everything(&target);
        let errors = expect(&overwrite(&server, &target, &[]), 1);
        assert!(errors.contains("--discard-local"), "{name}: {errors}");
        assert_eq!(everything(&target), before, "{name}");
        expect(&overwrite(&server, &target, &["--discard-local"]), 0);
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
}

/// Whatever it is configured to run, and whatever it says that its objects are.
#[test]
fn nothing_of_the_old_repository_is_run_or_believed() {
    let lab = new_lab();
    let server = lab.start();
    let target = restored(&lab, &server, "target");
    let pushed = git::text(&target, &["rev-parse", "HEAD"]);
    let mine = commit(&target, "mine.txt");
    let ran = lab.scratch("ran");
    let script = lab.scratch("script");
    let text = format!("#!/bin/sh\necho \"$0 $*\" >> {}\n", ran.display());
    fs::write(&script, text).unwrap_or_else(|e| panic!("{e}"));
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap_or_else(|e| panic!("{e}"));
    let git_dir = target.join(".git");
    fs::create_dir_all(git_dir.join("hooks")).unwrap_or_else(|e| panic!("{e}"));
    for hook in [
        "post-index-change",
        "post-checkout",
        "reference-transaction",
    ] {
        fs::copy(&script, git_dir.join("hooks").join(hook)).unwrap_or_else(|e| panic!("{e}"));
    }
    let script = script.display();
    let config = format!(
        "[core]\n\trepositoryformatversion = 1\n\tfsmonitor = {script}\n\tsshCommand = {script}\n\
         \tpager = {script}\n\tworktree = /\n\talternateRefsCommand = {script}\n\
         [extensions]\n\tpartialClone = origin\n[remote \"origin\"]\n\tpromisor = true\n\
         \turl = ext::{script}\n\tuploadpack = {script}\n[filter \"x\"]\n\tclean = {script}\n\
         \tprocess = {script}\n"
    );
    fs::write(git_dir.join("config"), config).unwrap_or_else(|e| panic!("{e}"));
    fs::write(target.join(".gitattributes"), "* filter=x\n").unwrap_or_else(|e| panic!("{e}"));
    // By its own word the commit is that of the upstream, or has no parents that were not pushed.
    let replace = git_dir.join("refs/replace");
    fs::create_dir_all(&replace).unwrap_or_else(|e| panic!("{e}"));
    fs::write(replace.join(&mine), format!("{pushed}\n")).unwrap_or_else(|e| panic!("{e}"));
    fs::write(git_dir.join("info/grafts"), format!("{pushed} {mine}\n"))
        .unwrap_or_else(|e| panic!("{e}"));
    let before = everything(&target);
    let errors = expect(&overwrite(&server, &target, &[]), 1);
    assert!(errors.contains("main"), "{errors}");
    assert_eq!(everything(&target), before);
    expect(&overwrite(&server, &target, &["--discard-local"]), 0);
    let ran = fs::read_to_string(&ran).unwrap_or_default();
    assert_eq!(ran, "");
}

/// A step in the middle of putting the files in place fails.
#[test]
fn an_overwrite_that_fails_is_undone() {
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere; a file that must not be changed stands in the way of it, too.
        let lab = new_lab();
        let server = lab.start();
        let target = restored(&lab, &server, "target");
        let pinned = target.join("src/d3/f3.c");
        let set = |flag: &str| {
            let status = std::process::Command::new("chattr")
                .arg(flag)
                .arg(&pinned)
                .status();
            status.is_ok_and(|status| status.success())
        };
        if !set("+i") {
            println!("not tested: no file can be made unchangeable here");
            return;
        }
        repos::add_commit(&lab.upstream("app"), "main", "src/d3/f3.c", b"new");
        let new = repos::add_commit(&lab.upstream("app"), "main", "big.bin", b"new");
        let new = format!("main={new}");
        let before = everything(&target);
        let out = overwrite(&server, &target, &["--ref", &new]);
        let after = everything(&target);
        assert!(set("-i"));
        expect(&out, 4);
        assert_eq!(after, before);
        assert_eq!(staged(&target), Vec::<PathBuf>::new());
        expect(&overwrite(&server, &target, &["--ref", &new]), 0);
        assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    }
}

#[test]
fn a_link_to_an_empty_directory_is_filled_as_git_does() {
    let lab = new_lab();
    let server = lab.start();
    let (real, link) = (lab.scratch("real"), lab.scratch("link"));
    fs::create_dir(&real).unwrap_or_else(|e| panic!("{e}"));
    std::os::unix::fs::symlink("real", &link).unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(server.address(), "test/app", &link, &[]), 0);
    assert!(link.is_symlink() && real.join("run.sh").exists());
    assert_eq!(git::text(&link, &["status", "--porcelain"]), "");
    // It is not empty any more.
    expect(&restore(server.address(), "test/app", &link, &[]), 1);
    expect(&overwrite(&server, &link, &[]), 0);
    assert!(link.is_symlink());
    let dangling = lab.scratch("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(server.address(), "test/app", &dangling, &[]), 1);
    assert!(dangling.is_symlink());
}
