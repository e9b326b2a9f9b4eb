//! The refs of a repository as they were when it was looked at what would be lost with them: what goes afterwards is
//! exactly that.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};

use crate::limits::OLD_LOOSE_REFS_BYTES_MAX;
use crate::refs::{self, Head, Loose, RefsError, Stamp};
use crate::restore::error::RestoreError;
use crate::restore::kept;
use crate::restore::names::Names;
use crate::restore::nested;
use crate::restore::path::as_path;

/// What the upstream has is nobody's own.
const REMOTE: &[u8] = b"refs/remotes/";
/// Files of a repository, besides refs, that have what is nobody else's.
const FILES: [&str; 3] = ["packed-refs", "index", "logs/refs/stash"];

/// Why refs cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeldError {
    #[error("its refs cannot be read: {0}")]
    Refs(#[from] RefsError),
    #[error("its refs cannot be looked at: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Nested(String),
}

/// Those of one repository.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    head: Head,
    loose: BTreeMap<BString, Loose>,
    files: [Option<Stamp>; FILES.len()],
    /// The linked worktrees, which have a HEAD of their own.
    worktrees: Vec<PathBuf>,
}

impl Held {
    pub(super) fn read(git_dir: &Path) -> Result<Held, HeldError> {
        let mut files = [const { None }; FILES.len()];
        for (file, name) in files.iter_mut().zip(FILES) {
            *file = Stamp::at(&git_dir.join(name))?;
        }
        let mut loose = refs::read_loose_within(git_dir, OLD_LOOSE_REFS_BYTES_MAX)?;
        loose.retain(|name, _| !name.starts_with(REMOTE));
        Ok(Held {
            head: refs::read_head(git_dir)?,
            loose,
            files,
            worktrees: nested::worktrees(git_dir).map_err(HeldError::Nested)?,
        })
    }

    /// Refuses to update the working copy at `target` if they are not the same any more.
    pub(super) fn expect_same(&self, target: &Path, git_dir: &Path) -> Result<(), RestoreError> {
        let moved = match Held::read(git_dir) {
            Ok(now) => self.moved(&now),
            Err(why) => return Err(kept::not_told(target, why.to_string().into())),
        };
        match moved.is_empty() {
            true => Ok(()),
            false => Err(moved_meanwhile(target, &moved)),
        }
    }

    /// Names of what another look at the same repository has found there, or found otherwise.
    fn moved(&self, later: &Held) -> Names {
        let mut names = Names::default();
        if self.head != later.head {
            names.push("HEAD".into());
        }
        for (name, loose) in &later.loose {
            if self.loose.get(name) != Some(loose) {
                names.push(name.to_str_lossy().into_owned());
            }
        }
        // One that is gone has been packed, or is nobody's loss.
        for ((name, before), now) in FILES.iter().zip(&self.files).zip(&later.files) {
            if before != now {
                names.push((*name).into());
            }
        }
        for worktree in &later.worktrees {
            if !self.worktrees.contains(worktree) {
                names.push(format!("the linked worktree {}", worktree.display()));
            }
        }
        names
    }

    /// Whether the loose ref `name` was there and said the same.
    pub(super) fn has(&self, name: &[u8], now: &Loose) -> bool {
        name.starts_with(REMOTE) || self.loose.get(name.as_bstr()) == Some(now)
    }
}

/// What HEAD leads to, as its files say it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tip {
    head: Head,
    loose: Option<Loose>,
    /// Where its branch has no file of its own.
    packed: Option<Stamp>,
}

impl Tip {
    pub(super) fn read(git_dir: &Path) -> Result<Tip, HeldError> {
        let head = refs::read_head(git_dir)?;
        let loose = match &head {
            Head::Symbolic(name) => refs::read_loose_at(&git_dir.join(as_path(name)))?,
            Head::Detached(_) => None,
        };
        let packed = match (&head, &loose) {
            (Head::Symbolic(_), None) => Stamp::at(&git_dir.join("packed-refs"))?,
            _ => None,
        };
        Ok(Tip {
            head,
            loose,
            packed,
        })
    }

    /// The commit, where that is no branch's.
    pub(super) fn detached(&self) -> Option<ObjectId> {
        match self.head {
            Head::Detached(id) => Some(id),
            Head::Symbolic(_) => None,
        }
    }

    /// Refuses to update the working copy at `target` if it is not what it was.
    pub(super) fn expect_same(&self, target: &Path, git_dir: &Path) -> Result<(), RestoreError> {
        match Tip::read(git_dir) {
            Ok(now) if now == *self => Ok(()),
            Ok(_) => {
                let mut moved = Names::default();
                moved.push("HEAD".into());
                Err(moved_meanwhile(target, &moved))
            }
            Err(why) => Err(kept::not_told(target, why.to_string().into())),
        }
    }
}

fn moved_meanwhile(target: &Path, moved: &Names) -> RestoreError {
    RestoreError::Usage(format!(
        "{} is not updated: made or moved meanwhile: {moved}; the same command again looks at that",
        target.display()
    ))
}

/// A digest of those of a repository, and of all of the submodules inside of it: there may be many of both.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AllHeld(u64);

impl AllHeld {
    pub(super) fn read(git_dir: &Path) -> Result<AllHeld, HeldError> {
        let mut hasher = DefaultHasher::new();
        Held::read(git_dir)?.hash(&mut hasher);
        for one in nested::submodules(git_dir).map_err(HeldError::Nested)? {
            one.name.hash(&mut hasher);
            Held::read(&one.git_dir)?.hash(&mut hasher);
        }
        Ok(AllHeld(hasher.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_digest_of_all_tells_what_was_made_inside() {
        let directory = tempfile::tempdir().unwrap();
        let git_dir = directory.path();
        let id = "1".repeat(40);
        let write = |name: &str, text: &str| {
            let path = git_dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for inside in ["", "modules/a/", "modules/b/modules/c/"] {
            write(&format!("{inside}HEAD"), "ref: refs/heads/main\n");
            write(&format!("{inside}refs/heads/main"), &id);
        }
        write("modules/b/HEAD", &id);
        let mut seen = vec![AllHeld::read(git_dir).unwrap()];
        assert_eq!(size_of::<AllHeld>(), 8);
        assert_eq!(AllHeld::read(git_dir).unwrap(), seen[0]);
        for name in [
            "refs/tags/x",
            "modules/b/modules/c/refs/heads/x",
            "modules/a/packed-refs",
            "modules/b/index",
            "modules/d/HEAD",
        ] {
            write(name, &id);
            let now = AllHeld::read(git_dir).unwrap();
            assert!(!seen.contains(&now), "{name}");
            seen.push(now);
        }
    }
}
