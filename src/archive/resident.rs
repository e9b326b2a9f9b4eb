//! What of an archive was in memory a moment ago, so that not every reader has to ask.
//!
//! Asking the kernel costs a walk over all pages of a range, as much as a twentieth of sending
//! them. Pages that were all in memory, or were just read, will not be gone within
//! [`RESIDENT_TRUST_MS`]; if one is after all, a core waits for the disk once.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::limits::{READ_AHEAD_BYTES, RESIDENT_STRETCHES, RESIDENT_TRUST_MS};

/// See the module's text. An archive is looked at in stretches of [`READ_AHEAD_BYTES`] on the
/// wire; the newest of those that share a slot is remembered.
#[derive(Debug)]
pub(crate) struct Resident {
    began: Instant,
    /// Number of a stretch plus one in the upper half, when it was seen in ms since `began` in
    /// the lower; 0 for none.
    slots: Box<[AtomicU64]>,
}

impl Default for Resident {
    fn default() -> Resident {
        Resident {
            began: Instant::now(),
            slots: (0..RESIDENT_STRETCHES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// The stretch that wire offset `at` lies in.
pub(super) fn stretch(at: u64) -> Range<u64> {
    let start = at - at % READ_AHEAD_BYTES;
    start..start.saturating_add(READ_AHEAD_BYTES)
}

impl Resident {
    /// Whether the stretch around `at` was in memory a moment ago.
    pub(crate) fn was_seen(&self, at: u64) -> bool {
        let (slot, stretch) = self.slot(at);
        let seen = slot.load(Ordering::Relaxed);
        let age_ms = self.now_ms().wrapping_sub(seen as u32);
        seen >> 32 == stretch && u64::from(age_ms) < RESIDENT_TRUST_MS
    }

    /// The stretch around `at` is in memory.
    pub(crate) fn saw(&self, at: u64) {
        let (slot, stretch) = self.slot(at);
        let now_ms = u64::from(self.now_ms());
        slot.store(stretch << 32 | now_ms, Ordering::Relaxed);
    }

    /// The stretch around `at` is not.
    pub(crate) fn missed(&self, at: u64) {
        let (slot, stretch) = self.slot(at);
        // Another's may stand there.
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| {
            (seen >> 32 == stretch).then_some(0)
        });
    }

    fn slot(&self, at: u64) -> (&AtomicU64, u64) {
        let number = at / READ_AHEAD_BYTES;
        let slot = &self.slots[(number % RESIDENT_STRETCHES as u64) as usize];
        // Numbers wrap at 2^32 stretches, 32 PiB: no archive is as long.
        (slot, (number + 1) & u64::from(u32::MAX))
    }

    /// Wraps after 49 days; then something old may be trusted for a moment.
    fn now_ms(&self) -> u32 {
        self.began.elapsed().as_millis() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_seen_lately_counts() {
        let resident = Resident::default();
        assert!(!resident.was_seen(0));
        resident.saw(READ_AHEAD_BYTES + 5);
        assert!(resident.was_seen(READ_AHEAD_BYTES));
        assert!(resident.was_seen(2 * READ_AHEAD_BYTES - 1));
        assert!(!resident.was_seen(0));
        assert!(!resident.was_seen(2 * READ_AHEAD_BYTES));
        resident.missed(0);
        assert!(resident.was_seen(READ_AHEAD_BYTES));
        resident.missed(2 * READ_AHEAD_BYTES - 1);
        assert!(!resident.was_seen(READ_AHEAD_BYTES));
        resident.saw(READ_AHEAD_BYTES);
        // Another one in the same slot.
        let other = READ_AHEAD_BYTES * (1 + RESIDENT_STRETCHES as u64);
        assert!(!resident.was_seen(other));
        resident.saw(other);
        assert!(resident.was_seen(other) && !resident.was_seen(READ_AHEAD_BYTES));
        let (slot, stretch) = resident.slot(other);
        let old_ms = resident.now_ms().wrapping_sub(RESIDENT_TRUST_MS as u32);
        slot.store(stretch << 32 | u64::from(old_ms), Ordering::Relaxed);
        assert!(!resident.was_seen(other), "too long ago");
    }
}
