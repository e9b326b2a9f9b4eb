//! Servers that send next to nothing, for ever: a restore waits for no such thing, but for one that
//! only says that it lives.

use crate::archive::{skippable, zst};
use crate::ground::{Ground, binary, fixture};
use crate::support::relay::listen;
use crate::support::restore::asks_for_archive;
use crate::trial::{nothing_left, ok, read_request, used};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// So long without a byte is a stall; less than 16 KiB in twice as long is too slow.
const STALL: [&str; 2] = ["--stall-timeout", "0.5"];
/// No byte is late, then.
const PAUSE: Duration = Duration::from_millis(50);
/// However often it is tried again.
const CAP: Duration = Duration::from_secs(40);

/// The same byte now and then, for as long as anybody listens.
fn drip(mut socket: &TcpStream) {
    let until = Instant::now() + CAP;
    while Instant::now() < until && socket.write_all(b"7").is_ok() {
        std::thread::sleep(PAUSE);
    }
}

fn restore(address: SocketAddr, more: &[&str]) -> (Ground, Output, Duration) {
    let ground = Ground::new();
    let mut command = ground.command(&binary());
    command.args(["restore", "test/app"]).arg(ground.target());
    command.args(["--server", &format!("http://{address}"), "--quiet"]);
    command.args(STALL).args(more).stderr(Stdio::piped());
    let began = Instant::now();
    let out = command.output().unwrap_or_else(|e| panic!("{e}"));
    (ground, out, began.elapsed())
}

#[track_caller]
fn expect_given_up(address: SocketAddr, more: &[&str], code: i32, what: &str) {
    let (ground, out, took) = restore(address, more);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{errors}");
    assert!(errors.contains(what), "{errors}");
    assert!(took < CAP, "{took:?}");
    nothing_left(&ground).unwrap_or_else(|e| panic!("{e}"));
}

/// A head and the beginning of a body; all later connections drip from the first byte on.
fn dripping(head: &'static str, first: Vec<u8>) -> SocketAddr {
    listen(move |mut socket| {
        let Some(asked) = read_request(socket) else {
            return;
        };
        let sent = match asks_for_archive(&asked) {
            true => socket.write_all(&[head.as_bytes(), &first].concat()),
            false => socket.write_all(head.as_bytes()),
        };
        if sent.is_ok() {
            drip(socket);
        }
    })
}

#[test]
fn a_body_of_next_to_nothing_is_given_up() {
    let too_slow = "bytes came within 1 s";
    // Of a frame that could be one: nothing of it is a sign of life before it is whole.
    let beginning = zst(&fixture().good.body())[..100].to_vec();
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    expect_given_up(dripping(plain, beginning.clone()), &[], 3, too_slow);
    let frame = skippable(&[7; 1 << 19])[..100].to_vec();
    expect_given_up(dripping(plain, frame), &[], 3, too_slow);
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000000\r\n";
    expect_given_up(dripping(chunks, beginning), &[], 3, too_slow);
    let refused = "HTTP/1.1 404 x\r\nContent-Length: 1000000\r\n\r\n";
    expect_given_up(dripping(refused, Vec::new()), &[], 2, "404");
    let broken = "HTTP/1.1 500 x\r\nContent-Length: 1000000\r\n\r\n";
    expect_given_up(dripping(broken, Vec::new()), &[], 3, "500");
}

/// Each connection brings a byte: that is no progress which another try is worth.
#[test]
fn a_byte_for_each_connection_is_given_up() {
    let body = zst(&fixture().good.tar());
    let address = listen(move |mut socket| {
        let Some(asked) = crate::trial::read_range(socket) else {
            return;
        };
        let total = body.len();
        let at = asked.min(total - 1);
        let head = format!(
            "HTTP/1.1 206 x\r\nETag: \"x\"\r\nContent-Range: bytes {at}-{}/{total}\r\n\
             Content-Length: {}\r\n\r\n",
            total - 1,
            total - at
        );
        drop(socket.write_all(&[head.as_bytes(), &body[at..=at]].concat()));
    });
    expect_given_up(address, &[], 3, "6 tries");
}

/// What comes after the archive: refs that the server was asked for.
#[test]
fn an_answer_behind_the_archive_is_given_up() {
    let body = zst(&fixture().good.tar());
    let address = listen(move |mut socket| {
        while let Some(asked) = read_request(socket) {
            if !asks_for_archive(&asked) {
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
                drop(socket.write_all(head));
                return drip(socket);
            }
            if socket.write_all(&ok("", &body)).is_err() {
                return;
            }
        }
    });
    expect_given_up(address, &["--ref", "side"], 3, "bytes came within 1 s");
}

/// A server that clones says so by a frame without content every few seconds, for as long as it
/// takes.
#[test]
fn signs_of_life_are_enough() {
    let body = zst(&fixture().good.tar());
    let address = listen(move |mut socket| {
        if read_request(socket).is_none() {
            return;
        }
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
        let mut send = |bytes: &[u8]| {
            let size = format!("{:x}\r\n", bytes.len());
            drop(socket.write_all(&[size.as_bytes(), bytes, b"\r\n"].concat()));
        };
        for _ in 0..15 {
            send(&skippable(b"clones"));
            std::thread::sleep(Duration::from_millis(300));
        }
        send(&body);
        drop(socket.write_all(b"0\r\n\r\n"));
    });
    let (ground, out, _) = restore(address, &[]);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{errors}");
    used(fixture(), &ground).unwrap_or_else(|e| panic!("{e}"));
}

/// But not for ever.
#[test]
fn signs_of_life_without_end_are_given_up() {
    let address = listen(move |mut socket| {
        if read_request(socket).is_none() {
            return;
        }
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"));
        let frame = skippable(b"clones");
        let chunk = [format!("{:x}\r\n", frame.len()).as_bytes(), &frame, b"\r\n"].concat();
        let until = Instant::now() + CAP;
        while Instant::now() < until && socket.write_all(&chunk).is_ok() {
            std::thread::sleep(PAUSE);
        }
    });
    expect_given_up(
        address,
        &["--wait-limit", "2"],
        3,
        "--wait-limit allows more",
    );
}

/// Nor is one waited for that takes the request and says nothing at all.
#[test]
fn a_server_that_says_nothing_is_given_up() {
    let silent = || {
        listen(|socket| {
            drop(read_request(socket));
            crate::support::relay::be_silent()
        })
    };
    expect_given_up(silent(), &["--wait-limit", "1"], 3, "no byte came for 1 s");
}
