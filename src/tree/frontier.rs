//! A file that is read while it is written: how far it is there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How far a file is there, whose stretches come in any order.
#[derive(Debug, Default)]
pub(crate) struct Frontier {
    /// All before it is there.
    there: AtomicU64,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is there beyond that: where each stretch begins and ends.
    ahead: BTreeMap<u64, u64>,
    is_over: bool,
}

impl Frontier {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stretch is there, and will not change any more. One that begins where another began takes its place.
    pub(crate) fn came(&self, stretch: Range<u64>) {
        let mut state = self.lock();
        let known = state.ahead.entry(stretch.start).or_default();
        *known = stretch.end.max(*known);
        let before = self.there.load(Ordering::Relaxed);
        let mut there = before;
        while let Some((start, end)) = state
            .ahead
            .first_key_value()
            .map(|(start, end)| (*start, *end))
        {
            if start > there {
                break;
            }
            state.ahead.remove(&start);
            there = there.max(end);
        }
        if there == before {
            return;
        }
        // What was written before is seen by who sees this.
        self.there.store(there, Ordering::Release);
        drop(state);
        self.moved.notify_all();
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        self.lock().is_over = true;
        self.moved.notify_all();
    }

    /// Whether all before `end` is there.
    pub(crate) fn is_there(&self, end: u64) -> bool {
        self.there.load(Ordering::Acquire) >= end
    }

    /// Whether all before `end` is there, or never will be.
    pub(crate) fn is_known(&self, end: u64) -> bool {
        self.is_there(end) || self.lock().is_over
    }

    /// Waits for so long at most until all before `end` is there, or never will be.
    pub(crate) fn wait_for(&self, end: u64, time: Duration) {
        let is_awaited = |state: &mut State| !self.is_there(end) && !state.is_over;
        // Who holds it does not panic; if one did, it would be looked again.
        let _ = self.moved.wait_timeout_while(self.lock(), time, is_awaited);
    }

    /// Waits until all before `end` is there; `false` if it never will.
    pub(crate) fn wait(&self, end: u64) -> bool {
        if self.is_there(end) {
            return true;
        }
        let mut state = self.lock();
        while !self.is_there(end) {
            if state.is_over {
                return false;
            }
            state = self
                .moved
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_count_once_all_before_them_are_there() {
        let frontier = Frontier::default();
        let there = || frontier.there.load(Ordering::Relaxed);
        frontier.came(10..20);
        frontier.came(30..40);
        assert_eq!(there(), 0);
        frontier.came(0..5);
        assert_eq!(there(), 5);
        // It grows.
        frontier.came(5..7);
        frontier.came(5..10);
        assert_eq!(there(), 20);
        frontier.came(20..30);
        assert_eq!(there(), 40);
        assert!(frontier.wait(40));
        std::thread::scope(|scope| {
            let comes = scope.spawn(|| frontier.wait(50));
            let never = scope.spawn(|| frontier.wait(51));
            frontier.came(40..50);
            assert!(comes.join().unwrap());
            frontier.end();
            assert!(!never.join().unwrap());
        });
        assert!(frontier.wait(50) && !frontier.wait(51));
    }
}
