//! Files of a target that nobody tracks and that a restore would take away, as it has something in
//! their places.
//!
//! Where one is a file and the other a directory it is looked for while the archive comes, when the
//! first name that has something in its way is known. All is when the tree is finished: only then is
//! it known which files it has, as it may be another commit's than the archive's.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::checkouts::Checkouts;
use super::error::{RestoreError, failed};
use super::local;
use super::path::{Place, as_path, place};
use super::stop::Stop;
use super::tracked::Tracked;
use super::write::stopped;
use crate::limits::{DOUBT_BYTES, DOUBTS_BYTES_MAX};

/// Why nothing is restored if the file at `path` of `target` is in the way.
pub(super) fn lost(target: &Path, path: &Path) -> RestoreError {
    let path = target.join(path);
    let why = "is not tracked and would be lost; move it away first, or have it go with \
               --discard-local";
    RestoreError::Usage(format!("{} {why}", path.display()))
}

/// One that is in the way if all of `from` is put to where `to` is, and is not `tracked` there; nor by
/// one of the submodules in `checkouts`, whose files go.
pub(super) fn find(
    from: &Path,
    to: &Path,
    tracked: &Tracked<'_>,
    checkouts: &mut Checkouts<'_>,
    stop: &Stop,
) -> Result<Option<PathBuf>, RestoreError> {
    let mut trees = Trees {
        from,
        to,
        checkouts,
        stop,
    };
    let mut doubts = Doubts::new(tracked, stop);
    doubts.knows_all = !local::is_split(&to.join(".git"));
    trees.conflict(Path::new(""), doubts)
}

/// What looks at each entry that comes.
pub(super) struct Watch<'t> {
    target: &'t Path,
    doubts: Doubts<'t>,
    /// So many doubts are decided at once: each time twice as many, as the whole index is read for
    /// them.
    decided_at: usize,
    /// Where the last entry was, and whether the target has that directory.
    parent: Vec<u8>,
    has_parent: bool,
}

impl<'t> Watch<'t> {
    /// Of what comes to `target`, where these files are `tracked`.
    pub(super) fn new(target: &'t Path, tracked: &'t Tracked<'t>, stop: &'t Stop) -> Watch<'t> {
        Watch {
            target,
            doubts: Doubts::new(tracked, stop),
            decided_at: 1,
            parent: Vec::new(),
            has_parent: true,
        }
    }

    /// An entry comes; an error if something is in its way.
    pub(super) fn comes(&mut self, path: &[u8], is_directory: bool) -> Result<(), RestoreError> {
        if place(path) != Place::Worktree {
            return Ok(());
        }
        let name_at = path.iter().rposition(|b| *b == b'/');
        let parent = name_at.map_or(&b""[..], |at| &path[..at]);
        let mut found = None;
        if parent != self.parent {
            self.parent = parent.to_owned();
            self.has_parent = true;
            // Those above it may come without entries of their own.
            let ends = parent.iter().enumerate().filter(|(_, b)| **b == b'/');
            let ends: Vec<usize> = ends.map(|(at, _)| at).chain([parent.len()]).collect();
            for end in ends.into_iter().filter(|end| *end > 0) {
                if found.is_none() && self.has_parent {
                    (self.has_parent, found) = self.look(&parent[..end], true)?;
                }
            }
        }
        if found.is_none() && self.has_parent {
            (_, found) = self.look(path, is_directory)?;
        }
        if found.is_none() && self.doubts.paths.len() >= self.decided_at {
            self.decided_at *= 2;
            found = self.doubts.decide()?;
        }
        match found {
            None => Ok(()),
            Some(found) => Err(lost(self.target, &found)),
        }
    }

    /// Whether the target has a directory at `path`, and what is in the way there of what comes.
    fn look(
        &mut self,
        path: &[u8],
        is_directory: bool,
    ) -> Result<(bool, Option<PathBuf>), RestoreError> {
        let at = as_path(path);
        let to = self.target.join(&at);
        match fs::symlink_metadata(&to) {
            Ok(there) => {
                let found = clash(&to, &at, is_directory, there.is_dir(), &mut self.doubts)?;
                Ok((there.is_dir(), found))
            }
            Err(e) if is_absent(&e) => Ok((false, None)),
            Err(e) => Err(RestoreError::disk("look at", to, e)),
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// What is in the way at `to`, which is there, of a directory or something else, if the two are of
/// different kinds.
fn clash(
    to: &Path,
    at: &Path,
    is_directory: bool,
    has_directory: bool,
    doubts: &mut Doubts<'_>,
) -> Result<Option<PathBuf>, RestoreError> {
    match (is_directory, has_directory) {
        (false, true) => all_below(to, at, doubts),
        (true, false) => doubts.add(at),
        _ => Ok(None),
    }
}

/// Files that must be tracked, or they would be lost. Whether they are is found out for many at a
/// time.
struct Doubts<'t> {
    /// Where the repository is that may track them.
    base: PathBuf,
    tracked: &'t Tracked<'t>,
    stop: &'t Stop,
    /// Whether a path that is not `tracked` is tracked nowhere else.
    knows_all: bool,
    paths: Vec<Vec<u8>>,
    held_bytes: usize,
}

impl<'t> Doubts<'t> {
    fn new(tracked: &'t Tracked<'t>, stop: &'t Stop) -> Doubts<'t> {
        Doubts {
            base: PathBuf::new(),
            tracked,
            stop,
            knows_all: false,
            paths: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Adds a path; perhaps gives one that is not tracked.
    fn add(&mut self, path: &Path) -> Result<Option<PathBuf>, RestoreError> {
        let path = path.strip_prefix(&self.base).unwrap_or(path);
        let path = path.as_os_str().as_bytes();
        self.held_bytes += path.len() + DOUBT_BYTES;
        self.paths.push(path.to_vec());
        match self.held_bytes > DOUBTS_BYTES_MAX {
            true => self.decide(),
            false => Ok(None),
        }
    }

    /// One of those that were added that is not tracked.
    fn decide(&mut self) -> Result<Option<PathBuf>, RestoreError> {
        self.held_bytes = 0;
        let mut paths = std::mem::take(&mut self.paths);
        paths.sort_unstable();
        let found = self.tracked.first_other(&paths);
        let found = found.map(|path| self.base.join(as_path(path)));
        // It may not have been looked for to the end.
        go_on(self.stop).map(|()| found)
    }
}

/// An error when the restore is to stop: a target may have any number of files.
pub(super) fn go_on(stop: &Stop) -> Result<(), RestoreError> {
    match stop.is_set() {
        true => Err(stopped()),
        false => Ok(()),
    }
}

/// A tree that comes and the target that it comes to.
struct Trees<'t, 's> {
    from: &'t Path,
    to: &'t Path,
    checkouts: &'t mut Checkouts<'s>,
    stop: &'t Stop,
}

impl Trees<'_, '_> {
    /// Looks for what is in the way below `at` in a repository that is checked out there.
    fn conflict(
        &mut self,
        at: &Path,
        mut doubts: Doubts<'_>,
    ) -> Result<Option<PathBuf>, RestoreError> {
        match self.below(at, &mut doubts)? {
            None => doubts.decide(),
            found => Ok(found),
        }
    }

    /// Gives what is in the way below `at`, or has `doubts` about it.
    fn below(
        &mut self,
        at: &Path,
        doubts: &mut Doubts<'_>,
    ) -> Result<Option<PathBuf>, RestoreError> {
        let from = self.from.join(at);
        for entry in fs::read_dir(&from).map_err(failed("read", &from))? {
            go_on(self.stop)?;
            let entry = entry.map_err(failed("read", &from))?;
            // That of the repository, or of a submodule's checkout, which goes with its files.
            let is_its_own = entry.file_name() == ".git" && at == doubts.base;
            if is_its_own {
                continue;
            }
            let at = at.join(entry.file_name());
            let to = self.to.join(&at);
            let there = match fs::symlink_metadata(&to) {
                Ok(there) => there,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(RestoreError::disk("look at", to, e)),
            };
            let kind = entry
                .file_type()
                .map_err(failed("look at", &entry.path()))?;
            let found = match (kind.is_dir(), there.is_dir()) {
                (true, true) => self.directory(&at, doubts)?,
                (false, false) if doubts.knows_all => doubts.add(&at)?,
                (comes, there) => clash(&to, &at, comes, there, doubts)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The same of a directory that may be a submodule's.
    fn directory(
        &mut self,
        at: &Path,
        doubts: &mut Doubts<'_>,
    ) -> Result<Option<PathBuf>, RestoreError> {
        let Some((git_dir, tracked)) = self.checkouts.at(at)? else {
            return self.below(at, doubts);
        };
        let mut inside = Doubts::new(&tracked, self.stop);
        inside.base = at.to_owned();
        inside.knows_all = !local::is_split(&self.to.join(git_dir));
        self.conflict(at, inside)
    }
}

/// Has `doubts` about everything below the directory `at` that is no directory.
fn all_below(
    directory: &Path,
    at: &Path,
    doubts: &mut Doubts<'_>,
) -> Result<Option<PathBuf>, RestoreError> {
    for entry in fs::read_dir(directory).map_err(failed("read", directory))? {
        go_on(doubts.stop)?;
        let entry = entry.map_err(failed("read", directory))?;
        let at = at.join(entry.file_name());
        let kind = entry
            .file_type()
            .map_err(failed("look at", &entry.path()))?;
        let found = match kind.is_dir() {
            true => all_below(&entry.path(), &at, doubts)?,
            false => doubts.add(&at)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}
