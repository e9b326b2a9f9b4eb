//! Everything else that goes wrong: no server, no snapshot, a full place, a signal, a rival.

use crate::lab::{
    Ends, Full, clone, command, direct, expect, expect_files, expect_nothing, forward, interrupt,
    interrupt_process, new_lab, nobody, relay, restore, serve, served, staged,
};
use crate::support::front::{Does, Front, answer};
use crate::support::lab::Lab;
use crate::support::relay::{be_silent, listen};
use crate::support::steps::hit;
use crate::support::{compare, git, repos, wait};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tarpon::limits::{CONNECT_TIMEOUT_MS, UNSAID_BEFORE_CLONE_MS};
use tarpon::manifest::want::UNSAID;

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
    // What no server can have: it says what to write instead, and asks nobody.
    for name in ["file:///srv/app", "app", "/srv/app", "https://host"] {
        let errors = expect(&restore(nobody(), name, &target, &[]), 1);
        assert!(errors.contains("HOST/PATH"), "{errors}");
    }
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

/// Scripts read the summary: that it is lost has the exit code of a full disk, and all is there.
#[test]
fn a_summary_that_cannot_be_written_is_said() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("whole");
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    let mut command = direct(server.address(), "test/app", &target, &["--json"]);
    command.stdout(full.unwrap()).stderr(Stdio::piped());
    let out = command.output().unwrap();
    let errors = expect(&out, 4);
    assert!(
        errors.contains("is complete, but the summary cannot be written"),
        "{errors}"
    );
    expect_files(
        &clone(&lab, "app", "whole-clone"),
        &target,
        "without a summary",
    );
}

/// Which server it was, at which step, and what to do about it. Nobody listens, the name is none
/// (no resolver takes a label of 64 letters), who listens says nothing, or that it is broken.
#[test]
fn a_server_that_cannot_be_used_is_named_with_what_helps() {
    let lab = new_lab();
    let target = lab.scratch("none");
    let check = "; check --server or TARPON_SERVER, or have --fallback clone ";
    let only_clone = "; --fallback clone ";
    let broken = listen(|mut socket| {
        let asked = socket.read(&mut [0; 4096]);
        let answer = b"HTTP/1.1 500 Broken\r\nContent-Length: 4\r\n\r\nlost";
        drop(asked.and_then(|_| socket.write_all(answer)));
    });
    for (authority, what, helps) in [
        (
            nobody().to_string(),
            "cannot connect: Connection refused",
            check,
        ),
        (
            format!("{}:80", "a".repeat(64)),
            "cannot find its address: ",
            check,
        ),
        (listen(|_| {}).to_string(), "", check),
        (
            broken.to_string(),
            "the server answers 500: lost",
            only_clone,
        ),
    ] {
        let run = |name: &str| {
            let mut command = std::process::Command::new(crate::lab::BINARY);
            command.args(["restore", name]).arg(&target);
            command.env("TARPON_SERVER", format!("http://{authority}"));
            let out = command.output().unwrap_or_else(|e| panic!("{e}"));
            let said = expect(&out, 3);
            let lines = said.lines();
            let lines = lines.filter(|line| !line.contains("the server is asked again"));
            lines.map(|line| format!("{line}\n")).collect::<String>()
        };
        // Without a URL nothing can be cloned.
        let errors = run("test/app");
        assert!(!errors.contains("--fallback"), "{errors}");
        assert_eq!(errors.contains("--server"), helps == check, "{errors}");
        let errors = run("https://test/app");
        let wanted = format!("tarpon: {authority}: {what}");
        assert!(errors.starts_with(&wanted), "{errors}");
        assert_eq!(errors.matches(&authority).count(), 1, "{errors}");
        assert!(errors.contains(helps), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        expect_nothing(&target);
    }
}

/// Its machine is off, or a firewall drops what is meant for it: no answer at all, not even a
/// refusal. The connection gets its time once, whatever comes next.
#[test]
fn a_server_that_takes_no_connection_is_given_up_after_one_limit() {
    let lab = new_lab();
    let server = lab.start();
    let full = Full::start();
    let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let (none, cloned) = (lab.scratch("none"), lab.scratch("cloned"));
    // One that the server could have: it is asked first.
    let url = format!("http://{}/git/test/app", server.address());
    let asked = Instant::now();
    // Both wait at the same time.
    let start = |target: &Path, more: &[&str]| {
        let mut command = command(full.address, &url, target, more);
        let child = command.stderr(Stdio::piped()).spawn();
        child.unwrap_or_else(|e| panic!("tarpon does not start: {e}"))
    };
    let fails = start(&none, &[]);
    let mut clones = start(&cloned, &["--fallback", "clone"]);
    let end = |child: Child| child.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
    // The clone itself takes as long as it takes.
    let mut errors_of_clone = clones.stderr.take().map(BufReader::new);
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        let read = errors_of_clone
            .as_mut()
            .map(|errors| errors.read_line(&mut said));
        assert!(read.is_some_and(|read| read.is_ok()));
        let given_up = asked.elapsed();
        drop(errors_of_clone.map(|mut rest| std::io::copy(&mut rest, &mut std::io::sink())));
        (said, given_up)
    });

    let errors = expect(&end(fails), 3);
    let took = asked.elapsed();
    assert!(took >= limit, "not a connection that gets no answer");
    assert!(took < limit * 2, "it waited for {took:?}");
    let what = format!("tarpon: {}: cannot connect: ", full.address);
    assert!(errors.starts_with(&what), "{errors}");
    assert!(errors.contains(" timed out; check --server "), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");

    expect(&end(clones), 0);
    let (said, given_up) = said.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
    let (what, instead) = (what.trim_start_matches("tarpon: "), "; cloning ");
    assert!(said.contains(what) && said.contains(instead), "{said}");
    assert!(said.ends_with(&format!("{url} instead\n")), "{said}");
    assert!(given_up < limit * 2, "the fallback waited for {given_up:?}");
    expect_files(&clone(&lab, "app", "clone"), &cloned, "cloned");
    expect_nothing(&none);
}

#[test]
fn the_fallback_clones_and_says_so() {
    let lab = new_lab();
    let expected = clone(&lab, "app", "clone");
    let target = lab.scratch("cloned");
    let more = ["--fallback", "clone"];
    let out = restore(nobody(), &lab.url("app"), &target, &more);
    let errors = expect(&out, 0);
    assert!(errors.contains("; cloning "), "{errors}");
    assert!(!errors.contains("--server"), "{errors}");
    // Git does not say how much it got.
    assert!(errors.contains("\ncloned file://"), "{errors}");
    assert!(
        !errors.contains("MiB") && !errors.contains("entries"),
        "{errors}"
    );
    expect_files(&expected, &target, "cloned");
}

/// A server that takes the question and says nothing keeps nobody from a clone.
#[test]
fn the_fallback_clones_when_the_server_says_nothing() {
    let lab = new_lab();
    let server = lab.start();
    let silent = listen(|_| be_silent());
    let target = lab.scratch("target");
    let more = ["--fallback", "clone", "--wait-limit", "1", "--json"];
    let url = format!("http://{}/git/test/app", server.address());
    let out = restore(silent, &url, &target, &more);
    let errors = expect(&out, 0);
    assert!(errors.contains("no byte came for 1 s"), "{errors}");
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(summary["source"], "clone");
    assert!(
        summary["bytes"].is_null() && summary["entries"].is_null(),
        "{summary}"
    );
    assert!(target.join("run.sh").exists());
}

/// A name that only a server knows is none that git could clone.
#[test]
fn the_fallback_needs_a_url() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("target");
    let more = ["--fallback", "clone"];
    for (address, name, code) in [
        (nobody(), "test/app", 3),
        (server.address(), "test/nosuch", 2),
    ] {
        let out = restore(address, name, &target, &more);
        let errors = expect(&out, code);
        assert!(errors.contains("would have to be a URL"), "{errors}");
        assert!(!errors.contains("cloning"), "{errors}");
        // At once, not only when it is too late.
        let begins =
            format!("tarpon: --fallback clone has nothing to clone from: \"{name}\" is no URL");
        assert!(errors.starts_with(&begins), "{errors}");
        assert_eq!(errors.lines().count(), 2, "{errors}");
        expect_nothing(&target);
    }
    // What no server and no clone can have is no name at all.
    for more in [&[][..], &more] {
        let out = restore(server.address(), "local/../etc", &lab.scratch("none"), more);
        let errors = expect(&out, 1);
        assert!(errors.contains("does not name a host"), "{errors}");
    }
}

/// Who wants no word unless it fails gets none.
#[test]
fn a_quiet_fallback_says_nothing() {
    let lab = new_lab();
    let target = lab.scratch("target");
    let more = ["--fallback", "clone", "--quiet"];
    let out = restore(nobody(), &lab.url("app"), &target, &more);
    assert_eq!(expect(&out, 0), "");
    assert!(out.stdout.is_empty() && target.join("run.sh").exists());
}

/// A server whose disk rots is no reason to do without.
#[test]
fn the_fallback_clones_what_is_corrupt_on_the_server() {
    let (lab, server, mut whole) = served();
    let middle = whole.len() / 2;
    whole[middle] ^= 1;
    let corrupt = serve(whole, |_| None);
    let url = format!("http://{}/git/test/app", server.address());
    let target = lab.scratch("cloned");
    expect(&restore(corrupt, &url, &target, &[]), 5);
    expect_nothing(&target);
    let out = restore(corrupt, &url, &target, &["--fallback", "clone", "--json"]);
    let errors = expect(&out, 0);
    assert!(
        errors.contains("corrupt") && errors.contains("; cloning "),
        "{errors}"
    );
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let tip = git::text(&lab.upstream("app"), &["rev-parse", "main"]);
    assert_eq!(
        (&summary["source"], &summary["commit"]),
        (&"clone".into(), &tip.clone().into())
    );
    expect_files(&clone(&lab, "app", "clone"), &target, "cloned");
    let noted = fs::read_to_string(target.join(".git/tarpon-restored"));
    assert_eq!(noted.unwrap().trim(), tip);
}

/// Restores `app` by a URL that both the server and a clone know.
fn by_url(lab: &Lab, server: SocketAddr, target: &Path, more: &[&str]) -> Output {
    let url = "https://test/app";
    let mut command = command(server, url, target, more);
    let key = format!("url.{}.insteadOf", lab.url("app"));
    let settings = [("COUNT", "1"), ("KEY_0", &key), ("VALUE_0", url)];
    command.envs(settings.map(|(name, value)| (format!("GIT_CONFIG_{name}"), value)));
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

/// The archive is whole, but what is newer cannot be fetched from the server.
#[test]
fn the_fallback_clones_what_git_cannot_fetch_from_the_server() {
    let lab = new_lab();
    let server = lab.start();
    hit(&server, "app");
    let breaks = relay(
        server.address(),
        |target| target.contains("/info/refs"),
        Vec::clear,
    );
    let target = lab.scratch("target");
    // A new one for each: the server has the one before by then.
    let add = |name: &str| repos::add_commit(&lab.upstream("app"), "main", name, b"new");
    let new = add("first.txt");
    // By a bundle it might come all the same.
    let more = ["--have", &*new, "--no-bundle"];
    expect(&by_url(&lab, breaks, &target, &more), 6);
    expect_nothing(&target);
    let new = add("second.txt");
    let more = ["--fallback", "clone", "--json", "--no-bundle"];
    let more = [&["--have", &*new], &more[..]].concat();
    let out = by_url(&lab, breaks, &target, &more);
    let errors = expect(&out, 0);
    assert!(errors.contains("; cloning "), "{errors}");
    let summary: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(summary["source"], "clone");
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), new);
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
}

/// What was asked for cannot be had, or not be put there.
#[test]
fn the_fallback_does_not_help_against_what_was_asked_for() {
    let (lab, server, whole) = served();
    let run = |server: SocketAddr, name: &str, more: &[&str], code: i32| {
        let more = [&["--fallback", "clone"], more].concat();
        let errors = expect(&by_url(&lab, server, &lab.scratch(name), &more), code);
        assert!(!errors.contains("; cloning "), "{errors}");
    };
    let absent = "1".repeat(40);
    run(server.address(), "absent", &["--commit", &absent], 7);
    run(server.address(), "ref", &["--ref", "nosuch"], 7);
    run(
        serve(whole, |_| None),
        "small",
        &["--size-limit", "1000"],
        4,
    );
    fs::create_dir(lab.scratch("full")).unwrap();
    fs::write(lab.scratch("full/file"), "").unwrap();
    run(server.address(), "full", &[], 1);
}

/// What is asked for by name is there after the fallback, too, or nothing is.
#[test]
fn the_fallback_has_the_refs_and_commits_that_were_asked_for() {
    let lab = new_lab();
    let upstream = lab.upstream("app");
    let tip = git::text(&upstream, &["rev-parse", "main"]);
    git::run(&upstream, &["branch", "side", "main"]);
    let hidden = repos::add_commit(&upstream, "side", "x", b"x");
    // A clone takes neither of these by itself.
    git::run(&upstream, &["update-ref", "refs/pull/1/head", &hidden]);
    git::run(&upstream, &["update-ref", "refs/heads/side", &tip]);
    git::run(
        &upstream,
        &["config", "uploadpack.allowAnySHA1InWant", "true"],
    );
    let url = lab.url("app");
    let run = |name: &str, more: &[&str], code: i32| {
        let target = lab.scratch(name);
        let more = [&["--fallback", "clone"], more].concat();
        (
            expect(&restore(nobody(), &url, &target, &more), code),
            target,
        )
    };
    let side = format!("side={tip}");
    let (_, target) = run("refs", &["--ref", &side, "--have", "refs/pull/1/head"], 0);
    assert_eq!(
        git::text(&target, &["symbolic-ref", "HEAD"]),
        "refs/heads/side"
    );
    let upstream_of_head = git::text(&target, &["rev-parse", "--abbrev-ref", "@{upstream}"]);
    assert_eq!(upstream_of_head, "origin/side");
    assert_eq!(
        git::text(&target, &["branch", "--format=%(refname)"]),
        "refs/heads/side"
    );
    assert_eq!(
        git::text(&target, &["rev-parse", "refs/pull/1/head"]),
        hidden
    );
    let (_, target) = run("commit", &["--commit", &hidden], 0);
    assert_eq!(git::text(&target, &["rev-parse", "HEAD"]), hidden);
    assert!(target.join("x").exists());
    assert_eq!(git::text(&target, &["status", "--porcelain"]), "");
    let at = format!("side={hidden}");
    let (_, target) = run("at", &["--ref", &at], 0);
    assert_eq!(git::text(&target, &["rev-parse", "side"]), hidden);
    assert_eq!(git::text(&target, &["rev-parse", "@{upstream}"]), tip);
    let absent = "1".repeat(40);
    for more in [
        ["--have", &*at],
        ["--ref", "nosuch"],
        ["--commit", &*absent],
    ] {
        let (errors, target) = run("missing", &more, 7);
        let named = more[1].split('=').next_back().unwrap_or_default();
        assert!(errors.contains(named), "{errors}");
        expect_nothing(&target);
    }
}

/// A busy server that says when to come again is asked then, and not for longer than an answer may take.
#[test]
fn a_busy_server_is_asked_again_when_it_says_so() {
    let lab = new_lab();
    let server = lab.start();
    let asked = Arc::new(AtomicUsize::new(0));
    let busy = |times: usize| {
        let (asked, real) = (asked.clone(), server.address());
        listen(move |socket| match asked.fetch_add(1, Ordering::Relaxed) {
            number if number < times => refuse(socket),
            _ => forward(socket, real),
        })
    };
    let target = lab.scratch("busy");
    let begun = Instant::now();
    let errors = expect(&restore(busy(6), "test/app", &target, &[]), 0);
    assert!(begun.elapsed() >= Duration::from_secs(6), "{errors}");
    assert!(
        errors.contains(r#"the restore was told to come again ("busy"), "#),
        "{errors}"
    );
    asked.store(0, Ordering::Relaxed);
    let never = lab.scratch("never");
    let more = ["--wait-limit", "3", "--connections", "1"];
    let errors = expect(&restore(busy(usize::MAX), "test/app", &never, &more), 3);
    assert!(errors.contains("503: busy"), "{errors}");
    let asked = asked.load(Ordering::Relaxed);
    assert!((3..=6).contains(&asked), "{asked}");
    expect_nothing(&never);
}

/// Reads a head and says that the server is busy for a second.
fn refuse(socket: &TcpStream) {
    let lines = BufReader::new(socket).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).for_each(drop);
    let answer =
        "HTTP/1.1 503 x\r\nRetry-After: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nbusy\n";
    let mut socket = socket;
    let _ = socket.write_all(answer.as_bytes());
}

/// Whether an upstream that does not say who may read is there for a clone is found out by that, and soon.
#[test]
fn a_clone_does_not_wait_for_an_upstream_that_does_not_say_who_may_read() {
    let lab = new_lab();
    let server = lab.start();
    let says = |line: &'static str| {
        Front::start(server.address(), None, move |asked| {
            let ends = ["/snapshot.tar.zst", "/manifest"];
            match ends.iter().any(|end| asked.target().contains(end)) {
                true => Does::Says(answer("503 x", "Retry-After: 1\r\n", line.as_bytes())),
                false => Does::Passes(asked.target().to_owned()),
            }
        })
    };
    let upstream = format!("http://{}/git/test/app", server.address());
    let fallback = ["--fallback", "clone"];
    // What is only busy is worth more time; so is that where there is no other way.
    let never = lab.scratch("never");
    let patient = [("busy", &fallback[..]), (UNSAID, &[])].map(|(line, more)| {
        let front = says(line);
        let mut restore = direct(front.address, &upstream, &never, more);
        let child = restore.stderr(Stdio::piped()).spawn();
        (front, child.unwrap_or_else(|e| panic!("{e}")))
    });
    let told = ["--wait-limit", "2"];
    let errors = expect(&restore(says(UNSAID).address, &upstream, &never, &told), 3);
    assert!(errors.contains(&format!("503: {UNSAID}; ")), "{errors}");
    let silent = says(UNSAID);
    let (begun, limit) = (
        Instant::now(),
        Duration::from_millis(UNSAID_BEFORE_CLONE_MS),
    );
    let target = lab.scratch("cloned");
    let errors = expect(&restore(silent.address, &upstream, &target, &fallback), 0);
    assert!(begun.elapsed() < 2 * limit, "{errors}");
    assert!(silent.asked().len() > 1, "{:?}", silent.asked());
    let told = format!("503: {UNSAID}; cloning {upstream} instead");
    assert!(errors.contains(&told), "{errors}");
    expect_files(&clone(&lab, "app", "expected"), &target, "cloned");
    for (front, mut child) in patient {
        let times = limit.as_secs() as usize + 1;
        wait::until_true("it asks again", || front.asked().len() > times);
        interrupt_process(&mut child, Signal::TERM);
        // Not for as long as a clone may take.
        let out = child.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(said.contains(" s of at most 300"), "{said}");
    }
    expect_nothing(&never);
}

#[test]
fn what_is_no_terminal_gets_one_line() {
    let lab = new_lab();
    let server = lab.start();
    for (name, more, lines) in [("plain", &[][..], 1), ("quiet", &["--quiet"], 0)] {
        let errors = expect(
            &restore(server.address(), "test/app", &lab.scratch(name), more),
            0,
        );
        assert_eq!(errors.lines().count(), lines, "{errors}");
        assert!(
            lines == 0 || errors.starts_with("restored test/app into "),
            "{errors}"
        );
        assert!(
            lines == 0 || errors.contains(" (branch main): "),
            "{errors}"
        );
    }
}

/// A log shows that it is the server that is waited for; who wants to hear nothing does not.
#[test]
fn a_long_wait_is_said_where_there_is_no_terminal() {
    let lab = new_lab();
    let silent = listen(|_| be_silent());
    let start = |name: &str, more: &[&str]| {
        let mut command = direct(silent, "test/app", &lab.scratch(name), more);
        let child = command.stderr(Stdio::piped()).spawn();
        child.unwrap_or_else(|e| panic!("{e}"))
    };
    let (mut says, mut quiet) = (start("says", &[]), start("quiet", &["--quiet"]));
    let mut said = String::new();
    let mut lines = BufReader::new(says.stderr.take().unwrap());
    assert!(lines.read_line(&mut said).is_ok_and(|len| len > 0));
    let expected = "tarpon: waiting for the server's first byte, ";
    assert!(said.starts_with(expected), "{said}");
    assert!(said.ends_with(" s of at most 3600\n"), "{said}");
    for child in [&mut says, &mut quiet] {
        interrupt_process(child, Signal::INT);
    }
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let errors = std::io::read_to_string(quiet.stderr.take().unwrap()).unwrap();
    for errors in [rest, errors] {
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains("interrupted by SIGINT"), "{errors}");
    }
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
    let (lab, server, _) = served();
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
    expect_files(&expected, &target, "both");
}

#[test]
fn a_signal_in_the_middle_leaves_nothing() {
    let (lab, _server, whole) = served();
    // The rest of the archive never comes; each try stays silent for long.
    let half = whole.len() / 2;
    let address = serve(whole, move |asked| {
        let (from, to) = asked.range.unwrap_or((0, 0));
        if to > half {
            be_silent();
        }
        (to > half).then(|| half.saturating_sub(from))
    });
    for signal in [Signal::INT, Signal::TERM] {
        let target = lab.scratch("stopped");
        let started = direct(address, "test/app", &target, &[]).spawn();
        let mut child = started.unwrap_or_else(|e| panic!("{e}"));
        wait::until_true("something is written", || {
            let mut staged = staged(&lab.scratch("")).into_iter();
            staged.any(|path| path.join("tree/.git/objects").exists())
        });
        interrupt_process(&mut child, signal);
        expect_nothing(&target);
    }
}

/// Whoever accepts what `git` asks and then says nothing is given up, like everybody else.
#[test]
fn git_does_not_wait_for_the_silent() {
    let lab = new_lab();
    let server = lab.start();
    let silent = relay(
        server.address(),
        |target| target.contains("/info/refs"),
        |_| be_silent(),
    );
    let url = format!("http://{silent}/git/test/app");
    hit(&server, "app");
    let new = repos::add_commit(&lab.upstream("app"), "main", "new.txt", b"new");
    for (step, server, repository, more) in [
        ("fetch", silent, "test/app", ["--have", &*new]),
        ("clone", nobody(), &*url, ["--fallback", "clone"]),
    ] {
        let target = lab.scratch("silent");
        let asked = Instant::now();
        let more = [&more[..], &["--stall-timeout", "1", "--no-bundle"]].concat();
        let errors = expect(&restore(server, repository, &target, &more), 6);
        assert!(errors.contains(&format!("git {step}: ")), "{errors}");
        assert!(asked.elapsed() < wait::DEADLINE / 2, "{step}: it waited");
        expect_nothing(&target);
    }
}

/// Where nothing can be made beside the target the error says what helps; and it does.
#[test]
fn below_a_parent_that_is_not_writable_the_target_must_be_there() {
    if !rustix::process::geteuid().is_root() {
        println!("not tested: only root can become another user");
        return;
    }
    const NOBODY: u32 = 65534;
    let lab = new_lab();
    let server = lab.start();
    let open = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|e| panic!("{e}"));
    };
    let parent = lab.scratch("parent");
    fs::create_dir(&parent).unwrap_or_else(|e| panic!("{e}"));
    // Where that user can get at it.
    let binary = lab.scratch("tarpon");
    fs::copy(crate::lab::BINARY, &binary).unwrap_or_else(|e| panic!("{e}"));
    parent.ancestors().take(3).chain([&*binary]).for_each(open);
    let restore = |target: &Path| {
        let mut command = git::with_umask(&binary);
        git::isolate(&mut command).env("HOME", &parent);
        command.args(["restore", "test/app"]).arg(target);
        command.args(["--server", &format!("http://{}", server.address())]);
        command
            .uid(NOBODY)
            .gid(NOBODY)
            .output()
            .unwrap_or_else(|e| panic!("{e}"))
    };
    let target = parent.join("app");
    for target in [target.clone(), target.join("below")] {
        let errors = expect(&restore(&target), 4);
        let wanted = format!("have {} made for this user first", target.display());
        assert!(errors.contains(&wanted), "{errors}");
        expect_nothing(&parent.join("app"));
    }
    fs::create_dir(&target).unwrap_or_else(|e| panic!("{e}"));
    std::os::unix::fs::chown(&target, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|e| panic!("{e}"));
    expect(&restore(&target), 0);
    let expected = clone(&lab, "app", "clone");
    let differences = compare::differences(&expected, &target, &[".git"]);
    assert!(differences.is_empty(), "{differences:?}");
}

/// How long a restore goes on that is told to end while it connects.
fn stop_connecting(lab: &Lab) -> Duration {
    let full = Full::start();
    let target = lab.scratch("stopped");
    let url = format!("http://{}/git/test/app", nobody());
    let started = direct(full.address, &url, &target, &[]).spawn();
    let mut child = started.unwrap_or_else(|e| panic!("{e}"));
    wait::until_true("it connects", || full.is_asked());
    let sent = Instant::now();
    interrupt_process(&mut child, Signal::INT);
    sent.elapsed()
}

/// The server's machine is off, and somebody will not wait for what becomes of it.
#[test]
fn a_signal_while_connecting_ends_it_at_once() {
    let lab = new_lab();
    // A time says little on a machine that does other things meanwhile: it has to hold once.
    let took: Vec<Duration> = (0..5).map(|_| stop_connecting(&lab)).collect();
    assert!(
        took.iter().any(|t| *t < Duration::from_millis(150)),
        "{took:?}"
    );
}

/// The clone of the fallback waits for an upstream that never answers.
#[test]
fn a_signal_during_the_fallback_leaves_nothing() {
    let lab = new_lab();
    let server = lab.start();
    let silent = interrupt(server.address(), |_| Ends::Stall(0));
    let target = lab.scratch("stopped");
    let url = format!("http://{silent}/git/test/app");
    let started = direct(nobody(), &url, &target, &["--fallback", "clone"]).spawn();
    let mut child = started.unwrap_or_else(|e| panic!("{e}"));
    wait::until_true("git clones", || {
        let mut staged = staged(&lab.scratch("")).into_iter();
        staged.any(|path| path.join("tree/.git").exists())
    });
    interrupt_process(&mut child, Signal::INT);
    expect_nothing(&target);
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
        let variables = [
            "SERVER",
            "CONNECTIONS",
            "RESTORE_STALL_TIMEOUT",
            "RESTORE_WAIT_LIMIT",
        ];
        let is_named = |name: &&str| text.contains(&format!("TARPON_{name}"));
        assert!(
            arguments[0] != "man" || variables.iter().all(is_named),
            "{text}"
        );
        let full = fs::File::options().write(true).open("/dev/full");
        let out = std::process::Command::new(crate::lab::BINARY)
            .args(arguments)
            .stdout(full.unwrap_or_else(|e| panic!("{e}")))
            .output();
        let errors = expect(&out.unwrap_or_else(|e| panic!("{e}")), 3);
        assert!(errors.starts_with("tarpon: cannot write"), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        // Whoever reads has enough.
        let (reads, writes) = std::io::pipe().unwrap_or_else(|e| panic!("{e}"));
        drop(reads);
        let out = std::process::Command::new(crate::lab::BINARY)
            .args(arguments)
            .stdout(writes)
            .output();
        let errors = expect(&out.unwrap_or_else(|e| panic!("{e}")), 0);
        assert_eq!(errors, "");
    }
}

/// As the server has it: a unit or a pipeline sets what it has no value for.
#[test]
fn an_empty_variable_counts_as_not_set() {
    let lab = new_lab();
    let server = lab.start();
    let target = lab.scratch("target");
    let empty = ["CONNECTIONS", "RESTORE_STALL_TIMEOUT"].map(|name| format!("TARPON_{name}"));
    let mut command = command(server.address(), "test/app", &target, &[]);
    command.envs(empty.iter().map(|name| (name, "")));
    expect(&command.output().unwrap_or_else(|e| panic!("{e}")), 0);
    // Of the address that is none the default is another one.
    let mut command = std::process::Command::new(crate::lab::BINARY);
    command
        .args(["restore", "test/nosuch"])
        .arg(lab.scratch("none"));
    let out = command.env("TARPON_SERVER", "").output();
    let errors =
        String::from_utf8_lossy(&out.unwrap_or_else(|e| panic!("{e}")).stderr).into_owned();
    assert!(!errors.contains("write it as http"), "{errors}");
}

/// A server that says no more than a status, and a port that is none.
#[test]
fn what_a_status_means_is_said_where_the_server_does_not() {
    let lab = new_lab();
    let target = lab.scratch("none");
    for (status, code, said) in [
        (
            "302 Found",
            3,
            "answers 302, a redirect, which is not followed",
        ),
        (
            "401 Unauthorized",
            2,
            "refuses: 401; it was asked without a credential",
        ),
        (
            "404 Not Found",
            2,
            "404 and no word, as no tarpon server says it; check --server",
        ),
        ("418 Teapot", 3, "answers 418; "),
    ] {
        let other = listen(move |mut socket| {
            let asked = socket.read(&mut [0; 4096]);
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            drop(asked.and_then(|_| socket.write_all(answer.as_bytes())));
        });
        let errors = expect(&restore(other, "https://x.invalid/y", &target, &[]), code);
        assert!(errors.contains(said), "{errors}");
    }
    let page = listen(|mut socket| {
        let asked = socket.read(&mut [0; 4096]);
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n<html>login<";
        drop(asked.and_then(|_| socket.write_all(answer)));
    });
    let errors = expect(&restore(page, "test/app", &target, &[]), 5);
    assert!(errors.contains("is it a tarpon server?"), "{errors}");
    let mut command = std::process::Command::new(crate::lab::BINARY);
    command
        .args(["restore", "https://x.invalid/y"])
        .arg(&target);
    command.args(["--server", "http://127.0.0.1:99999", "--fallback", "clone"]);
    let errors = expect(&command.output().unwrap_or_else(|e| panic!("{e}")), 1);
    assert!(errors.contains("a number from 1 to 65535"), "{errors}");
    let out = restore(nobody(), "test/app", &target, &["--json"]);
    expect(&out, 3);
    let json = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(json.contains("\"first_byte_ms\":null"), "{json}");
}

/// What a server or a file says is shown, and does nothing to a terminal: no cursor moves, no line
/// is added, and there is not too much of it. That of `git` and its upstream is no exception.
#[test]
fn what_others_say_reaches_the_terminal_as_text() {
    let lab = new_lab();
    let target = lab.scratch("none");
    let evil = format!("\x1b[2Jevil\u{9b}31m\u{202e}\r{}", "\x07x".repeat(100_000));
    let length = evil.len();
    let said = evil.clone();
    let hostile = listen(move |mut socket| {
        let asked = socket.read(&mut [0; 4096]);
        let answer = format!("HTTP/1.1 403 No\r\nContent-Length: {length}\r\n\r\n{said}");
        drop(asked.and_then(|_| socket.write_all(answer.as_bytes())));
    });
    let absent = lab.scratch("\x1b[2Jevil\nabsent");
    let absent = absent.to_string_lossy().into_owned();
    for (server, repository, more) in [
        (hostile, "test/app", &[][..]),
        (hostile, "test/app", &["--json"]),
        (nobody(), &absent, &["--fallback", "clone"]),
    ] {
        let out = restore(server, repository, &target, more);
        for said in [&out.stderr, &out.stdout] {
            let said = String::from_utf8_lossy(said).into_owned();
            let does_nothing = |c: char| !c.is_control() && c != '\u{202e}';
            let lines = said.lines().collect::<Vec<_>>().concat();
            assert!(lines.chars().all(does_nothing), "{said:?}");
            assert!(said.len() < 16 << 10, "{} bytes", said.len());
        }
        let errors = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(errors.contains("\\u{1b}[2Jevil"), "{errors}");
        assert!(errors.lines().count() <= 2, "{errors}");
        expect_nothing(&target);
    }
}

/// Scripts read why, too.
#[test]
fn a_failure_is_a_summary_as_well() {
    let lab = new_lab();
    let target = lab.scratch("none");
    for (address, code) in [(nobody(), 3), (serve(b"no archive".to_vec(), |_| None), 5)] {
        let out = restore(address, "test/app", &target, &["--json"]);
        let errors = expect(&out, code);
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["exit_code"], code);
        assert_eq!(json["repository"], "test/app");
        assert_eq!(json["directory"], target.to_string_lossy().as_ref());
        assert!(json["total_ms"].as_f64().is_some_and(|ms| ms > 0.0));
        let error = json["error"].as_str().unwrap_or_default();
        assert!(
            !error.is_empty() && errors.contains(error),
            "{error}: {errors}"
        );
    }
}

/// Also when nothing can be made of the command line.
#[test]
fn a_wrong_command_line_is_a_summary_as_well() {
    for wrong in [
        &["--size-limit", "abc", "a/b", "c"][..],
        &["a/b", "c", "--bogus"],
        &["a/b"],
        &["a/b", "c", "--connections", "0"],
    ] {
        let mut command = std::process::Command::new(crate::lab::BINARY);
        let out = command.args(["restore", "--json"]).args(wrong).output();
        let out = out.unwrap_or_else(|e| panic!("{e}"));
        let errors = expect(&out, 1);
        let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        assert_eq!(json["exit_code"], 1, "{wrong:?}");
        assert!(json.get("repository").is_none(), "{json}");
        let error = json["error"].as_str().unwrap_or_default();
        let first = errors.lines().next().unwrap_or_default();
        let begin = error.split(';').next().unwrap_or_default();
        assert!(
            !error.is_empty() && first.contains(begin),
            "{error}: {errors}"
        );
    }
    let mut command = std::process::Command::new(crate::lab::BINARY);
    let help = command
        .args(["restore", "--json", "--help"])
        .output()
        .unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(help.stdout.starts_with(b"Fetch"), "{help:?}");
}
