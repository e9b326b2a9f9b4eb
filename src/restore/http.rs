//! A blocking HTTP/1.1 client: one connection, one request at a time, bodies read straight into
//! the caller's buffer. A body that ends early is an error, never an end.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::connect::{connect, resolve, wait_for};
use super::stop::Stop;
use super::url::Server;
use crate::io::net;
use crate::limits::{
    CONNECT_TIMEOUT_MS, HEAD_BYTES_MAX, HEADERS_MAX, INTERRUPT_POLL_MS, PACE_BYTES, PACE_STALLS,
    SMALL_ANSWER_BYTES_MAX,
};

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: u16,
    fields: Vec<(String, String)>,
}

impl Answer {
    /// A header's value; `name` in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// First byte and total of `Content-Range`; the total is `None` while it is unknown.
    pub(super) fn content_range(&self) -> Option<(Option<u64>, Option<u64>)> {
        let value = self.get("content-range")?.strip_prefix("bytes ")?;
        let (range, total) = value.split_once('/')?;
        let start = range
            .split_once('-')
            .and_then(|(start, _)| start.parse().ok());
        Some((start, total.parse().ok()))
    }
}

/// How much of a body is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Known(u64),
    /// Bytes left of the current chunk.
    Chunk(u64),
    /// The size line of the first chunk comes next.
    FirstChunk,
    Done,
}

/// Whether enough of a body comes: less than a little, again and again, would never end. What it
/// takes to do something with what came is not counted.
#[derive(Debug)]
struct Pace<'a> {
    limit: Duration,
    /// Spent on waiting for `bytes`, since there was enough of them.
    spent: Duration,
    bytes: usize,
    /// Since when somebody waits.
    since: Option<Instant>,
    /// How often somebody has found a sign of life in what came, however small; and how often when
    /// it was last looked at.
    signs: Option<&'a AtomicU64>,
    seen: u64,
}

impl<'a> Pace<'a> {
    fn new(stall: Duration) -> Pace<'a> {
        Pace {
            limit: stall.saturating_mul(PACE_STALLS),
            spent: Duration::ZERO,
            bytes: 0,
            since: None,
            signs: None,
            seen: 0,
        }
    }

    fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The wait is over, and so much came.
    fn end(&mut self, bytes: usize) {
        let since = self.since.take();
        self.spent += since.map_or(Duration::ZERO, |since| since.elapsed());
        self.bytes += bytes;
        let signs = self.signs.map_or(0, |signs| signs.load(Relaxed));
        if self.bytes >= PACE_BYTES || signs != self.seen {
            (self.spent, self.bytes, self.seen) = (Duration::ZERO, 0, signs);
        }
    }

    fn go_on(&self) -> io::Result<()> {
        let waits = self.since.map(|since| since.elapsed() + self.spent);
        if waits.is_none_or(|waits| waits < self.limit) {
            return Ok(());
        }
        let (bytes, limit_s) = (self.bytes, self.limit.as_secs_f32());
        let what = format!("only {bytes} bytes came within {limit_s} s");
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}

/// A connection.
///
/// Invariant: `buffer[at..]` was received and not yet used; `rest` describes the body behind it.
pub(super) struct Conn<'a> {
    socket: TcpStream,
    server: &'a Server,
    stop: &'a Stop,
    stall: Duration,
    pace: Pace<'a>,
    buffer: Vec<u8>,
    at: usize,
    rest: Rest,
    closes: bool,
}

/// Whether a call only took its time: nothing is wrong.
fn is_pause(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Whether another answer follows this one. 101 gives the connection another protocol, which nobody asked for.
fn is_interim(status: u16) -> bool {
    matches!(status, 100 | 102..=199)
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<'a> Conn<'a> {
    /// Connects. Errors say which step of it failed, not to whom: that is the caller's.
    /// `stall` bounds the time without a byte of a body, and twice as long that with a few.
    pub(super) fn open(
        server: &'a Server,
        stop: &'a Stop,
        stall: Duration,
    ) -> io::Result<Conn<'a>> {
        let failed = |step, e: io::Error| io::Error::new(e.kind(), format!("{step}: {e}"));
        let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
        let addresses = resolve(&server.address, limit, stop);
        let addresses = addresses.map_err(|e| failed("cannot find its address", e))?;
        let socket = connect(&addresses, limit, stop).map_err(|e| failed("cannot connect", e))?;
        socket.set_nodelay(true)?;
        net::notice_dead_peer(&socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(INTERRUPT_POLL_MS)))?;
        socket.set_write_timeout(Some(Duration::from_millis(INTERRUPT_POLL_MS)))?;
        Ok(Conn {
            socket,
            server,
            stop,
            stall,
            pace: Pace::new(stall),
            buffer: Vec::new(),
            at: 0,
            rest: Rest::Done,
            closes: false,
        })
    }

    /// Whoever looks at what comes counts its signs of life there.
    pub(super) fn heed(mut self, signs: &'a AtomicU64) -> Conn<'a> {
        self.pace.signs = Some(signs);
        self
    }

    /// Whether another request can be sent.
    pub(super) fn is_reusable(&self) -> bool {
        self.rest == Rest::Done && !self.closes
    }

    /// Sends a request and reads the head of its answer, which may take `limit`.
    pub(super) fn ask(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
        limit: Duration,
    ) -> io::Result<Answer> {
        let mut request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nUser-Agent: tarpon/{}\r\n",
            self.server.authority,
            env!("CARGO_PKG_VERSION")
        );
        for (name, value) in fields {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if method == "POST" {
            request.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.send(&[request.as_bytes(), body].concat())?;
        self.read_head(limit)
    }

    /// Sends all of `bytes`.
    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut since = Instant::now();
        while !bytes.is_empty() {
            self.go_on(since, self.stall)?;
            match (&self.socket).write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    since = Instant::now();
                }
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// An error when the restore is to stop, or nothing has come or gone since `since` for `limit`.
    fn go_on(&self, since: Instant, limit: Duration) -> io::Result<()> {
        if self.stop.is_set() {
            return Err(io::Error::other("the restore ends"));
        }
        self.pace.go_on()?;
        match since.elapsed() >= limit {
            true => {
                let what = format!("no byte came for {} s", limit.as_secs_f32());
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
            false => Ok(()),
        }
    }

    /// However its bytes come, the head has `limit` in all. Interim answers before it, which a proxy may
    /// send, count as a part of it (RFC 9110, section 15.2).
    fn read_head(&mut self, limit: Duration) -> io::Result<Answer> {
        let begun = Instant::now();
        let mut interim_bytes = 0;
        loop {
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.parse_head()? {
                Some(answer) if is_interim(answer.status) => interim_bytes += self.at,
                Some(answer) => return Ok(answer),
                None => self.fill(begun, limit)?,
            }
            if interim_bytes + self.buffer.len() - self.at >= HEAD_BYTES_MAX {
                return Err(bad("the head of the answer is too long"));
            }
        }
    }

    fn parse_head(&mut self) -> io::Result<Option<Answer>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head
            .parse(&self.buffer)
            .map_err(|_| bad("the answer is not HTTP"))?;
        let httparse::Status::Complete(len) = parsed else {
            return Ok(None);
        };
        let text = |value: &[u8]| String::from_utf8_lossy(value).trim().to_owned();
        let fields = head.headers.iter();
        let answer = Answer {
            status: head.code.unwrap_or_default(),
            fields: fields
                .map(|h| (h.name.to_ascii_lowercase(), text(h.value)))
                .collect(),
        };
        self.at = len;
        let has = |name: &str, value: &str| {
            let found = answer.get(name);
            found.is_some_and(|found| found.to_ascii_lowercase().contains(value))
        };
        self.closes = has("connection", "close") || head.version == Some(0);
        self.rest = if matches!(answer.status, 204 | 304) || is_interim(answer.status) {
            Rest::Done
        } else if has("transfer-encoding", "chunked") {
            Rest::FirstChunk
        } else {
            let len = answer
                .get("content-length")
                .and_then(|len| len.parse().ok());
            match len.ok_or_else(|| bad("the answer has no length"))? {
                0 => Rest::Done,
                len => Rest::Known(len),
            }
        };
        Ok(Some(answer))
    }

    /// Receives some bytes behind those in the buffer.
    fn fill(&mut self, since: Instant, limit: Duration) -> io::Result<()> {
        let mut piece = [0; 4096];
        let got = self.receive(&mut piece, since, limit)?;
        self.buffer.extend_from_slice(&piece[..got]);
        Ok(())
    }

    /// Receives at least one byte, or fails: without one for `limit` from `since` on, at the
    /// connection's end, or when the restore is to stop, however fast bytes come.
    fn receive(&self, into: &mut [u8], since: Instant, limit: Duration) -> io::Result<usize> {
        loop {
            self.go_on(since, limit)?;
            match (&self.socket).read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(got) => return Ok(got),
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until there is more of the body to read, or its end; whether there is before `until`.
    pub(super) fn has_more(&mut self, until: Instant) -> io::Result<bool> {
        let is_here = match self.rest {
            Rest::Known(left) | Rest::Chunk(left) if left > 0 => self.at < self.buffer.len(),
            rest => rest == Rest::Done,
        };
        match is_here {
            true => Ok(Instant::now() < until),
            false => {
                self.pace.begin();
                let is_here = wait_for(&self.socket, PollFlags::IN, until, self.stop);
                self.pace.end(0);
                is_here
            }
        }
    }

    /// Gives back what was just read of the body: it is read again.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.buffer.splice(self.at..self.at, bytes.iter().copied());
        let more = bytes.len() as u64;
        self.rest = match self.rest {
            Rest::Known(left) => Rest::Known(left + more),
            Rest::Chunk(left) => Rest::Chunk(left + more),
            Rest::Done if more > 0 => Rest::Known(more),
            rest => rest,
        };
    }

    /// Reads some of the body; 0 at its end.
    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.pace.begin();
        let got = self.read_some(into);
        self.pace.end(*got.as_ref().unwrap_or(&0));
        got
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = match self.rest {
                Rest::Done => return Ok(0),
                Rest::Known(left) | Rest::Chunk(left) if left > 0 => left,
                _ => {
                    self.next_chunk()?;
                    continue;
                }
            };
            let want = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let into = &mut into[..want];
            let buffered = &self.buffer[self.at..];
            let got = match buffered.len() {
                0 => self.receive(into, Instant::now(), self.stall)?,
                have => {
                    let got = have.min(want);
                    into[..got].copy_from_slice(&buffered[..got]);
                    self.at += got;
                    got
                }
            };
            let left = left - got as u64;
            self.rest = match self.rest {
                Rest::Known(_) if left == 0 => Rest::Done,
                Rest::Known(_) => Rest::Known(left),
                _ => Rest::Chunk(left),
            };
            return Ok(got);
        }
    }

    /// Reads a chunk's size line, with the line break of the chunk before it.
    fn next_chunk(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let skip = if self.rest == Rest::FirstChunk { 0 } else { 2 };
        let begun = Instant::now();
        loop {
            let have = &self.buffer[..];
            if have.len() > skip {
                if skip > 0 && !have.starts_with(b"\r\n") {
                    return Err(bad("a chunk does not end where it says"));
                }
                let parsed = httparse::parse_chunk_size(&have[skip..]);
                match parsed.map_err(|_| bad("the size of a chunk is no number"))? {
                    httparse::Status::Complete((used, 0)) => return self.trailers(skip + used),
                    httparse::Status::Complete((used, size)) => {
                        self.at = skip + used;
                        self.rest = Rest::Chunk(size);
                        return Ok(());
                    }
                    httparse::Status::Partial if have.len() > HEAD_BYTES_MAX => {
                        return Err(bad("the size of a chunk is too long"));
                    }
                    httparse::Status::Partial => {}
                }
            }
            self.fill(begun, self.stall)?;
        }
    }

    /// Reads up to the empty line that ends a chunked body.
    fn trailers(&mut self, from: usize) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let have = &self.buffer[from..];
            let end = match have.starts_with(b"\r\n") {
                true => Some(2),
                false => have
                    .windows(4)
                    .position(|w| w == b"\r\n\r\n")
                    .map(|at| at + 4),
            };
            if let Some(end) = end {
                self.at = from + end;
                self.rest = Rest::Done;
                return Ok(());
            }
            if have.len() > HEAD_BYTES_MAX {
                return Err(bad("the trailers are too long"));
            }
            self.fill(begun, self.stall)?;
        }
    }

    /// The whole of a small body as text, for messages; what does not fit is left.
    pub(super) fn read_text(&mut self) -> io::Result<String> {
        let mut out = Vec::new();
        let mut piece = [0; 4096];
        while out.len() < SMALL_ANSWER_BYTES_MAX {
            match self.read(&mut piece)? {
                0 => break,
                got => out.extend_from_slice(&piece[..got]),
            }
        }
        Ok(String::from_utf8_lossy(&out).trim().to_owned())
    }
}
