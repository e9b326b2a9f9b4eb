//! Git's locks: a file beside what is changed, which whoever comes later finds there.
//!
//! A run that was killed leaves its own. They can be told from git's by what they say, and from those of a run that
//! goes on by the lock of the system that this one holds on them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::limits::LOCK_TRIES_MAX;
use crate::restore::error::{RestoreError, failed};

/// What is in them.
const SAYS: &[u8] = b"a tarpon restore brings this working copy to another commit\n";

/// A lock, which goes with its owner.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    /// Holds the lock of the system.
    file: File,
}

impl Lock {
    /// Takes the lock of the file at `path`; `scratch` is a path of ours, on the same file system.
    pub(super) fn take(path: &Path, scratch: &Path) -> Result<Lock, RestoreError> {
        Lock::try_take(path, scratch)?.map_err(|path| is_there(&path))
    }

    /// The same; where somebody else has it, it is that file.
    pub(super) fn try_take(
        path: &Path,
        scratch: &Path,
    ) -> Result<Result<Lock, PathBuf>, RestoreError> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        // It is there with what it says, or not at all.
        let mut file = File::create_new(scratch).map_err(failed("create", scratch))?;
        let written = file.write_all(SAYS);
        written.map_err(failed("write", scratch))?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|e| RestoreError::disk("lock", scratch, e))?;
        let mut linked = fs::hard_link(scratch, &path);
        for _ in 0..LOCK_TRIES_MAX {
            match &linked {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && remove_left(&path) => {
                    linked = fs::hard_link(scratch, &path);
                }
                _ => break,
            }
        }
        fs::remove_file(scratch).map_err(failed("remove", scratch))?;
        match linked {
            Ok(()) => Ok(Ok(Lock { path, file })),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Err(path)),
            Err(e) => Err(failed("create", &path)(e)),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // It may lie in a directory that has gone, and in its place somebody else's.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
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
    is_at(&file, path) && fs::remove_file(path).is_ok()
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Removes the locks that a run of ours has left below the directory of refs.
pub(super) fn sweep(refs: &Path) {
    for entry in fs::read_dir(refs).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => sweep(&path),
            Ok(kind) if kind.is_file() && path.extension().is_some_and(|end| end == "lock") => {
                remove_left(&path);
            }
            _ => {}
        }
    }
}
