//! The open files of all archives. A file is open once, however many archives share it by hard links, and
//! no more are open than the process can spare: when there are too many, the archives that nobody reads
//! give theirs up, those that were not used for longest first, and then those whose readers take too little
//! lose them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::limits::SLOW_ENDED_MAX;

/// Has a download ended that takes too little; false if there is none.
pub(crate) type EndSlow = Box<dyn Fn() -> bool + Send + Sync>;

/// A file by its device and inode.
type Inode = (u64, u64);

fn inode_of(found: &fs::Metadata) -> Inode {
    let dev = std::os::unix::fs::MetadataExt::dev(found);
    (dev, std::os::unix::fs::MetadataExt::ino(found))
}

/// A file that is open. Dropping the last handle closes it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    file: File,
    /// Where it is counted.
    table: Option<Arc<Table>>,
}

impl OpenFile {
    /// A file that is counted nowhere, for it is shared with nobody.
    pub(crate) fn uncounted(file: File) -> Arc<OpenFile> {
        Arc::new(OpenFile { file, table: None })
    }

    /// The file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for OpenFile {
    /// Takes no lock: cores and threads that are nice drop files, too.
    fn drop(&mut self) {
        if let Some(table) = &self.table {
            table.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Why a file is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// As many are open as may be, and all of them are in use.
    #[error("all {max} places for open files of archives are in use; try again")]
    Full { max: usize },
    /// It has more files than may be open at all.
    #[error(
        "the archive has {needed} files and only {max} may be open for archives: raise the server's limit of \
         open files (ulimit -n, LimitNOFILE)"
    )]
    TooMany { needed: usize, max: usize },
    /// The system refuses.
    #[error("cannot open {path}: {source}")]
    Io { path: String, source: io::Error },
}

impl OpenError {
    pub(super) fn io(path: &Path, source: io::Error) -> OpenError {
        OpenError::Io {
            path: path.display().to_string(),
            source,
        }
    }

    /// Whether the file is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, OpenError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Places for files that are about to be opened. Those that are left are given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Places {
    table: Arc<Table>,
    left: usize,
}

impl Drop for Places {
    fn drop(&mut self) {
        self.table.open.fetch_sub(self.left, Ordering::Relaxed);
    }
}

impl Places {
    /// Opens the file at `path` for reading. May wait for the disk.
    pub(crate) fn open_one(&mut self, path: &Path) -> Result<Arc<OpenFile>, OpenError> {
        let opened = File::open(path).and_then(|file| self.enter(file));
        opened.map_err(|source| OpenError::io(path, source))
    }

    /// Takes a file that the caller has opened, such as one that is being written.
    pub(crate) fn enter(&mut self, file: File) -> io::Result<Arc<OpenFile>> {
        let found = file.metadata()?;
        let inode = inode_of(&found);
        let mut by_inode = self.table.lock();
        // Somebody may have opened it since it was looked at.
        if let Some(open) = by_inode.get(&inode).and_then(Weak::upgrade) {
            return Ok(open);
        }
        match self.left {
            // Its build opens its files a second time, where no entry could be made. It has begun: rather
            // these few too many than an archive without an end.
            0 => drop(self.table.open.fetch_add(1, Ordering::Relaxed)),
            _ => self.left -= 1,
        }
        let open = Arc::new(OpenFile {
            file,
            table: Some(self.table.clone()),
        });
        if by_inode.len() > 2 * self.table.open.load(Ordering::Relaxed) + CLOSED_KEPT {
            by_inode.retain(|_, file| file.strong_count() > 0);
        }
        by_inode.insert(inode, Arc::downgrade(&open));
        Ok(open)
    }
}

/// Who has files open, and can be asked for them.
pub(crate) trait Owner: Send + Sync {
    /// Whether it has any.
    fn has_open(&self) -> bool;
    /// When they were last used, ms since 1970.
    fn last_used_unix_ms(&self) -> u64;
    /// Closes them unless somebody uses them; whether they were closed.
    fn close_if_idle(&self) -> bool;
}

/// See the module's text.
pub(crate) struct OpenFiles {
    table: Arc<Table>,
    max: usize,
    end_slow: EndSlow,
    /// Archives whose files were opened, to be asked for them.
    owners: Mutex<Vec<Weak<dyn Owner>>>,
}

/// Invariant: `open` counts the files that are open and the places that are reserved. `by_inode` has each
/// file that is open, and of others at most as many as of those and a few.
#[derive(Debug, Default)]
struct Table {
    open: AtomicUsize,
    by_inode: Mutex<HashMap<Inode, Weak<OpenFile>>>,
}

/// How many closed files the table may have beside as many as are open, before it is looked through.
const CLOSED_KEPT: usize = 64;

impl Table {
    fn shared(&self, inode: Inode) -> Option<Arc<OpenFile>> {
        self.lock().get(&inode)?.upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Inode, Weak<OpenFile>>> {
        self.by_inode.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many places, if there are at most `max` with them.
    fn take(&self, count: usize, max: usize) -> bool {
        let more = |open: usize| open.checked_add(count).filter(|open| *open <= max);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.open.fetch_update(set, fetch, more).is_ok()
    }
}

impl OpenFiles {
    /// None yet, and at most `max`.
    pub(crate) fn new(max: usize, end_slow: EndSlow) -> OpenFiles {
        OpenFiles {
            table: Arc::default(),
            max,
            end_slow,
            owners: Mutex::default(),
        }
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.table.open.load(Ordering::Relaxed)
    }

    /// How many may be open.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// The files at `paths`, for reading: all of them or none. May wait for the disk.
    ///
    /// # Errors
    /// [`OpenError::Full`] if there are too many and no archive can give up any,
    /// [`OpenError::TooMany`] if they are more than may be open at all.
    pub(crate) fn open_all(&self, paths: &[PathBuf]) -> Result<Vec<Arc<OpenFile>>, OpenError> {
        let mut open = Vec::with_capacity(paths.len());
        for path in paths {
            let found = fs::metadata(path).map_err(|source| OpenError::io(path, source))?;
            open.push(self.table.shared(inode_of(&found)));
        }
        let missing = open.iter().filter(|open| open.is_none()).count();
        let mut places = self.reserve(missing)?;
        let opened = open.into_iter().zip(paths);
        opened
            .map(|(open, path)| open.map_or_else(|| places.open_one(path), Ok))
            .collect()
    }

    /// Places for files that one can do without: none where nobody can give up any without harm.
    pub(crate) fn reserve_spare(&self, count: usize) -> Option<Places> {
        if !self.table.take(count, self.max) {
            self.close_idle(count);
            if !self.table.take(count, self.max) {
                return None;
            }
        }
        Some(Places {
            table: self.table.clone(),
            left: count,
        })
    }

    /// Places for files that are opened later.
    ///
    /// # Errors
    /// As [`OpenFiles::open_all`].
    pub(crate) fn reserve(&self, count: usize) -> Result<Places, OpenError> {
        self.check(count)?;
        for is_last in [false, true] {
            if self.table.take(count, self.max) {
                return Ok(Places {
                    table: self.table.clone(),
                    left: count,
                });
            }
            if !is_last {
                self.close_idle(count);
            }
        }
        self.end_slow();
        Err(OpenError::Full { max: self.max })
    }

    /// Has some downloads ended that take too little for what they hold. They end as soon as their cores can:
    /// whoever comes next finds room. Whether there were any.
    pub(crate) fn end_slow(&self) -> bool {
        let ended = (0..SLOW_ENDED_MAX).take_while(|_| (self.end_slow)());
        ended.count() > 0
    }

    fn check(&self, needed: usize) -> Result<(), OpenError> {
        let max = self.max;
        let is_within = needed <= max;
        is_within
            .then_some(())
            .ok_or(OpenError::TooMany { needed, max })
    }

    /// Notes who has open files.
    pub(super) fn note(&self, owner: Weak<dyn Owner>) {
        let mut owners = self.lock_owners();
        owners.retain(|noted| {
            let has_open = noted.upgrade().is_some_and(|noted| noted.has_open());
            has_open && !Weak::ptr_eq(noted, &owner)
        });
        owners.push(owner);
    }

    fn lock_owners(&self) -> MutexGuard<'_, Vec<Weak<dyn Owner>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has archives that nobody reads close their files until so many places are free, and a quarter of
    /// all.
    fn close_idle(&self, count: usize) {
        let enough = self.max.saturating_sub(count).min(self.max - self.max / 4);
        let noted = self.lock_owners().clone();
        let mut owners = Vec::from_iter(noted.iter().filter_map(Weak::upgrade));
        owners.sort_by_key(|owner| owner.last_used_unix_ms());
        for owner in owners {
            if self.count() <= enough {
                return;
            }
            owner.close_if_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::archive::place::{Archive, Files, Names};
    use crate::manifest::id::EntryId;

    /// A directory with so many files, named by number.
    fn files(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Vec::from_iter((0..count).map(|n| dir.path().join(n.to_string())));
        for path in &paths {
            fs::write(path, "x").unwrap();
        }
        (dir, paths)
    }

    fn of(max: usize) -> OpenFiles {
        OpenFiles::new(max, Box::new(|| false))
    }

    fn archive(number: u8) -> Arc<Archive> {
        let id = EntryId::from_bytes([number; 16]);
        let name = Arc::from("host/path");
        let growing = Archive::growing(id, name, Arc::default(), None, [0; 32], u64::from(number));
        Arc::new(growing)
    }

    #[test]
    fn a_file_is_open_once_whatever_its_name() {
        let (dir, mut paths) = files(1);
        let other = dir.path().join("other");
        fs::hard_link(&paths[0], &other).unwrap();
        let open = of(1);
        let one = open.open_all(&paths).unwrap();
        paths.push(other);
        let both = open.open_all(&paths).unwrap();
        assert!(both.iter().all(|file| Arc::ptr_eq(file, &one[0])));
        assert_eq!(open.count(), 1);
        drop((one, both));
        assert_eq!(open.count(), 0, "nobody has it");
        fs::remove_file(&paths[1]).unwrap();
        assert!(open.open_all(&paths).unwrap_err().is_not_found());
        assert_eq!(open.count(), 0, "the one that is there is not needed");
        assert_eq!(open.open_all(&paths[..1]).unwrap().len(), 1);
    }

    #[test]
    fn no_more_are_open_than_there_are_places() {
        let (_dir, paths) = files(4);
        let open = of(3);
        let held = open.open_all(&paths[..2]).unwrap();
        let full = open.open_all(&paths);
        assert!(matches!(full, Err(OpenError::Full { max: 3 })));
        let never = open.reserve(4);
        assert!(matches!(
            never,
            Err(OpenError::TooMany { needed: 4, max: 3 })
        ));
        assert_eq!(open.count(), 2, "all or none");
        let mut places = open.reserve(1).unwrap();
        assert!(
            open.open_all(&paths[2..3]).is_err(),
            "its place is reserved"
        );
        let third = places.open_one(&paths[2]).unwrap();
        assert_eq!(open.count(), 3);
        drop((places, third));
        assert_eq!(open.count(), 2);
        drop(held);
        assert_eq!(open.open_all(&paths[1..]).unwrap().len(), 3);
    }

    /// Those that nobody reads, and of them the one that was not used for longest.
    #[test]
    fn idle_archives_give_up_their_files() {
        let (dir, paths) = files(4);
        let open = of(4);
        let archives = Vec::from_iter((0..3).map(archive));
        archives.iter().for_each(|archive| archive.fanout.finish());
        for (archive, path) in archives.iter().zip(&paths) {
            let spool = open.open_all(std::slice::from_ref(path)).unwrap().remove(0);
            let files = Arc::new(Files::new(spool, Vec::new()));
            let names = Names {
                spool: path.file_name().unwrap().to_str().unwrap().into(),
                linked: Vec::new(),
                made: OnceLock::new(),
            };
            archive.placed(dir.path().into(), names, files, &open);
        }
        let read = archives[0].fanout.join(0).unwrap();
        let places = open.reserve(1).unwrap();
        assert!(archives.iter().all(|archive| archive.files().is_some()));
        let more = open.reserve(1).unwrap();
        let left = archives.iter().map(|archive| archive.files().is_some());
        assert_eq!(Vec::from_iter(left), [true, false, true]);
        drop((places, more, read));
        assert_eq!(open.reserve(4).map(|places| places.left).ok(), Some(4));
        assert_eq!(open.count(), 0);
    }
}
