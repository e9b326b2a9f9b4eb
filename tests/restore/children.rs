//! What a restore has `git` do, when the restore itself is killed.

use crate::bundle;
use crate::lab::{Ends, Running, direct, interrupt, new_lab, nobody, relay, staged};
use crate::support::relay::be_silent;
use crate::support::steps::{hit, push_and_fetch};
use crate::support::{git, processes, repos, wait};
use rustix::fs::{CWD, FileType, Mode};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Kills a restore while processes of all these names work in its staging directory, which is below
/// `directory`: none of them stays behind, to write into it.
fn kill_while(mut restore: Running, directory: &Path, names: &[&str], ready: impl Fn() -> bool) {
    let look = || processes::inside(directory);
    wait::until_true("git waits for more", || {
        let lines = look();
        let runs = |name: &&str| lines.iter().any(|line| line.contains(name));
        names.iter().all(runs) && ready()
    });
    restore.kill();
    processes::expect_ended(&names.join(", "), look);
    // Only what the one before left was tidied up.
    assert_eq!(staged(directory).len(), 1, "it was not killed");
}

/// In the middle of a pack, and before the first word of one.
#[test]
fn no_git_outlives_a_killed_restore() {
    let lab = new_lab();
    let server = lab.start();
    let directory = lab.scratch("");
    let part = 1 << 20;
    let stops = interrupt(server.address(), move |_| Ends::Stall(part));
    let url = format!("http://{stops}/git/test/app");
    let more = ["--fallback", "clone"];
    let restore = Running::start(nobody(), &url, &lab.scratch("clone"), &more);
    // Most of what ever comes is there: nothing more will end a helper whose reader is gone.
    let ready = || git::received_bytes(&directory) >= part * 3 / 4;
    let names = ["clone", "remote-http", "index-pack"];
    kill_while(restore, &directory, &names, ready);
    let silent = relay(
        server.address(),
        |target| target.contains("/info/refs"),
        |_| be_silent(),
    );
    // The snapshot lacks it, so that there is something to fetch.
    hit(&server, "app");
    let new = repos::add_commit(&lab.upstream("app"), "main", "new.txt", b"new");
    let more = ["--have", &*new];
    let restore = Running::start(silent, "test/app", &lab.scratch("fetch"), &more);
    kill_while(restore, &directory, &["fetch", "remote-http"], || true);
}

/// What stands in for `git` in a restore: the real one, but that one of its commands stops.
struct Stopping {
    /// Where it is; every process of the restore has this in its environment.
    place: PathBuf,
    path: String,
    /// Ends the wait of whoever still stops when this is closed.
    _go: File,
}

/// Says in `at` that it has stopped, and waits for `go`, which never comes while the test runs. A
/// word that is nothing but the command's name is the command, as settings are one word with their
/// values.
const STOPPING: &str = r#"#!/bin/sh
PATH=${PATH#*:}
stop() {
    echo "$1" > "$STOPPING/new" && mv "$STOPPING/new" "$STOPPING/at" && read -r _ < "$STOPPING/go"
}
case " $* " in
*" $STOPPING_AT "*) ;;
*) exec git "$@" ;;
esac
test "$STOPPING_WHEN" = after || stop before
git "$@"
code=$?
stop "after $code"
exit $code
"#;

impl Stopping {
    fn new(place: PathBuf) -> Stopping {
        let real = std::env::var("PATH").unwrap_or_else(|e| panic!("PATH: {e}"));
        let path = format!("{}:{real}", place.display());
        fs::create_dir(&place).unwrap_or_else(|e| panic!("{e}"));
        let script = place.join("git");
        fs::write(&script, STOPPING).unwrap_or_else(|e| panic!("{e}"));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&script, mode).unwrap_or_else(|e| panic!("{e}"));
        let pipe = place.join("go");
        let go = rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0);
        go.unwrap_or_else(|e| panic!("mkfifo: {e}"));
        let go = File::options().read(true).write(true).open(&pipe);
        Stopping {
            place,
            path,
            _go: go.unwrap_or_else(|e| panic!("{e}")),
        }
    }

    /// Kills the restore `command` when its `git step` has not yet begun (`before`), or has just
    /// ended with success (`after`): nothing that it started is left.
    fn kill(&self, command: &mut Command, step: &str, moment: &str) {
        command.env("PATH", &self.path).stderr(Stdio::null());
        command.env("STOPPING", &self.place);
        command.env("STOPPING_AT", step);
        command.env("STOPPING_WHEN", moment);
        let at = self.place.join("at");
        let mut restore = Running(command.spawn().unwrap_or_else(|e| panic!("{e}")));
        let stopped = wait::until("git stops", || fs::read_to_string(&at).ok());
        let wanted = match moment {
            "before" => "before\n",
            _ => "after 0\n",
        };
        assert_eq!(stopped, wanted, "git {step}");
        let look = || processes::with(&self.place.to_string_lossy());
        let seen = look();
        let stopped = seen.iter().any(|line| line.starts_with("/bin/sh "));
        assert!(stopped, "it is not among {seen:#?}");
        restore.kill();
        processes::expect_ended(&format!("{moment} git {step}"), look);
        fs::remove_file(&at).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Whatever `git` has done of a bundle by then: nothing of it is at the target, or the checkout
/// that was there before; the next restore brings all of it and leaves nothing else.
#[test]
fn killed_at_a_bundle_a_restore_leaves_all_or_nothing() {
    let lab = bundle::small_lab();
    let server = bundle::start(&lab);
    hit(&server, "small");
    let old = bundle::tip(&lab);
    let new = push_and_fetch(&lab, &server, "small", "large.bin", &bundle::large());
    let stopping = Stopping::new(lab.scratch("stopping"));
    let over = &["--overwrite"][..];
    for (step, moment, more) in [
        ("fetch", "before", &[][..]),
        ("fetch", "after", &[]),
        ("read-tree", "after", &[]),
        ("fetch", "before", over),
        ("fetch", "after", over),
        ("read-tree", "after", over),
    ] {
        let name = format!("{step}-{moment}{}", more.concat());
        let target = lab.scratch(&name);
        let mut parent = lab.scratch("");
        if more == over {
            bundle::run(&lab, server.address(), &name, &["--no-bundle"]);
            parent = target.clone();
        }
        let mut command = direct(server.address(), "test/small", &target, more);
        stopping.kill(&mut command, step, moment);
        let left = staged(&parent);
        assert_eq!(left.len(), 1, "{name}: it was not killed");
        // It was at the step that it was to be killed at.
        let tree = left[0].join("tree");
        let done = [".git/refs/tarpon/bundle", "large.bin"].map(|path| tree.join(path).exists());
        let wanted = [(step, moment) != ("fetch", "before"), step == "read-tree"];
        assert_eq!(done, wanted, "{name}");
        match more == over {
            true => expect_untouched(&target, &old, &left[0]),
            false => assert!(!target.exists(), "{name}: it is there too early"),
        }
        let (restored, summary, errors) = bundle::run(&lab, server.address(), &name, more);
        assert_eq!(summary["bundle_applied"], true, "{name}: {errors}");
        assert_eq!(summary["commit"], *new, "{name}");
        bundle::expect_at(&restored, &new);
        bundle::expect_newest(&lab, &restored, &name);
        assert_eq!(staged(&parent), Vec::<PathBuf>::new(), "{name}");
    }
}

/// Panics unless `target` is at `commit`, with nothing else in it than `left`.
fn expect_untouched(target: &Path, commit: &str, left: &Path) {
    assert_eq!(git::text(target, &["rev-parse", "HEAD"]), commit);
    let left = left.strip_prefix(target).unwrap_or(left).display();
    let status = git::text(target, &["status", "--porcelain"]);
    assert_eq!(status, format!("?? {left}/"));
    git::run(target, &["fsck", "--strict"]);
}

#[test]
fn that_there_is_no_git_is_said() {
    let lab = new_lab();
    let mut command = direct(
        nobody(),
        &lab.url("app"),
        &lab.scratch("x"),
        &["--fallback", "clone"],
    );
    let out = command.env("PATH", "/nonexistent").output();
    let out = out.unwrap_or_else(|e| panic!("{e}"));
    let errors = crate::lab::expect(&out, 6);
    assert!(
        errors.contains("it cannot be started: No such file") && errors.contains("install git"),
        "{errors}"
    );
}
