//! The pace of those who read an archive that is kept nowhere.

use std::time::{Duration, Instant};

use crate::limits::{
    LIVE_ONLY_ALONE_MS, LIVE_ONLY_LOOK_MS, LIVE_ONLY_SLOW_BYTES_S, LIVE_ONLY_STEP_BYTES,
    LIVE_ONLY_STEP_MS, LIVE_ONLY_STEPS_AHEAD_MAX,
};

/// How fast a reader takes an archive, whatever part of it: bytes of linked packs count as well.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// It has until then to take [`LIVE_ONLY_STEP_BYTES`] from here on.
    until: Instant,
    step_at: u64,
    /// Since when its speed is looked at, and what it was before.
    since: Instant,
    look_at: u64,
    bytes_s: u64,
}

/// The times of a live-only archive; shorter ones in tests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) step: Duration,
    pub(super) look: Duration,
    pub(super) alone: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            step: Duration::from_millis(LIVE_ONLY_STEP_MS),
            look: Duration::from_millis(LIVE_ONLY_LOOK_MS),
            alone: Duration::from_millis(LIVE_ONLY_ALONE_MS),
        }
    }
}

impl Pace {
    /// Of a reader at `at`.
    pub(super) fn begin(at: u64, now: Instant, times: &Times) -> Pace {
        Pace {
            until: now + times.step,
            step_at: at,
            since: now,
            look_at: at,
            bytes_s: u64::MAX,
        }
    }

    /// Notes that it has come to `at`.
    pub(super) fn step(&mut self, at: u64, now: Instant, times: &Times) {
        let steps = at.saturating_sub(self.step_at) / LIVE_ONLY_STEP_BYTES;
        if steps > 0 {
            self.until = now + times.step * steps.min(LIVE_ONLY_STEPS_AHEAD_MAX) as u32;
            self.step_at = at;
        }
        if let Some(bytes_s) = self.look(at, now, times) {
            (self.since, self.look_at, self.bytes_s) = (now, at, bytes_s);
        }
    }

    /// When it is too slow, if it takes nothing more.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// Its speed since the last look, if that is long ago.
    fn look(&self, at: u64, now: Instant, times: &Times) -> Option<u64> {
        let past = now.saturating_duration_since(self.since);
        let taken = at.saturating_sub(self.look_at);
        let ms = past.as_millis().max(1) as u64;
        (past >= times.look).then(|| taken.saturating_mul(1000) / ms)
    }

    /// How fast it is, if that is so slow that others should not have to wait for it.
    pub(super) fn slow_bytes_s(&self, at: u64, now: Instant, times: &Times) -> Option<u64> {
        let bytes_s = self.look(at, now, times).unwrap_or(self.bytes_s);
        (bytes_s < LIVE_ONLY_SLOW_BYTES_S).then_some(bytes_s)
    }
}
