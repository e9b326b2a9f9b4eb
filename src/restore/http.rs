//! A blocking HTTP/1.1 client: one connection, one request at a time, bodies read straight into
//! the caller's buffer. A body that ends early is an error, never an end.
//!
//! Every request to the server is made here, so it is here that it says who asks, and goes where the server
//! sends it. A body without a length ends with its connection, over TLS only if that says so: whoever reads one
//! finds its end in what it says (the end of an archive, the sum of a bundle's pack, an empty packet, the bracket
//! of an object).

use std::io;
use std::net::{IpAddr, Shutdown};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::answer::{Answer, Body, bad};
use super::connect::reach;
use super::credentials;
use super::distrust::ALERT_BEGIN;
use super::error::RestoreError;
use super::link::{Link, wait_until};
use super::login::Field;
use super::pace::Pace;
use super::request::Request;
use super::said::said;
use super::straight::Store;
use super::wire::{Came, Wire, is_pause};
use crate::config::GivenUrl;
use crate::limits::{
    BUSY_WORDS_BYTES_MAX, CONNECT_TIMEOUT_MS, HEAD_BYTES_MAX, RESTORE_REDIRECTS_MAX,
    SMALL_ANSWER_BYTES_MAX,
};

mod aside;

/// How much of a body is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    Known(u64),
    /// Bytes left of the current chunk.
    Chunk(u64),
    /// The size line of the first chunk comes next.
    FirstChunk,
    /// All that comes.
    UntilEnd,
    Done,
}

/// A connection.
///
/// Invariant: `buffer[at..]` was received and not yet used; `rest` describes the body behind it.
pub(super) struct Conn<'a> {
    wire: Wire,
    link: Link<'a>,
    pace: Pace<'a>,
    buffer: Vec<u8>,
    at: usize,
    rest: Rest,
    closes: bool,
    /// Whether an answer has come on it: one that is idle may be closed by then.
    has_answered: bool,
    /// A connection to the server's store, where it has sent this one before.
    pub(super) aside: Option<Box<Conn<'a>>>,
    /// The store that this one is to.
    store: Option<&'a Store>,
}

/// How long bytes may be waited for.
#[derive(Clone, Copy)]
enum Patience {
    /// So long from then on, whatever comes.
    From(Instant, Duration),
    /// So long without anything.
    Silent(Duration),
}

impl<'a> Conn<'a> {
    /// Connects to the server of `link`. Errors say which step of it failed, not to whom: that is the caller's.
    /// The link's `stall` bounds the time without a byte of a body, and twice as long that with a few.
    pub(super) fn open(link: Link<'a>) -> io::Result<Conn<'a>> {
        Conn::open_where(link, |_| true)
    }

    fn open_where(link: Link<'a>, may: impl Fn(IpAddr) -> bool) -> io::Result<Conn<'a>> {
        let mut conn = Conn {
            wire: Wire::new(reach(link.server, link.stop, may)?, link.tls)?,
            link,
            pace: Pace::new(link.stall),
            buffer: Vec::new(),
            at: 0,
            rest: Rest::Done,
            closes: false,
            has_answered: false,
            aside: None,
            store: None,
        };
        conn.shake()?;
        Ok(conn)
    }

    /// Connects once more, for the next request.
    fn reopen(&mut self) -> io::Result<()> {
        let fresh = Conn::open(self.link)?;
        let signs = self.pace.signs;
        *self = fresh;
        self.pace.signs = signs;
        Ok(())
    }

    /// Begins TLS, if it is spoken.
    fn shake(&mut self) -> io::Result<()> {
        let (since, limit) = (Instant::now(), Duration::from_millis(CONNECT_TIMEOUT_MS));
        loop {
            self.go_on(since, limit)?;
            match self.wire.shake() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) if is_pause(&e) => {}
                Err(e) => {
                    let what = format!("TLS does not begin: {e}");
                    return Err(io::Error::new(e.kind(), what));
                }
            }
        }
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

    /// Sends a request and reads the head of its answer, which may take `limit`: wherever the server sends the
    /// request within its origin, whether or not it wants to know first who asks, and however often it is busy and
    /// says when to come again.
    pub(super) fn ask(&mut self, request: &Request<'_>, limit: Duration) -> io::Result<Answer> {
        self.ask_patiently(request, limit, limit)
    }

    /// The same, which comes again for so long as `busy` only.
    pub(super) fn ask_patiently(
        &mut self,
        request: &Request<'_>,
        limit: Duration,
        busy: Duration,
    ) -> io::Result<Answer> {
        let begun = Instant::now();
        let mut moved: Option<String> = None;
        let mut redirects = 0;
        loop {
            let (logins, may_be_more) = self.link.login.fields();
            let target = moved.as_deref().unwrap_or(request.target);
            self.send(&Request { target, ..*request }, &logins)?;
            let mut answer = self.read_head(begun, limit)?;
            let next = match answer.status {
                401 if may_be_more => {
                    let look = || credentials::of_server(self.link);
                    self.link.login.find(look).then_some(None)
                }
                status if request.may_follow(status) && redirects < RESTORE_REDIRECTS_MAX => {
                    redirects += 1;
                    let location = answer.get("location").unwrap_or_default();
                    self.link.server.follow(location).map(Some)
                }
                429 | 503 => match answer.again() {
                    Some(after) => self.comes_again(begun, after, busy)?.then_some(None),
                    None => None,
                },
                _ => None,
            };
            match next {
                Some(target) => moved = target.or(moved),
                None => {
                    answer.moved = moved;
                    return Ok(answer);
                }
            }
            if !self.is_reusable() {
                self.reopen()?;
            }
        }
    }

    /// Waits for as long as a busy server says, if there is time for that; whether there was. Meanwhile the connection
    /// keeps no place there.
    fn comes_again(&mut self, begun: Instant, after: Duration, busy: Duration) -> io::Result<bool> {
        let text = self.peek_text();
        let patience = self.link.patience(&text, busy);
        if begun.elapsed() + after >= patience {
            return Ok(false);
        }
        self.closes = true;
        self.link.progress.is_put_off(said(&text), patience);
        // It may have ended by itself.
        let _ = self.wire.socket().shutdown(Shutdown::Both);
        wait_until(self.link.stop, Instant::now() + after);
        match self.link.stop.is_set() {
            true => Err(io::Error::other("the restore ends")),
            false => Ok(true),
        }
    }

    /// Sends all of a request.
    fn send(&mut self, request: &Request<'_>, logins: &[Field]) -> io::Result<()> {
        self.link.login.check(logins, self.wire.socket())?;
        let bytes = request.bytes(&self.link.server.authority, logins);
        let mut bytes = &bytes[..];
        let mut since = Instant::now();
        while !bytes.is_empty() || !self.wire.is_sent() {
            self.go_on(since, self.link.stall)?;
            match self.wire.send(bytes) {
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

    /// Why there is nothing but this answer: its status, and what the server says.
    pub(super) fn refused(&mut self, answer: &Answer) -> RestoreError {
        match (answer.status, answer.get("location")) {
            (status @ 300..=399, Some(location)) => RestoreError::Server(format!(
                "the server answers {status}, a redirect to {}, which is not followed: it leaves {} or is one of \
                 too many; name where it leads with --server",
                GivenUrl::new(location),
                self.link.server.origin()
            )),
            (status, _) => {
                let text = self.read_text().unwrap_or_default();
                self.link.refusal(status, &text)
            }
        }
    }

    /// An error when the restore is to stop, or nothing has come or gone since `since` for `limit`.
    fn go_on(&self, since: Instant, limit: Duration) -> io::Result<()> {
        if self.link.stop.is_set() {
            return Err(io::Error::other("the restore ends"));
        }
        self.pace.go_on()?;
        match since.elapsed() >= limit {
            true => {
                let limit_s = (limit.as_secs_f64() * 10.0).round() / 10.0;
                let what = format!("no byte came for {limit_s} s");
                Err(io::Error::new(io::ErrorKind::TimedOut, what))
            }
            false => Ok(()),
        }
    }

    /// However its bytes come, the head has `limit` in all. Interim answers before it, which a proxy may
    /// send, count as a part of it (RFC 9110, section 15.2).
    fn read_head(&mut self, begun: Instant, limit: Duration) -> io::Result<Answer> {
        let mut interim_bytes = 0;
        loop {
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.parse_head()? {
                Some(answer) if answer.is_interim() => interim_bytes += self.at,
                Some(answer) => {
                    self.has_answered = true;
                    return Ok(answer);
                }
                None => self.fill(begun, limit)?,
            }
            if interim_bytes + self.buffer.len() - self.at >= HEAD_BYTES_MAX {
                return Err(bad("the head of the answer is too long"));
            }
        }
    }

    fn parse_head(&mut self) -> io::Result<Option<Answer>> {
        // Whoever has the wrong port learns which it is.
        if self.link.tls.is_none() && self.buffer.starts_with(&ALERT_BEGIN) {
            let what =
                "what answers speaks TLS: write https:// in --server, or a port for plain http";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        }
        let Some((answer, len)) = Answer::parse(&self.buffer)? else {
            return Ok(None);
        };
        self.at = len;
        self.rest = match answer.body()? {
            Body::None | Body::Known(0) => Rest::Done,
            Body::Known(len) => Rest::Known(len),
            Body::Chunks => Rest::FirstChunk,
            Body::UntilEnd => Rest::UntilEnd,
        };
        self.closes = answer.closes || self.rest == Rest::UntilEnd;
        Ok(Some(answer))
    }

    /// Receives some bytes behind those in the buffer.
    fn fill(&mut self, since: Instant, limit: Duration) -> io::Result<()> {
        let mut piece = [0; 4096];
        let got = self.receive(&mut piece, Patience::From(since, limit))?;
        self.buffer.extend_from_slice(&piece[..got]);
        Ok(())
    }

    /// Receives at least one byte, or fails: without one for as long as the patience lasts, at the
    /// connection's end, or when the restore is to stop, however fast bytes come. 0 at the end of a body that ends
    /// so.
    fn receive(&mut self, into: &mut [u8], patience: Patience) -> io::Result<usize> {
        let (mut since, limit) = match patience {
            Patience::From(since, limit) => (since, limit),
            Patience::Silent(limit) => (Instant::now(), limit),
        };
        loop {
            self.go_on(since, limit)?;
            match self.wire.read(into) {
                Ok(Came::Bytes(got)) => return Ok(got),
                Ok(Came::End) if self.rest == Rest::UntilEnd => return Ok(0),
                Ok(Came::End) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(Came::Parts) if matches!(patience, Patience::Silent(_)) => {
                    since = Instant::now()
                }
                Ok(Came::Parts) => {}
                Err(e) if is_pause(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until there is more of the body to read, or its end; whether there is before `until`.
    pub(super) fn has_more(&mut self, until: Instant) -> io::Result<bool> {
        let have = &self.buffer[self.at..];
        let is_here = match self.rest {
            Rest::Done => true,
            // Its line has come; the end of the chunk before it, two bytes, mostly comes without.
            Rest::FirstChunk => have.contains(&b'\n'),
            Rest::Chunk(0) => have.get(2..).is_some_and(|line| line.contains(&b'\n')),
            _ => !have.is_empty(),
        };
        match is_here {
            true => Ok(Instant::now() < until),
            false => {
                self.pace.begin();
                let is_here = self.wire.wait(until, self.link.stop);
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
        let is_late = |error: &io::Error| error.kind() == io::ErrorKind::TimedOut;
        if let (Err(error), Some(store)) = (&got, self.store)
            && is_late(error)
        {
            // It would cost as long each time.
            store.is_left();
        }
        got
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let left = match self.rest {
                Rest::Done => return Ok(0),
                Rest::UntilEnd => u64::MAX,
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
                0 => self.receive(into, Patience::Silent(self.link.stall))?,
                have => {
                    let got = have.min(want);
                    into[..got].copy_from_slice(&buffered[..got]);
                    self.at += got;
                    got
                }
            };
            let left = left - got as u64;
            self.rest = match self.rest {
                Rest::UntilEnd if got == 0 => Rest::Done,
                Rest::UntilEnd => Rest::UntilEnd,
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
            self.fill(begun, self.link.stall)?;
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
            self.fill(begun, self.link.stall)?;
        }
    }

    /// The whole of a small body as text, for messages; what does not fit is left.
    pub(super) fn read_text(&mut self) -> io::Result<String> {
        let bytes = self.read_small(SMALL_ANSWER_BYTES_MAX)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The beginning of a body as text, which is read again after that. What cannot be read says nothing.
    fn peek_text(&mut self) -> String {
        let bytes = self.read_small(BUSY_WORDS_BYTES_MAX).unwrap_or_default();
        self.unread(&bytes);
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    /// Reads until the body ends or is longer than so many bytes.
    fn read_small(&mut self, limit_bytes: usize) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut piece = [0; 4096];
        while out.len() < limit_bytes {
            match self.read(&mut piece)? {
                0 => break,
                got => out.extend_from_slice(&piece[..got]),
            }
        }
        Ok(out)
    }
}
