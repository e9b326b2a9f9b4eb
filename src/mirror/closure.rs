//! Whether all that a commit leads to is in a mirror. What refs lead to always is; of what they have left,
//! something may have expired.

use std::path::Path;

use gix::ObjectId;

use super::blocking::blocking;
use super::error::MirrorError;
use super::files::loose_ids;
use super::git::Git;
use super::packs::{PackKind, packs};

/// What a mirror has of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// Refs lead to it.
    Reached,
    /// No ref does, and all of it is in packs.
    Left,
    /// Something of it is gone, or perhaps not in packs.
    Broken,
}

impl Git {
    /// What the mirror has of a commit that is there.
    ///
    /// # Errors
    /// The mirror cannot be read, or that takes too long.
    pub async fn closure(&self, mirror: &Path, id: ObjectId) -> Result<Closure, MirrorError> {
        let id = id.to_string();
        let args = ["rev-list", "--objects", "--count", &id, "--not", "--all"];
        let counted = self.output(self.local("git rev-list", mirror, args)).await;
        let out = match counted {
            Ok(out) => out,
            // It ends so at the first object that is missing.
            Err(MirrorError::Git { code: Some(_), .. }) => return Ok(Closure::Broken),
            Err(e) => return Err(e),
        };
        if out.trim_ascii() == b"0" {
            return Ok(Closure::Reached);
        }
        let at = mirror.to_owned();
        let has_aside = blocking(mirror, move || has_aside(&at)).await?;
        Ok(match has_aside {
            true => Closure::Broken,
            false => Closure::Left,
        })
    }

    /// Whether one commit leads to another, in any repository.
    ///
    /// # Errors
    /// It cannot be read, or that takes too long.
    pub(crate) async fn leads_to(
        &self,
        repository: &Path,
        tip: ObjectId,
        id: ObjectId,
    ) -> Result<bool, MirrorError> {
        let [tip, id] = [tip, id].map(|id| id.to_string());
        let args = ["rev-list", "--objects", "--count", &id, "--not", &tip];
        match self
            .output(self.local("git rev-list", repository, args))
            .await
        {
            Ok(out) => Ok(out.trim_ascii() == b"0"),
            // It is not there.
            Err(MirrorError::Git { code: Some(_), .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Whether there are loose objects or cruft packs, which are no part of a snapshot.
pub(super) fn has_aside(mirror: &Path) -> Result<bool, MirrorError> {
    let objects = mirror.join("objects");
    let failed = |source| MirrorError::io("list", &objects, source);
    let has_cruft = packs(&objects.join("pack"))
        .map_err(failed)?
        .iter()
        .any(|pack| pack.kind == PackKind::Cruft);
    Ok(has_cruft || !loose_ids(&objects).map_err(failed)?.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::testing::{Scratch, git, run as wait};

    #[test]
    fn what_refs_have_left_is_there_until_something_of_it_is_gone() {
        let scratch = Scratch::with_commit();
        let up = scratch.up();
        let tip = || ObjectId::from_hex(git(&up, &["rev-parse", "main"]).as_bytes()).unwrap();
        let first = tip();
        scratch.commit("main", "two");
        let second = tip();
        let closure = |id| wait(scratch.git.closure(&up, id)).unwrap();
        assert_eq!(closure(first), Closure::Reached);
        assert_eq!(closure(second), Closure::Reached);
        git(&up, &["update-ref", "refs/heads/main", &first.to_string()]);
        assert_eq!(closure(second), Closure::Broken, "it is loose");
        git(&up, &["update-ref", "refs/heads/main", &second.to_string()]);
        git(&up, &["repack", "-adq"]);
        git(&up, &["update-ref", "refs/heads/main", &first.to_string()]);
        assert_eq!(closure(second), Closure::Left);
        let absent = ObjectId::null(gix::hash::Kind::Sha1);
        assert_eq!(closure(absent), Closure::Broken);
    }
}
