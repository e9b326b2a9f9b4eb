//! What makes `git status` trust a restored worktree: the real stat data of the written files in
//! the index.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use gix::bstr::{BStr, ByteSlice};
use gix::oid;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::dates::Dates;
use super::error::RestoreError;
use super::path::as_path;
use super::stop::Stop;
use super::write::stopped;
use crate::io::fs::index_size;
use crate::limits::{OPEN_DIRECTORIES_MAX, WORK_PIECE_BYTES};
use crate::tree::index::{HEADER_BYTES, MAGIC, MODE_AT, STAT_BYTES, SUBMODULE, VERSION, padded};
use crate::tree::sum::Sum;

const INDEX: &str = ".git/index";

fn open(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, path, flags, Mode::empty()).map(File::from)
}

/// Replaces the file at `path` by one that holds `bytes`, at once.
fn replace(root: BorrowedFd<'_>, path: &str, bytes: &[u8]) -> Result<File, RestoreError> {
    let new = format!("{path}.restore");
    let failed = |e: io::Error| RestoreError::disk("write", &new, e);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(root, &*new, flags, Mode::from_raw_mode(0o666));
    let mut file = File::from(opened.map_err(|e| failed(e.into()))?);
    file.write_all(bytes).map_err(failed)?;
    rustix::fs::renameat(root, &*new, root, path).map_err(|e| failed(e.into()))?;
    Ok(file)
}

/// What the files of a worktree must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// There: `git` has made or looked at them.
    There,
    /// Each of the kind that the index says, and a submodule's place an empty directory: they are an
    /// archive's. Who may execute them is looked at where the file system can tell.
    OfTheirKind { executable: bool },
}

/// Gives the files below `root` their date and writes their real stat data into the index, which
/// must be of version 2. A repository without an index has no files.
pub fn refresh(
    root: BorrowedFd<'_>,
    sha256: bool,
    dates: Dates,
    expected: Expected,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let mut file = match open(root, INDEX) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(RestoreError::disk("open", INDEX, e)),
    };
    let mut bytes = Vec::new();
    let read = file.read_to_end(&mut bytes);
    read.map_err(|e| RestoreError::disk("read", INDEX, e))?;
    let kind = match sha256 {
        true => gix::hash::Kind::Sha256,
        false => gix::hash::Kind::Sha1,
    };
    let latest_s = fill(root, &mut bytes, kind, dates, expected, stop)?;
    let index = replace(root, INDEX, &bytes)?;
    let dated = dates.date_index(&index, latest_s);
    dated.map_err(|e| RestoreError::disk("date", INDEX, e))
}

fn corrupt(offset: usize, what: &str) -> RestoreError {
    RestoreError::entry(INDEX.as_bytes(), format!("at byte {offset}: {what}"))
}

/// An entry of an index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed<'i> {
    pub mode: u32,
    pub id: &'i oid,
    pub path: &'i BStr,
}

impl<'i> Listed<'i> {
    /// What the bytes from the beginning of an entry to its end say, whose ids have `id_bytes`.
    pub(super) fn of(entry: &'i [u8], id_bytes: usize) -> Listed<'i> {
        let (stat, rest) = entry.split_at(STAT_BYTES);
        let (id, rest) = rest.split_at(id_bytes);
        let mode = stat[MODE_AT..]
            .first_chunk()
            .map_or(0, |mode| u32::from_be_bytes(*mode));
        Listed {
            mode,
            id: oid::from_bytes_unchecked(id),
            path: rest[2..]
                .split(|b| *b == 0)
                .next()
                .unwrap_or_default()
                .as_bstr(),
        }
    }
}

/// Where each entry begins, and the last one ends.
pub(super) fn entries(
    bytes: &[u8],
    id_bytes: usize,
    stop: &Stop,
) -> Result<Vec<usize>, RestoreError> {
    let end = bytes.len().saturating_sub(id_bytes);
    let header = bytes.get(..HEADER_BYTES).unwrap_or_default();
    let is_ours = header.starts_with(&MAGIC) && header[4..8] == VERSION.to_be_bytes();
    if !is_ours {
        return Err(corrupt(0, "it is no index of version 2"));
    }
    let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let mut starts = Vec::new();
    let mut at = HEADER_BYTES;
    for _ in 0..count {
        if stop.is_set() {
            return Err(stopped());
        }
        let next = next_entry(&bytes[..end], at, id_bytes);
        starts.push(at);
        at = next.ok_or_else(|| corrupt(at, "an entry does not end"))?;
    }
    if at > end {
        return Err(corrupt(at, "an entry does not end"));
    }
    // Where the entries end, so that the last one has an end, too.
    starts.push(at);
    Ok(starts)
}

/// Where the entry ends that begins at `at`; `None` if it does not.
pub(super) fn next_entry(entries: &[u8], at: usize, id_bytes: usize) -> Option<usize> {
    let fixed = STAT_BYTES + id_bytes + 2;
    let path = entries.get(at + fixed..)?;
    Some(at + padded(fixed + path.iter().position(|b| *b == 0)?))
}

/// Puts the stat data in and sums the index anew; returns the latest mtime.
fn fill(
    root: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    kind: gix::hash::Kind,
    dates: Dates,
    expected: Expected,
    stop: &Stop,
) -> Result<i64, RestoreError> {
    let id_bytes = kind.len_in_bytes();
    let starts = entries(bytes, id_bytes, stop)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let per_thread = (starts.len() - 1).div_ceil(threads).max(1);
    let latest_s = std::thread::scope(|scope| {
        let mut rest = &mut bytes[..];
        let mut taken = 0;
        let mut running = Vec::new();
        for first in (0..starts.len() - 1).step_by(per_thread) {
            let last = (first + per_thread).min(starts.len() - 1);
            let starts = &starts[first..=last];
            let (part, after) = rest.split_at_mut(starts[starts.len() - 1] - taken);
            let base = taken;
            taken += part.len();
            rest = after;
            running.push(scope.spawn(move || {
                let directory = Directory::new(root, stop);
                fill_part(directory, dates, expected, part, base, starts, id_bytes)
            }));
        }
        let mut latest_s = 0;
        for thread in running {
            let part = thread.join();
            let part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            latest_s = latest_s.max(part?);
        }
        Ok::<_, RestoreError>(latest_s)
    })?;
    bytes.truncate(bytes.len() - id_bytes);
    let mut sum = Sum::new(kind);
    for piece in bytes.chunks(WORK_PIECE_BYTES) {
        if stop.is_set() {
            return Err(stopped());
        }
        sum.update(piece);
    }
    bytes.extend_from_slice(&sum.finish());
    Ok(latest_s)
}

/// Fills the entries between neighbouring `starts`; `part` begins at byte `base` of the index.
fn fill_part(
    mut directory: Directory<'_>,
    dates: Dates,
    expected: Expected,
    part: &mut [u8],
    base: usize,
    starts: &[usize],
    id_bytes: usize,
) -> Result<i64, RestoreError> {
    let mut latest_s = 0;
    for window in starts.windows(2) {
        if directory.stop.is_set() {
            return Err(stopped());
        }
        let entry = &mut part[window[0] - base..window[1] - base];
        let Listed { mode, .. } = Listed::of(entry, id_bytes);
        if mode == SUBMODULE && expected == Expected::There {
            continue;
        }
        let (stat, rest) = entry.split_at_mut(STAT_BYTES);
        let path = rest[id_bytes + 2..]
            .split(|b| *b == 0)
            .next()
            .unwrap_or_default();
        let found = directory.stat(path).map_err(|e| match e {
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP => {
                RestoreError::entry(path, "it is in the commit, but not in the archive")
            }
            e => RestoreError::disk("look at", as_path(path), e),
        })?;
        if let Expected::OfTheirKind { executable } = expected {
            if !is_of_kind(mode, found.st_mode, executable) {
                return Err(RestoreError::entry(
                    path,
                    "in the commit it is something else",
                ));
            }
            if mode == SUBMODULE {
                directory.expect_empty(path)?;
                continue;
            }
        }
        let found = directory.date(path, found, dates);
        let found = found.map_err(|e| RestoreError::disk("date", as_path(path), e))?;
        latest_s = latest_s.max(found.st_mtime);
        put(stat, mode, &found);
    }
    Ok(latest_s)
}

/// The stat fields of an entry (gitformat-index); the low 32 bits of each.
pub(super) fn put(stat: &mut [u8], mode: u32, found: &Stat) {
    let fields = [
        found.st_ctime as u32,
        found.st_ctime_nsec as u32,
        found.st_mtime as u32,
        found.st_mtime_nsec as u32,
        found.st_dev as u32,
        found.st_ino as u32,
        mode,
        found.st_uid,
        found.st_gid,
        index_size(found.st_size.cast_unsigned()),
    ];
    for (field, value) in stat.chunks_exact_mut(4).zip(fields) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Whether a file of the mode `found` is what an entry of the mode `mode` says.
pub(super) fn is_of_kind(mode: u32, found: u32, executable: bool) -> bool {
    let types = match mode {
        SUBMODULE => libc::S_IFDIR,
        _ => mode & libc::S_IFMT,
    };
    let is_file = types == libc::S_IFREG;
    found & libc::S_IFMT == types
        && (!is_file || !executable || found & libc::S_IXUSR == mode & libc::S_IXUSR)
}

/// Looks at files, and follows no symbolic link on the way. The directories that lead to the last
/// one stay open, as neighbours follow each other.
///
/// Invariant: each of `open` is the directory at the path beside it, which begins the next one's.
pub(super) struct Directory<'r> {
    root: BorrowedFd<'r>,
    stop: &'r Stop,
    open: Vec<(Vec<u8>, std::os::fd::OwnedFd)>,
}

impl<'r> Directory<'r> {
    pub(super) fn new(root: BorrowedFd<'r>, stop: &'r Stop) -> Directory<'r> {
        let open = Vec::new();
        Directory { root, stop, open }
    }

    pub(super) fn stat(&mut self, path: &[u8]) -> rustix::io::Result<Stat> {
        let name = self.above(path)?;
        rustix::fs::statat(self.current(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Opens a file to be read.
    pub(super) fn file(&mut self, path: &[u8]) -> rustix::io::Result<File> {
        let name = self.above(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        rustix::fs::openat(self.current(), name, flags, Mode::empty()).map(File::from)
    }

    /// What a link says.
    pub(super) fn link(&mut self, path: &[u8]) -> rustix::io::Result<Vec<u8>> {
        let name = self.above(path)?;
        let said = rustix::fs::readlinkat(self.current(), name, Vec::new())?;
        Ok(said.into_bytes())
    }

    /// Enters the directory of a path; its name there.
    fn above<'p>(&mut self, path: &'p [u8]) -> rustix::io::Result<&'p [u8]> {
        let cut = path.iter().rposition(|b| *b == b'/');
        self.enter(&path[..cut.unwrap_or(0)])?;
        Ok(cut.map_or(path, |cut| &path[cut + 1..]))
    }

    /// Gives the file or link at `path` its date, and what its stat data is then; `found` is what
    /// that was.
    pub(super) fn date(
        &mut self,
        path: &[u8],
        found: Stat,
        dates: Dates,
    ) -> rustix::io::Result<Stat> {
        if (found.st_mtime, found.st_mtime_nsec) == (dates.file_s(), 0) {
            return Ok(found);
        }
        let name = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::utimensat(self.current(), name, &dates.of_files(), flags) {
            // Not every file system dates links.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
        rustix::fs::statat(self.current(), name, flags)
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }

    fn enter(&mut self, directory: &[u8]) -> rustix::io::Result<()> {
        let leads = |open: &[u8]| {
            directory.starts_with(open) && matches!(directory.get(open.len()), None | Some(b'/'))
        };
        while self.open.last().is_some_and(|(open, _)| !leads(open)) {
            self.open.pop();
        }
        let mut at = self.open.last().map_or(0, |(open, _)| open.len());
        while at < directory.len() {
            let begin = at + usize::from(directory[at] == b'/');
            let len = directory[begin..].iter().position(|b| *b == b'/');
            at = len.map_or(directory.len(), |len| begin + len);
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let name = &directory[begin..at];
            let opened = rustix::fs::openat(self.current(), name, flags, Mode::empty())?;
            if self.open.len() == OPEN_DIRECTORIES_MAX {
                self.open.pop();
            }
            self.open.push((directory[..at].to_owned(), opened));
        }
        Ok(())
    }

    /// Sees to it that the directory at `path` is empty.
    fn expect_empty(&mut self, path: &[u8]) -> Result<(), RestoreError> {
        let failed = |e: rustix::io::Errno| RestoreError::disk("read", as_path(path), e);
        self.enter(path).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.current(), ".", flags, Mode::empty());
        let mut listing = rustix::fs::Dir::read_from(opened.map_err(failed)?).map_err(failed)?;
        let is_other = |name: &std::ffi::CStr| !matches!(name.to_bytes(), b"." | b"..");
        match listing.any(|entry| entry.is_ok_and(|entry| is_other(entry.file_name()))) {
            false => Ok(()),
            true => Err(RestoreError::entry(
                path,
                "a submodule's place is not empty",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_4_gib_is_not_taken_for_one_that_nobody_has_looked_at() {
        for (bytes, expected) in [(0, 0), (7, 7), (1 << 32, 1 << 31), ((3 << 32) + 7, 7_u32)] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(bytes).unwrap();
            let mut stat = [0; STAT_BYTES];
            put(&mut stat, 0o100_644, &rustix::fs::fstat(&file).unwrap());
            assert_eq!(stat[STAT_BYTES - 4..], expected.to_be_bytes(), "{bytes}");
        }
    }
}
