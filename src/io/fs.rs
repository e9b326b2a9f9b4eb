//! The file system as the cache uses it: one small trait, so that the same code runs on the
//! disk ([`Os`]) and on one that fails on purpose (that of `tests/simulation`).

use std::fmt::Debug;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FlockOperation, RenameFlags, StatVfs};
use rustix::io::Errno;

use crate::limits::{TREE_REMOVE_ATTEMPTS, TREE_REMOVE_PAUSE_MS};

/// Removes a directory with all that is in it, in which processes may still work that were
/// killed, or whose parent was: what they make behind the back of the removal makes it fail, and
/// the next attempt finds it. They can make nothing more in a directory that is gone.
///
/// # Errors
/// Anything but a directory that was not there, or that somebody else removed meanwhile.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    for _ in 1..TREE_REMOVE_ATTEMPTS {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                std::thread::sleep(Duration::from_millis(TREE_REMOVE_PAUSE_MS));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => return removed,
        }
    }
    fs::remove_dir_all(path)
}

/// How git's index says that a file is `bytes` long: in 32 bits, but never 0 for one that is not
/// empty, which would say that nobody has looked at it yet (`munge_st_size` of git's `statinfo.c`).
pub fn index_size(bytes: u64) -> u32 {
    match bytes as u32 {
        0 if bytes > 0 => 1 << 31,
        low => low,
    }
}

/// What stands at a path, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Its length.
    pub bytes: u64,
    /// Names that it has.
    pub names: u64,
}

/// Kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// Anything else.
    Other,
}

/// The size of a file system, as df(1) counts it: what is reserved for root is neither of it nor free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Bytes that this process may still write.
    pub free_bytes: u64,
}

impl From<&StatVfs> for Space {
    fn from(found: &StatVfs) -> Space {
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let reserved = found.f_bfree.saturating_sub(found.f_bavail);
        Space {
            total_bytes: bytes(found.f_blocks.saturating_sub(reserved)),
            free_bytes: bytes(found.f_bavail),
        }
    }
}

/// Why a lock file could not be locked.
#[derive(Debug)]
pub enum LockError {
    /// Somebody holds it: a process with this id, if the file tells.
    Held { pid: Option<u32> },
    /// The file system failed.
    Io(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> LockError {
        LockError::Io(error)
    }
}

/// A file system. Each method is what the system call of its name is, unless it says otherwise;
/// nothing lasts beyond a power cut before it was synced: bytes by [`Fs::sync`] of their file,
/// names by [`Fs::sync`] of their directory.
pub trait Fs: Clone + Debug + Send + Sync + 'static {
    /// A file that is being written.
    type File: WriteAt;
    /// A lock, held until it is dropped.
    type Lock: Debug + Send + Sync;

    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a file; fails if the name is taken.
    fn create_new(&self, path: &Path) -> io::Result<Self::File>;
    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Does not follow a link.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Names in a directory, in any order. A name that is not UTF-8 is left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Gives the file at `source` the name `target` too; follows a link at `source`.
    fn link(&self, source: &Path, target: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Swaps what two names of one directory name; not every file system can.
    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory and all that is in it; after an error a part may be gone.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Syncs a file or directory.
    fn sync(&self, path: &Path) -> io::Result<()>;
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Locks the file at `path`, which is made if it is not there, and writes this process's
    /// id into it.
    fn lock(&self, path: &Path) -> Result<Self::Lock, LockError>;
}

/// A file that can be written anywhere.
pub trait WriteAt {
    /// Writes at least one byte of `bytes` (which are some) at `offset`; returns how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            let wrote = self.write_at(&bytes[written..], offset + written as u64);
            written += progress(wrote)?;
        }
        Ok(())
    }
}

/// Bytes that a write of some bytes has written; none when it was interrupted.
pub fn progress(wrote: io::Result<usize>) -> io::Result<usize> {
    match wrote {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}

/// The operating system's.
#[derive(Debug, Clone, Copy)]
pub struct Os;

/// A lock file, locked.
#[derive(Debug)]
pub struct LockFile(pub(crate) fs::File);

impl Drop for LockFile {
    fn drop(&mut self) {
        // Closing is not enough: a child between fork and exec has the descriptor too, and
        // with it the lock. The unlocking holds for all of them; it fails for no open file.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl WriteAt for fs::File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }
}

impl Fs for Os {
    type File = fs::File;
    type Lock = LockFile;

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn create_new(&self, path: &Path) -> io::Result<fs::File> {
        fs::File::create_new(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let stat = fs::symlink_metadata(path)?;
        Ok(Stat {
            kind: match stat.file_type() {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => Kind::Dir,
                _ => Kind::Other,
            },
            bytes: stat.len(),
            names: stat.nlink(),
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn link(&self, source: &Path, target: &Path) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            CWD,
            source,
            CWD,
            target,
            AtFlags::SYMLINK_FOLLOW,
        )?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, a: &Path, b: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(
            CWD,
            a,
            CWD,
            b,
            RenameFlags::EXCHANGE,
        )?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        remove_tree(path)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        Ok(Space::from(&rustix::fs::statvfs(path)?))
    }

    fn lock(&self, path: &Path) -> Result<LockFile, LockError> {
        let mut options = fs::File::options();
        // Not truncated: until the lock is ours the process id in it is somebody else's.
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                // The id only makes the message better.
                let _ = (&file).take(20).read_to_string(&mut text);
                let pid = text.trim().parse().ok();
                return Err(LockError::Held { pid });
            }
            Err(error) => return Err(LockError::Io(error.into())),
        }
        let mut lock = LockFile(file);
        lock.0.set_len(0)?;
        writeln!(lock.0, "{}", std::process::id())?;
        Ok(lock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_somebody_still_fills_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for _ in 0..20 {
            fs::create_dir(&tree).unwrap();
            std::thread::scope(|scope| {
                // As the orphan of a killed process does, until it ends.
                scope.spawn(|| {
                    for file in 0..2000 {
                        let _ = fs::write(tree.join(file.to_string()), "");
                    }
                });
                remove_tree(&tree).unwrap();
                assert!(!tree.exists());
            });
        }
        remove_tree(&tree).unwrap();
    }
}
