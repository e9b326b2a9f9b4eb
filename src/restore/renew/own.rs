//! What of a working copy's refs nobody else has.
//!
//! Somebody else's is what the upstream's refs lead to, the last restore's commit, and what a run that was killed was on its
//! way to; of a submodule also what was fetched last, which is how git comes by a commit that no branch has. A detached HEAD
//! is so, too, if the server gives its commit by its id: a superproject may record it, and none of its refs lead there any
//! more. What was recorded and never pushed is not. The server's word for that is not enough: it gives the commit's bytes,
//! which nobody has who was never given them.

use gix::ObjectId;
use gix::objs::Kind;

use super::held::Held;
use super::news;
use super::note::Way;
use super::plan::Before;
use super::scratch;
use crate::limits::REFS_LOOKED_MAX;
use crate::restore::ensure;
use crate::restore::error::RestoreError;
use crate::restore::kept;
use crate::restore::link::Link;
use crate::restore::local::{self, Lost};
use crate::restore::objects::Objects;
use crate::restore::refs::Refs;
use crate::restore::run::Room;
use crate::restore::staging::Staging;
use crate::restore::steps;

/// Looks for it.
pub(super) struct Own<'o> {
    pub link: Link<'o>,
    pub staging: &'o Staging,
    pub before: &'o Before,
    pub room: Room<'o>,
    /// Whether it is a submodule.
    pub is_submodule: bool,
}

impl Own<'_> {
    /// What would be lost with the refs, once the upstream has `refs`; and which were looked at.
    pub(super) fn lost(&self, refs: &Refs<'_>) -> Result<(Lost, Held), RestoreError> {
        let (target, git_dir) = (self.staging.target(), &self.before.copy.git_dir);
        let not_told = |unseen| kept::not_told(target, unseen);
        let held = || Held::read(git_dir).map_err(|why| not_told(why.to_string().into()));
        let way = self.before.left.as_ref();
        let mut known = way.map(Way::ends).unwrap_or_default();
        if self.is_submodule {
            known.extend(local::fetched(git_dir));
        }
        let theirs = news::ids_of(refs)?;
        let look = |known: &[ObjectId]| {
            let known = (known, theirs.clone());
            kept::of_refs(self.link.stop, self.staging, git_dir, known).map_err(not_told)
        };
        let mut first = held()?;
        for _ in 0..REFS_LOOKED_MAX {
            let mut lost = look(&known)?;
            if let Some(id) = self.given(&lost, &known) {
                known.push(id);
                lost = look(&known)?;
            }
            let last = held()?;
            if first == last {
                return Ok((lost, last));
            }
            first = last;
        }
        Err(RestoreError::Usage(format!(
            "{} is not updated: its refs move all the time; wait until nobody works in it",
            target.display()
        )))
    }

    /// The commit of a detached HEAD, if commits would be `lost` and the server gives it.
    fn given(&self, lost: &Lost, known: &[ObjectId]) -> Option<ObjectId> {
        let head = self.before.tip.as_ref()?.detached()?;
        let is_asked = !lost.commits.is_empty() && !known.contains(&head);
        let has = || ensure::has(self.link, self.link.place, head);
        (is_asked && has() && self.comes(head)).then_some(head)
    }

    /// Whether a commit comes from the server into a repository that has nothing; what cannot be told does not.
    fn comes(&self, commit: ObjectId) -> bool {
        let tree = self.staging.old().join("given");
        let Room { quota, until, .. } = self.room;
        let room = Room {
            tree: &tree,
            quota,
            until,
        };
        let (link, hash) = (self.link, self.before.copy.hash());
        let came = scratch::fetch_commit(link, room, hash, commit)
            .and_then(|()| Objects::open(&tree, hash, link.stop)?.kind(commit));
        // Another detached HEAD may be asked for at the next look.
        let is_gone = steps::remove_dir_all(&tree).is_ok();
        matches!(came, Ok(Some(Kind::Commit))) && is_gone
    }
}
