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
        /// Whether who asks now is to have a newer one, which is being built.
        is_left: bool,
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

    /// What whoever asks now is answered from.
    pub(super) fn hit(&self) -> Option<&Arc<Archive>> {
        match self {
            Snapshot::Ready {
                archive,
                is_left: false,
                ..
            } => Some(archive),
            _ => None,
        }
    }

    /// Whether it shows what was before this epoch, or is known to show something else than there is.
    pub(super) fn is_stale(&self, epoch: RefsEpoch) -> bool {
        match self {
            Snapshot::Vacant => false,
            Snapshot::Ready {
                shown, is_outdated, ..
            } => *is_outdated || *shown < epoch,
        }
    }

    /// The epoch of the refs that it shows, unless these are known to be others.
    pub(super) fn known_epoch(&self) -> Option<RefsEpoch> {
        match self {
            Snapshot::Ready {
                shown,
                is_outdated: false,
                ..
            } => Some(*shown),
            _ => None,
        }
    }

    /// Whether it was built before this epoch.
    pub(super) fn is_before(&self, epoch: RefsEpoch) -> bool {
        matches!(self, Snapshot::Ready { shown, .. } if *shown < epoch)
    }

    /// The archive, if it shows this, which is what there is in this epoch, and was not built before `expired`:
    /// from here on it is as new as that.
    pub(super) fn renew(
        &mut self,
        now: &[u8; 32],
        epoch: RefsEpoch,
        expired: RefsEpoch,
    ) -> Option<Arc<Archive>> {
        match self {
            Snapshot::Ready {
                archive,
                shown,
                is_outdated,
                is_left,
            } if archive.shown == *now && *shown >= expired => {
                *shown = epoch.max(*shown);
                (*is_outdated, *is_left) = (false, false);
                Some(archive.clone())
            }
            _ => None,
        }
    }

    /// It is not as there is.
    pub(super) fn set_outdated(&mut self) {
        if let Snapshot::Ready { is_outdated, .. } = self {
            *is_outdated = true;
        }
    }

    /// Who asks from now on is to have another one.
    pub(super) fn leave(&mut self) {
        if let Snapshot::Ready { is_left, .. } = self {
            *is_left = true;
        }
    }

    /// Takes the archive away.
    pub(super) fn take(&mut self) -> Option<Arc<Archive>> {
        match std::mem::take(self) {
            Snapshot::Vacant => None,
            Snapshot::Ready { archive, .. } => Some(archive),
        }
    }

    /// The same archive in other files takes the place of this one, if it is that; whether it is.
    pub(super) fn replace_files(&mut self, other: &Arc<Archive>, now: Arc<Archive>) -> bool {
        match self {
            Snapshot::Ready { archive, .. } if Arc::ptr_eq(archive, other) => {
                *archive = now;
                true
            }
            _ => false,
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
    /// Which one it is.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// They have moved.
    pub(super) fn advance(&mut self) {
        self.0 += 1;
    }
}
