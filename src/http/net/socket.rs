//! A client's socket on a core: waits, and sends the bodies of responses.
//!
//! All waiting is for readiness, which loses no bytes when it is cut short; the system calls
//! themselves never block (see [`crate::io::net`]).

mod child;
mod waits;

use std::cell::{Cell, OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use monoio::net::TcpStream;

use super::bodies::Bodies;
use super::client::client_of;
use super::idle::{Idle, Member, Rank, Waiting};
use super::pulse::Pulse;
use crate::extent::{Next, Source};
use crate::http::wire::response::{CHUNK_END, LAST_CHUNK, chunk_head};
use crate::io::net;
use crate::io::pipe::Pipe;
use crate::limits::{
    CHUNK_BYTES_MAX, GATHER_BYTES, GATHERED_RANGE_BYTES_MAX, POLL_BYTES, ROOM_BYTES_MIN, TURN_BYTES,
};

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
    /// Bytes sent by all since the core last asked the kernel what else happened.
    since_poll_bytes: Cell<u64>,
    /// Those that wait.
    pub idle: Rc<Idle>,
    /// Those of them that were not admitted: to close one would make no room.
    pub turned_away: Rc<Idle>,
    /// Memory for what clients send.
    pub bodies: Arc<Bodies>,
}

impl CoreSockets {
    /// For a core that has a `pulse` if its runtime reports readiness through epoll.
    pub(crate) fn new(
        pulse: Option<Rc<Pulse>>,
        idle: Rc<Idle>,
        bodies: Arc<Bodies>,
    ) -> CoreSockets {
        let pipe = Pipe::new();
        if let Err(e) = &pipe {
            tracing::warn!("sending packs in single blocks, which is slower: no large pipe: {e}");
        }
        CoreSockets {
            pulse,
            pipe: pipe.ok().map(RefCell::new),
            since_poll_bytes: Cell::new(0),
            idle,
            turned_away: Idle::apart(),
            bodies,
        }
    }
}

/// See the module's text.
pub(crate) struct Socket {
    stream: TcpStream,
    stall: Duration,
    core: Rc<CoreSockets>,
    sent_in_turn: Cell<u64>,
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
    /// Takes over a connection that was accepted from `peer`, which waits among `idle`.
    pub(crate) fn new(
        stream: TcpStream,
        peer: IpAddr,
        stall: Duration,
        core: Rc<CoreSockets>,
        idle: &Rc<Idle>,
    ) -> io::Result<Socket> {
        let socket = Socket {
            stream,
            stall,
            core,
            sent_in_turn: Cell::new(0),
            sent_bytes: Cell::new(0),
            place: OnceCell::new(),
            taken_before_bytes: Cell::new(0),
            member: idle.member(client_of(peer)),
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
        loop {
            match self.receive_now(input, most) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => return other,
            }
            match monoio::time::timeout(limit, self.stream.readable(false)).await {
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(ready) => ready?,
            }
        }
    }

    /// By way of the stack: a connection that waits holds no buffer.
    fn receive_now(&self, input: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        let mut buffer = [0; INPUT_BYTES];
        let count = net::receive(self.fd(), &mut buffer[..most.min(INPUT_BYTES)])?;
        input.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Has the connection end in a reset.
    pub(crate) fn reset_on_close(&self) {
        // Fails only on a connection that is reset already.
        let _ = net::reset_on_close(self.fd());
    }

    /// Ends the sending side and reads what the client still sends, for a short while, so that
    /// a reset for unread data does not overtake the response.
    pub(crate) async fn linger(&self, limit: Duration) {
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
    /// a fair share.
    pub(super) async fn turn(&self, bytes: u64) -> Result<(), SendError> {
        let sent = self.sent_in_turn.get() + bytes;
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
        // Only to the end of the core's list of tasks. The epoll driver would say "ready" from
        // memory anyway; it polls between two rounds of tasks.
        let mut first = true;
        poll_fn(|context| match std::mem::take(&mut first) {
            true => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(Ok(())),
        })
        .await
    }

    /// Sends what is taken at once of `bytes`, and nothing behind it.
    pub(crate) fn send_last(&self, bytes: &[u8]) {
        // The connection ends whether the client takes this or not.
        let _ = net::send(self.fd(), bytes, false).and_then(|_| net::end_sending(self.fd()));
    }

    /// Sends all of `bytes`; `more` says that other bytes follow at once.
    pub(crate) async fn send(&self, mut bytes: &[u8], more: bool) -> Result<(), SendError> {
        while !bytes.is_empty() {
            match net::send(self.fd(), bytes, more) {
                Ok(sent) => {
                    bytes = &bytes[sent..];
                    self.sent(sent as u64).await?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.writable().await?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(SendError::Left(e)),
            }
        }
        Ok(())
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
                true => self.gather(source, at..until, end)?,
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
                let tried = net::send(self.fd(), &piece[start..end], false);
                drop(piece);
                self.settle(tried).await
            }
            Next::File { file, offset, len } => {
                let file = source
                    .file(file)
                    .map_err(|e| SendError::Source(e.to_string()))?;
                match self
                    .settle(net::send_file(self.fd(), file, offset, len))
                    .await?
                {
                    Some(0) => Err(SendError::Source("a file is too short".into())),
                    other => Ok(other),
                }
            }
            Next::Failed(why) => Err(SendError::Source(why.to_string())),
            Next::End | Next::Wait => Err(SendError::Source("the archive ends too early".into())),
        }
    }

    /// Sends what stands in `wire`, or the first part of it, through the core's pipe; gives what
    /// the socket said, or `None` without a pipe. An error of the source is the outer one.
    fn gather(
        &self,
        source: &mut dyn Source,
        wire: Range<u64>,
        end: Option<u64>,
    ) -> Result<Option<io::Result<usize>>, SendError> {
        let failed = |e: io::Error| SendError::Source(e.to_string());
        let mut pipe = self.core.pipe.as_ref().map(RefCell::borrow_mut);
        let Some(mut gathered) = pipe.as_mut().and_then(|pipe| pipe.gather()) else {
            return Ok(None);
        };
        // What the socket does not take would have been put into the pipe for nothing.
        let room = net::room_bytes(self.fd()).unwrap_or(u64::MAX);
        if room == 0 {
            return Ok(Some(Err(io::ErrorKind::WouldBlock.into())));
        }
        let until = wire
            .end
            .min(wire.start.saturating_add(room.max(ROOM_BYTES_MIN)));
        // Everything in `wire` is there already, so nobody has to be woken.
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let at = wire.start + gathered.bytes() as u64;
            if at >= until || !gathered.wants_more() {
                break;
            }
            let Poll::Ready(next) = source.poll_next(at, until - at, &mut context) else {
                break;
            };
            let put = match &next {
                Next::Inline(inline) => match inline.as_static() {
                    Some(bytes) => gathered.put_static(bytes),
                    None => gathered.put(inline.as_slice()),
                },
                Next::File { file, offset, len } => {
                    let file = source.file(*file).map_err(failed)?;
                    gathered.put_file(file, *offset, *len)
                }
                _ => break,
            };
            if (put.map_err(failed)? as u64) < next.wire_bytes() {
                break;
            }
        }
        let last = end == Some(wire.start + gathered.bytes() as u64);
        Ok(Some(gathered.send(self.fd(), !last)))
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
