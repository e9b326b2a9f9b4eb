//! `--update` where others have put something: a server that says what it cannot know, a job that has left pipes and
//! repositories behind, a repository whose files are called as the restore's own.

use crate::lab::{direct, expect, relay, restore, staged};
use crate::overwrite::everything;
use crate::support::repos::{self, Importer, Layout};
use crate::support::wait;
use crate::support::{compare, git};
use crate::update::{behind, commit_beside, copied, update, write};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

fn pipe(path: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(fs::remove_file(path));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// To have a commit is to give it.
#[test]
fn the_word_of_a_server_lets_no_commit_go() {
    let (lab, server, target, clone) = behind();
    git::run(&target, &["checkout", "-q", "--detach"]);
    let mine = commit_beside(&target);
    git::run(&target, &["reset", "-q", "--hard", &mine]);
    let ensures = |target: &str| target.contains("/ensure-refs");
    let lies = |body: &mut Vec<u8>| {
        let all = br#"{"refs":{},"missing_commits":[]}"#;
        let len = body.len();
        body.fill(b' ');
        body[..all.len().min(len)].copy_from_slice(&all[..all.len().min(len)]);
    };
    let address = relay(server.address(), ensures, lies);
    let errors = expect(&restore(address, "test/app", &target, &["--update"]), 1);
    assert!(errors.contains("the commits of HEAD"), "{errors}");
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), mine);

    // What the upstream gives by its id, and no ref leads to, is not lost.
    let upstream = lab.upstream("app");
    let side = commit_beside(&upstream);
    git::run(&target, &["fetch", "-q", &lab.url("app"), "HEAD"]);
    git::run(
        &upstream,
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    git::run(&target, &["fetch", "-q", &lab.url("app"), &side]);
    git::run(&target, &["checkout", "-q", "--detach", &side]);
    fs::remove_file(target.join(".git/FETCH_HEAD")).unwrap();
    expect(&update(&server, &target, &[]), 0);
    let new = git::text(&clone, &["rev-parse", "HEAD"]);
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), new);
}

/// What is no file where a file could be is refused, and nobody waits for it.
#[test]
fn pipes_are_named() {
    let (lab, server, target, _) = behind();
    for (name, at, said) in [
        ("ignores", "new/.gitignore", "new/.gitignore is no file"),
        ("shallow", ".git/shallow", ".git/shallow cannot be read"),
        ("refs", ".git/packed-refs", "packed-refs"),
    ] {
        let copy = copied(&target, &lab, name);
        pipe(&copy.join(at));
        write(&copy.join("new/deep/file"), "mine");
        let errors = expect(&update(&server, &copy, &[]), 1);
        assert!(errors.contains(said), "{name}: {errors}");
        assert_eq!(fs::read(copy.join("new/deep/file")).unwrap(), b"mine");
    }
}

/// Whoever forces files does not lose commits by that.
#[test]
fn a_repository_that_is_in_the_way_is_not_forced() {
    let (_lab, server, target, clone) = behind();
    let inner = target.join("new/deep/file");
    fs::create_dir_all(&inner).unwrap();
    git::run(&inner, &["init", "-q"]);
    git::run(&inner, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let before = everything(&target);
    for more in [&[][..], &["--force"]] {
        let errors = expect(&update(&server, &target, more), 1);
        assert!(errors.contains("new/deep/file/.git"), "{errors}");
        assert!(errors.contains("--discard-local"), "{errors}");
        assert_eq!(everything(&target), before);
    }
    let more = ["--force", "--discard-local"];
    expect(&update(&server, &target, &more), 0);
    assert!(compare::differences(&clone, &target, &[".git"]).is_empty());
}

/// A repository may track whatever names it likes, and a killed run's directory is in nobody's way.
#[test]
fn files_that_are_called_as_its_own_stay() {
    let (lab, server, target, _) = behind();
    let named = ".tarpon-restore-x/tree/file";
    let mut import = Importer::start(&lab.upstream("app"), Layout::Packed);
    import.commit_on("refs/heads/main", "refs/heads/main^0", "named");
    import.file(repos::FILE, named.as_bytes(), b"theirs");
    import.finish();
    let head = git::text(&lab.upstream("app"), &["rev-parse", "HEAD"]);
    let wanted = ["--commit", &*head];
    expect(&update(&server, &target, &wanted), 0);
    write(&target.join(named), "mine");
    let errors = expect(&update(&server, &target, &wanted), 1);
    assert!(errors.contains(named), "{errors}");
    assert_eq!(fs::read(target.join(named)).unwrap(), b"mine");
    // Untracked ones are cleaned away as all else is.
    write(&target.join(".tarpon-restore-evil/Makefile"), "all:");
    expect(
        &update(&server, &target, &["--commit", &head, "--force", "--clean"]),
        0,
    );
    assert!(!target.join(".tarpon-restore-evil").exists());
    assert_eq!(fs::read(target.join(named)).unwrap(), b"theirs");
    assert_eq!(
        git::text(&target, &["status", "--porcelain", "--ignored"]),
        ""
    );
    assert!(staged(&target.join(".git")).is_empty());
}

/// What a signal leaves is said.
#[test]
fn an_update_that_has_begun_says_so_when_it_is_interrupted() {
    let (lab, server, target, clone) = behind();
    let (bin, is_there) = (lab.scratch("bin"), lab.scratch("cleans"));
    let found = Command::new("sh")
        .args(["-c", "command -v git"])
        .output()
        .unwrap();
    let real = String::from_utf8(found.stdout).unwrap();
    let script = format!(
        "#!/bin/sh\nfor word; do [ \"$word\" = clean ] && touch {} && exec sleep 600; done\nexec {} \"$@\"\n",
        is_there.display(),
        real.trim()
    );
    write(&bin.join("git"), &script);
    fs::set_permissions(bin.join("git"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = direct(
        server.address(),
        "test/app",
        &target,
        &["--update", "--clean"],
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let child = command
        .env("PATH", path)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait::until("it cleans", || is_there.exists().then_some(()));
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let errors = expect(&child.wait_with_output().unwrap(), 130);
    assert!(errors.contains("on its way"), "{errors}");
    let new = git::text(&clone, &["rev-parse", "HEAD"]);
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), new);
    expect(&update(&server, &target, &["--clean"]), 0);
}

/// What was made for a target that is not restored goes with it.
#[test]
fn directories_above_a_refused_target_go() {
    let (lab, server, _, _) = behind();
    let more = ["--ref", "nowhere"];
    let target = lab.scratch("none/x/y/z");
    expect(&restore(server.address(), "test/app", &target, &more), 7);
    assert!(!lab.scratch("none").exists());
}
