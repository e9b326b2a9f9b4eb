//! Writing entries below one directory, and never outside of it: every step from the root down
//! opens one name without following a symbolic link, and files are only ever created.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::error::RestoreError;
use super::path::{Place, as_path, place};
use super::quota::Quota;
use super::stop::Stop;
use crate::limits::{OPEN_DIRECTORIES_MAX, RESERVED_AHEAD_BYTES, WRITE_BYTES};

/// Files from this size on get their space before their data, so that a full disk shows early and
/// parts may be written in any order.
const PREALLOCATE_BYTES: u64 = 32 << 20;

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

/// The umask that the process began with.
static UMASK: OnceLock<Mode> = OnceLock::new();

/// From now on what this process and its children make has its owner's bits: directories must be
/// writable, and be removed when the restore fails. Files of an archive follow the user's umask all
/// the same. To be called before threads are started.
pub(super) fn own_directories() {
    UMASK.get_or_init(|| {
        let umask = rustix::process::umask(Mode::RWXU);
        rustix::process::umask(umask - Mode::RWXU);
        umask
    });
}

/// The umask that the process began with.
pub(super) fn umask() -> Mode {
    UMASK.get().copied().unwrap_or(Mode::empty())
}

/// Where entries go, and what bounds them. All threads share it.
#[derive(Clone, Copy)]
pub(super) struct Site<'r> {
    pub root: BorrowedFd<'r>,
    /// Bits that files do not get.
    pub umask: Mode,
    pub quota: &'r Quota,
    pub stop: &'r Stop,
}

/// What ends a step when the restore is to stop.
pub(super) fn stopped() -> RestoreError {
    RestoreError::Server("stopped".into())
}

/// A thread's way to write entries.
///
/// Invariant: `open` are directories that lead to `path`, the last of them the one at `path`
/// itself: each the open one at the beginning of `path` of the length beside it.
pub(super) struct Writer<'r> {
    site: Site<'r>,
    path: Vec<u8>,
    open: Vec<(usize, OwnedFd)>,
    written: Option<&'r Written>,
}

/// What writers have made of a worktree.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Files and links that are there, and directories.
    files: AtomicU64,
    directories: AtomicU64,
    /// Whether some of it is of a frame whose sum has not come, or of one that has none.
    is_unsummed: AtomicBool,
    has_unchecked: AtomicBool,
    /// How many entries those were that were handed over to be written.
    entries: AtomicU64,
    /// Whether somebody has left work out because of a stop.
    is_cut: AtomicBool,
    /// Files, wherever they are, that were begun and have not got their date yet.
    undated: Arc<AtomicU64>,
}

impl Written {
    /// A frame begins that is written as it comes.
    pub(super) fn frame_begins(&self) {
        self.is_unsummed.store(true, Ordering::Relaxed);
    }

    /// It has ended, and had the sum that it is to have.
    pub(super) fn frame_ends(&self) {
        self.is_unsummed.store(false, Ordering::Relaxed);
    }

    /// A frame comes that has no sum.
    pub(super) fn unchecked(&self) {
        self.has_unchecked.store(true, Ordering::Relaxed);
    }

    /// Whether a sum has spoken for all that was written.
    pub(super) fn is_sound(&self) -> bool {
        !self.is_unsummed.load(Ordering::Relaxed) && !self.has_unchecked.load(Ordering::Relaxed)
    }

    /// So many entries were written, or could not be.
    pub(super) fn took(&self, entries: usize) {
        self.entries.fetch_add(entries as u64, Ordering::Relaxed);
    }

    pub(super) fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Work was left out because of a stop. Whoever stops may do so when nobody else looks at it any more.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Nothing that writers were given to do was left out, and no file ends before its time: to be asked once they are done.
    pub(super) fn expect_whole(&self) -> Result<(), RestoreError> {
        let is_cut = self.is_cut.load(Ordering::Relaxed);
        match is_cut || self.undated.load(Ordering::Acquire) > 0 {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// So much is there before them.
    pub(super) fn beside(files: u64, directories: u64) -> Written {
        Written {
            files: files.into(),
            directories: directories.into(),
            ..Written::default()
        }
    }

    pub(super) fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    pub(super) fn directories(&self) -> u64 {
        self.directories.load(Ordering::Relaxed)
    }
}

impl<'r> Writer<'r> {
    /// Writes at `site`.
    pub(super) fn new(site: Site<'r>) -> Writer<'r> {
        Writer {
            site,
            path: Vec::new(),
            open: Vec::new(),
            written: None,
        }
    }

    /// The same, and counts what it makes.
    pub(super) fn counting(site: Site<'r>, written: &'r Written) -> Writer<'r> {
        Writer {
            written: Some(written),
            ..Writer::new(site)
        }
    }

    /// A file or link was made.
    fn made(&self, path: &[u8]) {
        if let Some(written) = self.written
            && place(path) == Place::Worktree
        {
            written.files.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The directory at `path`, made if it is not there.
    fn enter(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, RestoreError> {
        if self.site.stop.is_set() {
            return Err(stopped());
        }
        if self.path != path {
            // Neighbours in an archive have most of their way in common.
            let leads = |len: &usize| {
                path.starts_with(&self.path[..*len]) && matches!(path.get(*len), None | Some(b'/'))
            };
            let kept = self.open.iter().take_while(|(len, _)| leads(len)).count();
            self.open.truncate(kept);
            self.path.clear();
            let made = self.open_below(path);
            let made = made.map_err(|e| entry_error("make the directory", path, e));
            let counted = made.and_then(|made| self.count(made));
            if let Err(e) = counted {
                self.open.clear();
                return Err(e);
            }
            self.path.extend_from_slice(path);
        }
        Ok(self.current())
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open
            .last()
            .map_or(self.site.root, |(_, fd)| fd.as_fd())
    }

    /// Counts directories that were made.
    fn count(&self, made: u64) -> Result<(), RestoreError> {
        (0..made).try_for_each(|_| self.site.quota.take_entry(0))
    }

    /// Opens what `path` has below the directories that are open; how many were made for it.
    fn open_below(&mut self, path: &[u8]) -> rustix::io::Result<u64> {
        let mut made = 0;
        let mut at = self.open.last().map_or(0, |(len, _)| *len);
        while at < path.len() {
            let begin = at + usize::from(path[at] == b'/');
            let len = path[begin..].iter().position(|b| *b == b'/');
            at = len.map_or(path.len(), |len| begin + len);
            let (directory, is_made) = open_or_make(self.current(), &path[begin..at])?;
            made += u64::from(is_made);
            if let Some(written) = self.written
                && is_made
                && place(&path[..at]) == Place::Worktree
            {
                written.directories.fetch_add(1, Ordering::Relaxed);
            }
            if self.open.len() == OPEN_DIRECTORIES_MAX {
                self.open.pop();
            }
            self.open.push((at, directory));
        }
        Ok(made)
    }

    /// Makes a directory.
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<(), RestoreError> {
        self.enter(path).map(|_| ())
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<(), RestoreError> {
        let (directory, name) = split(path);
        let directory = self.enter(directory)?;
        rustix::fs::symlinkat(target, directory, name)
            .map_err(|e| entry_error("make the link", path, e))?;
        self.made(path);
        Ok(())
    }

    /// How large the file or link is that another writer has made at `path`, if it has made all of it: a file is dated once
    /// its last byte is written. One that is not whole is removed.
    pub(super) fn find(&mut self, path: &[u8], mtime_s: i64) -> Result<Option<u64>, RestoreError> {
        let (directory, name) = split(path);
        let directory = self.enter(directory)?;
        let found = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            found => found.map_err(|e| entry_error("look at", path, e))?,
        };
        // Both times are set: what a clock that is wrong, or a file system without fractions of seconds, dates so is made once
        // more.
        let is_dated = [
            (found.st_mtime, found.st_mtime_nsec),
            (found.st_atime, found.st_atime_nsec),
        ]
        .iter()
        .all(|(s, ns)| mtime_s == *s && *ns == 0);
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Symlink => Ok(Some(0)),
            FileType::RegularFile if is_dated => Ok(Some(found.st_size.cast_unsigned())),
            FileType::RegularFile => {
                let removed = rustix::fs::unlinkat(directory, name, AtFlags::empty());
                removed.map_err(|e| entry_error("remove", path, e))?;
                if let Some(written) = self.written {
                    written.files.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(None)
            }
            _ => Err(entry_error("create", path, Errno::EXIST)),
        }
    }

    /// Makes a file; the same modes as `git` gives.
    fn create(&mut self, path: &[u8], executable: bool) -> Result<File, RestoreError> {
        let (directory, name) = split(path);
        let umask = self.site.umask;
        let directory = self.enter(directory)?;
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        let file = rustix::fs::openat(directory, name, flags, mode - umask);
        let file = file.map_err(|e| entry_error("create", path, e))?;
        self.made(path);
        Ok(file.into())
    }

    /// Writes a whole file.
    pub(super) fn file(
        &mut self,
        path: &[u8],
        executable: bool,
        mtime_s: i64,
        data: &[u8],
    ) -> Result<(), RestoreError> {
        let file = self.create(path, executable)?;
        write_all_at(&file, path, 0, data, self.site.stop)?;
        date(&file, path, mtime_s)
    }

    /// Begins a file that is written in parts.
    pub(super) fn begin(
        &mut self,
        path: &[u8],
        executable: bool,
        mtime_s: i64,
        size: u64,
    ) -> Result<PartFile, RestoreError> {
        let file = PartFile {
            file: self.create(path, executable)?,
            path: path.to_owned(),
            mtime_s,
            size,
            reserved: AtomicU64::new(0),
            left: AtomicU64::new(size),
            undated: self.written.map(|written| written.undated.clone()),
        };
        if let Some(undated) = &file.undated {
            undated.fetch_add(1, Ordering::Relaxed);
        }
        file.reserve(0)?;
        Ok(file)
    }
}

/// A file that is written in parts by several threads, one at a time.
pub(super) struct PartFile {
    file: File,
    path: Vec<u8>,
    mtime_s: i64,
    size: u64,
    /// Up to where it has its space.
    reserved: AtomicU64,
    left: AtomicU64,
    /// Where it counts until it has its date.
    undated: Option<Arc<AtomicU64>>,
}

impl PartFile {
    /// Has space reserved for the data up to `end` and some way ahead. How large a file becomes is
    /// only what the archive says.
    fn reserve(&self, end: u64) -> Result<(), RestoreError> {
        let reserved = self.reserved.load(Ordering::Relaxed);
        let is_enough = end < reserved || reserved == self.size;
        if self.size < PREALLOCATE_BYTES || (is_enough && reserved > 0) {
            return Ok(());
        }
        let to = self.size.min(end.saturating_add(RESERVED_AHEAD_BYTES));
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), reserved, to - reserved) {
            // Not every file system can.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(e) => return Err(entry_error("reserve space for", &self.path, e)),
        }
        self.reserved.store(to, Ordering::Relaxed);
        Ok(())
    }

    /// Writes one part, all of `slices`; the last one to be written dates the file.
    pub(super) fn write<'d>(
        &self,
        offset: u64,
        slices: impl Iterator<Item = &'d [u8]>,
        stop: &Stop,
    ) -> Result<(), RestoreError> {
        let mut len = 0;
        for slice in slices {
            self.reserve(offset + len)?;
            write_all_at(&self.file, &self.path, offset + len, slice, stop)?;
            len += slice.len() as u64;
        }
        if self.left.fetch_sub(len, Ordering::AcqRel) != len {
            return Ok(());
        }
        date(&self.file, &self.path, self.mtime_s)?;
        if let Some(undated) = &self.undated {
            undated.fetch_sub(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Writes in pieces for which the kernel takes memory that was in use a moment ago. For one of a
/// megabyte it takes pages as large, which on a virtual machine may first have to be had back from
/// the host: the same pack then takes up to twice as long.
fn write_all_at(
    file: &File,
    path: &[u8],
    mut offset: u64,
    data: &[u8],
    stop: &Stop,
) -> Result<(), RestoreError> {
    for piece in data.chunks(WRITE_BYTES) {
        if stop.is_set() {
            return Err(stopped());
        }
        let written = file.write_all_at(piece, offset);
        written.map_err(|e| entry_error("write", path, e))?;
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
    use crate::limits::DISK_BLOCK_BYTES;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::Path;

    fn bounds(limit_bytes: u64) -> (Quota, Stop) {
        let quota = Quota::new(Some(limit_bytes), Path::new("/")).unwrap();
        (quota, Stop::default())
    }

    fn site<'r>(root: &'r File, quota: &'r Quota, stop: &'r Stop) -> Site<'r> {
        Site {
            root: root.as_fd(),
            umask: Mode::from_raw_mode(0o027),
            quota,
            stop,
        }
    }

    /// A header may claim any size: what is on the disk follows what has come.
    #[test]
    fn space_is_reserved_a_little_ahead_of_the_data() {
        let root = tempfile::tempdir().unwrap();
        let fd = File::open(root.path()).unwrap();
        let (quota, stop) = bounds(u64::MAX);
        let mut writer = Writer::new(site(&fd, &quota, &stop));
        let size = 1 << 50;
        let file = writer.begin(b"huge", false, 0, size).unwrap();
        let reserved = || std::fs::metadata(root.path().join("huge")).unwrap().len();
        assert_eq!(reserved(), RESERVED_AHEAD_BYTES);
        file.write(0, [&[1; 4096][..]].into_iter(), &stop).unwrap();
        assert_eq!(reserved(), RESERVED_AHEAD_BYTES);
        let next = RESERVED_AHEAD_BYTES;
        file.write(next, [&[1; 4096][..]].into_iter(), &stop)
            .unwrap();
        assert_eq!(reserved(), 2 * RESERVED_AHEAD_BYTES);
        // Of a file that ends sooner exactly as much as it has.
        let size = RESERVED_AHEAD_BYTES + 5;
        let file = writer.begin(b"small", false, 0, size).unwrap();
        file.write(next, [&[1; 5][..]].into_iter(), &stop).unwrap();
        assert_eq!(
            std::fs::metadata(root.path().join("small")).unwrap().len(),
            size
        );
    }

    #[test]
    fn files_follow_the_umask_and_directories_count() {
        let root = tempfile::tempdir().unwrap();
        let fd = File::open(root.path()).unwrap();
        let (quota, stop) = bounds(3 * DISK_BLOCK_BYTES);
        let mut writer = Writer::new(site(&fd, &quota, &stop));
        writer.file(b"a/b/x", true, 0, b"x").unwrap();
        let mode = std::fs::metadata(root.path().join("a/b/x")).unwrap();
        assert_eq!(mode.mode() & 0o777, 0o750);
        let directory = std::fs::metadata(root.path().join("a/b")).unwrap();
        assert_eq!(directory.permissions().mode() & 0o700, 0o700);
        // Those that are there cost nothing.
        writer.file(b"a/c/y", false, 0, b"").unwrap();
        writer.file(b"a/b/z", false, 0, b"").unwrap();
        let error = writer.file(b"d/x", false, 0, b"").unwrap_err();
        assert!(error.to_string().contains("--size-limit"), "{error}");
        stop.set();
        writer.file(b"a/b/late", false, 0, b"").unwrap_err();
    }

    #[test]
    fn files_land_where_their_paths_say_whatever_the_order() {
        let root = tempfile::tempdir().unwrap();
        let fd = File::open(root.path()).unwrap();
        let (quota, stop) = bounds(u64::MAX);
        let mut writer = Writer::new(site(&fd, &quota, &stop));
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
        let (quota, stop) = bounds(u64::MAX);
        let mut writer = Writer::new(site(&fd, &quota, &stop));
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
