//! The state directory: one server's mirrors and entries on disk.
//!
//! ```text
//! lock                          held while a server runs; holds its process id
//! mirrors/{host}/{path}.git     bare mirrors; an operator may put some there
//! snapshots/{id}/               an entry: `meta`, `outline`, `manifest`, its own `frames/{name}`, linked files
//! snapshots/.building-{n}       an entry that is not published yet
//! snapshots/.removing-{id}-{n}  an entry on its way out
//! tmp/                          clones that are not finished, mirrors on their way out
//! shared/                       what is remembered of each repository in an object store ([`super::remote::memory`])
//! early                         which answers began before their archives within the last hour
//! running                       there while a server runs, and after one that was cut off
//! ```
//!
//! Only a rename makes an entry appear or disappear under its id, so whatever moment a process
//! dies at, what stands under an id is whole, and everything else is deleted at the next start.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use super::files::{
    At, StoreError, create_dirs, delete, delete_or_warn, exists, list, sync, sync_parent,
};
use super::staging::{BUILDING, REMOVING, Renames, Staging};
use crate::io::fs::{Fs, Kind, LockError, Os, Space};
use crate::limits::META_BYTES_MAX;
use crate::manifest::id::EntryId;
use crate::manifest::meta::{FRAMES_NAME, META_NAME, Meta, MetaError};

const LOCK_NAME: &str = "lock";
pub(super) const MIRRORS_NAME: &str = "mirrors";
pub(super) const SNAPSHOTS_NAME: &str = "snapshots";
pub(super) const TMP_NAME: &str = "tmp";

/// A state directory that this process alone uses.
///
/// Invariants:
/// 1. `lock` holds an exclusive `flock` on the lock file until this value and every
///    [`Staging`] made from it are gone.
/// 2. `serial` never repeats, so names that carry it are free: leftovers of earlier processes
///    are deleted in `open`, before the first of them is given out.
/// 3. An entry is renamed only while `renames` are settled, so that on disk a directory has one
///    name at any time.
#[derive(Debug)]
pub struct StateDir<F: Fs = Os> {
    fs: F,
    root: PathBuf,
    lock: Arc<F::Lock>,
    serial: AtomicU64,
    renames: Renames,
}

/// A whole entry that was found on disk.
#[derive(Debug)]
pub struct FoundEntry {
    /// Its directory.
    pub dir: PathBuf,
    /// Its metadata.
    pub meta: Meta,
}

/// Something in `snapshots/` that is not a whole entry.
#[derive(Debug)]
pub struct Rejected {
    /// Where it is, or was.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: Reason,
    /// Whether it was removed: only what is surely a broken entry.
    pub removed: bool,
}

/// Why something is not a whole entry.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    #[error("its name is not the id of an entry")]
    Name,
    #[error("it has no {path}")]
    Missing { path: String },
    #[error("{path} has {found} bytes instead of {expected}")]
    Length {
        path: String,
        found: u64,
        expected: u64,
    },
    #[error("{META_NAME} has {bytes} bytes, more than any that was written")]
    MetaTooLong { bytes: u64 },
    #[error("{META_NAME}: {0}")]
    Meta(#[from] MetaError),
    #[error("{META_NAME} belongs to entry {id}")]
    OtherId { id: EntryId },
    #[error(transparent)]
    Unreadable(#[from] StoreError),
}

impl Rejected {
    /// Whether another version of tarpon has made it.
    pub fn is_of_other_format(&self) -> bool {
        matches!(self.reason, Reason::Meta(MetaError::Version { .. })) && self.removed
    }
}

impl Reason {
    /// Whether the entry can never be served; an error of reading may pass.
    fn is_final(&self) -> bool {
        !matches!(self, Reason::Name | Reason::Unreadable(_))
    }
}

impl StateDir {
    /// Opens or makes the state directory at `path`, locks it, and deletes what an earlier
    /// process did not finish. Fails with [`StoreError::Locked`] while another one uses it.
    ///
    /// What it makes nobody but its user may enter: it has copies of repositories that need
    /// credentials. One that is there was perhaps opened on purpose, so it stays as it is.
    pub fn open(path: &Path) -> Result<StateDir, StoreError> {
        make_private(path)?;
        StateDir::open_on(Os, path)
    }
}

impl<F: Fs> StateDir<F> {
    /// [`StateDir::open`] on any file system.
    pub fn open_on(fs: F, path: &Path) -> Result<StateDir<F>, StoreError> {
        let root = std::path::absolute(path).at("find the state directory", path)?;
        create_dirs(&fs, &root)?;
        let tmp = root.join(TMP_NAME);
        let lock_path = root.join(LOCK_NAME);
        if !exists(&fs, &lock_path)? {
            // What is in tmp/ will be deleted, so a directory that was never ours (someone's
            // `--state /var`) must not be taken.
            if exists(&fs, &tmp)? && !list(&fs, &tmp)?.is_empty() {
                return Err(StoreError::NotOurs { dir: root });
            }
            // All the way up: what was just made is not synced yet, and an earlier process may
            // have made directories above ours and died, or failed, before it synced them. Once
            // the lock file is there, this was done.
            root.ancestors().try_for_each(|dir| sync_parent(&fs, dir))?;
        }
        let lock = fs.lock(&lock_path).map_err(|error| match error {
            LockError::Held { pid } => StoreError::Locked {
                dir: root.clone(),
                pid,
            },
            LockError::Io(source) => StoreError::Io {
                op: "lock",
                path: lock_path,
                source,
            },
        })?;
        let state = StateDir {
            fs,
            root,
            lock: Arc::new(lock),
            serial: AtomicU64::new(0),
            renames: Renames::default(),
        };
        state.make_directories()?;
        state.delete_unpublished()?;
        Ok(state)
    }

    /// Makes those directories in it that are missing. An entry lasts only if the directory it is
    /// in does; that is not left to whoever made it: an earlier process may have died before it
    /// synced.
    fn make_directories(&self) -> Result<(), StoreError> {
        for name in [MIRRORS_NAME, SNAPSHOTS_NAME, TMP_NAME] {
            create_dirs(&self.fs, &self.root.join(name))?;
        }
        sync(&self.fs, &self.root)
    }

    fn delete_unpublished(&self) -> Result<(), StoreError> {
        let snapshots = self.snapshots_dir();
        // A process that was killed may have renamed without syncing. Until what is seen here
        // is what is on disk, a name to be deleted may still be the entry's own.
        sync(&self.fs, &snapshots)?;
        for (name, path) in list(&self.fs, &snapshots)? {
            if name.starts_with(BUILDING) || name.starts_with(REMOVING) {
                delete(&self.fs, &path)?;
            }
        }
        for (_, path) in list(&self.fs, &self.tmp_dir())? {
            delete(&self.fs, &path)?;
        }
        Ok(())
    }

    /// The state directory, as an absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where clones are made before they are renamed into place; empty after `open`, and made anew
    /// where somebody has removed it.
    pub fn tmp_dir(&self) -> PathBuf {
        let dir = self.root.join(TMP_NAME);
        // Whoever makes something in it says why that cannot be.
        let _ = create_dirs(&self.fs, &dir);
        dir
    }

    fn snapshots_dir(&self) -> PathBuf {
        self.root.join(SNAPSHOTS_NAME)
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Reads every entry. Whole ones come ordered by repository, the newest of each first;
    /// the second list is all else, and broken entries of it have been removed.
    pub fn scan(&self) -> Result<(Vec<FoundEntry>, Vec<Rejected>), StoreError> {
        let (mut found, mut rejected) = (Vec::new(), Vec::new());
        for (name, dir) in list(&self.fs, &self.snapshots_dir())? {
            let reason = match read_entry(&self.fs, &dir, &name) {
                Ok(meta) => {
                    found.push(FoundEntry { dir, meta });
                    continue;
                }
                Err(reason) => reason,
            };
            let removed = reason.is_final();
            if removed {
                delete_or_warn(&self.fs, &self.take_away(&dir)?);
            }
            rejected.push(Rejected {
                path: dir,
                reason,
                removed,
            });
        }
        found.sort_by(|a, b| {
            let repository = a.meta.repository.cmp(&b.meta.repository);
            repository
                .then(b.meta.created_unix_ms.cmp(&a.meta.created_unix_ms))
                .then(a.meta.id.cmp(&b.meta.id))
        });
        Ok((found, rejected))
    }

    /// Begins an entry. Where somebody has removed the directory that entries are in, it is made
    /// again.
    pub fn staging(&self) -> Result<Staging<F>, StoreError> {
        match self.begin_staging() {
            Err(gone) if gone.is_not_found() => {
                tracing::warn!("{gone}; the directories are made anew");
                self.make_directories()?;
                self.begin_staging()
            }
            begun => begun,
        }
    }

    fn begin_staging(&self) -> Result<Staging<F>, StoreError> {
        Staging::begin(
            self.fs.clone(),
            self.snapshots_dir(),
            self.next_serial(),
            self.renames.clone(),
            self.lock.clone(),
        )
    }

    /// Removes the entry in `dir`, one that [`StateDir::scan`] or [`Staging::publish`] gave and whose own
    /// file is `spool`: not another one that has taken its place, which is the same as if it was gone.
    /// Once this has returned no start will find it again; after an error it is there as before.
    /// Descriptors and mappings of its files stay valid.
    pub fn remove(&self, dir: &Path, spool: &str) -> Result<(), StoreError> {
        let alone = self.renames.alone();
        self.is_entry_of(dir, spool)?;
        let away = self.take_away(dir)?;
        // What is left to do takes as long as the entry is large.
        drop(alone);
        delete_or_warn(&self.fs, &away);
        Ok(())
    }

    /// Fails unless the entry in `dir` is the one whose own file is `spool`. Its metadata say so: that
    /// the file is there does not, for an entry links those of earlier ones, of its own id too. Where
    /// there are none that can be used, whatever has the file may go.
    fn is_entry_of(&self, dir: &Path, spool: &str) -> Result<(), StoreError> {
        let (meta, path) = (dir.join(META_NAME), dir.join(spool));
        let found = match self.fs.stat(&meta) {
            Ok(stat) if stat.kind == Kind::File && stat.bytes <= META_BYTES_MAX => {
                Meta::decode(&self.fs.read(&meta).at("read", &meta)?).ok()
            }
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).at("look for", &meta),
        };
        match found {
            Some(meta) if meta.spool == spool => Ok(()),
            Some(_) => Err(io::Error::from(io::ErrorKind::NotFound)).at("look for", &path),
            None => self.fs.stat(&path).map(drop).at("look for", &path),
        }
    }

    /// Takes an entry's name away, for good; gives the one under which it can be deleted.
    fn take_away(&self, dir: &Path) -> Result<PathBuf, StoreError> {
        let snapshots = self.snapshots_dir();
        let id = dir.file_name().and_then(|name| name.to_str());
        let id = id.and_then(|name| EntryId::parse(name).ok());
        let Some(id) = id.filter(|_| dir.parent() == Some(&snapshots)) else {
            return Err(StoreError::NotAnEntry {
                path: dir.to_owned(),
            });
        };
        let away = snapshots.join(format!("{REMOVING}{id}-{}", self.next_serial()));
        self.renames.settle(&self.fs, &snapshots)?;
        self.fs.rename(dir, &away).at("rename", dir)?;
        // The rename must be on disk before the first file is gone.
        if let Err(error) = sync(&self.fs, &snapshots) {
            // Best effort: if it stays away, the next start deletes it.
            let _ = self.fs.rename(&away, dir);
            self.renames.undone(&self.fs, &snapshots);
            return Err(error);
        }
        Ok(away)
    }

    /// Size and free bytes of the file system.
    pub fn space(&self) -> Result<Space, StoreError> {
        let dir = self.snapshots_dir();
        match self.fs.space(&dir) {
            // Somebody has removed it; it will be made again there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.fs.space(&self.root),
            found => found,
        }
        .at("read the free space of", &dir)
    }

    /// Whether the entry in `dir` has lost its name: somebody else has removed it.
    pub fn is_gone(&self, dir: &Path) -> bool {
        let meta = self.fs.stat(&dir.join(META_NAME));
        meta.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Bytes that are in the cache for the entry in `dir`: its own files, files of frames, which it may
    /// share with entries that it has replaced, and those linked files that nobody else holds any more
    /// because the mirror has repacked.
    pub fn entry_bytes(&self, dir: &Path) -> Result<u64, StoreError> {
        let mut bytes = 0;
        let frames = dir.join(FRAMES_NAME);
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            for (_, path) in list(&self.fs, &dir)? {
                let stat = self.fs.stat(&path).at("read the length of", &path)?;
                match stat.kind {
                    Kind::Dir => pending.push(path),
                    _ if stat.names == 1 || dir == frames => bytes += stat.bytes,
                    _ => {}
                }
            }
        }
        Ok(bytes)
    }
}

/// Reads and checks the entry in `dir`, whose name in `snapshots/` is `name`.
fn read_entry(fs: &impl Fs, dir: &Path, name: &str) -> Result<Meta, Reason> {
    let id = EntryId::parse(name).map_err(|_| Reason::Name)?;
    let meta_bytes = file_bytes(fs, dir, META_NAME)?;
    if meta_bytes > META_BYTES_MAX {
        return Err(Reason::MetaTooLong { bytes: meta_bytes });
    }
    let path = dir.join(META_NAME);
    let meta = Meta::decode(&fs.read(&path).at("read", &path)?)?;
    if meta.id != id {
        return Err(Reason::OtherId { id: meta.id });
    }
    check_bytes(fs, dir, &meta.spool, meta.spool_bytes())?;
    for linked in &meta.linked {
        check_bytes(fs, dir, &linked.path, linked.bytes)?;
    }
    Ok(meta)
}

fn check_bytes(fs: &impl Fs, dir: &Path, path: &str, expected: u64) -> Result<(), Reason> {
    let found = file_bytes(fs, dir, path)?;
    if found != expected {
        return Err(Reason::Length {
            path: path.to_owned(),
            found,
            expected,
        });
    }
    Ok(())
}

/// Length of a regular file; anything else in its place is as good as nothing.
fn file_bytes(fs: &impl Fs, dir: &Path, relative: &str) -> Result<u64, Reason> {
    let path = dir.join(relative);
    let missing = Reason::Missing {
        path: relative.to_owned(),
    };
    match fs.stat(&path) {
        Ok(stat) if stat.kind == Kind::File => Ok(stat.bytes),
        Ok(_) => Err(missing),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Err(missing),
            _ => Err(Reason::Unreadable(StoreError::Io {
                op: "read the length of",
                path,
                source: error,
            })),
        },
    }
}

/// Makes the state directory, for this user alone, if it is not there.
fn make_private(path: &Path) -> Result<(), StoreError> {
    const OWN: u32 = 0o700;
    let root = std::path::absolute(path).at("find the state directory", path)?;
    if let Some(parent) = root.parent() {
        create_dirs(&Os, parent)?;
    }
    match fs::DirBuilder::new().mode(OWN).create(&root) {
        // Whatever the umask is.
        Ok(()) => fs::set_permissions(&root, fs::Permissions::from_mode(OWN))
            .at("set the permissions of", &root),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::metadata(&root).at("look at", &root)?;
            if !found.is_dir() {
                return Err(io::Error::from(io::ErrorKind::NotADirectory)).at("use", &root);
            }
            let mode = found.permissions().mode() & 0o777;
            if mode & !OWN != 0 {
                tracing::warn!(
                    "others may look into the state directory {}, which has copies of all \
                     repositories (mode {mode:o}); if they should not: chmod 700",
                    root.display()
                );
            }
            Ok(())
        }
        Err(error) => Err(error).at("create", &root),
    }
}

mod mirrors;
#[cfg(test)]
mod tests;
