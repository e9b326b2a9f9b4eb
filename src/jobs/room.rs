//! What is known from one sweep to the next.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flights::Flights;
use crate::limits::{FULL_SWEEP_INTERVAL_MS, LEFT_NOTED_MAX, LEFT_NOTED_MS, NOTICE_CALM_MS};

/// Something that holds or not, as it is said: when it begins, and when it has not held for a while. What comes
/// and goes all the time has one line at its begin.
#[derive(Debug, Default)]
pub(super) struct Notice {
    /// While it is said to hold: when it last did.
    held: Option<Instant>,
}

/// What is to be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Begins,
    Ends,
}

impl Notice {
    /// Whether it holds `now`; what is to be said of that.
    pub(super) fn hear(&mut self, holds: bool, now: Instant) -> Option<News> {
        let calm = Duration::from_millis(NOTICE_CALM_MS);
        match (self.held, holds) {
            (before, true) => {
                self.held = Some(now);
                before.is_none().then_some(News::Begins)
            }
            (Some(held), false) if now.duration_since(held) >= calm => {
                self.held = None;
                Some(News::Ends)
            }
            (_, false) => None,
        }
    }
}

/// What was said, so that it is not said at each sweep.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// Too much stays whatever leaves.
    pub(super) stays: Notice,
    /// More than there may be is in use.
    pub(super) is_over: Notice,
    /// The floor cannot be reached.
    pub(super) is_below_floor: Notice,
    /// What has left is made again at once.
    pub(super) is_too_small: Notice,
}

/// Mirrors that have left lately.
#[derive(Debug, Default)]
pub(super) struct Left(VecDeque<(Arc<str>, Instant)>);

impl Left {
    /// One leaves.
    pub(super) fn note(&mut self, name: Arc<str>, now: Instant) {
        self.forget(now);
        self.0.truncate(LEFT_NOTED_MAX - 1);
        self.0.push_front((name, now));
    }

    /// One is cloned: how long ago it has left, if that is not long.
    pub(super) fn take(&mut self, name: &str, now: Instant) -> Option<Duration> {
        self.forget(now);
        let at = self.0.iter().position(|(left, _)| **left == *name)?;
        let (_, left) = self.0.remove(at)?;
        Some(now.duration_since(left))
    }

    fn forget(&mut self, now: Instant) {
        let noted = Duration::from_millis(LEFT_NOTED_MS);
        self.0.retain(|(_, left)| now.duration_since(*left) < noted);
    }
}

/// For what room is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Need {
    /// A snapshot that can be served without being kept.
    Keep,
    /// What cannot be done otherwise.
    Must,
}

/// A sweep for somebody who found the disk full.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoomMade {
    pub(super) at: Instant,
    pub(super) left_bytes: u64,
    pub(super) freed_bytes: u64,
}

impl RoomMade {
    /// Whether there may be another, now that so much is in use: the server itself has used half of what was
    /// freed, or it was long ago.
    pub(super) fn is_gone(&self, used_bytes: u64) -> bool {
        let is_used = used_bytes >= self.left_bytes + self.freed_bytes / 2;
        is_used || self.at.elapsed() >= Duration::from_millis(FULL_SWEEP_INTERVAL_MS)
    }
}

/// All of that.
#[derive(Default)]
pub(super) struct Room {
    /// Mirrors in which something has changed since the last sweep.
    pub(super) changed: RefCell<HashSet<PathBuf>>,
    /// Sweeps for those who find the disk full.
    pub(super) making: Flights<Need, ()>,
    /// The last of them that evicted something.
    pub(super) made: Cell<Option<RoomMade>>,
    /// What was said.
    pub(super) said: RefCell<Said>,
    /// Mirrors that have left lately.
    pub(super) left: RefCell<Left>,
}

/// How full the disk is, and with what of that.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fill {
    pub(super) free_bytes: u64,
    pub(super) in_use_bytes: u64,
    pub(super) limit_bytes: u64,
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [free, in_use, limit] = [self.free_bytes, self.in_use_bytes, self.limit_bytes].map(mib);
        write!(
            f,
            "{free} MiB free, tarpon has {in_use} of at most {limit} MiB there"
        )
    }
}

/// As a person reads it.
pub(super) fn mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that others fill and empty all the time gets one line, and one once it is calm.
    #[test]
    fn what_comes_and_goes_is_said_once() {
        let (mut notice, began) = (Notice::default(), Instant::now());
        let mut hear = |holds, ms| notice.hear(holds, began + Duration::from_millis(ms));
        assert_eq!(hear(false, 0), None);
        assert_eq!(hear(true, 1), Some(News::Begins));
        for round in 0..100 {
            assert_eq!(hear(round % 2 == 0, 2 + round), None);
        }
        assert_eq!(hear(false, 100 + NOTICE_CALM_MS - 1), None);
        assert_eq!(hear(false, 100 + NOTICE_CALM_MS), Some(News::Ends));
        assert_eq!(hear(false, 200 + NOTICE_CALM_MS), None);
        assert_eq!(hear(true, 300 + NOTICE_CALM_MS), Some(News::Begins));
    }

    #[test]
    fn what_has_left_is_remembered_for_a_while() {
        let (mut left, began) = (Left::default(), Instant::now());
        let at = |ms| began + Duration::from_millis(ms);
        for number in 0..=LEFT_NOTED_MAX {
            left.note(format!("h/{number}").into(), began);
        }
        assert_eq!(left.take("h/0", at(5)), None, "there are too many");
        assert_eq!(left.take("h/1", at(5)), Some(Duration::from_millis(5)));
        assert_eq!(left.take("h/1", at(5)), None);
        assert_eq!(left.take("h/2", at(LEFT_NOTED_MS)), None);
        assert!(left.0.is_empty());
    }
}
