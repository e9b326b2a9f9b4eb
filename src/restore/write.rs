//! Writing entries below one directory, and never outside of it: every step from the root down
//! opens one name without following a symbolic link, and files are only ever created.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::RestoreError;

/// Files from this size on get their space before their data, so that a full disk shows early and
/// parts may be written in any order.
const PREALLOCATE_BYTES: u64 = 1 << 20;

/// An error for an entry: what its name alone can cause is the archive's fault, the rest the
/// disk's.
fn entry_error(op: &'static str, path: &[u8], error: impl Into<io::Error>) -> RestoreError {
    let error = error.into();
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    let why = match errno {
        Some(Errno::EXIST) => "there is already an entry of that name",
        Some(Errno::LOOP | Errno::NOTDIR) => {
            "its path leads through something that is no directory"
        }
        Some(Errno::ISDIR) => "there is a directory of that name",
        Some(Errno::NAMETOOLONG) => "its name is too long for this file system",
        Some(Errno::INVAL | Errno::ILSEQ) => "its name is not possible on this file system",
        _ => return RestoreError::disk(op, as_path(path), error),
    };
    RestoreError::entry(path, why)
}

pub(super) fn as_path(path: &[u8]) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(path)).to_owned()
}

/// Directory and last name of a path.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A thread's way to write entries.
///
/// Invariant: `directory` is the open directory at the path beside it.
pub struct Writer<'r> {
    root: BorrowedFd<'r>,
    directory: Option<(Vec<u8>, OwnedFd)>,
}

impl<'r> Writer<'r> {
    /// Writes below `root`.
    pub fn new(root: BorrowedFd<'r>) -> Writer<'r> {
        Writer {
            root,
            directory: None,
        }
    }

    /// The directory at `path`, made if it is not there.
    fn enter(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, RestoreError> {
        if self.directory.as_ref().is_none_or(|(open, _)| open != path) {
            let opened = self.open_directory(path);
            let opened = opened.map_err(|e| entry_error("make the directory", path, e))?;
            self.directory = Some((path.to_owned(), opened));
        }
        match &self.directory {
            Some((_, directory)) => Ok(directory.as_fd()),
            None => Ok(self.root),
        }
    }

    fn open_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let mut at = self.root.try_clone_to_owned().map_err(|_| Errno::MFILE)?;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            let opened = match rustix::fs::openat(&at, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                        // Another thread may have been faster.
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(e) => return Err(e),
                    }
                    rustix::fs::openat(&at, name, flags, Mode::empty())?
                }
                opened => opened?,
            };
            at = opened;
        }
        Ok(at)
    }

    /// Makes a directory.
    pub fn directory(&mut self, path: &[u8]) -> Result<(), RestoreError> {
        self.enter(path).map(|_| ())
    }

    /// Makes a symbolic link.
    pub fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), RestoreError> {
        let (directory, name) = split(path);
        let directory = self.enter(directory)?;
        rustix::fs::symlinkat(target, directory, name)
            .map_err(|e| entry_error("make the link", path, e))
    }

    /// Makes a file; the same modes as `git` gives.
    fn create(&mut self, path: &[u8], executable: bool) -> Result<File, RestoreError> {
        let (directory, name) = split(path);
        let directory = self.enter(directory)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        let file = rustix::fs::openat(directory, name, flags, mode);
        file.map(File::from)
            .map_err(|e| entry_error("create", path, e))
    }

    /// Writes a whole file.
    pub fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        mtime_s: i64,
        data: &[u8],
    ) -> Result<(), RestoreError> {
        let file = self.create(path, executable)?;
        io::Write::write_all(&mut &file, data).map_err(|e| entry_error("write", path, e))?;
        date(&file, path, mtime_s)
    }

    /// Begins a file that is written in parts.
    pub fn begin(
        &mut self,
        path: &[u8],
        executable: bool,
        mtime_s: i64,
        size: u64,
    ) -> Result<PartFile, RestoreError> {
        let file = self.create(path, executable)?;
        if size >= PREALLOCATE_BYTES {
            match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
                // Not every file system can.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(e) => return Err(entry_error("reserve space for", path, e)),
            }
        }
        Ok(PartFile {
            file,
            path: path.to_owned(),
            mtime_s,
            left: AtomicU64::new(size),
        })
    }
}

/// A file that is written in parts by several threads.
pub struct PartFile {
    file: File,
    path: Vec<u8>,
    mtime_s: i64,
    left: AtomicU64,
}

impl PartFile {
    /// Writes one part, the `len` bytes of `slices`; the last one to be written dates the file.
    pub fn write(
        &self,
        offset: u64,
        len: usize,
        slices: &mut [IoSlice<'_>],
    ) -> Result<(), RestoreError> {
        let written = write_all_at(&self.file, offset, slices);
        written.map_err(|e| entry_error("write", &self.path, e))?;
        let len = len as u64;
        match self.left.fetch_sub(len, Ordering::AcqRel) == len {
            true => date(&self.file, &self.path, self.mtime_s),
            false => Ok(()),
        }
    }
}

fn write_all_at(file: &File, mut offset: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => {
                IoSlice::advance_slices(&mut slices, len);
                offset += len as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Files are dated as the archive says: so they are older than the index, and a file that is
/// edited right after the restore differs from its entry.
fn date(file: &File, path: &[u8], mtime_s: i64) -> Result<(), RestoreError> {
    let time = Timespec {
        tv_sec: mtime_s,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(file, &times).map_err(|e| RestoreError::disk("date", as_path(path), e))
}
