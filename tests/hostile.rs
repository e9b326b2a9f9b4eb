//! Hostile requests against a real server, whole and byte by byte: each is refused with the
//! right status, the connection closed where framing is in doubt, and the server unharmed.

mod support;

#[path = "corpus/hostile.rs"]
mod corpus;

use corpus::{HOSTILE, HOSTILE_CHUNKS};
use std::io::Write;
use std::time::{Duration, Instant};
use support::client::{Conn, End, Response, get};
use support::lab::Lab;
use support::server::Server;

/// Longest until a connection that must be closed is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for an answer: well above anything but a server that waits for more.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest that all rows together may take: each that fails may wait for a time limit.
const RUN_LIMIT: Duration = Duration::from_secs(90);
/// Requests longer than this are not sent byte by byte but in pieces of [`PIECE_BYTES`].
const SINGLE_BYTES_MAX: usize = 1200;
const PIECE_BYTES: usize = 97;

/// Sends `request` in pieces of `piece` bytes while the answer is awaited, which may come
/// before the end; gives the answer.
fn exchange(conn: &mut Conn, request: &[u8], piece: usize) -> std::io::Result<Response> {
    let method = if request.starts_with(b"HEAD ") {
        "HEAD"
    } else {
        "GET"
    };
    let mut writer = conn.writer()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for part in request.chunks(piece) {
                // The server may have closed already: that is its right.
                if writer.write_all(part).is_err() {
                    return;
                }
            }
        });
        let head = conn.read_head(method)?;
        let mut body = Vec::new();
        let (end, _) = conn.copy_body(&mut body)?;
        Ok(Response { head, body, end })
    })
}

/// One request in pieces of `piece` bytes; what it did wrong, if anything.
fn check(server: &Server, row: (&str, &[u8], u16, bool), piece: usize) -> Option<String> {
    let (name, request, status, closes) = row;
    let mut conn = Conn::open(server.address());
    conn.limit_silence(SILENCE);
    let answer = match exchange(&mut conn, request, piece) {
        Ok(answer) => answer,
        Err(error) => return Some(format!("{name}: no answer: {error}")),
    };
    if answer.end == End::Truncated {
        return Some(format!("{name}: the answer is cut off"));
    }
    if answer.head.status != status {
        return Some(format!(
            "{name}: {} instead of {status}",
            answer.head.status
        ));
    }
    if closes {
        let says = answer.head.get("connection").unwrap_or_default();
        if !says.eq_ignore_ascii_case("close") {
            return Some(format!("{name}: does not say that it closes"));
        }
        return (!conn.closes_within(CLOSE_LIMIT)).then(|| format!("{name}: stays open"));
    }
    conn.request("GET", "/_liveness", &[]);
    match conn.read_head("GET") {
        Ok(head) if head.status == 200 => None,
        other => Some(format!("{name}: the next request gets {other:?}")),
    }
}

/// Runs every row in pieces of at most `piece` bytes and panics with all that went wrong.
fn run(rows: &[(&str, &[u8], u16, bool)], pieces: impl Fn(usize) -> usize) {
    let lab = Lab::new(env!("CARGO_BIN_EXE_tarpon"));
    let mut server = lab.settings().start();
    let mut wrong = Vec::new();
    let started = Instant::now();
    for row in rows {
        wrong.extend(check(&server, *row, pieces(row.1.len()).max(1)));
        get(server.address(), "/_liveness").expect(200);
        if started.elapsed() > RUN_LIMIT {
            wrong.push("the rest was left out: too slow".to_owned());
            break;
        }
    }
    assert!(server.is_running());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    lab.expect_no_orphans();
    assert!(
        !lab.state().join("mirrors/github.com").exists(),
        "an upstream was asked"
    );
}

fn by_bytes(len: usize) -> usize {
    if len > SINGLE_BYTES_MAX {
        PIECE_BYTES
    } else {
        1
    }
}

#[test]
fn requests_whole() {
    run(HOSTILE, |len| len);
}

#[test]
fn requests_byte_by_byte() {
    run(HOSTILE, by_bytes);
}

/// The chunked bodies, behind a sound head of a request that takes a body.
#[test]
fn chunks_whole_and_byte_by_byte() {
    let head = b"POST /git/github.com/a/b/ensure-refs HTTP/1.1\r\nHost: a\r\n\
                 Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let requests: Vec<_> = HOSTILE_CHUNKS
        .iter()
        .map(|(_, chunks, _)| [&head[..], chunks].concat())
        .collect();
    let mut rows = Vec::new();
    for ((name, _, status), request) in HOSTILE_CHUNKS.iter().zip(&requests) {
        rows.push((*name, request.as_slice(), *status, true));
    }
    run(&rows, |len| len);
    run(&rows, by_bytes);
}
