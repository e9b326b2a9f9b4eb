//! The content of an answer that a child makes while it is sent: its first bytes, and the pipe with the
//! rest, which leaves it by way of no memory of ours. The child waits while the client does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Descriptor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use monoio::net::UnixStream;
use tokio::sync::oneshot;

use crate::io::{net, outlet};
use crate::limits::{
    CHUNK_BYTES_MAX, STREAM_GATHER_BYTES, STREAM_GATHER_FROM_BYTES, STREAM_GATHER_MS,
};

/// What a core sends.
pub(crate) struct Made {
    /// What was looked at before.
    pub(super) first: Vec<u8>,
    /// `None` if that is all.
    pub(super) rest: Option<OwnedFd>,
    pub(super) taking: Arc<Taking>,
    /// To be told when all of the rest is taken.
    pub(super) taken: Option<oneshot::Sender<()>>,
    /// How it has ended, after that.
    pub(super) ended: oneshot::Receiver<Result<(), Arc<str>>>,
    /// Ready when whoever makes it has waited enough for the client.
    pub(super) cut: Option<oneshot::Receiver<()>>,
}

/// The other end, of whoever sees to it that it is made.
pub(crate) struct Maker {
    taken: oneshot::Receiver<()>,
    ended: oneshot::Sender<Result<(), Arc<str>>>,
    cut: oneshot::Sender<()>,
}

/// The client has left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// An answer of `first` and what comes through `rest`. A maker that is dropped without a word is a
/// failure.
pub(crate) fn made(first: Vec<u8>, rest: Option<OwnedFd>, taking: Arc<Taking>) -> (Maker, Made) {
    let (tell_taken, taken) = oneshot::channel();
    let (tell_ended, ended) = oneshot::channel();
    let (tell_cut, cut) = oneshot::channel();
    let maker = Maker {
        taken,
        ended: tell_ended,
        cut: tell_cut,
    };
    let made = Made {
        first,
        rest,
        taking,
        taken: Some(tell_taken),
        ended,
        cut: Some(cut),
    };
    (maker, made)
}

impl Maker {
    /// Waits until all is taken. Asked once.
    pub(crate) async fn taken(&mut self) -> Result<(), Gone> {
        (&mut self.taken).await.map_err(|_| Gone)
    }

    /// It was all.
    pub(crate) fn end(self) {
        // Nobody hears it when the client has left.
        let _ = self.ended.send(Ok(()));
    }

    /// The rest cannot be had.
    pub(crate) fn fail(self, why: &str) {
        let _ = self.ended.send(Err(why.into()));
    }

    /// The answer is to end at once, whatever the client has not yet taken.
    pub(crate) fn cut(self) {
        let _ = self.cut.send(());
    }
}

/// How a client takes an answer: a core notes it, and who gave the turn reads it.
#[derive(Debug)]
pub(crate) struct Taking {
    /// Its clock begins anew with every so many.
    enough_bytes: u64,
    clock: Mutex<Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    /// Taken since the clock began.
    taken_bytes: u64,
    /// Time that something has waited to be taken.
    waited: Duration,
    /// Since when something waits now.
    waits_since: Option<Instant>,
}

impl Clock {
    fn waited(&self, now: Instant) -> Duration {
        let since = |since| now.saturating_duration_since(since);
        self.waited + self.waits_since.map(since).unwrap_or_default()
    }
}

impl Taking {
    /// Of nothing yet.
    pub(crate) fn new(enough_bytes: u64) -> Arc<Taking> {
        Arc::new(Taking {
            enough_bytes,
            clock: Mutex::default(),
        })
    }

    /// Something is there for the client to take.
    pub(crate) fn begin_wait(&self) {
        self.clock().waits_since = Some(Instant::now());
    }

    /// The client has taken something, and nothing waits.
    pub(crate) fn taken(&self, bytes: u64) {
        let mut clock = self.clock();
        clock.waited = clock.waited(Instant::now());
        clock.waits_since = None;
        clock.taken_bytes += bytes;
        if clock.taken_bytes >= self.enough_bytes {
            *clock = Clock::default();
        }
    }

    /// How long something has waited to be taken.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        self.clock().waited(now)
    }

    /// As if something had waited for so long.
    #[cfg(test)]
    pub(crate) fn set_waited(&self, waited: Duration) {
        self.clock().waited = waited;
    }

    /// Held for a few field accesses.
    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pipe with the rest, on a core.
pub(super) struct Outlet {
    /// No stream: of one, only what every descriptor has is used, that it can be waited for.
    pipe: UnixStream,
}

impl Outlet {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Outlet> {
        let pipe = UnixStream::from_std(Descriptor::from(pipe))?;
        Ok(Outlet { pipe })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        net::borrow(&self.pipe)
    }

    /// Waits for something, and gives how much there is; 0 at the end. `sent_bytes` were there before: of
    /// much, a moment's is sent at once, since git writes small pieces and each costs a wake-up.
    pub(super) async fn there_bytes(&self, sent_bytes: u64) -> io::Result<u64> {
        let pipe = self.fd();
        loop {
            let mut there = outlet::there_bytes(pipe.as_fd())?;
            if (1..STREAM_GATHER_BYTES).contains(&there) && sent_bytes >= STREAM_GATHER_FROM_BYTES {
                monoio::time::sleep(Duration::from_millis(STREAM_GATHER_MS)).await;
                there = outlet::there_bytes(pipe.as_fd())?;
            }
            if there > 0 {
                return Ok(there.min(CHUNK_BYTES_MAX));
            }
            if outlet::has_ended(pipe.as_fd())? {
                return Ok(0);
            }
            self.pipe.readable(false).await?;
        }
    }
}
