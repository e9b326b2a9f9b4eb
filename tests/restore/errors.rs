//! Everything else that goes wrong: no server, no snapshot, a full place, a signal, a rival.

use crate::lab::{archive, clone, command, expect, expect_nothing, new_lab, restore, serve};
use crate::support::{compare, git, wait};
use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

/// An address that nobody listens on.
fn nobody() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    listener.local_addr().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn each_failure_has_its_exit_code_and_leaves_nothing() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("none");
    expect(&restore(server.address(), "test/nosuch", &target, &[]), 2);
    expect(
        &restore(server.address(), "other.example/x", &target, &[]),
        2,
    );
    expect(&restore(nobody(), "test/app", &target, &[]), 3);
    expect(&restore(nobody(), "test/app", &target, &["--nonsense"]), 1);
    expect_nothing(&target);
    let file = lab.scratch("file");
    fs::write(&file, b"mine").unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(server.address(), "test/app", &file, &[]), 1);
    expect(
        &restore(server.address(), "test/app", &file.join("below"), &[]),
        4,
    );
    assert_eq!(fs::read(&file).ok().as_deref(), Some(&b"mine"[..]));
}

#[test]
fn the_fallback_clones_and_says_so() {
    let lab = new_lab();
    let expected = clone(&lab, "app", "clone");
    let target = lab.scratch("cloned");
    let more = ["--fallback", "clone"];
    let out = restore(nobody(), &lab.url("app"), &target, &more);
    let errors = expect(&out, 0);
    assert!(errors.contains("cloning"), "{errors}");
    assert!(compare::differences(&expected, &target, &[".git"]).is_empty());
}

/// `ulimit -f` stands in for a full disk: a write fails in the middle.
#[test]
fn a_write_that_fails_is_the_disks_fault_and_leaves_nothing() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("full");
    let out = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 2048; exec \"$@\"", "sh"])
        .arg(crate::lab::BINARY)
        .args(["restore", "test/app"])
        .arg(&target)
        .args(["--server", &format!("http://{}", server.address())])
        .output();
    let out = out.unwrap_or_else(|e| panic!("{e}"));
    expect(&out, 4);
    expect_nothing(&target);
}

#[test]
fn of_two_restores_into_one_directory_one_wins_whole() {
    let lab = new_lab();
    let server = lab.start();
    archive(&lab, &server);
    let expected = clone(&lab, "app", "clone");
    let target = lab.scratch("both");
    let start = || {
        let mut command = command(server.address(), "test/app", &target, &["--quiet"]);
        command
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let mut codes: Vec<_> = [start(), start()]
        .iter_mut()
        .map(|child| child.wait().ok().and_then(|status| status.code()))
        .collect();
    codes.sort();
    assert_eq!(codes, [Some(0), Some(1)]);
    let differences = compare::differences(&expected, &target, &[".git"]);
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
}

#[test]
fn a_signal_in_the_middle_leaves_nothing() {
    let lab = new_lab();
    let server = lab.start();
    let whole = archive(&lab, &server);
    // The rest of the archive never comes; each try stays silent for long.
    let half = whole.len() / 2;
    let address = serve(whole, move |asked| {
        let (from, to) = asked.range.unwrap_or((0, 0));
        if to > half {
            std::thread::park_timeout(wait::DEADLINE);
        }
        (to > half).then(|| half.saturating_sub(from))
    });
    for signal in ["INT", "TERM"] {
        let target = lab.scratch("stopped");
        // The binary itself, so that the signal reaches it.
        let mut child = std::process::Command::new(crate::lab::BINARY)
            .args(["restore", "test/app"])
            .arg(&target)
            .args(["--server", &format!("http://{address}")])
            .spawn()
            .unwrap_or_else(|e| panic!("{e}"));
        wait::until_true("something is written", || {
            let listing = fs::read_dir(lab.scratch(""))
                .into_iter()
                .flatten()
                .flatten();
            let mut trees = listing.map(|entry| entry.path().join("tree/.git/HEAD"));
            trees.any(|head| head.exists())
        });
        let pid = child.id().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-s", signal, &pid])
            .status();
        assert!(sent.is_ok_and(|status| status.success()));
        let status = child.wait().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(status.code(), Some(130), "{signal}");
        expect_nothing(&target);
    }
}

#[test]
fn completions_and_manual_come_from_the_command_line() {
    for arguments in [&["completions", "bash"][..], &["man"]] {
        let out = std::process::Command::new(crate::lab::BINARY)
            .args(arguments)
            .output();
        let out = out.unwrap_or_else(|e| panic!("{e}"));
        let text = String::from_utf8_lossy(&out.stdout).replace('\\', "");
        assert!(
            out.status.success() && text.contains("--stall-timeout"),
            "{text}"
        );
    }
}
