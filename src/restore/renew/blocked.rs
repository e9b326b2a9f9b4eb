//! What nobody tracks and is where files of the new commit come.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use super::changes::{Change, Changes};
use super::entries::Entries;
use crate::restore::error::{RestoreError, failed};
use crate::restore::path::as_path;
use crate::restore::run;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::SUBMODULE;

/// Finds it.
pub(super) struct Blocked<'b> {
    pub target: &'b Path,
    pub old: &'b Entries,
    pub changes: &'b Changes,
    pub stop: &'b Stop,
}

impl Blocked<'_> {
    /// The paths of all that is.
    pub(super) fn find(&self) -> Result<Vec<Vec<u8>>, RestoreError> {
        let mut found = Vec::new();
        for change in self.changes.iter().filter(|change| !change.is_there) {
            if self.stop.is_set() {
                return Err(stopped());
            }
            self.one(change, &mut found)?;
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// What is in the way of a new file.
    fn one(&self, change: &Change, found: &mut Vec<Vec<u8>>) -> Result<(), RestoreError> {
        let path = self.changes.path(change);
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        for end in slashes.map(|(at, _)| at) {
            let above = &path[..end];
            let Some(there) = self.look(above)? else {
                return Ok(());
            };
            if !there.is_dir() {
                // What is tracked goes before.
                if self.old.find(above).is_err() {
                    found.push(above.to_vec());
                }
                return Ok(());
            }
        }
        let is_submodule = change.new.is_some_and(|(mode, _)| mode == SUBMODULE);
        match self.look(path)? {
            None => Ok(()),
            Some(there) if there.is_dir() && is_submodule => Ok(()),
            Some(there) if there.is_dir() => self.below(path, found),
            Some(_) => {
                found.push(path.to_vec());
                Ok(())
            }
        }
    }

    fn look(&self, path: &[u8]) -> Result<Option<fs::Metadata>, RestoreError> {
        let path = self.target.join(as_path(path));
        match fs::symlink_metadata(&path) {
            Ok(found) => Ok(Some(found)),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(failed("look at", &path)(e)),
        }
    }

    /// What nobody tracks in a directory that has to make room.
    fn below(&self, directory: &[u8], found: &mut Vec<Vec<u8>>) -> Result<(), RestoreError> {
        let at = self.target.join(as_path(directory));
        for entry in fs::read_dir(&at).map_err(failed("read", &at))? {
            if self.stop.is_set() {
                return Err(stopped());
            }
            let entry = entry.map_err(failed("read", &at))?;
            let path = [directory, b"/", entry.file_name().as_bytes()].concat();
            let kind = entry
                .file_type()
                .map_err(failed("look at", &entry.path()))?;
            if kind.is_dir() {
                self.below(&path, found)?;
            } else if self.old.find(&path).is_err() {
                found.push(path);
            }
        }
        Ok(())
    }
}

/// Those of `paths` that git ignores in the working copy at `target`; `scratch` is the repository that it is asked with,
/// which has no files.
pub(super) fn ignored(
    paths: &[Vec<u8>],
    target: &Path,
    scratch: &Path,
    until: Instant,
    stop: &Stop,
) -> Result<BTreeSet<Vec<u8>>, RestoreError> {
    if paths.is_empty() {
        return Ok(BTreeSet::new());
    }
    let listed = || {
        let mut list = tempfile::tempfile()?;
        for path in paths {
            list.write_all(path)?;
            list.write_all(&[0])?;
        }
        io::Seek::rewind(&mut list)?;
        Ok(list)
    };
    let list = listed().map_err(|e: io::Error| RestoreError::disk("write", "a list", e))?;
    let args = ["check-ignore", "-z", "--stdin"];
    let said = run::of_files(stop, (scratch, target), until, list.into(), &args)?;
    Ok(said.split(|b| *b == 0).map(<[u8]>::to_vec).collect())
}
