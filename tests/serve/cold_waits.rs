//! What is said while a first clone, or a look at the upstream, is waited for; who is told to come again; and
//! what becomes of it when those leave who have waited.

use std::process::Command;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::preambles::{Cold, Early, cold_with};
use super::support::client::{Conn, End, fetch};
use super::support::lab;
use super::support::relay::{Ends, switch};
use super::support::{git, processes, repos, rng, wait};
use super::{hit, small_lab};

fn cold() -> Cold {
    cold_with(small_lab(), "")
}

impl Cold {
    /// Asks for refs, and reads the head of the answer.
    fn ensure(&self, json: &str) -> (Conn, super::support::client::Head) {
        let mut conn = Conn::open(self.server.address());
        let fields = ["Content-Type: application/json"];
        let target = lab::endpoint("small", "ensure-refs");
        conn.post(&target, &fields, json.as_bytes());
        let head = conn.read_head("POST").unwrap();
        (conn, head)
    }

    fn clones(&self, result: &str) -> u64 {
        let metrics = self.server.metrics();
        metrics.count("tarpon_clones_total", &[("result", result)])
    }

    fn is_cloning(&self) -> bool {
        self.server.log().contains("cloning from")
    }

    fn has_given_up(&self) -> bool {
        self.server.log().contains("the clone is given up")
    }

    fn head(&self) -> u16 {
        let target = lab::target("small");
        let answer = fetch(self.server.address(), "HEAD", &target, &[]);
        answer.head.status
    }
}

const MAIN: &str = r#"{"refs":{"refs/heads/main":""}}"#;

#[test]
fn ensure_refs_sends_line_ends_before_its_answer() {
    let cold = cold();
    let begun = Instant::now();
    let (mut conn, head) = cold.ensure(MAIN);
    assert!(begun.elapsed() >= Duration::from_millis(4900));
    assert_eq!(head.status, 200);
    assert!(head.is_chunked());
    assert_eq!(head.get("content-type"), Some("application/json"));
    assert_eq!(conn.read_some(2).unwrap(), b"\n\n");
    assert!(begun.elapsed() >= Duration::from_millis(9900));
    cold.gate.store(true, Relaxed);
    let mut body = Vec::new();
    let (end, _) = conn.copy_body(&mut body).unwrap();
    assert_eq!(end, End::Complete);
    // What reads JSON passes over them.
    let all = [b"\n\n", &body[..]].concat();
    let answer: serde_json::Value = serde_json::from_slice(&all).unwrap();
    let main = git::text(&cold.upstream.0.upstream("small"), &["rev-parse", "main"]);
    assert_eq!(answer["refs"]["refs/heads/main"], *main);
}

/// What reads JSON takes neither the line nor the end for an answer.
#[test]
fn ensure_refs_that_fails_later_says_so_and_breaks_off() {
    let cold = cold();
    cold.fails.store(true, Relaxed);
    let (mut conn, head) = cold.ensure(MAIN);
    assert_eq!(head.status, 200);
    cold.gate.store(true, Relaxed);
    let mut body = Vec::new();
    let end = conn.copy_body(&mut body);
    assert!(!matches!(end, Ok((End::Complete, _))), "it looks whole");
    let text = String::from_utf8(body).unwrap();
    assert!(
        text.trim_start().starts_with("502: test/small: "),
        "{text:?}"
    );
    let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
    assert!(read.is_err(), "{text:?}");
}

#[test]
fn bundles_and_git_are_told_to_come_again() {
    let cold = cold_with(small_lab(), "mirror-wait-ms=300");
    let bundle = format!(
        "{}?base={}",
        lab::endpoint("small", "snapshot.bundle"),
        "1".repeat(40)
    );
    let refs = format!(
        "{}?service=git-upload-pack",
        lab::endpoint("small", "info/refs")
    );
    for target in [&bundle, &refs] {
        let answer = fetch(cold.server.address(), "GET", target, &[]).expect(503);
        assert!(answer.head.get("retry-after").is_some(), "{target}");
    }
    // Nobody waits for the clone any more, and it goes on: they are to find it.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(!cold.has_given_up());
    cold.gate.store(true, Relaxed);
    wait::until_true("it is cloned", || cold.clones("complete") == 1);
    fetch(cold.server.address(), "GET", &refs, &[]).expect(200);
}

#[test]
fn a_clone_goes_on_for_those_who_stay_and_ends_with_the_last() {
    let cold = cold();
    let address = cold.server.address();
    let mut stays = Early::ask(address, &[]);
    let mut leaves = Early::ask(address, &[]);
    leaves.read_lines(1);
    drop(leaves);
    // One that has not even the head of an answer.
    let mut soon = Conn::open(address);
    soon.request("GET", &lab::target("small"), &[]);
    drop(soon);
    stays.read_lines(3);
    assert!(cold.is_cloning() && !cold.has_given_up());
    drop(stays);
    wait::until_true("it is given up", || cold.has_given_up());
    let children = || processes::with(&cold.url);
    processes::expect_ended("of the clone", children);
    cold.lab.expect_no_orphans();
    assert_eq!(cold.clones("complete") + cold.clones("failed"), 0);
    // Whoever comes then has it cloned.
    cold.gate.store(true, Relaxed);
    let whole = Early::ask(address, &[]).finish();
    assert!(whole == hit(&cold.server, "small").body);
    assert_eq!(cold.server.log().matches("cloning from").count(), 2);
}

/// A clone for a name is one that somebody waits for, too; whoever has asked for refs wants it, wait or not.
#[test]
fn who_wants_a_clone_for_itself_need_not_wait_for_it() {
    let cold = cold();
    let address = cold.server.address();
    let asked = |target: &str| {
        let mut conn = Conn::open(address);
        conn.request("GET", target, &[]);
        wait::until_true("it is cloned", || cold.is_cloning());
        conn
    };
    drop(asked(&format!("{}?ref=main", lab::target("small"))));
    wait::until_true("it is given up", || cold.has_given_up());
    let mut conn = Conn::open(address);
    let target = lab::endpoint("small", "ensure-refs");
    conn.post(
        &target,
        &["Content-Type: application/json"],
        MAIN.as_bytes(),
    );
    let began = || cold.server.log().matches("cloning from").count() == 2;
    wait::until_true("it is cloned again", began);
    drop(conn);
    // It is noticed when the next line end is sent, after 10 s.
    std::thread::sleep(Duration::from_secs(13));
    assert_eq!(cold.server.log().matches("is given up").count(), 1);
    cold.gate.store(true, Relaxed);
    wait::until_true("it is cloned", || cold.clones("complete") == 1);
}

/// What is waited for, and how much of a clone has come.
#[test]
fn the_lines_say_what_is_waited_for() {
    let above = small_lab();
    let noise = rng::Rng::new(3).bytes(6 << 20);
    repos::add_commit(&above.upstream("small"), "main", "noise", &noise);
    let cold = cold_with(above, "");
    cold.part.store(3 << 20, Relaxed);
    cold.gate.store(true, Relaxed);
    let mut early = Early::ask(cold.server.address(), &[]);
    let mut count = 1;
    let received = loop {
        early.read_lines(count);
        let said = early.last_line();
        assert_eq!(said["for"], "the first clone of the repository");
        let received = said["received_bytes"].as_u64().unwrap();
        if received > 0 {
            break received;
        }
        count += 1;
    };
    assert!((1 << 20..4 << 20).contains(&received), "{received}");
    cold.part.store(0, Relaxed);
    drop(early);
    wait::until_true("it is given up", || cold.has_given_up());
    Early::ask(cold.server.address(), &[]).finish();
    hit(&cold.server, "small");
    // From here on it is the upstream that says nothing.
    cold.gate.store(false, Relaxed);
    let mut early = Early::ask(cold.server.address(), &["Cache-Control: max-age=0"]);
    early.read_lines(1);
    assert_eq!(early.last_line()["for"], "a look at its upstream");
    cold.gate.store(true, Relaxed);
    early.finish();
}

/// Where the server keeps things is nobody's business, on the way and later.
#[test]
fn no_text_names_a_place_of_the_servers() {
    let cold = cold();
    let state = cold.lab.state().to_string_lossy().into_owned();
    let mut early = Early::ask(cold.server.address(), &[]);
    early.read_lines(1);
    // The clone cannot be moved there.
    let mirror = cold.lab.mirror("small");
    std::fs::create_dir_all(mirror.join("in-the-way")).unwrap();
    cold.gate.store(true, Relaxed);
    early.read_lines(2);
    let said = early.last_line();
    assert_eq!(said["state"], "failed");
    let message = said["message"].as_str().unwrap();
    assert!(
        message.contains("STATE/") && !message.contains(&state),
        "{message}"
    );
    std::fs::remove_dir_all(&mirror).unwrap();
    // Once that failure is not remembered any more.
    wait::until_true("it is cloned", || {
        fetch(cold.server.address(), "GET", &lab::target("small"), &[])
            .head
            .status
            == 200
    });
    std::fs::write(mirror.join("packed-refs"), "garbage").unwrap();
    let target = lab::endpoint("small", "status");
    let told = wait::until("the comparison fails", || {
        let fields = ["Cache-Control: max-age=0"];
        drop(fetch(
            cold.server.address(),
            "GET",
            &lab::target("small"),
            &fields,
        ));
        let status = fetch(cold.server.address(), "GET", &target, &[]).text();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["comparison"]["error"].as_str().map(str::to_owned)
    });
    assert!(told.contains("STATE/") && !told.contains(&state), "{told}");
}

/// `curl -C -` counts the preamble as bytes of the archive: it is told that it cannot go on, and splices
/// nothing.
#[test]
fn curl_does_not_go_on_within_a_preamble() {
    let above = small_lab();
    let noise = rng::Rng::new(4).bytes(1 << 20);
    repos::add_commit(&above.upstream("small"), "main", "noise", &noise);
    let cold = cold_with(above, "");
    let address = cold.server.address();
    let breaks = switch(move |number| {
        let ends = match number {
            0 => Ends::Cut(500_000),
            _ => Ends::Whole,
        };
        (address, ends)
    });
    let file = cold.lab.scratch("archive");
    let url = format!("http://{breaks}{}", lab::target("small"));
    let curl = |more: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-o"]).arg(&file).args(more).arg(&url);
        curl
    };
    let first = curl(&[]).spawn();
    let mut first = first.unwrap();
    // Long enough for an answer that begins before its archive.
    std::thread::sleep(Duration::from_secs(5));
    cold.gate.store(true, Relaxed);
    assert_ne!(first.wait().unwrap().code(), Some(0), "it was cut");
    let part = std::fs::read(&file).unwrap();
    assert!(part.starts_with(&[0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0]));
    wait::until_true("it is kept", || cold.head() == 200);
    let again = curl(&["-C", "-"]).output().unwrap();
    assert_eq!(again.status.code(), Some(33), "{again:?}");
    assert!(std::fs::read(&file).unwrap() == part);
    // From the beginning it gets all.
    assert!(curl(&[]).status().unwrap().success());
    assert!(std::fs::read(&file).unwrap() == hit(&cold.server, "small").body);
}
