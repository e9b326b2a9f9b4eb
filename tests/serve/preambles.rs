//! Answers that begin before their archive does, where a first clone takes its time.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{Conn, End, Head, fetch};
use crate::support::lab::{self, Lab};
use crate::support::relay::{Ends, switch};
use crate::support::server::{Server, Settings};
use crate::support::{git, parity, restore, wait};
use crate::{hit, new_lab, small_lab};

/// Whoever had a preamble may take its bytes for the archive's; who asks for something else is not concerned.
#[test]
fn a_preamble_is_remembered_for_what_was_asked_for() {
    let lab = small_lab();
    lab.place_mirror("small");
    let server = lab.settings().start();
    hit(&server, "small");
    server.stop();
    let server = lab.settings().with_fault("cold-wait-ms=0").start();
    let plain = lab::target("small");
    let tag = format!("{plain}?ref=main");
    let early = server.get(&tag).expect(200);
    assert!(early.body.starts_with(&EMPTY_FRAME));
    wait::until_true("it is published", || {
        server.get(&tag).expect(200).head.content_length().is_some()
    });
    let range = ["Range: bytes=10-"];
    server.fetch("GET", &tag, &range).expect(200);
    server.fetch("GET", &plain, &range).expect(206);
    // Nor is one that was killed, or what it had by then, forgotten by the next.
    let mut server = server;
    server.kill();
    drop(server);
    let server = lab.start();
    server.fetch("GET", &tag, &range).expect(200);
    let named = format!("If-Range: {}", server.get(&tag).expect(200).head.etag());
    server.fetch("GET", &tag, &[&named, range[0]]).expect(206);
    server.fetch("GET", &plain, &range).expect(206);
}

const EMPTY_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];

/// A server whose upstream is another one, with `small`, that says nothing before it is let.
pub(super) struct Cold {
    pub lab: Lab,
    pub upstream: (Lab, Server),
    pub server: Server,
    pub url: String,
    pub gate: Arc<AtomicBool>,
    pub fails: Arc<AtomicBool>,
    /// After how many bytes an answer of the upstream's stalls, if that is not 0.
    pub part: Arc<AtomicU64>,
}

/// As without any faults.
const AS_USUAL: &str = "cold-wait-ms=3000";

fn cold() -> Cold {
    cold_with(small_lab(), "")
}

/// The same above a repository `small` of another lab, with a fault if one is named.
pub(super) fn cold_with(above: Lab, fault: &str) -> Cold {
    let with_fault = |settings: Settings| match fault {
        "" => settings,
        fault => settings.with_fault(fault),
    };
    cold_of((above, new_lab()), |settings| {
        with_fault(settings).with_fault(AS_USUAL)
    })
}

/// The same in a lab of its own, with what `change` makes of the settings.
pub(super) fn cold_of((above, lab): (Lab, Lab), change: impl FnOnce(Settings) -> Settings) -> Cold {
    let upstream = above.start();
    let (gate, fails) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let part = Arc::new(AtomicU64::new(0));
    let (opens, breaks, address) = (gate.clone(), fails.clone(), upstream.address());
    let stalls_at = part.clone();
    let relay = switch(move |_| {
        wait::until_true("the upstream may answer", || opens.load(Ordering::Relaxed));
        let part = stalls_at.load(Ordering::Relaxed);
        let ends = match breaks.load(Ordering::Relaxed) {
            true => Ends::Cut(0),
            false if part > 0 => Ends::Stall(part),
            false => Ends::Whole,
        };
        (address, ends)
    });
    let mut settings = lab.settings();
    settings.upstreams = vec![format!("test=http://{relay}/git/test/")];
    let server = change(settings).start();
    Cold {
        lab,
        upstream: (above, upstream),
        server,
        url: format!("http://{relay}/git/test/small"),
        gate,
        fails,
        part,
    }
}

/// An answer that has begun.
pub(super) struct Early {
    conn: Conn,
    head: Head,
    pub body: Vec<u8>,
    /// When what came, in bytes of the body, since the request.
    came: Vec<(Duration, usize)>,
    asked: Instant,
}

impl Early {
    pub fn ask(address: SocketAddr, fields: &[&str]) -> Early {
        let asked = Instant::now();
        let mut conn = Conn::open(address);
        conn.request("GET", &lab::target("small"), fields);
        let head = conn.read_head("GET").unwrap();
        Early {
            conn,
            head,
            body: Vec::new(),
            came: Vec::new(),
            asked,
        }
    }

    /// Reads until so many frames of a preamble came.
    pub fn read_lines(&mut self, count: usize) {
        let mut piece = [0; 4096];
        while lines(&self.body).0.len() < count {
            let got = self.conn.read_body(&mut piece).unwrap();
            assert!(got > 0, "it ends");
            self.body.extend_from_slice(&piece[..got]);
            self.came.push((self.asked.elapsed(), self.body.len()));
        }
    }
}

impl Early {
    /// The last line that came.
    pub fn last_line(&self) -> serde_json::Value {
        lines(&self.body).0.pop().unwrap()
    }

    /// The head of the answer.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Reads all that still comes, which ends before its time, and gives the last line: nothing stands behind it.
    pub fn broken(mut self) -> (End, serde_json::Value) {
        let (end, _) = self.conn.copy_body(&mut self.body).unwrap();
        let (mut said, at) = lines(&self.body);
        assert_eq!(at, self.body.len(), "something stands behind the preamble");
        (end, said.pop().unwrap())
    }

    /// Reads all that still comes, and gives what stands behind the preamble.
    pub fn finish(mut self) -> Vec<u8> {
        let (end, _) = self.conn.copy_body(&mut self.body).unwrap();
        assert_eq!(end, End::Complete);
        behind(self.body)
    }
}

/// What stands behind a preamble, if there is one.
pub(super) fn behind(body: Vec<u8>) -> Vec<u8> {
    match body.starts_with(&EMPTY_FRAME) {
        true => body[lines(&body).1..].to_vec(),
        false => body,
    }
}

/// The lines of a preamble, and where what follows them begins.
fn lines(body: &[u8]) -> (Vec<serde_json::Value>, usize) {
    let mut lines = Vec::new();
    if body.len() < EMPTY_FRAME.len() {
        return (lines, 0);
    }
    assert_eq!(body[..9], EMPTY_FRAME);
    let mut at = EMPTY_FRAME.len();
    while let Some(header) = body.get(at..at + 8) {
        let word = |from: usize| u32::from_le_bytes(header[from..from + 4].try_into().unwrap());
        if word(0) & !0xf != 0x184d_2a50 {
            break;
        }
        let end = at + 8 + word(4) as usize;
        let Some(content) = body.get(at + 8..end) else {
            break;
        };
        lines.push(serde_json::from_slice(content).unwrap());
        at = end;
    }
    (lines, at)
}

fn decode(archive: &[u8], command: &[&str], lab: &Lab, name: &str) -> std::path::PathBuf {
    let (file, into) = (lab.scratch(&format!("{name}.zst")), lab.scratch(name));
    std::fs::write(&file, archive).unwrap();
    std::fs::create_dir(&into).unwrap();
    let mut command = command.iter();
    let mut program = Command::new(command.next().unwrap());
    let status = program
        .args(command)
        .arg(&file)
        .current_dir(&into)
        .stdin(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{name}");
    into
}

#[test]
fn a_first_clone_is_waited_for_in_an_answer_that_has_begun() {
    let cold = cold();
    let address = cold.server.address();
    let other = std::thread::spawn(move || {
        let mut early = Early::ask(address, &[]);
        let mut whole = Vec::new();
        let end = early.conn.copy_body(&mut whole);
        assert!(matches!(end, Ok((End::Complete, _))));
    });
    let mut early = Early::ask(address, &["Range: bytes=0-4095"]);
    assert_eq!(early.head.status, 200);
    assert!(early.head.is_chunked());
    for absent in ["etag", "accept-ranges", "content-range"] {
        assert_eq!(early.head.get(absent), None);
    }
    let control = early.head.get("cache-control").unwrap();
    assert!(control.contains("no-store") && control.contains("no-transform"));
    assert_eq!(early.head.get("x-accel-buffering"), Some("no"));
    early.read_lines(2);
    let status = fetch(address, "GET", &lab::endpoint("small", "status"), &[]);
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status["state"], "cloning", "{status}");
    assert!(status["clone"]["received_bytes"].is_u64(), "{status}");
    // The first after 3 s, the next 5 s later; a machine may be busy, and nothing comes early.
    assert!(
        early.came[0].0 >= Duration::from_millis(2900),
        "{:?}",
        early.came
    );
    assert!(
        early.came[0].0 < Duration::from_millis(6000),
        "{:?}",
        early.came
    );
    let (said, _) = lines(&early.body);
    assert_eq!(said[0]["state"], "waiting");
    assert_eq!(said[0]["for"], "the first clone of the repository");
    assert!(said[1]["waited_s"].as_u64() >= Some(7), "{said:?}");
    cold.gate.store(true, Ordering::Relaxed);
    let mut whole = std::mem::take(&mut early.body);
    let (end, _) = early.conn.copy_body(&mut whole).unwrap();
    assert_eq!(end, End::Complete);
    other.join().unwrap();
    // One of the two has it built, and its first byte is what was asked for: lines were sent for 8 s before it.
    let metrics = cold.server.metrics();
    for outcome in ["build", "follow"] {
        let count = metrics.count("tarpon_requests_total", &[("outcome", outcome)]);
        assert_eq!(count, 1, "{outcome}");
    }
    let first_bytes_s = metrics
        .sum("tarpon_ttfb_seconds_sum", &[])
        .unwrap_or_default();
    assert!(first_bytes_s > 15.0, "{first_bytes_s}");
    let (said, at) = lines(&whole);
    let ready = said.last().unwrap();
    let cached = hit(&cold.server, "small");
    assert_eq!(ready["etag"].as_str(), Some(cached.head.etag()));
    assert_eq!(
        ready["commit"].as_str(),
        cached.head.get("x-cachew-snapshot-commit")
    );
    assert!(
        whole[at..] == cached.body,
        "another archive than the one behind the preamble"
    );
    expect_decoders(&cold, &whole);
    expect_ranges(&cold, &cached);
}

/// Whoever decodes it passes over the preamble.
fn expect_decoders(cold: &Cold, whole: &[u8]) {
    let clone = cold.lab.scratch("clone");
    git::clone(&cold.url, &clone);
    for (name, command) in [
        ("tar", &["tar", "--zstd", "-xf"][..]),
        ("detects", &["tar", "-xf"]),
        ("unzstd", &["sh", "-c", "zstd -dc \"$0\" | tar -xf -"]),
    ] {
        let into = decode(whole, command, &cold.lab, name);
        parity::expect_same(&clone, &into, name);
    }
}

/// Whoever counts its bytes as the archive's must not get what follows them.
fn expect_ranges(cold: &Cold, cached: &super::support::client::Response) {
    let address = cold.server.address();
    let get = |fields: &[&str]| fetch(address, "GET", &lab::target("small"), fields).head;
    let if_match = format!("If-Match: {}", cached.head.etag());
    assert_eq!(get(&["Range: bytes=100-"]).status, 200);
    assert_eq!(get(&["Range: bytes=100-", &if_match]).status, 206);
    assert_eq!(get(&["Range: bytes=0-99"]).status, 206);
}

#[test]
fn who_cannot_be_told_on_the_way_is_to_come_again() {
    let cold = cold();
    let address = cold.server.address();
    std::thread::scope(|scope| {
        for fields in [
            &["Range: bytes=1-"][..],
            &["Range: bytes=-5"],
            &["If-None-Match: \"a\""],
            &["If-Match: \"a\""],
            &["Range: bytes=0-5", "If-Range: \"a\""],
        ] {
            scope.spawn(move || {
                let begun = Instant::now();
                let answer = fetch(address, "GET", &lab::target("small"), fields);
                assert_eq!(answer.head.status, 503, "{fields:?} {}", answer.text());
                assert!(answer.head.get("retry-after").is_some());
                assert!(begun.elapsed() >= Duration::from_millis(2900));
            });
        }
        scope.spawn(move || {
            let mut conn = Conn::open(address);
            let request = format!("GET {} HTTP/1.0\r\n\r\n", lab::target("small"));
            conn.send(request.as_bytes()).unwrap();
            assert_eq!(conn.read_head("GET").unwrap().status, 503);
        });
        let begun = Instant::now();
        let head = fetch(address, "HEAD", &lab::target("small"), &[]).head;
        assert_eq!(head.status, 404);
        assert!(begun.elapsed() < Duration::from_millis(2900), "HEAD waits");
    });
    // What was begun for them goes on.
    cold.gate.store(true, Ordering::Relaxed);
    wait::until_true("it is cached", || {
        fetch(address, "HEAD", &lab::target("small"), &[])
            .head
            .status
            == 200
    });
}

#[test]
fn a_failure_is_told_and_the_answer_cut() {
    let cold = cold();
    cold.fails.store(true, Ordering::Relaxed);
    let mut early = Early::ask(cold.server.address(), &[]);
    early.read_lines(1);
    let into = cold.lab.scratch("restored");
    let binary = env!("CARGO_BIN_EXE_tarpon");
    let mut command = restore::command(binary, cold.server.address(), "test/small", &into, &[]);
    let restoring = command.stderr(Stdio::piped()).spawn().unwrap();
    wait::until_true("it waits", || cold.server.log().contains("cloning"));
    std::thread::sleep(Duration::from_secs(4));
    cold.gate.store(true, Ordering::Relaxed);
    early.read_lines(2);
    let (said, _) = lines(&early.body);
    let failed = said.last().unwrap();
    assert_eq!(failed["state"], "failed", "{said:?}");
    assert_eq!(failed["status"], 502, "{said:?}");
    let mut rest = Vec::new();
    let end = early.conn.copy_body(&mut rest);
    assert!(!matches!(end, Ok((End::Complete, _))), "it looks whole");
    let out = restoring.wait_with_output().unwrap();
    assert_eq!(
        out.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(String::from_utf8_lossy(&out.stderr).contains("502"));
}

/// `restore` shows what it waits for, and restores what comes.
#[test]
fn a_restore_of_a_cold_repository() {
    let cold = cold();
    let into = cold.lab.scratch("restored");
    let binary = env!("CARGO_BIN_EXE_tarpon");
    let mut command = restore::command(binary, cold.server.address(), "test/small", &into, &[]);
    let restoring = command.stderr(Stdio::piped()).spawn().unwrap();
    wait::until_true("it waits", || cold.server.log().contains("cloning"));
    // It says so every few seconds; the first time after five.
    std::thread::sleep(Duration::from_secs(9));
    cold.gate.store(true, Ordering::Relaxed);
    let out = restoring.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{said}");
    assert!(said.contains("waits for the first clone"), "{said}");
    let clone = cold.lab.scratch("clone");
    git::clone(&cold.url, &clone);
    parity::expect_same_clones(&clone, &into, "restored");
}
