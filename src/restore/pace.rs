//! Whether a body comes fast enough.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::limits::{PACE_BYTES, PACE_STALLS};

/// Whether enough of a body comes: less than a little, again and again, would never end. What it
/// takes to do something with what came is not counted.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    limit: Duration,
    /// Spent on waiting for `bytes`, since there was enough of them.
    spent: Duration,
    bytes: usize,
    /// Since when somebody waits.
    since: Option<Instant>,
    /// How often somebody has found a sign of life in what came, however small; and how often when
    /// it was last looked at.
    pub signs: Option<&'a AtomicU64>,
    seen: u64,
}

impl<'a> Pace<'a> {
    pub(super) fn new(stall: Duration) -> Pace<'a> {
        Pace {
            limit: stall.saturating_mul(PACE_STALLS),
            spent: Duration::ZERO,
            bytes: 0,
            since: None,
            signs: None,
            seen: 0,
        }
    }

    pub(super) fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The wait is over, and so much came.
    pub(super) fn end(&mut self, bytes: usize) {
        let since = self.since.take();
        self.spent += since.map_or(Duration::ZERO, |since| since.elapsed());
        self.bytes += bytes;
        let signs = self.signs.map_or(0, |signs| signs.load(Relaxed));
        if self.bytes >= PACE_BYTES || signs != self.seen {
            (self.spent, self.bytes, self.seen) = (Duration::ZERO, 0, signs);
        }
    }

    pub(super) fn go_on(&self) -> io::Result<()> {
        let waits = self.since.map(|since| since.elapsed() + self.spent);
        if waits.is_none_or(|waits| waits < self.limit) {
            return Ok(());
        }
        let (bytes, limit_s) = (self.bytes, self.limit.as_secs_f32());
        let what = format!("only {bytes} bytes came within {limit_s} s");
        Err(io::Error::new(io::ErrorKind::TimedOut, what))
    }
}
