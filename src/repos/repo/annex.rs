//! What of a repository's snapshots is of its mirror's annex.

use std::collections::HashSet;
use std::sync::Arc;

use super::Repo;
use crate::archive::place::Archive;
use crate::manifest::want::{CommitId, Want};
use crate::repos::wants::Served;

impl Repo {
    /// Whether it is served as long as there is a snapshot of it. What the annex has is not once its upstream has
    /// to be asked again.
    pub(crate) fn may_serve(&self, want: &Want) -> bool {
        want.commit()
            .is_none_or(|commit| self.annex.may_serve(&commit))
    }

    /// Takes out the snapshots of these commits.
    pub(crate) fn take_commits(&self, commits: &HashSet<CommitId>) -> Vec<Arc<Archive>> {
        let mut state = self.lock();
        let is_one =
            |want: &Want, _: &Served| want.commit().is_some_and(|id| commits.contains(&id));
        state.wants.take_others(is_one)
    }
}
