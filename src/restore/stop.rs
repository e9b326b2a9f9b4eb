//! Whether a restore is to end early: one flag that every thread looks at.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::error::RestoreError;

/// Set once by a signal, or by the thread whose step failed.
#[derive(Debug, Default)]
pub struct Stop {
    set: AtomicBool,
    signal: OnceLock<&'static str>,
    /// How many working copies are being changed, or have been.
    changed: AtomicUsize,
}

impl Stop {
    /// Ends the work because a step failed.
    pub fn set(&self) {
        self.set.store(true, Relaxed);
    }

    /// Ends the work because of a signal.
    pub fn interrupt(&self, signal: &'static str) {
        let _ = self.signal.set(signal);
        self.set();
    }

    /// Whether the work is to end.
    pub fn is_set(&self) -> bool {
        self.set.load(Relaxed)
    }

    /// The signal that ends it.
    pub fn signal(&self) -> Option<&'static str> {
        self.signal.get().copied()
    }

    /// From here on something that was there changes.
    pub(super) fn changes(&self) {
        self.changed.fetch_add(1, Relaxed);
    }

    /// All of that is as it was before.
    pub(super) fn changes_no_more(&self) {
        self.changed.fetch_sub(1, Relaxed);
    }

    /// Why the work ended, if that was a signal.
    pub(super) fn interrupted(&self) -> Option<RestoreError> {
        let has_changed = self.changed.load(Relaxed) > 0;
        self.signal().map(|signal| RestoreError::Interrupted {
            signal,
            has_changed,
        })
    }

    /// Lets the work begin again after a failed step; not after a signal.
    pub fn clear(&self) {
        self.set.store(false, Relaxed);
        if self.signal().is_some() {
            self.set();
        }
    }
}
