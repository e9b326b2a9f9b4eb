//! The files of submodules in a working copy that is overwritten.
//!
//! A submodule whose repository is inside of the old one loses it with that ([`super::nested`]). What
//! it has checked out is then taken away as the files around it are: what its own index lists, and
//! its `.git`, a file that would lead nowhere: with one of these `git status` fails, and so does
//! `git submodule update`. What it does not track stays.
//!
//! All of it may be anybody's: where a `.git` leads is looked at as text, and only what is inside of
//! the old repository is read, as data.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::data::read;
use super::error::RestoreError;
use super::moves::Moves;
use super::path::as_path;
use super::stop::Stop;
use super::tracked::{Stale, Tracked};
use super::write::stopped;
use crate::limits::{
    GIT_FILE_BYTES_MAX, OLD_INDEX_BYTES_MAX, SUBMODULES_ENTRIES_MAX, SUBMODULES_MAX,
};

/// What a file says that is the `.git` of a submodule.
const LEADS_TO: &[u8] = b"gitdir: ";

/// Where a submodule is checked out, and its repository. Paths are relative to the target.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Checkout {
    path: PathBuf,
    git_dir: PathBuf,
}

/// Those of a target whose repositories go, each before those inside of it.
pub(super) struct Checkouts<'s> {
    target: &'s Path,
    stop: &'s Stop,
    found: Vec<Checkout>,
    paths: BTreeSet<PathBuf>,
    /// How many entries were looked at that say that they are submodules.
    looked: usize,
    /// So many bytes may all of their indexes have.
    left_bytes: u64,
}

impl<'s> Checkouts<'s> {
    /// Looks wherever the old or the new checkout of `target` has a submodule, and in what is found.
    pub(super) fn find(
        target: &'s Path,
        stale: &Stale<'s>,
        stop: &'s Stop,
    ) -> Result<Checkouts<'s>, RestoreError> {
        let mut checkouts = Checkouts {
            target,
            stop,
            found: Vec::new(),
            paths: BTreeSet::new(),
            looked: 0,
            left_bytes: OLD_INDEX_BYTES_MAX,
        };
        for tracked in [&stale.old, &stale.new] {
            checkouts.add_all(Path::new(""), tracked)?;
        }
        let mut next = 0;
        while let Some(checkout) = checkouts.found.get(next).cloned() {
            let tracked = checkouts.tracked(&checkout)?;
            checkouts.add_all(&checkout.path, &tracked)?;
            next += 1;
        }
        checkouts.left_bytes = OLD_INDEX_BYTES_MAX;
        Ok(checkouts)
    }

    /// The repository of the submodule that is checked out at `path`, if there is one, and what it
    /// tracks. To be asked once of each.
    pub(super) fn at(
        &mut self,
        path: &Path,
    ) -> Result<Option<(PathBuf, Tracked<'s>)>, RestoreError> {
        if !self.paths.contains(path) {
            return Ok(None);
        }
        let checkout = self.found.iter().find(|checkout| checkout.path == path);
        let Some(checkout) = checkout.cloned() else {
            return Ok(None);
        };
        let tracked = self.tracked(&checkout)?;
        Ok(Some((checkout.git_dir, tracked)))
    }

    /// Adds those of the repository that is checked out at `above`.
    fn add_all(&mut self, above: &Path, tracked: &Tracked<'_>) -> Result<(), RestoreError> {
        tracked.each_submodule(|path| {
            if self.stop.is_set() {
                return Err(stopped());
            }
            self.looked += 1;
            if self.looked > SUBMODULES_ENTRIES_MAX {
                return Err(self.too_many());
            }
            let path = above.join(as_path(path));
            let Some(git_dir) = self.leads_to(&path) else {
                return Ok(());
            };
            if !self.paths.insert(path.clone()) {
                return Ok(());
            }
            if self.found.len() >= SUBMODULES_MAX {
                return Err(self.too_many());
            }
            self.found.push(Checkout { path, git_dir });
            Ok(())
        })
    }

    fn too_many(&self) -> RestoreError {
        let target = self.target.display();
        RestoreError::Usage(format!(
            "{target} has more than {SUBMODULES_MAX} submodules"
        ))
    }

    /// Where in the old repository the `.git` of the submodule at `path` leads; `None` unless it is a
    /// file that leads there.
    fn leads_to(&self, path: &Path) -> Option<PathBuf> {
        if !self.is_directory(path) {
            return None;
        }
        let text = read(&self.target.join(path).join(".git"), GIT_FILE_BYTES_MAX).ok()?;
        let to = text.strip_prefix(LEADS_TO)?;
        let to = as_path(to.trim_ascii_end());
        let to = match to.is_absolute() {
            true => {
                let real = fs::canonicalize(self.target).ok()?;
                let inside = to.strip_prefix(self.target);
                inside.or_else(|_| to.strip_prefix(&real)).ok()?.to_owned()
            }
            false => path.join(to),
        };
        let to = resolved(&to)?;
        let is_inside = to.starts_with(".git") && to != Path::new(".git");
        is_inside.then_some(to)
    }

    /// Whether all on the way to `path`, and that itself, are directories and no links.
    fn is_directory(&self, path: &Path) -> bool {
        let plain = |c| matches!(c, Component::Normal(name) if name != ".git");
        path.components().all(plain) && is_directory(self.target, path)
    }

    /// What a submodule tracks; nothing where that cannot be told.
    fn tracked(&mut self, checkout: &Checkout) -> Result<Tracked<'s>, RestoreError> {
        if !is_directory(self.target, &checkout.git_dir) {
            return Ok(Tracked::none());
        }
        let index = self.target.join(&checkout.git_dir).join("index");
        let tracked = Tracked::of(&index, self.left_bytes, self.stop);
        let tracked = tracked.map_err(RestoreError::Usage)?;
        self.left_bytes = self.left_bytes.saturating_sub(tracked.bytes());
        Ok(tracked)
    }

    /// Takes away what all of them track, and their `.git`. Gives the directories of those of which
    /// something stays: what they do not track.
    pub(super) fn take_out(mut self, moves: &mut Moves<'_>) -> Result<Vec<PathBuf>, RestoreError> {
        self.left_bytes = OLD_INDEX_BYTES_MAX;
        let found = std::mem::take(&mut self.found);
        // Those inside first: then what is around them may be empty.
        for checkout in found.iter().rev() {
            self.tracked(checkout)?.each(|path| {
                if self.stop.is_set() {
                    return Err(stopped());
                }
                moves.take_out(&checkout.path.join(as_path(path)))
            })?;
            moves.take_away(&checkout.path.join(".git"))?;
            moves.remove_emptied(&checkout.path.join(".git"))?;
        }
        if self.stop.is_set() {
            return Err(stopped());
        }
        let stays = |checkout: &Checkout| {
            let path = checkout.path.clone();
            fs::symlink_metadata(self.target.join(&path)).map(|_| path)
        };
        Ok(found.iter().flat_map(stays).collect())
    }
}

/// Says where a submodule cannot be had again because of what stays in its directory, if there is any.
pub(super) fn left_over(left: &[PathBuf], stale: Option<&Stale<'_>>) -> Option<String> {
    let is_tracked = |path: &&PathBuf| {
        let path = [path.as_os_str().as_bytes().to_vec()];
        stale.is_some_and(|stale| stale.new.first_other(&path).is_none())
    };
    let left = left.iter().filter(is_tracked);
    let left: Vec<String> = left.map(|path| path.display().to_string()).collect();
    (!left.is_empty()).then(|| {
        format!(
            "what is not tracked stays in the directories of submodules: {}; git submodule \
             update --init clones only into empty ones",
            left.join(", ")
        )
    })
}

/// Whether all from `base` on the way to `path`, and that itself, are directories and no links.
fn is_directory(base: &Path, path: &Path) -> bool {
    let mut at = base.to_owned();
    path.components().all(|component| {
        at.push(component);
        fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir())
    })
}

/// `path` without `.` and `..`; `None` where it leads out.
fn resolved(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => found.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !found.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(found)
}
