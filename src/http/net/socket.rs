//! A client's socket on a core: waits, and sends the bodies of responses.
//!
//! All waiting is for readiness, which loses no bytes when it is cut short; the system calls
//! themselves never block (see [`crate::io::net`]).

mod child;
mod ending;
mod sealed;
mod stream;
mod turns;
mod waits;
mod wire;

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;

use super::bodies::Bodies;
use super::client::Client;
use super::idle::{Idle, Member, Rank, Waiting};
use super::pulse::Pulse;
use super::tls::Opened;
use crate::config::Proxies;
use crate::io::gather::Buffer;
use crate::io::net;
use crate::io::pipe::Pipe;
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
            self.reading_turn().await;
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
            if left.is_zero() {
                // Where something is there already its wait would not end by time.
                return Err(io::ErrorKind::TimedOut.into());
            }
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
}
