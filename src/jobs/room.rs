//! What is known from one sweep to the next.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::flights::Flights;
use crate::limits::FULL_SWEEP_INTERVAL_MS;

/// What was said, so that it is not said at each sweep.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) is_over: bool,
    pub(super) is_below_floor: bool,
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
}
