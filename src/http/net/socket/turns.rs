//! How the connections of a core take turns. Counted are bytes, and the time that they have taken: what is sealed or
//! opened takes several times as long.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::{SendError, Socket};
use crate::limits::{BYTES_IN_NS, POLL_BYTES, TURN_BYTES};

impl Socket {
    /// Counts what the kernel has taken of a response.
    pub(super) async fn sent(&self, bytes: u64) -> Result<(), SendError> {
        self.sent_bytes.set(self.sent_bytes.get() + bytes);
        self.turn(bytes).await
    }

    /// Counts what one task sent without waiting, and lets the core's other tasks go on after
    /// a fair share: of bytes, or of the time that attempts to send have taken.
    pub(in super::super) async fn turn(&self, bytes: u64) -> Result<(), SendError> {
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
    pub(in super::super) async fn breathe(&self) {
        self.spent.take();
        match &self.core.pulse {
            Some(pulse) if pulse.is_late() => pulse.rest().await,
            _ => give_way().await,
        }
    }

    /// Lets the core's other tasks go on once a fair share of its time has gone by with what this one reads, which may
    /// be there for as long as its client likes.
    pub(super) async fn reading_turn(&self) {
        let work = (self.spent.get().as_nanos() as u64).saturating_mul(BYTES_IN_NS);
        if work < TURN_BYTES {
            return;
        }
        self.spent.take();
        let since_poll = &self.core.since_poll_bytes;
        since_poll.set(since_poll.get() + work);
        match &self.core.pulse {
            None if since_poll.get() >= POLL_BYTES => {
                // A timer, since there need be no room to send: as in `turn`.
                monoio::time::sleep(Duration::from_millis(1)).await;
                since_poll.set(0);
            }
            Some(pulse) if pulse.is_late() => pulse.rest().await,
            _ => give_way().await,
        }
    }

    /// Counts the time of one attempt.
    pub(super) fn timed<T>(&self, attempt: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = attempt();
        self.spent.set(self.spent.get() + began.elapsed());
        result
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
