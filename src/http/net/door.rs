//! The door: how many connections there may be, which of them make room, and the memory that the bodies
//! of their requests share. One for all cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::bodies::Bodies;
use super::idle::IdleCores;
use crate::limits::CONNECTIONS_SPARE_PERCENT;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Door {
    /// Open connections of all cores.
    pub admission: Admission,
    /// Those of them that wait for their client.
    pub idle: Arc<IdleCores>,
    /// Memory for request bodies.
    pub bodies: Arc<Bodies>,
}

impl Door {
    /// For so many connections of so many cores. Whoever does not take enough of its response in the
    /// time `slow` may have to make room.
    pub(crate) fn new(connections_max: usize, cores: usize, slow: Duration) -> Door {
        Door {
            admission: Admission::new(connections_max),
            idle: IdleCores::new(cores, slow, connections_max),
            bodies: Bodies::new(),
        }
    }
}

/// A bounded number of connections.
#[derive(Debug)]
pub(crate) struct Admission {
    open: AtomicUsize,
    max: usize,
}

/// What became of a connection at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It was counted in.
    Entered,
    /// Others were told to end; when they have done so there is a place.
    Soon,
    /// None of the others can be told to.
    Full,
}

impl Admission {
    fn new(max: usize) -> Admission {
        Admission {
            open: AtomicUsize::new(0),
            max,
        }
    }

    /// The bound.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// How many more there may be for a moment, until one that was told to end has done so.
    pub(crate) fn spare(&self) -> usize {
        (self.max.saturating_mul(CONNECTIONS_SPARE_PERCENT) / 100).max(1)
    }

    /// Counts a connection in, unless there are too many and no other can be told to end.
    pub(crate) fn enter(&self, end_another: impl FnOnce() -> bool) -> Entry {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let most = self.max.saturating_add(self.spare());
        // Another is told so in any case: those before may not have been as many as there are over.
        let entry = match open < self.max || end_another() {
            true if open < most => Entry::Entered,
            true => Entry::Soon,
            false => Entry::Full,
        };
        if entry != Entry::Entered {
            self.leave();
        }
        entry
    }

    /// Counts a connection out.
    pub(crate) fn leave(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
