//! What can be served of a repository, and of which state of its refs that is.

use std::sync::Arc;

use crate::archive::place::Archive;

/// What can be served.
#[derive(Debug, Default)]
pub(super) enum Snapshot {
    #[default]
    Vacant,
    Ready {
        archive: Arc<Archive>,
        /// The epoch when its build looked at the refs.
        shown: RefsEpoch,
        /// Whether the refs are known to be others than those that it shows, though no move was seen.
        is_outdated: bool,
    },
}

impl Snapshot {
    /// The archive, if there is one.
    pub(super) fn archive(&self) -> Option<&Arc<Archive>> {
        match self {
            Snapshot::Vacant => None,
            Snapshot::Ready { archive, .. } => Some(archive),
        }
    }

    /// Whether it is this one.
    pub(super) fn is(&self, other: &Arc<Archive>) -> bool {
        self.archive().is_some_and(|own| Arc::ptr_eq(own, other))
    }
}

/// Grows whenever the refs of a mirror move. A count, no time: clocks are set back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RefsEpoch(u64);

impl RefsEpoch {
    /// They have moved.
    pub(super) fn advance(&mut self) {
        self.0 += 1;
    }
}
