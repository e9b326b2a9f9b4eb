//! Trying a case: a restore of what a server sends, a look at the result, and its use.

use crate::archive::{Archive, zst};
use crate::ground::{Fixture, Ground, fixture};
use crate::support::relay::listen;
use crate::support::restore::asks_for_archive;
use crate::verdict;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What must come of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The archive is refused: exit code 5.
    Refused,
    /// What is of no use is left out: exit code 0.
    Taken,
    /// Either.
    Harmless,
}

type Make = Box<dyn Fn(&Fixture, &Ground) -> Archive + Send + Sync>;

/// One hostile archive.
pub struct Case {
    pub name: String,
    pub rule: Rule,
    pub make: Make,
    /// Fields of the answer besides its length.
    pub fields: String,
    pub more: Vec<&'static str>,
}

impl Case {
    pub fn new(
        name: impl Into<String>,
        rule: Rule,
        make: impl Fn(&Fixture, &Ground) -> Archive + Send + Sync + 'static,
    ) -> Case {
        Case {
            name: name.into(),
            rule,
            make: Box::new(make),
            fields: String::new(),
            more: Vec::new(),
        }
    }
}

/// Cases at the same time in one test; the tests themselves run beside each other, too.
const THREADS: usize = 2;

/// Tries all cases and panics with those in which the rule does not hold.
pub fn try_all(cases: &[Case]) {
    each(cases, attempt);
    fixture().check().unwrap_or_else(|e| panic!("{e}"));
}

/// Panics with the cases that fail.
pub fn each(cases: &[Case], attempt: impl Fn(&Case) -> Result<(), String> + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = attempt(case) {
                        let line = format!("{}: {why}", case.name);
                        failed.lock().unwrap_or_else(|p| p.into_inner()).push(line);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(|p| p.into_inner());
    failed.sort();
    let count = failed.len();
    assert!(
        failed.is_empty(),
        "{count} of {}:\n{}\n",
        cases.len(),
        failed.join("\n")
    );
}

fn attempt(case: &Case) -> Result<(), String> {
    let (fixture, ground) = (fixture(), Ground::new());
    let archive = (case.make)(fixture, &ground);
    let fields = case.fields.clone();
    let body = zst(&archive.tar());
    let server = serve(fields, body);
    let out = ground.restore(server, &case.more);
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    ground.harm().map_err(|e| format!("the restore: {e}"))?;
    let is_allowed = match (out.status.code(), case.rule) {
        (Some(0), rule) => rule != Rule::Refused,
        (Some(5), rule) => rule != Rule::Taken,
        _ => false,
    };
    if !is_allowed {
        return Err(format!(
            "exit {:?}, not {:?}: {}",
            out.status.code(),
            case.rule,
            errors.trim()
        ));
    }
    check_text(&errors)?;
    if out.status.code() == Some(0) {
        used(fixture, &ground)
    } else {
        nothing_left(&ground)
    }
}

/// Nothing from a server reaches a terminal as it is.
pub fn check_text(errors: &str) -> Result<(), String> {
    let odd = |c: char| c.is_control() && c != '\n';
    match errors.chars().any(odd) {
        true => Err(format!("standard error has control characters: {errors:?}")),
        false => Ok(()),
    }
}

/// Nothing is at the target or beside it.
pub fn nothing_left(ground: &Ground) -> Result<(), String> {
    match ground.target().symlink_metadata() {
        Ok(_) => Err("something is at the target".into()),
        Err(_) => Ok(()),
    }
}

/// Looks at the target, and uses it, unless one with the same bytes has been used before.
pub fn used(fixture: &Fixture, ground: &Ground) -> Result<(), String> {
    static SEEN: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let digest = verdict::digest(&ground.target());
    let seen = || SEEN.lock().unwrap_or_else(|p| p.into_inner());
    if seen().get_or_insert_default().contains(&digest) {
        return Ok(());
    }
    verdict::check(&ground.target(), &fixture.url(), &ground.text("canary"))?;
    ground.use_it();
    ground.harm().map_err(|e| format!("its use: {e}"))?;
    seen().get_or_insert_default().insert(digest);
    Ok(())
}

/// That `tar -x` and a user's commands do harm with the archive of a case.
pub fn bite(case: &Case) -> Result<(), String> {
    let ground = Ground::new();
    let archive = (case.make)(fixture(), &ground);
    ground.unpack(&archive.tar());
    ground.use_it();
    match ground.harm() {
        Ok(()) => Err("nothing happens".into()),
        Err(_) => Ok(()),
    }
}

/// Answers every request with what `answer` makes of its first line.
pub fn answers(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    listen(move |mut socket| {
        while let Some(asked) = read_request(socket) {
            if socket.write_all(&answer(&asked)).is_err() {
                return;
            }
        }
    })
}

/// Serves one archive to whoever asks, with fields of its own in the head, and nothing else.
pub fn serve(fields: String, body: Vec<u8>) -> SocketAddr {
    serve_beside(fields, body, |_| not_found())
}

/// The same; all else gets what `other` says.
pub fn serve_beside(
    fields: String,
    body: Vec<u8>,
    other: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
) -> SocketAddr {
    answers(move |asked| match asks_for_archive(asked) {
        true => ok(&fields, &body),
        false => other(asked),
    })
}

/// What is not there.
pub fn not_found() -> Vec<u8> {
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()
}

/// A whole answer of status 200.
pub fn ok(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nETag: \"x\"\r\n{fields}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// The first line of the next request; its body is read, too.
pub fn read_request(socket: &TcpStream) -> Option<String> {
    read_whole(socket).map(|(first, _)| first)
}

/// The first byte that the next request asks for.
pub fn read_range(socket: &TcpStream) -> Option<usize> {
    read(socket).map(|(_, at, _)| at)
}

/// The first line of the next request, and its body.
pub fn read_whole(socket: &TcpStream) -> Option<(String, Vec<u8>)> {
    read(socket).map(|(first, _, body)| (first, body))
}

fn read(socket: &TcpStream) -> Option<(String, usize, Vec<u8>)> {
    let mut reader = BufReader::with_capacity(1, socket);
    let (mut first, mut length, mut at) = (String::new(), 0, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().ok()?;
        }
        if let Some(range) = line.strip_prefix("Range: bytes=") {
            at = range.split('-').next()?.parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
        if first.is_empty() {
            first = line.to_owned();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((first, at, body))
}
