//! What nobody tracks and is where files of the new commit come.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gix::bstr::ByteSlice;

use super::changes::{Change, Changes};
use super::entries::Entries;
use super::refusal::{Overwrite, not_taken};
use crate::limits::IGNORED_ASKED_MS;
use crate::restore::error::{RestoreError, failed};
use crate::restore::path::as_path;
use crate::restore::run;
use crate::restore::stop::Stop;
use crate::restore::write::stopped;
use crate::tree::index::SUBMODULE;

/// What git reads in each directory above a path that it is asked about.
const IGNORES: &str = ".gitignore";
/// What every path can begin with.
const HERE: &[u8] = b"./";

/// Takes the path of something.
pub(super) type Each<'e> = &'e mut dyn FnMut(&[u8]) -> Result<(), RestoreError>;

/// Finds it.
pub(super) struct Blocked<'b> {
    pub target: &'b Path,
    pub old: &'b Entries,
    pub changes: &'b Changes,
    pub stop: &'b Stop,
}

impl Blocked<'_> {
    /// Names the path of each that is, most of them once, in no order.
    pub(super) fn each(&self, each: Each<'_>) -> Result<(), RestoreError> {
        let mut last = Vec::new();
        let mut once = |path: &[u8]| {
            // What is in the way of a directory is so for each of its files.
            if path == last {
                return Ok(());
            }
            last.clear();
            last.extend_from_slice(path);
            each(path)
        };
        for change in self.changes.iter().filter(|change| !change.is_there) {
            if self.stop.is_set() {
                return Err(stopped());
            }
            self.one(change, &mut once)?;
        }
        Ok(())
    }

    /// Whether a path leads into a repository by itself, of which only that knows what it has.
    pub(super) fn is_in_repository(&self, path: &[u8]) -> bool {
        let mut above = as_path(path);
        while above.pop() && !above.as_os_str().is_empty() {
            if fs::symlink_metadata(self.target.join(&above).join(".git")).is_ok() {
                return true;
            }
        }
        false
    }

    /// What is in the way of a new file.
    fn one(&self, change: &Change, each: Each<'_>) -> Result<(), RestoreError> {
        let path = self.changes.path(change);
        let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/');
        for end in slashes.map(|(at, _)| at) {
            let above = &path[..end];
            let Some(there) = self.look(above)? else {
                return Ok(());
            };
            if !there.is_dir() {
                // What is tracked goes before.
                return match self.old.find(above) {
                    Ok(_) => Ok(()),
                    Err(_) => each(above),
                };
            }
        }
        let is_submodule = change.new.is_some_and(|(mode, _)| mode == SUBMODULE);
        match self.look(path)? {
            None => Ok(()),
            Some(there) if there.is_dir() && is_submodule => Ok(()),
            Some(there) if there.is_dir() => self.below(path, each),
            Some(_) => each(path),
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
    fn below(&self, directory: &[u8], each: Each<'_>) -> Result<(), RestoreError> {
        let at = self.target.join(as_path(directory));
        for entry in fs::read_dir(&at).map_err(failed("read", &at))? {
            if self.stop.is_set() {
                return Err(stopped());
            }
            let entry = entry.map_err(failed("read", &at))?;
            let path = [directory, b"/", entry.file_name().as_bytes()].concat();
            if entry.file_name() == ".git" {
                // One name for all of it.
                each(&path)?;
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(failed("look at", &entry.path()))?;
            if kind.is_dir() {
                self.below(&path, each)?;
            } else if self.old.find(&path).is_err() {
                each(&path)?;
            }
        }
        Ok(())
    }
}

/// Refuses what git would read above one of `paths` if it is no file: a pipe that nobody writes to has no end.
fn expect_files<'p>(
    paths: impl Iterator<Item = &'p [u8]>,
    target: &Path,
) -> Result<(), RestoreError> {
    let mut looked_at = None;
    for path in paths {
        let above = path
            .rsplit_once_str("/")
            .map_or(&b""[..], |(above, _)| above);
        // They come in the order of a walk: most of them have the directory of the one before.
        if looked_at.replace(above) == Some(above) {
            continue;
        }
        for directory in as_path(above).ancestors() {
            let file = target.join(directory).join(IGNORES);
            let Ok(found) = fs::symlink_metadata(&file) else {
                continue;
            };
            // A link git does not follow.
            if !found.is_file() && !found.is_symlink() && !found.is_dir() {
                return Err(not_taken(
                    target,
                    (
                        format!("{} is no file", file.display()),
                        "remove it",
                        Overwrite::No,
                    ),
                ));
            }
        }
    }
    Ok(())
}

/// Tells of `paths`, each with a zero behind it, which git ignores in the working copy at `target`; `scratch` is the
/// repository that it is asked with, which has no files.
pub(super) fn ignored(
    paths: &[u8],
    (target, scratch): (&Path, &Path),
    until: Instant,
    stop: &Stop,
    mut each: impl FnMut(&[u8], bool) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    if paths.is_empty() {
        return Ok(());
    }
    let words = |text| <[u8]>::split(text, |b| *b == 0).filter(|word: &&[u8]| !word.is_empty());
    expect_files(words(paths), target)?;
    let until = until.min(Instant::now() + Duration::from_millis(IGNORED_ASKED_MS));
    let listed = || {
        let mut list = io::BufWriter::new(tempfile::tempfile()?);
        for path in words(paths) {
            // It reads patterns: what begins with a colon would be one.
            for part in [HERE, path, b"\0"] {
                list.write_all(part)?;
            }
        }
        let mut list = list.into_inner().map_err(io::IntoInnerError::into_error)?;
        io::Seek::rewind(&mut list)?;
        Ok(list)
    };
    let list = listed().map_err(|e: io::Error| RestoreError::disk("write", "a list", e))?;
    let args = ["check-ignore", "-z", "--stdin"];
    let said = run::of_files(stop, (scratch, target), until, list.into(), &args)?;
    // They come in the order in which they were asked about.
    let said = words(&said).map(|path| path.strip_prefix(HERE).unwrap_or(path));
    let mut said = said.peekable();
    words(paths).try_for_each(|path| each(path, said.next_if_eq(&path).is_some()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Git would ask about another file.
    #[test]
    fn names_are_no_patterns() {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new("git")
            .args(["init", "--quiet"])
            .arg(directory.path())
            .status();
        assert!(made.unwrap().success());
        fs::write(directory.path().join(".gitignore"), "core\n*.o\n").unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let mut ignored = Vec::new();
        let at = (directory.path(), directory.path());
        let asked = b":core\0core\0:!x\0a/[x].o\0";
        super::ignored(asked, at, until, &Stop::default(), |path, is_ignored| {
            ignored.push((String::from_utf8_lossy(path).into_owned(), is_ignored));
            Ok(())
        })
        .unwrap();
        let expected = [
            (":core", false),
            ("core", true),
            (":!x", false),
            ("a/[x].o", true),
        ];
        assert_eq!(
            ignored,
            expected.map(|(path, is_ignored)| (path.to_owned(), is_ignored))
        );
    }
}
