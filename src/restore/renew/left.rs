//! What a run that was killed may have left of files.

use gix::ObjectId;

use super::changes::Changes;
use super::goes::Goes;
use super::look::{Eye, Stays};
use crate::restore::error::RestoreError;
use crate::tree::rules::AttributeFiles;

/// What a run that was killed was on its way to.
pub(super) struct Left {
    /// `None` if it is the commit that is wanted now.
    pub changes: Option<Changes>,
    pub attributes: AttributeFiles,
}

impl Left {
    /// Its changes, where these lead to the commit that is wanted now.
    pub(super) fn changes<'c>(&'c self, wanted: &'c Changes) -> &'c Changes {
        self.changes.as_ref().unwrap_or(wanted)
    }
}

/// What is at `path`, if that is what a run that was killed may have left there, which it had to be the `same` as unless
/// it changed: what one of their commits has; nothing, where a file that it replaced may have been between two names.
pub(super) fn left_at(
    eyes: &mut [(Eye<'_>, &Changes)],
    path: &[u8],
    same: Option<(u32, ObjectId)>,
) -> Result<Option<Goes>, RestoreError> {
    for (eye, changes) in eyes {
        let change = changes.find(path);
        let expected = match change {
            Some(change) => change.new,
            None => same,
        };
        let Some(expected) = expected else {
            if eye.has_no_file(path)? {
                return Ok(Some(Goes::Left(None)));
            }
            continue;
        };
        if let Some(stat) = eye.is_of(path, expected)? {
            return Ok(Some(Goes::Left(Some(Stays::of(&stat)))));
        }
        if change.is_some() && eye.is_absent(path)? {
            return Ok(Some(Goes::Left(None)));
        }
    }
    Ok(None)
}
