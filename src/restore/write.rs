//! Writing entries below one directory, and never outside of it: every step from the root down
//! opens one name without following a symbolic link, and files are only ever created.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::RestoreError;
use super::packs::Running;
use super::path::{Place, place};
use crate::limits::{OPEN_DIRECTORIES_MAX, WRITE_BYTES};

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

/// The directory `name` in `parent`, made if it is not there; and whether it was made.
fn open_or_make(parent: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<(OwnedFd, bool)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            let is_made = match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => true,
                // Another thread may have been faster.
                Err(Errno::EXIST) => false,
                Err(e) => return Err(e),
            };
            let opened = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            Ok((opened, is_made))
        }
        opened => opened.map(|directory| (directory, false)),
    }
}

/// A thread's way to write entries.
///
/// Invariant: `open` are directories that lead to `path`, the last of them the one at `path`
/// itself: each the open one at the beginning of `path` of the length beside it.
pub struct Writer<'r> {
    root: BorrowedFd<'r>,
    path: Vec<u8>,
    open: Vec<(usize, OwnedFd)>,
    made: u64,
}

impl<'r> Writer<'r> {
    /// Writes below `root`.
    pub fn new(root: BorrowedFd<'r>) -> Writer<'r> {
        Writer {
            root,
            path: Vec::new(),
            open: Vec::new(),
            made: 0,
        }
    }

    /// How many directories of the worktree it has made.
    pub fn directories_made(&self) -> u64 {
        self.made
    }

    /// The directory at `path`, made if it is not there.
    fn enter(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, RestoreError> {
        if self.path != path {
            // Neighbours in an archive have most of their way in common.
            let leads = |len: &usize| {
                path.starts_with(&self.path[..*len]) && matches!(path.get(*len), None | Some(b'/'))
            };
            let kept = self.open.iter().take_while(|(len, _)| leads(len)).count();
            self.open.truncate(kept);
            self.path.clear();
            if let Err(e) = self.open_below(path) {
                self.open.clear();
                return Err(entry_error("make the directory", path, e));
            }
            self.path.extend_from_slice(path);
        }
        Ok(self.current())
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    /// Opens what `path` has below the directories that are open.
    fn open_below(&mut self, path: &[u8]) -> rustix::io::Result<()> {
        let mut at = self.open.last().map_or(0, |(len, _)| *len);
        while at < path.len() {
            let begin = at + usize::from(path[at] == b'/');
            let len = path[begin..].iter().position(|b| *b == b'/');
            at = len.map_or(path.len(), |len| begin + len);
            let (directory, is_made) = open_or_make(self.current(), &path[begin..at])?;
            self.made += u64::from(is_made && place(&path[..at]) == Place::Worktree);
            if self.open.len() == OPEN_DIRECTORIES_MAX {
                self.open.pop();
            }
            self.open.push((at, directory));
        }
        Ok(())
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
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
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
        write_all_at(&file, 0, data).map_err(|e| entry_error("write", path, e))?;
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
    /// Writes one part, all of `slices`; the last one to be written dates the file.
    pub fn write<'d>(
        &self,
        offset: u64,
        slices: impl Iterator<Item = &'d [u8]>,
    ) -> Result<(), RestoreError> {
        let mut len = 0;
        for slice in slices {
            let written = write_all_at(&self.file, offset + len, slice);
            written.map_err(|e| entry_error("write", &self.path, e))?;
            len += slice.len() as u64;
        }
        match self.left.fetch_sub(len, Ordering::AcqRel) == len {
            true => date(&self.file, &self.path, self.mtime_s),
            false => Ok(()),
        }
    }
}

impl PartFile {
    /// Adds a part that was written to the sum of the file.
    pub fn sum<'d>(
        &self,
        sum: &mut Running,
        offset: u64,
        slices: impl Iterator<Item = &'d [u8]>,
    ) -> Result<(), RestoreError> {
        let summed = sum.wrote(&self.file, offset, slices);
        summed.map_err(|e| entry_error("read", &self.path, e))
    }
}

/// Writes in pieces for which the kernel takes memory that was in use a moment ago. For one of a
/// megabyte it takes pages as large, which on a virtual machine may first have to be had back from
/// the host: the same pack then takes up to twice as long.
fn write_all_at(file: &File, mut offset: u64, data: &[u8]) -> io::Result<()> {
    for piece in data.chunks(WRITE_BYTES) {
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// See [`Dates`](super::dates::Dates).
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_land_where_their_paths_say_whatever_the_order() {
        let root = tempfile::tempdir().unwrap();
        let fd = File::open(root.path()).unwrap();
        let mut writer = Writer::new(fd.as_fd());
        let deep = vec!["d"; 3 * OPEN_DIRECTORIES_MAX].join("/");
        let directories = [
            "",
            "a",
            "a/b",
            "ab",
            "a/bc",
            "a/b/c",
            &deep,
            &deep[..9],
            "x",
        ];
        // Every way from one directory to another.
        let ways = directories.map(|from| directories.map(|to| [from, to]));
        for (number, directory) in ways.as_flattened().as_flattened().iter().enumerate() {
            let path = Path::new(directory).join(number.to_string());
            let bytes = path.as_os_str().as_bytes();
            writer.file(bytes, false, 0, bytes).unwrap();
            assert_eq!(std::fs::read(root.path().join(&path)).unwrap(), bytes);
            assert!(writer.open.len() <= OPEN_DIRECTORIES_MAX);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_leaves_the_writer_whole() {
        let root = tempfile::tempdir().unwrap();
        let fd = File::open(root.path()).unwrap();
        let mut writer = Writer::new(fd.as_fd());
        writer.file(b"a/b/c/file", false, 0, b"1").unwrap();
        let error = writer.directory(b"a/b/c/file/d").unwrap_err();
        assert!(error.to_string().contains("no directory"), "{error}");
        writer.file(b"a/b/c/second", false, 0, b"2").unwrap();
        assert_eq!(
            std::fs::read(root.path().join("a/b/c/second")).unwrap(),
            b"2"
        );
    }
}
