//! What is known of a repository's upstream.

use std::time::Instant;

use super::error::StartError;

/// A comparison of the mirror with its upstream that succeeded, by two clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compared {
    pub(super) unix_ms: u64,
    pub(super) began: Instant,
}

/// What the last comparisons with the upstream have shown.
#[derive(Debug, Default)]
pub(super) enum Upstream {
    #[default]
    Unasked,
    /// The mirror is like it.
    Same(Compared),
    /// It could not be asked, after it was the same or at the first attempt.
    Failed {
        at: Instant,
        why: StartError,
        before: Option<Compared>,
    },
}

impl Upstream {
    /// The last comparison that succeeded.
    pub(super) fn last(&self) -> Option<Compared> {
        match self {
            Upstream::Unasked => None,
            Upstream::Same(compared) => Some(*compared),
            Upstream::Failed { before, .. } => *before,
        }
    }
}
