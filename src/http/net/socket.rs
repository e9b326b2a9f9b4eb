//! A client's socket on a core: waits, and sends the bodies of responses.
//!
//! All waiting is for readiness, which loses no bytes when it is cut short; the system calls
//! themselves never block (see [`crate::io::net`]).

mod child;
mod sealed;
mod waits;
mod wire;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;

use super::bodies::Bodies;
use super::client::Client;
use super::idle::{Idle, Member, Rank, Waiting};
use super::pulse::Pulse;
use super::tls::Opened;
use crate::config::Proxies;
use crate::extent::{Next, Source};
use crate::http::wire::response::{CHUNK_END, LAST_CHUNK, chunk_head};
use crate::io::gather::Buffer;
use crate::io::net;
use crate::io::pipe::Pipe;
use crate::limits::{
    BYTES_IN_NS, CHUNK_BYTES_MAX, GATHER_BYTES, GATHERED_RANGE_BYTES_MAX, POLL_BYTES, TURN_BYTES,
};
use wire::Wire;

/// Bytes that are read at a time.
pub(super) const INPUT_BYTES: usize = 4096;

/// Why a response could not be sent whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// The client went away.
    #[error("the client has left: {0}")]
    Left(io::Error),
    /// The client took nothing for the whole stall limit.
    #[error("the client took nothing for {0:?}")]
    Stalled(Duration),
    /// The client took too little while others waited for its turn, or its place.
    #[error("the client took too little while others waited")]
    Slow,
    /// Others waited for its place: it may have left, having ended its sending side, or its address has
    /// more than its part of the places.
    #[error("others waited for the client's place")]
    Crowded,
    /// The body failed at its source.
    #[error("{0}")]
    Source(String),
    /// The connection's task was ended: the server stops, or the task panicked.
    #[error("the connection was cut")]
    Cut,
}

/// What was sent of a body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sent {
    /// Bytes of content.
    pub bytes: u64,
    /// When the first of them left.
    pub first: Option<Instant>,
}

/// What all sockets of one core share.
pub(crate) struct CoreSockets {
    /// The core's pulse if the runtime reports readiness through epoll.
    pulse: Option<Rc<Pulse>>,
    /// Used only within one call, never across an await; `None` where the system allows none.
    pipe: Option<RefCell<Pipe>>,
    /// Where what is sealed is gathered; used as the pipe is.
    buffer: RefCell<Buffer>,
    /// Bytes sent by all since the core last asked the kernel what else happened.
    since_poll_bytes: Cell<u64>,
    /// Those that wait.
    pub idle: Rc<Idle>,
    /// Those of them that were not admitted: to close one would make no room.
    pub turned_away: Rc<Idle>,
    /// Memory for what clients send.
    pub bodies: Arc<Bodies>,
    /// Those that are believed when they say who asks.
    pub proxies: Proxies,
}

impl CoreSockets {
    /// For a core that has a `pulse` if its runtime reports readiness through epoll.
    pub(crate) fn new(
        pulse: Option<Rc<Pulse>>,
        idle: Rc<Idle>,
        bodies: Arc<Bodies>,
        proxies: Proxies,
    ) -> CoreSockets {
        let pipe = Pipe::new();
        if let Err(e) = &pipe {
            tracing::warn!("sending packs in single blocks, which is slower: no large pipe: {e}");
        }
        CoreSockets {
            pulse,
            pipe: pipe.ok().map(RefCell::new),
            buffer: RefCell::default(),
            since_poll_bytes: Cell::new(0),
            idle,
            turned_away: Idle::apart(),
            bodies,
            proxies,
        }
    }
}

/// See the module's text.
pub(crate) struct Socket {
    stream: TcpStream,
    stall: Duration,
    core: Rc<CoreSockets>,
    sent_in_turn: Cell<u64>,
    /// Time that attempts have taken which are not counted in a turn yet.
    spent: Cell<Duration>,
    wire: Wire,
    /// Bytes that the kernel has taken.
    sent_bytes: Cell<u64>,
    /// Of a response that had to wait, among the others that wait.
    place: OnceCell<Waiting>,
    /// What the client had taken when it began to wait in that place.
    taken_before_bytes: Cell<u64>,
    /// Itself, among whom it waits; dropped after that place.
    member: Member,
}

impl Socket {
    /// Takes over a connection of `client` that was accepted, and waits among `idle`.
    pub(crate) fn new(
        stream: TcpStream,
        client: Client,
        stall: Duration,
        core: Rc<CoreSockets>,
        idle: &Rc<Idle>,
    ) -> io::Result<Socket> {
        let socket = Socket {
            stream,
            stall,
            core,
            sent_in_turn: Cell::new(0),
            spent: Cell::default(),
            wire: Wire::Plain,
            sent_bytes: Cell::new(0),
            place: OnceCell::new(),
            taken_before_bytes: Cell::new(0),
            member: idle.member(client),
        };
        net::prepare(socket.fd())?;
        Ok(socket)
    }

    /// Begins to wait.
    pub(crate) fn enter(&self, rank: Rank) -> Waiting {
        self.member.enter(rank)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        net::borrow(&self.stream)
    }

    /// Appends what is there to `input`, at most `most` bytes and [`INPUT_BYTES`], waiting up to
    /// `limit` for it; 0 at the end of the stream.
    pub(crate) async fn receive(
        &self,
        input: &mut Vec<u8>,
        most: usize,
        limit: Duration,
    ) -> io::Result<usize> {
        let mut deadline = None;
        loop {
            match self.timed(|| self.receive_now(input, most)) {
                Ok(Opened::Content(count)) => return Ok(count),
                // However many such there are, others have their turn, and the time ends.
                Ok(Opened::Nothing) => self.breathe().await,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            }
            let now = Instant::now();
            let left = deadline
                .get_or_insert(now + limit)
                .saturating_duration_since(now);
            match monoio::time::timeout(left, self.stream.readable(false)).await {
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(ready) => ready?,
            }
        }
    }

    /// By way of the stack: a connection that waits holds no buffer.
    fn receive_now(&self, input: &mut Vec<u8>, most: usize) -> io::Result<Opened> {
        let mut buffer = [0; INPUT_BYTES];
        let buffer = &mut buffer[..most.min(INPUT_BYTES)];
        self.wire.receive(self.fd(), buffer, input)
    }

    /// Has the connection end in a reset.
    pub(crate) fn reset_on_close(&self) {
        // Fails only on a connection that is reset already.
        let _ = net::reset_on_close(self.fd());
    }

    /// Ends the sending side and reads what the client still sends, for a short while, so that
    /// a reset for unread data does not overtake the response.
    pub(crate) async fn linger(&self, limit: Duration) {
        self.wire.end(self.fd());
        if net::end_sending(self.fd()).is_err() {
            return;
        }
        let deadline = Instant::now() + limit;
        let mut scratch = Vec::new();
        let mut left = 256;
        while left > 0 {
            let now = Instant::now();
            let wait = deadline.saturating_duration_since(now);
            scratch.clear();
            match self.receive(&mut scratch, INPUT_BYTES, wait).await {
                Ok(0) | Err(_) => return,
                Ok(_) => left -= 1,
            }
        }
    }

    /// Counts what the kernel has taken of a response.
    async fn sent(&self, bytes: u64) -> Result<(), SendError> {
        self.sent_bytes.set(self.sent_bytes.get() + bytes);
        self.turn(bytes).await
    }

    /// Counts what one task sent without waiting, and lets the core's other tasks go on after
    /// a fair share: of bytes, or of the time that attempts to send have taken.
    pub(super) async fn turn(&self, bytes: u64) -> Result<(), SendError> {
        let spent_ns = self.spent.take().as_nanos() as u64;
        let work = bytes.max(spent_ns.saturating_mul(BYTES_IN_NS));
        let sent = self.sent_in_turn.get() + work;
        self.sent_in_turn.set(sent);
        if sent < TURN_BYTES {
            return Ok(());
        }
        self.sent_in_turn.set(0);
        let since_poll = &self.core.since_poll_bytes;
        since_poll.set(since_poll.get() + sent);
        match &self.core.pulse {
            None if since_poll.get() >= POLL_BYTES => {
                // Goes through the ring, as will all other senders: then the core has nothing
                // left to do and looks at everything else, timers and wakes of other threads too.
                let writable = self.writable().await;
                since_poll.set(0);
                return writable;
            }
            Some(pulse) if pulse.is_late() => {
                pulse.rest().await;
                return Ok(());
            }
            _ => {}
        }
        give_way().await;
        Ok(())
    }

    /// Lets the core's other tasks go on, and its timers, before something else is waited for.
    pub(super) async fn breathe(&self) {
        self.spent.take();
        match &self.core.pulse {
            Some(pulse) if pulse.is_late() => pulse.rest().await,
            _ => give_way().await,
        }
    }

    /// Sends what is taken at once of `bytes`, and nothing behind it.
    pub(crate) fn send_last(&self, bytes: &[u8]) {
        // The connection ends whether the client takes this or not.
        let sent = self.wire.send(self.fd(), bytes, false);
        self.wire.end(self.fd());
        let _ = sent.and_then(|_| net::end_sending(self.fd()));
    }

    /// Tells the client that nothing more follows, unless a response has failed.
    pub(crate) fn end(&self) {
        self.wire.end(self.fd());
    }

    /// A response has failed.
    pub(crate) fn break_off(&self) {
        self.wire.break_off();
    }

    /// Sends what is still here of what was sent: to be called before anything else is waited for.
    pub(crate) async fn flush(&self) -> Result<(), SendError> {
        loop {
            match self.timed(|| self.wire.flush(self.fd())) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(SendError::Left(e)),
            }
        }
    }

    /// Sends all of `bytes`; `more` says that other bytes follow at once.
    pub(crate) async fn send(&self, mut bytes: &[u8], more: bool) -> Result<(), SendError> {
        while !bytes.is_empty() {
            match self.timed(|| self.wire.send(self.fd(), bytes, more)) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    self.sent(sent as u64).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(SendError::Left(e)),
            }
        }
        match more {
            true => Ok(()),
            false => self.flush().await,
        }
    }

    /// Sends the content of `source` from `start` to `end`; to its own end if that is `None`,
    /// in chunked coding. `sent` counts along, also when it fails.
    pub(crate) async fn send_source(
        &self,
        source: &mut dyn Source,
        start: u64,
        end: Option<u64>,
        sent: &mut Sent,
    ) -> Result<(), SendError> {
        // With a known length nothing waits for bytes that are still to be made: let the kernel
        // fill its segments instead of pushing one out after every block.
        let _cork = end.map(|_| net::cork(self.fd()));
        let mut at = start;
        let mut resident = start;
        let mut promised = end.unwrap_or(start);
        loop {
            if end.is_some_and(|end| at >= end) {
                return Ok(());
            }
            let open_chunk = end.is_none() && at < promised;
            if end.is_none() && !open_chunk {
                promised = at + self.open_chunk(source, at).await?;
                if promised == at {
                    return self.send(LAST_CHUNK, false).await;
                }
            }
            let next = pin!(poll_fn(|cx| source.poll_next(at, promised - at, cx)));
            let mut next = self.more(next).await?;
            // Only bytes of files can be missing from memory; others leave at once.
            if let Next::File { .. } = next {
                if at >= resident {
                    let read = pin!(poll_fn(|cx| source.poll_resident(at, cx)));
                    let read = self.more(read).await?;
                    resident = read.map_err(|e| SendError::Source(e.to_string()))?;
                }
                next.truncate(resident.saturating_sub(at).max(1));
            }
            let until = promised.min(resident);
            let gathered = match is_framed(&next, at, until) {
                true => self.timed(|| self.gather(source, at..until, end))?,
                false => None,
            };
            let count = match gathered {
                Some(tried) => self.settle(tried).await?,
                None => {
                    let last = end == Some(at + next.wire_bytes());
                    self.send_next(source, next, last).await?
                }
            };
            if let Some(count) = count {
                at += count;
                sent.bytes = at - start;
                sent.first.get_or_insert_with(Instant::now);
                if end.is_none() && at == promised {
                    // Now, not with the next chunk: a client may wait for it to use this one.
                    self.send(CHUNK_END, false).await?;
                }
            }
        }
    }

    /// Begins a chunk of what is there at `at`, waiting until there is something. Returns its
    /// length: 0 at the end of the source, for which no chunk is begun.
    async fn open_chunk(&self, source: &mut dyn Source, at: u64) -> Result<u64, SendError> {
        let first = pin!(poll_fn(|cx| source.poll_next(at, 1, cx)));
        match self.more(first).await? {
            Next::End => return Ok(0),
            Next::Failed(why) => return Err(SendError::Source(why.to_string())),
            _ => {}
        }
        let len = source.available(at).min(CHUNK_BYTES_MAX);
        let Some(nonzero) = NonZeroU64::new(len) else {
            return Err(SendError::Source("the archive shrank".into()));
        };
        self.send(chunk_head(nonzero).as_bytes(), true).await?;
        Ok(len)
    }

    /// Sends what a source gave, or a part of it, and returns how much; `None` if the client had
    /// to be waited for. Then the place is looked up again: a slow client must not keep a piece
    /// in memory that everybody else is done with.
    async fn send_next(
        &self,
        source: &dyn Source,
        next: Next,
        last: bool,
    ) -> Result<Option<u64>, SendError> {
        match next {
            Next::Inline(inline) => {
                self.send(inline.as_slice(), !last).await?;
                Ok(Some(inline.as_slice().len() as u64))
            }
            Next::Memory { piece, start, end } => {
                let tried = self.timed(|| self.wire.send(self.fd(), &piece[start..end], false));
                drop(piece);
                self.settle(tried).await
            }
            Next::File { file, offset, len } => {
                let file = source
                    .file(file)
                    .map_err(|e| SendError::Source(e.to_string()))?;
                let (core, fd) = (&self.core, self.fd());
                let range = (offset, len);
                let tried = self.timed(|| self.wire.send_file(&core.buffer, fd, file, range));
                let tried = tried.map_err(|e| SendError::Source(e.to_string()))?;
                match self.settle(tried).await? {
                    Some(0) => Err(SendError::Source("a file is too short".into())),
                    other => Ok(other),
                }
            }
            Next::Failed(why) => Err(SendError::Source(why.to_string())),
            Next::End | Next::Wait => Err(SendError::Source("the archive ends too early".into())),
        }
    }

    /// What follows from one attempt to send: waits for room if there was none.
    async fn settle(&self, tried: io::Result<usize>) -> Result<Option<u64>, SendError> {
        match tried {
            Ok(sent) => {
                self.sent(sent as u64).await?;
                Ok(Some(sent as u64))
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable().await?;
                Ok(None)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(e) => Err(SendError::Left(e)),
        }
    }
}

/// Only to the end of the core's list of tasks. The epoll driver would say "ready" from memory anyway; it polls
/// between two rounds of tasks.
async fn give_way() {
    let mut first = true;
    poll_fn(|context| match std::mem::take(&mut first) {
        true => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
        false => Poll::Ready(()),
    })
    .await;
}

/// Whether `next` begins a run of framing bytes and short ranges of files, long enough to be
/// gathered. What is not a file's may not be gathered: only pages of files stay where they are.
fn is_framed(next: &Next, at: u64, until: u64) -> bool {
    let short = match next {
        Next::Inline(_) => true,
        Next::File { len, .. } => *len <= GATHERED_RANGE_BYTES_MAX,
        _ => false,
    };
    short && until.saturating_sub(at) >= GATHER_BYTES as u64 / 2
}
