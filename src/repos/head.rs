//! The HEAD of a mirror.

use std::sync::Arc;
use std::time::Instant;

use gix::bstr::BString;

use super::error::StartError;
use crate::refs::{Head, MirrorRefs};

/// What the HEAD of a mirror is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct MirrorHead {
    /// Full name of the branch that it names; `None` if it is detached.
    pub branch: Option<BString>,
    /// The commit as lower-case hex; `None` when HEAD points nowhere.
    pub commit: Option<String>,
}

impl MirrorHead {
    /// The HEAD among a mirror's refs.
    pub(crate) fn of(refs: &MirrorRefs) -> MirrorHead {
        let branch = match &refs.head {
            Head::Symbolic(name) => Some(name.clone()),
            Head::Detached(_) => None,
        };
        MirrorHead {
            branch,
            commit: refs.head_id().map(|id| id.to_string()),
        }
    }
}

/// What is known of the mirror.
#[derive(Debug, Default)]
pub(super) enum Mirror {
    /// Nothing, or that it cannot be used.
    #[default]
    Unknown,
    /// The last clone failed.
    NotCloned {
        at: Instant,
        until: Instant,
        why: StartError,
    },
    /// It is kept like its upstream.
    Kept { head: Option<Arc<MirrorHead>> },
}
