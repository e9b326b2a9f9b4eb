//! What a restore has `git` do, when the restore itself is killed.

use crate::lab::{Ends, Running, direct, interrupt, new_lab, nobody, relay, staged};
use crate::support::{git, processes, wait};
use std::path::Path;

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
        |_| std::thread::park_timeout(wait::DEADLINE),
    );
    let more = ["--ref", "main", "--no-bundle"];
    let restore = Running::start(silent, "test/app", &lab.scratch("fetch"), &more);
    kill_while(restore, &directory, &["fetch", "remote-http"], || true);
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
        errors.contains("tarpon: git clone: No such file"),
        "{errors}"
    );
}
