//! Git's locks: a file beside what is changed, which whoever comes later finds there.
//!
//! A run that was killed leaves its own. They can be told from git's by what they say, and from those of a run that
//! goes on by the lock of the system that this one holds on them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::limits::{LOCK_NAMES_MAX, LOCK_TRIES_MAX};
use crate::restore::error::{RestoreError, failed};
use crate::restore::steps;

/// What is in them.
const SAYS: &[u8] = b"a tarpon restore brings this working copy to another commit\n";

/// Locks, which go with their owner. They are names of few files, of which this run holds the locks of the system: there
/// may be as many as branches.
#[derive(Debug)]
pub(super) struct Locks {
    /// A directory of ours, on the same file system.
    ours: PathBuf,
    files: Vec<File>,
    /// Names that the last of the files has.
    names: u32,
    /// What is locked, and not the names of the locks.
    taken: BTreeSet<PathBuf>,
    /// Directories that were made for locks, the last last.
    made: Vec<PathBuf>,
}

impl Locks {
    /// Has none; `ours` is an empty directory.
    pub(super) fn new(ours: PathBuf) -> Locks {
        Locks {
            ours,
            files: Vec::new(),
            names: 0,
            taken: BTreeSet::new(),
            made: Vec::new(),
        }
    }

    /// Takes the lock of the file at `path`, or refuses.
    pub(super) fn take(&mut self, path: &Path) -> Result<(), RestoreError> {
        match self.try_take(path)? {
            true => Ok(()),
            false => Err(is_there(&lock_of(path))),
        }
    }

    /// The same for a ref, whose directory may not be there; where that can be none nobody can lock it.
    pub(super) fn take_ref(&mut self, path: &Path) -> Result<(), RestoreError> {
        let mut missing = Vec::new();
        for above in path.ancestors().skip(1) {
            match fs::symlink_metadata(above) {
                Ok(found) if found.is_dir() => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => missing.push(above),
                // The ref that is there goes before.
                _ => return Ok(()),
            }
        }
        for above in missing.into_iter().rev() {
            match steps::create_dir(above) {
                Ok(()) => self.made.push(above.to_owned()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("create", above)(e)),
            }
        }
        self.take(path)
    }

    /// Takes it, unless somebody else has it; whether it is taken.
    pub(super) fn try_take(&mut self, path: &Path) -> Result<bool, RestoreError> {
        if self.taken.contains(path) {
            return Ok(true);
        }
        let (scratch, lock) = (self.scratch()?, lock_of(path));
        let mut linked = steps::hard_link(&scratch, &lock);
        for _ in 0..LOCK_TRIES_MAX {
            match &linked {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && remove_left(&lock) => {
                    linked = steps::hard_link(&scratch, &lock);
                }
                _ => break,
            }
        }
        match linked {
            Ok(()) => {
                self.names += 1;
                self.taken.insert(path.to_owned());
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(failed("create", &lock)(e)),
        }
    }

    /// A file of which there may be one more name: it is there with what it says, or not at all.
    fn scratch(&mut self) -> Result<PathBuf, RestoreError> {
        if self.names < LOCK_NAMES_MAX && !self.files.is_empty() {
            return Ok(self.ours.join(self.files.len().to_string()));
        }
        if self.files.is_empty() {
            steps::create_dir_all(&self.ours).map_err(failed("create", &self.ours))?;
        }
        let scratch = self.ours.join((self.files.len() + 1).to_string());
        let mut file = steps::create_new(&scratch).map_err(failed("create", &scratch))?;
        let written = file.write_all(SAYS);
        written.map_err(failed("write", &scratch))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| RestoreError::disk("lock", &scratch, e))?;
        self.files.push(file);
        self.names = 0;
        Ok(scratch)
    }

    /// Gives up the lock of what is at `path`, if it was taken.
    pub(super) fn release(&mut self, path: &Path) {
        if self.taken.remove(path) {
            self.remove(path);
        }
    }

    fn remove(&self, path: &Path) {
        let lock = lock_of(path);
        // It may lie in a directory that has gone, and in its place somebody else's.
        if self.files.iter().any(|file| is_at(file, &lock)) {
            let _ = steps::remove_file(lock);
        }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        self.taken.iter().for_each(|path| self.remove(path));
        // What has come into one keeps it.
        for made in self.made.iter().rev() {
            let _ = steps::remove_dir(made);
        }
    }
}

/// Where the lock of the file at `path` is.
fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn is_there(path: &Path) -> RestoreError {
    RestoreError::Usage(format!(
        "{} is there: a git works in that working copy, or was killed in it; wait for it, or remove that file",
        path.display()
    ))
}

/// Refuses where somebody holds a lock below the directory of refs; what a run of ours has left there goes.
pub(super) fn expect_none(refs: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(refs).map_err(failed("read", refs))? {
        let entry = entry.map_err(failed("read", refs))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed("look at", &path))?;
        if kind.is_dir() {
            expect_none(&path)?;
        } else if path.extension().is_some_and(|end| end == "lock") && !remove_left(&path) {
            return Err(is_there(&path));
        }
    }
    Ok(())
}

/// Removes a lock that a run of ours has left; whether it was one.
fn remove_left(path: &Path) -> bool {
    let mut options = File::options();
    let options = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Ok(mut file) = options.open(path) else {
        return false;
    };
    let mut said = Vec::new();
    let read = (&mut file)
        .take(SAYS.len() as u64 + 1)
        .read_to_end(&mut said);
    if read.is_err() || said != SAYS {
        return false;
    }
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return false;
    }
    // Somebody else may have removed it and made his own.
    is_at(&file, path) && steps::remove_file(path).is_ok()
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Removes the locks that a run of ours has left in the repository at `git_dir`.
pub(super) fn sweep(git_dir: &Path) {
    sweep_in(git_dir, false);
    sweep_in(&git_dir.join("refs"), true);
}

fn sweep_in(directory: &Path, is_deep: bool) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && is_deep => sweep_in(&path, true),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|end| end == "lock") => {
                remove_left(&path);
            }
            _ => {}
        }
    }
}
