//! A submodule that is checked out in a working copy that is brought to another commit.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use super::changes::Changes;
use super::plan::Seen;
use crate::restore::path::as_path;
use crate::tree::index::SUBMODULE;

/// See the module's text.
pub(super) struct Checkout {
    /// Relative to the worktree around it.
    pub path: PathBuf,
    /// Relative to the repository around it.
    pub repository: PathBuf,
    /// What it tracks, of one that goes.
    pub seen: Option<Seen>,
}

impl Checkout {
    /// Whether it tracks what is at `path`, or that is what leads to its repository.
    pub(super) fn has(&self, path: &Path) -> bool {
        let Ok(inside) = path.strip_prefix(&self.path) else {
            return false;
        };
        let inside = inside.as_os_str().as_bytes();
        let seen = self.seen.as_ref();
        inside == b".git" || seen.is_some_and(|seen| seen.entries.find(inside).is_ok())
    }

    /// Whether a file that was moved from `path` is the one that was found there; `None` if it does not track that.
    pub(super) fn has_found(&self, path: &Path, now: &Stat) -> Option<bool> {
        let inside = path.strip_prefix(&self.path).ok()?;
        let inside = inside.as_os_str().as_bytes();
        let Seen {
            entries, looked, ..
        } = self.seen.as_ref()?;
        match entries.find(inside) {
            Ok(number) => Some(looked.has_found(entries, number, now)),
            Err(_) => (inside == b".git").then_some(true),
        }
    }

    /// Whether files come where it goes, in it or in the place of a directory that it is in.
    pub(super) fn is_replaced(&self, changes: &Changes) -> bool {
        let mut comes = changes.iter().filter(|change| {
            let is_file = change.new.is_some_and(|(mode, _)| mode != SUBMODULE);
            let path = as_path(changes.path(change));
            is_file && (path.starts_with(&self.path) || self.path.starts_with(&path))
        });
        comes.next().is_some()
    }
}
