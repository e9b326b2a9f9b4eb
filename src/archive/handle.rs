//! A reader's side of an archive: it joins, takes what stands at an offset, or waits at the frontier, and
//! leaves. Nothing here blocks for longer than a few list operations.

use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::fanout::Fanout;
use super::growth::{Reader, Status};
use super::pace::Pace;
use super::whole::Whole;
use crate::extent::Next;

impl Fanout {
    /// Registers a reader at wire offset `at`; `None` if bytes from there on are gone already
    /// (the spool failed and they were sent and dropped) or the archive failed.
    pub fn join(self: &Arc<Self>, at: u64) -> Option<ReaderHandle> {
        if self.whole.get().is_some() {
            return self.join_whole();
        }
        let mut shared = self.lock();
        if self.whole.get().is_some() {
            return self.join_whole();
        }
        if matches!(shared.status, Status::Failed(_)) || !shared.reachable_from(at) {
            return None;
        }
        let live_only = shared.spool_error.is_some();
        let times = shared.times;
        shared.alone = None;
        let reader = Some(Reader {
            at,
            waker: None,
            left_behind: false,
            pace: live_only.then(|| Pace::begin(at, Instant::now(), &times)),
        });
        let slot = match shared.readers.iter().position(Option::is_none) {
            Some(slot) => {
                shared.readers[slot] = reader;
                slot
            }
            None => {
                shared.readers.push(reader);
                shared.readers.len() - 1
            }
        };
        Some(ReaderHandle {
            fanout: self.clone(),
            slot: Some(slot),
        })
    }

    fn join_whole(self: &Arc<Self>) -> Option<ReaderHandle> {
        let is_entered = self.whole.get().is_some_and(Whole::enter);
        is_entered.then(|| ReaderHandle {
            fanout: self.clone(),
            slot: None,
        })
    }
}

/// A reader's place in an archive; leaving is dropping it.
#[derive(Debug)]
pub struct ReaderHandle {
    fanout: Arc<Fanout>,
    /// Among the readers of an archive that grows; `None` if it was whole already.
    slot: Option<usize>,
}

impl ReaderHandle {
    /// What stands at wire offset `at`, at most `max` bytes of it. On [`Next::Wait`], `waker` is
    /// called once something changes.
    pub fn next(&self, at: u64, max: u64, waker: &Waker) -> Next {
        if let Some(whole) = self.fanout.whole.get() {
            return whole.next(at, max);
        }
        let mut shared = self.fanout.lock();
        if let Some(whole) = self.fanout.whole.get() {
            return whole.next(at, max);
        }
        let mut next = shared.next(at, max);
        let live_only = shared.spool_error.is_some();
        let now = live_only.then(|| (Instant::now(), shared.times));
        if let Some(reader) = self.slot.and_then(|slot| shared.readers[slot].as_mut()) {
            if reader.left_behind {
                next = Next::Failed(Arc::from(
                    "the client is too slow for an archive that cannot be kept",
                ));
            }
            reader.at = at;
            if let (Some(pace), Some((now, times))) = (&mut reader.pace, now) {
                pace.step(at, now, &times);
            }
            if matches!(next, Next::Wait) {
                reader.waker = Some(waker.clone());
            }
        }
        drop(shared);
        if live_only {
            self.fanout.room.notify_all();
        }
        next
    }

    /// The archive.
    pub fn fanout(&self) -> &Arc<Fanout> {
        &self.fanout
    }
}

impl Drop for ReaderHandle {
    fn drop(&mut self) {
        let Some(slot) = self.slot else {
            if let Some(whole) = self.fanout.whole.get() {
                whole.leave();
            }
            return;
        };
        let mut shared = self.fanout.lock();
        shared.readers[slot] = None;
        if shared.spool_error.is_some() {
            shared.note_alone(Instant::now());
        }
        drop(shared);
        self.fanout.room.notify_all();
    }
}
