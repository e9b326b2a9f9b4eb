//! What is noted of a repository without its lock.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::early::Early;
use crate::io::clock::unix_ms;
use crate::limits::{ASKED_STEP_MS, COME_AGAIN_MS, IN_USE_MS};
use crate::mirror::Aside;

/// When somebody last asked for something of it, to [`ASKED_STEP_MS`]; when it became known, if nobody has.
#[derive(Debug)]
pub(crate) struct Asked {
    unix_ms: AtomicU64,
    by_somebody: AtomicBool,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            unix_ms: AtomicU64::new(unix_ms()),
            by_somebody: AtomicBool::new(false),
        }
    }
}

impl Asked {
    /// Somebody asks; whether it was not in use before. On a core: the line of memory is only written when
    /// there is news.
    pub(crate) fn note(&self) -> bool {
        let now = unix_ms();
        let was_idle = !self.within(IN_USE_MS);
        if was_idle || now.abs_diff(self.unix_ms()) >= ASKED_STEP_MS {
            self.unix_ms.store(now, Ordering::Relaxed);
            self.by_somebody.store(true, Ordering::Relaxed);
        }
        was_idle
    }

    /// The time.
    pub(crate) fn unix_ms(&self) -> u64 {
        self.unix_ms.load(Ordering::Relaxed)
    }

    /// Whether somebody has asked within so long.
    pub(crate) fn within(&self, ms: u64) -> bool {
        let is_asked = self.by_somebody.load(Ordering::Relaxed);
        // A clock that was ahead is none by which it is in use until then.
        is_asked && unix_ms().abs_diff(self.unix_ms()) < ms
    }

    /// Whether somebody has asked lately.
    pub(crate) fn is_in_use(&self) -> bool {
        self.within(IN_USE_MS)
    }
}

/// When its upstream was last looked at, or a look was asked for; 0 for never.
#[derive(Debug, Default)]
pub(crate) struct Looked(AtomicU64);

impl Looked {
    /// It is looked at, at this time.
    pub(crate) fn note(&self, unix_ms: u64) {
        self.0.fetch_max(unix_ms, Ordering::Relaxed);
    }

    /// How long ago that was.
    pub(crate) fn ago(&self) -> Duration {
        let last = self.0.load(Ordering::Relaxed);
        Duration::from_millis(unix_ms().saturating_sub(last))
    }

    /// Whether the last look is longer ago than this. If so the caller is the one who asks for the next.
    pub(crate) fn take_due(&self, interval: Duration) -> bool {
        let (now, last) = (unix_ms(), self.0.load(Ordering::Relaxed));
        let is_due = u128::from(now.saturating_sub(last)) >= interval.as_millis();
        let (order, at) = (Ordering::Relaxed, &self.0);
        is_due && at.compare_exchange(last, now, order, order).is_ok()
    }
}

/// What lies outside of the mirror's packs and is known not to be needed.
#[derive(Debug, Default)]
pub(crate) struct KnownAside(Mutex<Arc<Aside>>);

impl KnownAside {
    /// What is known.
    pub(crate) fn get(&self) -> Arc<Aside> {
        let aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        aside.clone()
    }

    /// Notes it.
    pub(crate) fn set(&self, now: Aside) {
        let mut aside = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *aside = Arc::new(now);
    }
}

/// What follows from what was seen of it.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    is_clonable: AtomicBool,
    /// 0 for none.
    too_large_bytes: AtomicU64,
    has_said_links: AtomicBool,
    /// What answers began before their archives.
    pub(super) early: Early,
    copies_in_vain: AtomicBool,
    /// What was found at the start was looked at for what may not be served.
    is_swept: AtomicBool,
    /// What another server has shared was begun to be served and could not be had.
    has_broken_off: AtomicBool,
    /// Until when a first clone goes on though nobody waits for it; 0 for never.
    clone_wanted_until_unix_ms: AtomicU64,
}

impl Notes {
    /// A clone of its upstream is known to work: the mirror may go to make room.
    pub(crate) fn set_clonable(&self) {
        self.is_clonable.store(true, Ordering::Relaxed);
    }

    /// Whether it is: an operator may have put the mirror there because nothing else has it.
    pub(crate) fn is_clonable(&self) -> bool {
        self.is_clonable.load(Ordering::Relaxed)
    }

    /// Whether the snapshot, as it was built last, is too large to be kept, and how large.
    pub(crate) fn set_too_large(&self, bytes: Option<u64>) {
        let bytes = bytes.unwrap_or_default();
        self.too_large_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What was noted of that.
    pub(crate) fn too_large_bytes(&self) -> Option<u64> {
        let bytes = self.too_large_bytes.load(Ordering::Relaxed);
        (bytes > 0).then_some(bytes)
    }

    /// It is said that packs cannot be linked; whether it was before.
    pub(crate) fn say_links(&self) -> bool {
        self.has_said_links.swap(true, Ordering::Relaxed)
    }

    /// A first clone is wanted until then by somebody who does not wait for it.
    pub(crate) fn want_clone(&self, until_unix_ms: u64) {
        let wanted = &self.clone_wanted_until_unix_ms;
        wanted.fetch_max(until_unix_ms, Ordering::Relaxed);
    }

    /// The same by somebody who was told to come again.
    pub(crate) fn want_clone_soon(&self) {
        self.want_clone(unix_ms() + COME_AGAIN_MS);
    }

    /// Whether one is.
    pub(crate) fn is_clone_wanted(&self) -> bool {
        self.clone_wanted_until_unix_ms.load(Ordering::Relaxed) > unix_ms()
    }

    /// What another server has shared could not be had whole: the next snapshot is to be built here.
    pub(crate) fn set_broken_off(&self) {
        self.has_broken_off.store(true, Ordering::Relaxed);
    }

    /// Whether the next one is; the one after that can be had from there again.
    pub(crate) fn take_broken_off(&self) -> bool {
        self.has_broken_off.swap(false, Ordering::Relaxed)
    }

    /// The clone has ended.
    pub(crate) fn set_clone_over(&self) {
        self.clone_wanted_until_unix_ms.store(0, Ordering::Relaxed);
    }

    /// A pack was copied, and the copy could not take its place: none is copied again.
    pub(crate) fn set_copies_in_vain(&self) {
        self.copies_in_vain.store(true, Ordering::Relaxed);
    }

    /// Archives of an earlier process were looked at for what nobody may have any more; whether they were before.
    pub(crate) fn set_swept(&self) -> bool {
        self.is_swept.swap(true, Ordering::Relaxed)
    }

    /// Whether one was.
    pub(crate) fn copies_in_vain(&self) -> bool {
        self.copies_in_vain.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_ahead_keeps_nothing_in_use() {
        let asked = Asked::default();
        assert!(!asked.within(u64::MAX) && asked.note());
        asked
            .unix_ms
            .store(unix_ms() + 1_000_000_000, Ordering::Relaxed);
        assert!(!asked.is_in_use() && asked.within(u64::MAX));
        assert!(asked.note() && asked.is_in_use());
        // By less than it is in use for.
        asked
            .unix_ms
            .store(unix_ms() + IN_USE_MS / 2, Ordering::Relaxed);
        assert!(!asked.note() && asked.unix_ms() <= unix_ms());
    }
}
