//! What a server says of the archive's length: it is believed once, and it never decides how much
//! memory there is or whether the restore ends.

use crate::archive::zst;
use crate::endless::follow;
use crate::ground::{Ground, binary, fixture};
use crate::support::relay::listen;
use crate::support::restore::asks_for_archive;
use crate::trial::{nothing_left, read_request, used};
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So much comes with the first answer.
const FIRST_BYTES: usize = 2000;

/// What the server says, with `LEN` for the archive's length and `END` for its last byte.
struct Case {
    /// The total of the first answer.
    first: &'static str,
    /// Status and `Content-Range` of all others, which bring the rest of the archive.
    later: (u16, &'static str),
    code: i32,
}

const fn case(first: &'static str, later: (u16, &'static str), code: i32) -> Case {
    Case { first, later, code }
}

const CASES: [Case; 17] = [
    case("LEN", (206, "2000-END/LEN"), 0),
    case("LEN", (206, "2000-END/*"), 0),
    case("*", (206, "2000-END/LEN"), 0),
    // Another length.
    case("LEN", (416, "*/5"), 3),
    case("LEN", (416, "*/2000"), 3),
    case("LEN", (206, "2000-2010/5"), 3),
    case("LEN", (206, "2000-2010/2000"), 3),
    case("LEN", (206, "2000-2010/2001"), 3),
    case("LEN", (206, "2000-END/18446744073709551615"), 3),
    case("18446744073709551615", (206, "2000-END/LEN"), 3),
    case("7000000000", (416, "*/LEN"), 3),
    // None that there can be.
    case("LEN", (416, "*/LEN"), 3),
    case("*", (416, "*/5"), 3),
    case("*", (416, "*/0"), 3),
    case("*", (206, "2000-2010/5"), 3),
    case("*", (206, "2000-2010/0"), 3),
    // The archive is cut short, at a place that is possible.
    case("*", (416, "*/2000"), 5),
];

fn attempt(case: &Case) -> Result<(), String> {
    let body = zst(&fixture().good.tar());
    assert!(body.len() > FIRST_BYTES + 1000, "{}", body.len());
    let (first, (status, later)) = (case.first, case.later);
    let requests = AtomicUsize::new(0);
    let address = listen(move |mut socket| {
        while let Some(asked) = read_request(socket) {
            let is_archive = asks_for_archive(&asked);
            // The restore begins anew with the first byte when the archive has changed.
            let range = match requests.fetch_add(usize::from(is_archive), Ordering::Relaxed) {
                0 => format!("206 x\r\nContent-Range: bytes 0-1999/{first}"),
                _ => format!("{status} x\r\nContent-Range: bytes {later}"),
            };
            let range = range.replace("LEN", &body.len().to_string());
            let range = range.replace("END", &(body.len() - 1).to_string());
            let bytes = match range.contains("bytes 0-") {
                true => &body[..FIRST_BYTES],
                false => &body[FIRST_BYTES..],
            };
            let length = bytes.len();
            let head =
                format!("HTTP/1.1 {range}\r\nETag: \"x\"\r\nContent-Length: {length}\r\n\r\n");
            let answer = [head.as_bytes(), bytes].concat();
            if socket.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let ground = Ground::new();
    let mut command = ground.command(&binary());
    command.args(["restore", "test/app"]).arg(ground.target());
    command.args(["--server", &format!("http://{address}"), "--quiet"]);
    // The second request is for what follows the first answer.
    command.args(["--connections", "1"]);
    let mut child = command
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    let (code, ..) = follow(&mut child, &ground);
    let name = format!("{first}, then {status} {later}");
    if code != Some(case.code) {
        return Err(format!("{name}: exit {code:?}, not {}", case.code));
    }
    let left = match case.code {
        0 => used(fixture(), &ground),
        _ => nothing_left(&ground),
    };
    left.map_err(|why| format!("{name}: {why}"))
}

#[test]
fn a_length_is_believed_once() {
    let failed: Vec<String> = CASES.iter().filter_map(|c| attempt(c).err()).collect();
    assert!(failed.is_empty(), "\n{}\n", failed.join("\n"));
}
