//! Answers that begin before their archive does: what they say on the way, how they end, and that a
//! download which breaks behind them goes on where the archive broke.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::lab::{
    clone, expect, expect_files, expect_nothing, forward, new_lab, relay, restore, served,
};
use crate::support::client::fetch;
use crate::support::lab::target;
use crate::support::relay::listen;

const EMPTY_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];

fn line(json: &str) -> Vec<u8> {
    let len = (json.len() as u32).to_le_bytes();
    [&0x184d_2a57u32.to_le_bytes(), &len[..], json.as_bytes()].concat()
}

fn waiting() -> Vec<u8> {
    line(r#"{"state":"waiting","for":"the first clone","waited_s":3,"received_bytes":7,"new":[1]}"#)
}

/// Answers a request in chunks of `chunk` bytes, and breaks off behind the last.
fn answer(mut socket: &TcpStream, body: &[u8], chunk: usize, is_whole: bool) {
    let mut lines = BufReader::new(socket).lines();
    while lines.next().is_some_and(|l| l.is_ok_and(|l| !l.is_empty())) {}
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut out = head.as_bytes().to_vec();
    for chunk in body.chunks(chunk) {
        out.extend(format!("{:x}\r\n", chunk.len()).bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    if is_whole {
        out.extend(b"0\r\n\r\n");
    }
    drop(socket.write_all(&out));
}

/// A server that gives `body` to the first request, and what `server` has to all others.
fn first(server: SocketAddr, body: Vec<u8>, chunk: usize) -> SocketAddr {
    let count = AtomicUsize::new(0);
    listen(move |socket| match count.fetch_add(1, Relaxed) {
        0 => answer(socket, &body, chunk, false),
        _ => forward(socket, server),
    })
}

#[test]
fn a_download_that_breaks_behind_one_goes_on() {
    let (lab, server, whole) = served();
    let expected = clone(&lab, "app", "clone");
    let head = fetch(server.address(), "HEAD", &target("app"), &[]).head;
    let etag = head.etag().replace('"', "\\\"");
    let ready = line(&format!(
        r#"{{"state":"ready","etag":"{etag}","commit":null}}"#
    ));
    for (name, cut, chunk) in [
        ("tiny", 100, 1),
        ("none", 0, 3),
        ("half", whole.len() / 2, 9000),
    ] {
        let begin = [
            &EMPTY_FRAME[..],
            &waiting(),
            &line("?"),
            &ready,
            &whole[..cut],
        ]
        .concat();
        let address = first(server.address(), begin, chunk);
        let into = lab.scratch(name);
        let out = restore(address, "test/app", &into, &["--json"]);
        expect(&out, 0);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!said.contains("\"resumes\":0,"), "{said}");
        assert!(
            said.contains(&format!("\"bytes\":{},", whole.len())),
            "{said}"
        );
        expect_files(&expected, &into, name);
    }
}

/// A server that is started anew breaks off what it was at work for, and what comes meanwhile.
#[test]
fn a_server_that_breaks_off_before_the_archive_is_asked_again() {
    let (lab, server, _) = served();
    let expected = clone(&lab, "app", "clone");
    let address = server.address();
    let at_work = [&EMPTY_FRAME[..], &waiting()].concat();
    for name in ["at work", "away"] {
        let (count, body) = (AtomicUsize::new(0), at_work.clone());
        let breaks = move |socket: &TcpStream| match count.fetch_add(1, Relaxed) {
            0..=4 if name == "at work" => answer(socket, &body, 5000, false),
            // What was asked lies there unread: so the end of the connection is a reset.
            0..=4 => drop(socket.peek(&mut [0; 16])),
            _ => forward(socket, address),
        };
        let into = lab.scratch(name);
        expect(&restore(listen(breaks), "test/app", &into, &[]), 0);
        expect_files(&expected, &into, name);
    }
}

/// Nor does it lose a job that had got further: of a manifest a part had come, or it was to be asked what it has now.
#[test]
fn a_server_that_breaks_off_whatever_is_waited_for_is_asked_again() {
    let (lab, server, _) = served();
    let expected = clone(&lab, "app", "clone");
    let address = server.address();
    let broken = AtomicUsize::new(0);
    let half = move |body: &mut Vec<u8>| {
        if broken.fetch_add(1, Relaxed) < 5 {
            body.truncate(body.len() / 2);
        }
    };
    let halves = relay(address, |target| target.contains("/manifest"), half);
    let into = lab.scratch("manifest");
    expect(&restore(halves, "test/app", &into, &["--by-parts"]), 0);
    expect_files(&expected, &into, "manifest");
    for (path, options) in [
        ("/git-upload-pack", &["--update"][..]),
        ("/ensure-refs", &["--update", "--have", "main"]),
        ("/ensure-refs", &["--have", "main", "--no-bundle"]),
    ] {
        let count = AtomicUsize::new(0);
        let away = listen(move |socket| {
            let mut first = [0; 256];
            let len = socket.peek(&mut first).unwrap_or(0);
            let is_chosen = String::from_utf8_lossy(&first[..len]).contains(path);
            // What was asked lies there unread: so the end of the connection is a reset.
            if !is_chosen || count.fetch_add(1, Relaxed) >= 5 {
                forward(socket, address);
            }
        });
        let target = match options.contains(&"--update") {
            true => into.clone(),
            false => lab.scratch("have"),
        };
        expect(&restore(away, "test/app", &target, options), 0);
        expect_files(&expected, &target, path);
    }
}

#[test]
fn a_refusal_behind_one_is_a_refusal() {
    let lab = new_lab();
    let failed = |status: u16| {
        let json = format!(r#"{{"state":"failed","status":{status},"message":"no such thing"}}"#);
        [&EMPTY_FRAME[..], &waiting(), &line(&json)].concat()
    };
    let huge = [&EMPTY_FRAME[..], &line(&" ".repeat(1 << 20))].concat();
    let flood = [&EMPTY_FRAME[..], &waiting().repeat(100_000)].concat();
    for (name, body, code, says) in [
        ("404", failed(404), 2, "404: no such thing"),
        ("502", failed(502), 3, "502: no such thing"),
        ("huge", huge, 5, "too large"),
        ("flood", flood, 5, "without content"),
        ("ends", EMPTY_FRAME.to_vec(), 3, ""),
    ] {
        let address = listen(move |socket| answer(socket, &body, 5000, false));
        let into = lab.scratch(name);
        let errors = expect(&restore(address, "test/app", &into, &[]), code);
        assert!(errors.contains(says), "{name}: {errors}");
        expect_nothing(&into);
    }
}

/// An archive of somebody else's that begins in the same way, and says nothing of itself.
#[test]
fn what_only_looks_like_one_is_an_archive() {
    let (lab, _server, whole) = served();
    let expected = clone(&lab, "app", "clone");
    for (name, before, chunk) in [
        ("empty", EMPTY_FRAME.to_vec(), 4000),
        ("plain", Vec::new(), 2),
        (
            "skips",
            [&EMPTY_FRAME[..], &line("x"), &line("{}")].concat(),
            7,
        ),
    ] {
        let body = [before, whole.clone()].concat();
        let address = listen(move |socket| answer(socket, &body, chunk, true));
        let into = lab.scratch(name);
        expect(&restore(address, "test/app", &into, &["--no-bundle"]), 0);
        expect_files(&expected, &into, name);
    }
}

/// A server that answers a question for refs in such a way, and all else as `server` does.
fn ensuring(server: SocketAddr, pieces: &'static [&'static str], is_whole: bool) -> SocketAddr {
    listen(move |socket| {
        let mut first = [0; 256];
        let len = socket.peek(&mut first).unwrap_or(0);
        if !String::from_utf8_lossy(&first[..len]).contains("/ensure-refs") {
            return forward(socket, server);
        }
        let body = pieces.concat();
        answer(socket, body.as_bytes(), 1, is_whole);
    })
}

/// `ensure-refs` sends line ends while it waits: neither they nor what comes instead of an answer is one.
#[test]
fn line_ends_before_an_answer_are_signs_of_life() {
    let (lab, server, _) = served();
    let json = r#"{"refs":{"refs/heads/main":"1"},"missing_commits":[],"fetched":false}"#;
    let json: &'static str = Box::leak(json.to_owned().into_boxed_str());
    let good: &'static [&'static str] = Box::leak(Box::new(["\n", "\n", json]));
    let more = ["--have", "main", "--no-bundle"];
    let address = ensuring(server.address(), good, true);
    let target = lab.scratch("good");
    expect(&restore(address, "test/app", &target, &more), 0);
    for (name, pieces, code, says) in [
        (
            "told",
            &["\n", "502: the upstream is gone\n"][..],
            3,
            "502: the upstream is gone",
        ),
        (
            "absent",
            &["\n", "404: no such repository\n"],
            2,
            "no such repository",
        ),
        ("silent", &["\n"], 3, "ensure-refs: "),
    ] {
        let address = ensuring(server.address(), pieces, false);
        let target = lab.scratch(name);
        let errors = expect(&restore(address, "test/app", &target, &more), code);
        assert!(errors.contains(says), "{name}: {errors}");
        expect_nothing(&target);
    }
}
