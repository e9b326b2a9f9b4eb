//! Entries of a worktree whose turn it is: handed out while the walk that finds them goes on, and those first whose blobs
//! come first. What has not come yet is taken only once nothing else can be.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::stop::Stop;
use crate::limits::{
    COMING_LOOK_MS, INTERRUPT_POLL_MS, WORKTREE_ENTRIES_AT_ONCE, WORKTREE_ENTRIES_WAITING_MAX,
};
use crate::tree::decoder::Packs;
use crate::tree::rules::AttributeFiles;

/// Where the blob of an entry begins: in which pack, and at what byte of it.
pub(super) type BlobPlace = (usize, u64);

/// Entries that were found one after the other.
pub(super) struct Batch {
    /// As an index has them.
    pub bytes: Vec<u8>,
    /// At least those that say what becomes of them.
    pub attributes: Arc<AttributeFiles>,
}

/// One of them.
pub(super) struct Turn {
    pub batch: Arc<Batch>,
    pub range: Range<usize>,
}

impl Turn {
    pub(super) fn entry(&self) -> &[u8] {
        &self.batch.bytes[self.range.clone()]
    }
}

/// What is found and not taken yet, for all threads.
pub(super) struct Turns<'t> {
    /// Of packs that still come.
    coming: Option<&'t Packs>,
    stop: &'t Stop,
    state: Mutex<State>,
    changed: Condvar,
    /// There are fewer that wait.
    less: Condvar,
}

#[derive(Default)]
struct State {
    /// By their places, and in the order in which they were found.
    waiting: BTreeMap<(BlobPlace, u64), Turn>,
    found: u64,
    is_over: bool,
}

impl<'t> Turns<'t> {
    /// Of blobs in packs that are there, or still come.
    pub(super) fn new(coming: Option<&'t Packs>, stop: &'t Stop) -> Turns<'t> {
        Turns {
            coming,
            stop,
            state: Mutex::default(),
            changed: Condvar::new(),
            less: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries of a batch were found, with the places of their blobs, which count where those still come. Waits while there
    /// are many that nobody has taken.
    pub(super) fn add(&self, batch: &Arc<Batch>, entries: Vec<(Range<usize>, BlobPlace)>) {
        let mut state = self.lock();
        while state.waiting.len() > WORKTREE_ENTRIES_WAITING_MAX && !self.stop.is_set() {
            let poll = Duration::from_millis(INTERRUPT_POLL_MS);
            let woken = self.less.wait_timeout(state, poll);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        for (range, place) in entries {
            let number = state.found;
            state.found += 1;
            let place = self.coming.map_or((0, 0), |_| place);
            let batch = batch.clone();
            state.waiting.insert((place, number), Turn { batch, range });
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Nothing more is found.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    /// Takes some whose turn it is, neighbours as a rule; none once there are no more, or the restore ends.
    pub(super) fn take(&self, taken: &mut Vec<Turn>) {
        taken.clear();
        let mut state = self.lock();
        while !self.stop.is_set() {
            let is_over = state.is_over;
            while taken.len() < WORKTREE_ENTRIES_AT_ONCE
                && let Some(first) = state.waiting.first_entry()
                && (is_over || self.is_known(first.key().0))
            {
                taken.push(first.remove());
            }
            if !taken.is_empty() {
                drop(state);
                self.less.notify_one();
                return;
            }
            let next = state.waiting.first_key_value().map(|(key, _)| key.0);
            state = match (next, self.coming) {
                (None, _) if is_over => return,
                // One that is found meanwhile may come before it.
                (Some(place), Some(packs)) => {
                    drop(state);
                    packs.wait_for(place, Duration::from_millis(COMING_LOOK_MS));
                    self.lock()
                }
                _ => {
                    let woken = self.changed.wait(state);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Whether nobody waits who takes it.
    fn is_known(&self, place: BlobPlace) -> bool {
        self.coming.is_none_or(|packs| packs.is_known(place))
    }
}

/// Held by who finds entries: nobody waits for more once that has ended, however.
pub(super) struct Ends<'e, 't>(pub &'e Turns<'t>);

impl Drop for Ends<'_, '_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
