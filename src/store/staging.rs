//! An entry in the making, until a rename makes it appear under its id.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{At, LINK, StoreError, create_dirs, delete, delete_or_warn, exists, sync};
use crate::io::fs::{Fs, Os, WriteAt};
use crate::limits::META_BYTES_MAX;
use crate::manifest::id::EntryId;
use crate::manifest::meta::{META_NAME, is_linkable};

/// Begins the name of an entry that is not published yet.
pub(super) const BUILDING: &str = ".building-";
/// Begins the name of an entry on its way out.
pub(super) const REMOVING: &str = ".removing-";

/// Where in an entry in the making stands what it only borrows.
const BORROWED: &str = "borrowed";

/// Whether a rename in `snapshots/` was undone and that may not be on disk yet. Of renames that
/// were not synced a power cut may keep any: after two pairs of away and back, the entry could be
/// found under its own name and under one that the next start deletes, with all that is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Renames {
    unsettled: Arc<AtomicBool>,
    /// Held while an entry gets or loses its name.
    order: Arc<Mutex<()>>,
}

impl Renames {
    /// Keeps others from giving an entry a name, or taking one away, until the guard is dropped: the same
    /// id can be published again, and what is removed must be the entry that was meant.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has what was undone last, before anything is renamed again.
    pub(super) fn settle(&self, fs: &impl Fs, snapshots: &Path) -> Result<(), StoreError> {
        // Taken back first: what is undone meanwhile by others is theirs to settle, or the next's.
        if !self.unsettled.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = sync(fs, snapshots);
        if synced.is_err() {
            self.unsettled.store(true, Ordering::Release);
        }
        synced
    }

    /// Notes that a rename was undone, and has that last if the disk allows it; whether it does.
    pub(super) fn undone(&self, fs: &impl Fs, snapshots: &Path) -> bool {
        self.unsettled.store(true, Ordering::Release);
        self.settle(fs, snapshots).is_ok()
    }
}

/// An entry in the making: a directory that is deleted when this is dropped, unless it was
/// published.
#[derive(Debug)]
pub struct Staging<F: Fs = Os> {
    fs: F,
    serial: u64,
    dir: PathBuf,
    snapshots: PathBuf,
    links: Vec<String>,
    /// Files that are made here.
    own: Vec<PathBuf>,
    renames: Renames,
    /// Off when `dir` is empty of a name, or may after a power cut be what the entry's id names.
    deleted_on_drop: bool,
    _lock: Arc<F::Lock>,
}

impl<F: Fs> Staging<F> {
    /// Begins an entry in `snapshots`. `serial` is in no name there yet.
    pub(super) fn begin(
        fs: F,
        snapshots: PathBuf,
        serial: u64,
        renames: Renames,
        lock: Arc<F::Lock>,
    ) -> Result<Staging<F>, StoreError> {
        let dir = snapshots.join(format!("{BUILDING}{serial}"));
        fs.create_dir(&dir).at("create", &dir)?;
        Ok(Staging {
            fs,
            serial,
            dir,
            snapshots,
            links: Vec::new(),
            own: Vec::new(),
            renames,
            deleted_on_drop: true,
            _lock: lock,
        })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the caller makes a file of the entry's own, `relative` to it: it has to be there when the
    /// entry is published, and is synced then.
    pub fn own(&mut self, relative: &str) -> Result<PathBuf, StoreError> {
        if !is_linkable(relative) {
            return Err(StoreError::LinkPath {
                path: relative.to_owned(),
            });
        }
        let path = self.dir.join(relative);
        if let Some(parent) = path.parent() {
            create_dirs(&self.fs, parent)?;
        }
        self.own.push(path.clone());
        Ok(path)
    }

    /// Puts the file `source` at `relative` into the entry, by a hard link. A symbolic link is followed, so
    /// that the entry holds the file itself. Where the system allows no link, that is an error
    /// ([`StoreError::cannot_be_linked`]): nothing is copied, whatever its length.
    pub fn link(&mut self, source: &Path, relative: &str) -> Result<(), StoreError> {
        if !is_linkable(relative) {
            return Err(StoreError::LinkPath {
                path: relative.to_owned(),
            });
        }
        let target = self.dir.join(relative);
        if let Some(parent) = target.parent() {
            create_dirs(&self.fs, parent)?;
        }
        self.fs.link(source, &target).at(LINK, source)?;
        debug_assert!(
            !self.links.iter().any(|link| link == relative),
            "linked twice"
        );
        self.links.push(relative.to_owned());
        Ok(())
    }

    /// Has the file `source` at `relative` below [`Staging::borrowed`], by a hard link that is gone when the
    /// entry is published.
    pub fn borrow(&mut self, source: &Path, relative: &str) -> Result<(), StoreError> {
        let target = self.borrowed().join(relative);
        if let Some(parent) = target.parent() {
            create_dirs(&self.fs, parent)?;
        }
        self.fs.link(source, &target).at(LINK, source)
    }

    /// The directory of what the entry borrows while it is made.
    pub fn borrowed(&self) -> PathBuf {
        self.dir.join(BORROWED)
    }

    /// Takes note of a file of the entry's own that others have made in its directory.
    pub fn add_own(&mut self, relative: &str) {
        let path = self.dir.join(relative);
        if !self.own.contains(&path) {
            self.own.push(path);
        }
    }

    /// How many files are linked.
    pub fn links(&self) -> usize {
        self.links.len()
    }

    fn give_back(&self) -> Result<(), StoreError> {
        let borrowed = self.borrowed();
        match exists(&self.fs, &borrowed)? {
            true => delete(&self.fs, &borrowed),
            false => Ok(()),
        }
    }

    /// Adds a file beside the metadata, which is nothing that the entry cannot be without. After an error it can
    /// be tried again.
    pub fn write_aside(&mut self, name: &'static str, bytes: &[u8]) -> Result<(), StoreError> {
        debug_assert!(!is_linkable(name), "others could have its name");
        let path = self.dir.join(name);
        if self.own.contains(&path) {
            // Publishing is tried again.
            return Ok(());
        }
        self.write_new(&path, bytes)?;
        self.own.push(path);
        Ok(())
    }

    /// Makes a file whole, or leaves nothing there.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let file = self.fs.create_new(path).at("create", path)?;
        let written = file.write_all_at(bytes, 0).at("write", path);
        if written.is_err() {
            // Best effort: the directory it is in will be deleted all the same.
            let _ = self.fs.remove_file(path);
        }
        written
    }

    /// Makes the entry appear under its `id`, with `meta` as its metadata: everything is synced
    /// first, so that it is whole even after a power cut. An entry of that id that is already
    /// there is replaced. Gives the entry's directory; after an error all is as before, and it can be
    /// tried again.
    pub fn publish(&mut self, id: EntryId, meta: &[u8]) -> Result<PathBuf, StoreError> {
        if meta.len() as u64 > META_BYTES_MAX {
            return Err(StoreError::MetaTooLong {
                id,
                bytes: meta.len(),
            });
        }
        self.give_back()?;
        let path = self.dir.join(META_NAME);
        if !exists(&self.fs, &path)? {
            self.write_new(&path, meta)?;
        }
        self.sync_all()?;
        self.swap_in(id)
    }

    /// Gives the staged directory the name of its id, and has that last.
    pub(super) fn swap_in(&mut self, id: EntryId) -> Result<PathBuf, StoreError> {
        let entry = self.snapshots.join(id.as_str());
        let away = self
            .snapshots
            .join(format!("{REMOVING}{id}-{}", self.serial));
        let renames = self.renames.clone();
        let alone = renames.alone();
        let swap = self.swap(&entry, &away)?;
        if let Err(error) = sync(&self.fs, &self.snapshots) {
            self.deleted_on_drop = self.swap_back(swap, &entry, &away);
            return Err(error);
        }
        self.deleted_on_drop = swap == Swap::Exchange;
        drop(alone);
        if swap == Swap::Away {
            delete_or_warn(&self.fs, &away);
        }
        Ok(entry)
    }

    /// Renames the staged directory to `entry`. An old entry of that name is then where the
    /// staged one was, or `away`.
    fn swap(&self, entry: &Path, away: &Path) -> Result<Swap, StoreError> {
        let (fs, dir) = (&self.fs, &self.dir);
        self.renames.settle(fs, &self.snapshots)?;
        if !exists(fs, entry)? {
            fs.rename(dir, entry).at("rename", dir)?;
            return Ok(Swap::Rename);
        }
        match fs.exchange(dir, entry) {
            Err(error) if cannot_exchange(&error) => {}
            exchanged => return exchanged.map(|()| Swap::Exchange).at("exchange", entry),
        }
        fs.rename(entry, away).at("rename", entry)?;
        let renamed = fs.rename(dir, entry).at("rename", dir);
        if renamed.is_err() {
            // Best effort: the disk is failing.
            let _ = fs.rename(away, entry);
            self.renames.undone(fs, &self.snapshots);
        }
        renamed.map(|()| Swap::Away)
    }

    /// Undoes [`Staging::swap`]; whether that is sure to last, so that the staged files can be
    /// deleted. Best effort: the disk is failing, and whatever has a name is still whole.
    fn swap_back(&self, swap: Swap, entry: &Path, away: &Path) -> bool {
        let fs = &self.fs;
        let undone = match swap {
            Swap::Rename => fs.rename(entry, &self.dir),
            Swap::Exchange => fs.exchange(entry, &self.dir),
            Swap::Away => fs
                .rename(entry, &self.dir)
                .and_then(|()| fs.rename(away, entry)),
        };
        let settled = self.renames.undone(fs, &self.snapshots);
        undone.is_ok() && settled
    }

    /// Linked files too: a mirror's packs may be as new as the entry, and nobody else has to
    /// sync them.
    fn sync_all(&self) -> Result<(), StoreError> {
        sync(&self.fs, &self.dir.join(META_NAME))?;
        let mut dirs = BTreeSet::from([self.dir.as_path()]);
        let links = self.links.iter().map(|link| self.dir.join(link));
        let files: Vec<PathBuf> = links.chain(self.own.iter().cloned()).collect();
        for file in &files {
            sync(&self.fs, file)?;
            let below = |dir: &&Path| dir.starts_with(&self.dir);
            dirs.extend(file.ancestors().skip(1).take_while(below));
        }
        // Deepest first: a directory sorts before what is in it.
        let mut deepest_first = dirs.into_iter().rev();
        deepest_first.try_for_each(|dir| sync(&self.fs, dir))
    }
}

/// How a staged directory came to the name of its entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Swap {
    /// By a rename: there was no entry.
    Rename,
    /// By an exchange with the old entry: one of both is there at any time.
    Exchange,
    /// The old entry was renamed out of the way first, where names cannot be exchanged.
    Away,
}

/// Whether the file system cannot exchange two names.
fn cannot_exchange(error: &io::Error) -> bool {
    use libc::{EINVAL, ENOSYS, EOPNOTSUPP};
    let code = error.raw_os_error();
    code.is_some_and(|code| [EINVAL, EOPNOTSUPP, ENOSYS].contains(&code))
}

impl<F: Fs> Drop for Staging<F> {
    fn drop(&mut self) {
        if self.deleted_on_drop {
            delete_or_warn(&self.fs, &self.dir);
        }
    }
}
