//! The state directory: one server's mirrors and entries on disk (design, section 5).
//!
//! ```text
//! lock                          held while a server runs; holds its process id
//! mirrors/{host}/{path}.git     bare mirrors; an operator may put some there
//! snapshots/{id}/               an entry: `meta`, `spool`, and its linked files
//! snapshots/.building-{n}       an entry that is not published yet
//! snapshots/.removing-{id}-{n}  an entry on its way out
//! tmp/                          clones that are not finished
//! ```
//!
//! Only a rename makes an entry appear or disappear under its id, so whatever moment a process
//! dies at, what stands under an id is whole, and everything else is deleted at the next start.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::entry::{EntryId, META_NAME, Meta, MetaError, SPOOL_NAME, is_linkable, is_plain_path};
use crate::io::fs::{Fs, Kind, LockError, Os, Space, WriteAt};
use crate::limits::{META_BYTES_MAX, MIRROR_DEPTH_MAX};

const LOCK_NAME: &str = "lock";
const MIRRORS_NAME: &str = "mirrors";
const SNAPSHOTS_NAME: &str = "snapshots";
const TMP_NAME: &str = "tmp";
const BUILDING: &str = ".building-";
const REMOVING: &str = ".removing-";

/// What went wrong in the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "another tarpon ({}) is running on the state directory {}; stop it or use another directory",
        holder(*.pid),
        dir.display()
    )]
    Locked { dir: PathBuf, pid: Option<u32> },
    #[error(
        "{} is not a state directory of tarpon: it has no lock file but files in tmp/, which \
         would be deleted; use another directory or empty that one",
        dir.display()
    )]
    NotOurs { dir: PathBuf },
    #[error("{} is not an entry of this state directory", path.display())]
    NotAnEntry { path: PathBuf },
    #[error("{path:?} is not allowed as the path of a linked file")]
    LinkPath { path: String },
    #[error("the metadata of entry {id} has {bytes} bytes; at most {META_BYTES_MAX} are read back")]
    MetaTooLong { id: EntryId, bytes: usize },
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "process unknown".into(),
    }
}

/// Adds what was done to which path to an error.
trait At<T> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, op: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io {
            op,
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

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

/// Whether a rename in `snapshots/` was undone and that may not be on disk yet. Of renames that
/// were not synced a power cut may keep any: after two pairs of away and back, the entry could be
/// found under its own name and under one that the next start deletes, with all that is in it.
#[derive(Debug, Clone, Default)]
struct Renames {
    unsettled: Arc<AtomicBool>,
}

impl Renames {
    /// Has what was undone last, before anything is renamed again.
    fn settle(&self, fs: &impl Fs, snapshots: &Path) -> Result<(), StoreError> {
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
    fn undone(&self, fs: &impl Fs, snapshots: &Path) -> bool {
        self.unsettled.store(true, Ordering::Release);
        self.settle(fs, snapshots).is_ok()
    }
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

impl Reason {
    /// Whether the entry can never be served; an error of reading may pass.
    fn is_final(&self) -> bool {
        !matches!(self, Reason::Name | Reason::Unreadable(_))
    }
}

/// How a linked file came into an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Linked {
    /// By a hard link: no bytes were written.
    Hard,
    /// As a copy, because the file systems do not allow a link. Worth a line in the log.
    Copied,
}

impl StateDir {
    /// Opens or makes the state directory at `path`, locks it, and deletes what an earlier
    /// process did not finish. Fails with [`StoreError::Locked`] while another one uses it.
    pub fn open(path: &Path) -> Result<StateDir, StoreError> {
        StateDir::open_on(Os, path)
    }

    /// The mirrors that are there, as ordered pairs of host and path: directories whose name
    /// ends in `.git` and that hold `HEAD` and `objects`. Not searched are repositories
    /// themselves, links to directories that are no mirrors, what is deeper than
    /// [`MIRROR_DEPTH_MAX`], and (with a warning) what this process may not read.
    pub fn mirrors(&self) -> Result<Vec<(String, String)>, StoreError> {
        let mut mirrors = Vec::new();
        for (host, dir) in list(&Os, &self.root.join(MIRRORS_NAME))? {
            if dir.is_dir() && !is_repository(&dir) {
                find_mirrors(&host, dir, &mut mirrors)?;
            }
        }
        mirrors.sort();
        Ok(mirrors)
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
        for name in [MIRRORS_NAME, SNAPSHOTS_NAME, TMP_NAME] {
            create_dirs(&fs, &root.join(name))?;
        }
        // An entry lasts only if the directory it is in does. Not left to whoever made that:
        // an earlier process may have died before it synced.
        sync(&fs, &root)?;
        let state = StateDir {
            fs,
            root,
            lock: Arc::new(lock),
            serial: AtomicU64::new(0),
            renames: Renames::default(),
        };
        state.delete_unpublished()?;
        Ok(state)
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

    /// Where clones are made before they are renamed into place; empty after `open`.
    pub fn tmp_dir(&self) -> PathBuf {
        self.root.join(TMP_NAME)
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
                self.remove(&dir)?;
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

    /// Begins an entry.
    pub fn staging(&self) -> Result<Staging<F>, StoreError> {
        let serial = self.next_serial();
        let snapshots = self.snapshots_dir();
        let dir = snapshots.join(format!("{BUILDING}{serial}"));
        self.fs.create_dir(&dir).at("create", &dir)?;
        Ok(Staging {
            fs: self.fs.clone(),
            serial,
            dir,
            snapshots,
            links: Vec::new(),
            renames: self.renames.clone(),
            deleted_on_drop: true,
            _lock: self.lock.clone(),
        })
    }

    /// Removes the entry in `dir`, one that [`StateDir::scan`] or [`Staging::publish`] gave.
    /// Once this has returned no start will find it again; after an error it is there as before.
    /// Descriptors and mappings of its files stay valid.
    pub fn remove(&self, dir: &Path) -> Result<(), StoreError> {
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
        delete_or_warn(&self.fs, &away);
        Ok(())
    }

    /// Where the mirror of `path` at `host` lies, whether it is there or not. Both must be
    /// plain (see [`is_plain_path`]), as the parser of routes makes sure.
    pub fn mirror_path(&self, host: &str, path: &str) -> PathBuf {
        debug_assert!(is_plain_path(host) && is_plain_path(path), "{host}/{path}");
        let mut file = self.root.join(MIRRORS_NAME);
        file.push(host);
        file.push(format!("{path}.git"));
        file
    }

    /// Size and free bytes of the file system.
    pub fn space(&self) -> Result<Space, StoreError> {
        let dir = self.snapshots_dir();
        self.fs.space(&dir).at("read the free space of", &dir)
    }

    /// Bytes that would be free if the entry in `dir` went away: its own files, and those
    /// linked files that nobody else holds any more because the mirror has repacked.
    pub fn entry_bytes(&self, dir: &Path) -> Result<u64, StoreError> {
        let mut bytes = 0;
        let mut pending = vec![dir.to_owned()];
        while let Some(dir) = pending.pop() {
            for (_, path) in list(&self.fs, &dir)? {
                let stat = self.fs.stat(&path).at("read the length of", &path)?;
                match stat.kind {
                    Kind::Dir => pending.push(path),
                    _ if stat.names == 1 => bytes += stat.bytes,
                    _ => {}
                }
            }
        }
        Ok(bytes)
    }
}

/// Where the spool file of the entry in `dir` lies.
pub fn spool_path(dir: &Path) -> PathBuf {
    dir.join(SPOOL_NAME)
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
    renames: Renames,
    /// Off when `dir` is empty of a name, or may after a power cut be what the entry's id names.
    deleted_on_drop: bool,
    _lock: Arc<F::Lock>,
}

impl<F: Fs> Staging<F> {
    /// The directory; the spool file is written in it as [`spool_path`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts the file `source` at `relative` into the entry, by a hard link where the file
    /// systems allow that, else as a copy. A symbolic link is followed, so that the entry
    /// holds the file itself.
    pub fn link(&mut self, source: &Path, relative: &str) -> Result<Linked, StoreError> {
        if !is_linkable(relative) {
            return Err(StoreError::LinkPath {
                path: relative.to_owned(),
            });
        }
        let target = self.dir.join(relative);
        if let Some(parent) = target.parent() {
            create_dirs(&self.fs, parent)?;
        }
        let linked = match self.fs.link(source, &target) {
            Ok(()) => Linked::Hard,
            Err(error) if cannot_link(&error) => {
                copy(&self.fs, source, &target)?;
                Linked::Copied
            }
            Err(error) => return Err(error).at("link", source),
        };
        self.links.push(relative.to_owned());
        Ok(linked)
    }

    /// Takes a linked file out of the entry again; one that was only needed to build it.
    pub fn unlink(&mut self, relative: &str) -> Result<(), StoreError> {
        self.links.retain(|link| link != relative);
        let path = self.dir.join(relative);
        self.fs.remove_file(&path).at("remove", &path)
    }

    /// Makes the entry appear under its `id`, with `meta` as its metadata: everything is synced
    /// first, so that it is whole even after a power cut. An entry of that id that is already
    /// there is replaced. Gives the entry's directory; after an error all is as before.
    pub fn publish(mut self, id: EntryId, meta: &[u8]) -> Result<PathBuf, StoreError> {
        if meta.len() as u64 > META_BYTES_MAX {
            return Err(StoreError::MetaTooLong {
                id,
                bytes: meta.len(),
            });
        }
        let path = self.dir.join(META_NAME);
        let file = self.fs.create_new(&path).at("create", &path)?;
        file.write_all_at(meta, 0).at("write", &path)?;
        self.sync_all()?;
        self.swap_in(id)
    }

    /// Gives the staged directory the name of its id, and has that last.
    fn swap_in(&mut self, id: EntryId) -> Result<PathBuf, StoreError> {
        let entry = self.snapshots.join(id.as_str());
        let away = self
            .snapshots
            .join(format!("{REMOVING}{id}-{}", self.serial));
        let swap = self.swap(&entry, &away)?;
        if let Err(error) = sync(&self.fs, &self.snapshots) {
            self.deleted_on_drop = self.swap_back(swap, &entry, &away);
            return Err(error);
        }
        self.deleted_on_drop = swap == Swap::Exchange;
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
        sync(&self.fs, &self.dir.join(SPOOL_NAME))?;
        let mut dirs = BTreeSet::from([self.dir.as_path()]);
        let files: Vec<PathBuf> = self.links.iter().map(|link| self.dir.join(link)).collect();
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

/// Whether a file cannot be linked here, but copied.
fn cannot_link(error: &io::Error) -> bool {
    use libc::{EMLINK, ENOSYS, EOPNOTSUPP, EPERM, EXDEV};
    let code = error.raw_os_error();
    code.is_some_and(|code| [EXDEV, EPERM, EMLINK, EOPNOTSUPP, ENOSYS].contains(&code))
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
    check_bytes(fs, dir, SPOOL_NAME, meta.spool_bytes())?;
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

/// Adds the mirrors below `mirrors/{host}` to `found`.
fn find_mirrors(
    host: &str,
    dir: PathBuf,
    found: &mut Vec<(String, String)>,
) -> Result<(), StoreError> {
    let mut pending = vec![(dir, String::new(), 0)];
    while let Some((dir, prefix, depth)) = pending.pop() {
        let children = match list(&Os, &dir) {
            Err(StoreError::Io { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                tracing::warn!(dir = %dir.display(), "not allowed to look for mirrors here");
                continue;
            }
            children => children?,
        };
        for (name, path) in children {
            if is_repository(&path) {
                if let Some(name) = name.strip_suffix(".git").filter(|name| !name.is_empty()) {
                    found.push((host.to_owned(), format!("{prefix}{name}")));
                }
            } else if depth < MIRROR_DEPTH_MAX
                && Os.stat(&path).is_ok_and(|stat| stat.kind == Kind::Dir)
            {
                pending.push((path, format!("{prefix}{name}/"), depth + 1));
            }
        }
    }
    Ok(())
}

fn is_repository(dir: &Path) -> bool {
    Os.stat(&dir.join("HEAD")).is_ok() && dir.join("objects").is_dir()
}

/// Names and paths of what is in a directory, ordered. A name that is not UTF-8 is left out:
/// nothing that this program makes, or that a request can name, has one.
fn list(fs: &impl Fs, dir: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut names = fs.list(dir).at("list", dir)?;
    names.sort();
    let with_path = |name: String| {
        let path = dir.join(&name);
        (name, path)
    };
    Ok(names.into_iter().map(with_path).collect())
}

fn exists(fs: &impl Fs, path: &Path) -> Result<bool, StoreError> {
    match fs.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("look for", path),
    }
}

/// Makes a directory and those above it that are missing. They last once they are synced.
fn create_dirs(fs: &impl Fs, dir: &Path) -> Result<(), StoreError> {
    match (fs.create_dir(dir), dir.parent()) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(fs, parent)?;
            fs.create_dir(dir).at("create", dir)
        }
        (Err(error), _) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        (Err(error), _) => Err(error).at("create", dir),
    }
}

/// Syncs a file or directory.
fn sync(fs: &impl Fs, path: &Path) -> Result<(), StoreError> {
    fs.sync(path).at("sync", path)
}

/// Syncs the directory that `path` is in. One that may be written but not read cannot be
/// opened for that, and on a file system that is read-only nothing was made.
fn sync_parent(fs: &impl Fs, path: &Path) -> Result<(), StoreError> {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    match fs.sync(parent) {
        Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(()),
        synced => synced.at("sync", parent),
    }
}

/// Copies a file to a new one; nothing is left there after an error.
fn copy(fs: &impl Fs, source: &Path, target: &Path) -> Result<(), StoreError> {
    let copied = fs.copy(source, target).at("copy", source);
    if copied.is_err() {
        // Best effort: the directory it is in will be deleted all the same.
        let _ = fs.remove_file(target);
    }
    copied
}

/// Deletes a file, link or whole directory.
fn delete(fs: &impl Fs, path: &Path) -> Result<(), StoreError> {
    let deleted = match fs.stat(path).at("look at", path)?.kind {
        Kind::Dir => fs.remove_dir_all(path),
        Kind::File | Kind::Other => fs.remove_file(path),
    };
    deleted.at("delete", path)
}

/// For what must not fail any more; whatever stays is deleted at the next start.
fn delete_or_warn(fs: &impl Fs, path: &Path) {
    if let Err(error) = delete(fs, path) {
        tracing::warn!(%error, "left for the next start to delete");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::entry::{Fields, LinkedFile};
    use crate::extent::Layout;
    use std::fs::{self, File};
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::fs::MetadataExt;
    use std::process::{Child, Command, Stdio};
    use tempfile::TempDir;

    const PACK: &str = "objects/pack/pack-1.pack";
    const SPOOL: &[u8] = b"spooled bytes";
    const PACKED: &[u8] = b"bytes of a pack";

    fn id(number: u8) -> EntryId {
        EntryId::from_bytes([number; 16])
    }

    fn meta(id: EntryId, created_unix_ms: u64) -> Meta {
        let mut layout = Layout::default();
        layout.push_spool(SPOOL.len() as u64);
        layout.push_raw(0, 0, PACKED.len() as u64, &[0]);
        Meta::new(Fields {
            id,
            repository: "host/repo".into(),
            commit: None,
            refs_digest: [0; 32],
            created_unix_ms,
            linked: vec![LinkedFile {
                path: PACK.into(),
                bytes: PACKED.len() as u64,
            }],
            layout,
            jobs: Vec::new(),
        })
        .unwrap()
    }

    /// A state directory beside a pack that stands for a mirror's.
    struct Fixture {
        dir: TempDir,
        pack: PathBuf,
    }

    impl Fixture {
        fn new() -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let pack = dir.path().join("mirror.pack");
            fs::write(&pack, PACKED).unwrap();
            Fixture { dir, pack }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("state")
        }

        fn open(&self) -> StateDir {
            StateDir::open(&self.root()).unwrap()
        }

        fn staging(&self, state: &StateDir) -> Staging {
            let mut staging = state.staging().unwrap();
            fs::write(spool_path(staging.dir()), SPOOL).unwrap();
            assert_eq!(staging.link(&self.pack, PACK).unwrap(), Linked::Hard);
            staging
        }

        fn publish(&self, state: &StateDir, number: u8, created_unix_ms: u64) -> PathBuf {
            let meta = meta(id(number), created_unix_ms);
            let staging = self.staging(state);
            staging.publish(id(number), &meta.encode()).unwrap()
        }

        fn in_snapshots(&self) -> Vec<String> {
            names(&self.root().join(SNAPSHOTS_NAME))
        }
    }

    fn names(dir: &Path) -> Vec<String> {
        list(&Os, dir)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect()
    }

    /// Ids of the whole entries, and reasons of all else.
    fn scan(state: &StateDir) -> (Vec<EntryId>, Vec<String>) {
        let (found, rejected) = state.scan().unwrap();
        let reasons = rejected.iter().map(|r| r.reason.to_string());
        (found.iter().map(|f| f.meta.id).collect(), reasons.collect())
    }

    #[test]
    fn the_second_of_two_opens_is_told_who_is_there() {
        let fixture = Fixture::new();
        let first = fixture.open();
        assert_eq!(names(first.root()), ["lock", "mirrors", "snapshots", "tmp"]);
        let staging = first.staging().unwrap();
        let refused = StateDir::open(&fixture.root()).unwrap_err();
        assert!(matches!(&refused, StoreError::Locked { pid: Some(pid), .. }
            if *pid == std::process::id()));
        let text = refused.to_string();
        assert!(text.contains(fixture.root().to_str().unwrap()), "{text}");
        assert!(staging.dir().is_dir(), "a refused open deletes nothing");

        drop(first);
        let refused = StateDir::open(&fixture.root()).unwrap_err();
        assert!(matches!(refused, StoreError::Locked { .. }), "still staged");
        drop(staging);
        fixture.open();
    }

    /// A forked child shares the open lock file until it executes its program, so that a
    /// `StateDir` which was only closed looked as if it were still in use.
    #[test]
    fn a_child_in_the_making_does_not_keep_the_lock() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let in_the_child = state.lock.0.try_clone().unwrap();
        drop(state);
        fixture.open();
        drop(in_the_child);
    }

    const CHILD_DIR: &str = "TARPON_TEST_LOCK_DIR";

    /// Not a test of its own: the other process of the next test.
    #[test]
    fn child_that_holds_the_lock() {
        let Some(dir) = std::env::var_os(CHILD_DIR) else {
            return;
        };
        let state = StateDir::open(Path::new(&dir)).unwrap();
        let _staging = state.staging().unwrap();
        println!("\nlocked");
        // Until the parent kills this process or goes away.
        let _ = io::stdin().read_line(&mut String::new());
    }

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn another_process_holds_the_lock_until_it_is_killed() {
        let fixture = Fixture::new();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture"])
            .arg("cache::store::tests::child_that_holds_the_lock")
            .env(CHILD_DIR, fixture.root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut child = Killed(child);
        let output = BufReader::new(child.0.stdout.take().unwrap());
        let mut lines = output.lines().map(|line| line.unwrap());
        assert!(
            lines.any(|line| line == "locked"),
            "the child took the lock"
        );

        let refused = StateDir::open(&fixture.root()).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains(&format!("process {}", child.0.id())),
            "{text}"
        );
        assert_eq!(fixture.in_snapshots().len(), 1);
        drop(child);
        fixture.open();
        assert_eq!(fixture.in_snapshots(), [""; 0], "its staging is deleted");
    }

    #[test]
    fn what_was_never_published_is_deleted_at_start() {
        let fixture = Fixture::new();
        let state = fixture.open();
        fixture.publish(&state, 1, 5);
        let mirror = state.mirror_path("host", "repo");
        fs::create_dir_all(&mirror).unwrap();
        std::mem::forget(fixture.staging(&state));
        drop(state);
        // The forgotten staging stands for a killed process, but still holds this process's
        // lock: a new lock file stands for its end.
        let root = fixture.root();
        fs::remove_file(root.join(LOCK_NAME)).unwrap();
        fs::write(root.join(LOCK_NAME), "1\n").unwrap();
        fs::create_dir_all(root.join("tmp/clone/objects")).unwrap();
        fs::write(root.join("tmp/clone/objects/half"), "x").unwrap();
        fs::write(root.join("tmp/file"), "x").unwrap();
        std::os::unix::fs::symlink(&fixture.pack, root.join("tmp/link")).unwrap();
        fs::create_dir(root.join("snapshots/.removing-something")).unwrap();
        assert_eq!(fixture.in_snapshots().len(), 3);

        let state = fixture.open();
        assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
        assert_eq!(names(&state.tmp_dir()), [""; 0]);
        assert!(mirror.is_dir() && fixture.pack.is_file());
        assert_eq!(scan(&state), (vec![id(1)], vec![]));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused_untouched() {
        let fixture = Fixture::new();
        let root = fixture.root();
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::write(root.join("tmp/theirs"), "x").unwrap();
        for _ in 0..2 {
            let refused = StateDir::open(&root).unwrap_err();
            assert!(matches!(refused, StoreError::NotOurs { .. }), "{refused}");
            assert_eq!(names(&root), ["tmp"]);
            assert_eq!(names(&root.join("tmp")), ["theirs"]);
        }
        fs::remove_file(root.join("tmp/theirs")).unwrap();
        fixture.open();
    }

    #[test]
    fn published_entries_are_found_newest_first() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let dirs = [
            fixture.publish(&state, 1, 10),
            fixture.publish(&state, 2, 30),
            fixture.publish(&state, 3, 20),
        ];
        drop(state);
        let state = fixture.open();
        let (found, rejected) = state.scan().unwrap();
        assert!(rejected.is_empty());
        let order: Vec<_> = found.iter().map(|f| f.dir.clone()).collect();
        assert_eq!(order, [&dirs[1], &dirs[2], &dirs[0]].map(PathBuf::clone));
        assert_eq!(found[0].meta, meta(id(2), 30));
        assert_eq!(fs::read(spool_path(&dirs[1])).unwrap(), SPOOL);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        assert_eq!(inode(&dirs[1].join(PACK)), inode(&fixture.pack));
    }

    #[test]
    fn an_abandoned_or_failed_staging_leaves_nothing() {
        let fixture = Fixture::new();
        let state = fixture.open();
        drop(fixture.staging(&state));
        assert_eq!(fixture.in_snapshots(), [""; 0]);

        let bare = state.staging().unwrap();
        let error = bare.publish(id(1), b"meta without a spool").unwrap_err();
        assert!(matches!(&error, StoreError::Io { path, .. } if path.ends_with("spool")));
        assert_eq!(fixture.in_snapshots(), [""; 0]);

        let long = vec![0; META_BYTES_MAX as usize + 1];
        let error = fixture.staging(&state).publish(id(1), &long).unwrap_err();
        assert!(matches!(error, StoreError::MetaTooLong { .. }));
        assert_eq!(fixture.in_snapshots(), [""; 0]);
    }

    #[test]
    fn two_stagings_of_one_id_do_not_meet_and_the_later_replaces() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let first = fixture.staging(&state);
        let second = fixture.staging(&state);
        assert_ne!(first.dir(), second.dir());
        let dir = first.publish(id(1), &meta(id(1), 10).encode()).unwrap();
        let mut open = File::open(spool_path(&dir)).unwrap();
        assert_eq!(
            second.publish(id(1), &meta(id(1), 20).encode()).unwrap(),
            dir
        );
        assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
        let (found, _) = state.scan().unwrap();
        assert_eq!(found[0].meta.created_unix_ms, 20);
        let mut text = Vec::new();
        open.read_to_end(&mut text).unwrap();
        assert_eq!(text, SPOOL, "a reader of the old entry keeps its file");
    }

    #[test]
    fn a_failed_publish_over_an_entry_keeps_it() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let dir = fixture.publish(&state, 1, 10);
        let mut staging = fixture.staging(&state);
        // The disk refuses to put the staged directory in the old entry's place.
        fs::remove_dir_all(staging.dir()).unwrap();
        let error = staging.swap_in(id(1)).unwrap_err();
        assert!(matches!(error, StoreError::Io { op: "exchange", .. }));
        assert_eq!(scan(&state), (vec![id(1)], vec![]));
        assert_eq!(fixture.in_snapshots(), [id(1).as_str()]);
        assert!(dir.is_dir());
    }

    /// Every state that a kill inside `publish` (over an old entry) or `remove` leaves.
    #[test]
    fn a_kill_between_any_two_steps_leaves_whole_entries_only() {
        let (old, new) = (10, 20);
        type Cut = fn(&Path);
        let cases: [(&str, Cut, Option<u64>); 5] = [
            ("staged", |_| {}, Some(old)),
            (
                "old renamed away",
                |s| fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap(),
                None,
            ),
            (
                "new renamed in",
                |s| {
                    fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap();
                    fs::rename(s.join("staged"), s.join(id(1).as_str())).unwrap();
                },
                Some(new),
            ),
            (
                "old half deleted",
                |s| {
                    fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap();
                    fs::rename(s.join("staged"), s.join(id(1).as_str())).unwrap();
                    fs::remove_file(s.join(".removing-a/meta")).unwrap();
                },
                Some(new),
            ),
            (
                "removal half done",
                |s| {
                    fs::rename(s.join(id(1).as_str()), s.join(".removing-a")).unwrap();
                    fs::remove_dir_all(s.join(".removing-a/objects")).unwrap();
                },
                None,
            ),
        ];
        for (name, cut, expected) in cases {
            let fixture = Fixture::new();
            let state = fixture.open();
            let snapshots = state.snapshots_dir();
            // A whole staged entry: published, and renamed to what it is while it is staged.
            let staged = snapshots.join(format!("{BUILDING}{}-7", id(1)));
            fs::rename(fixture.publish(&state, 1, new), &staged).unwrap();
            fixture.publish(&state, 1, old);
            fs::rename(&staged, snapshots.join("staged")).unwrap();
            cut(&snapshots);
            if exists(&Os, &snapshots.join("staged")).unwrap() {
                fs::rename(snapshots.join("staged"), &staged).unwrap();
            }
            drop(state);

            let state = fixture.open();
            let (found, rejected) = state.scan().unwrap();
            assert!(rejected.is_empty(), "{name}: {rejected:?}");
            let created = found.first().map(|f| f.meta.created_unix_ms);
            assert_eq!(created, expected, "{name}");
            assert_eq!(fixture.in_snapshots().len(), found.len(), "{name}");
        }
    }

    type Damage = fn(&Path);

    #[test]
    fn broken_entries_are_removed_and_named() {
        let cases: [(&str, Damage); 10] = [
            ("it has no meta", |d| {
                fs::remove_file(d.join("meta")).unwrap()
            }),
            ("it has no spool", |d| {
                fs::remove_file(d.join("spool")).unwrap()
            }),
            ("it has no objects/pack/pack-1.pack", |d| {
                fs::remove_dir_all(d.join("objects")).unwrap()
            }),
            ("spool has 2 bytes instead of 13", |d| {
                fs::write(d.join("spool"), "xx").unwrap()
            }),
            ("objects/pack/pack-1.pack has 1 bytes instead of 15", |d| {
                // Not written through the link, which would change the mirror's file.
                fs::remove_file(d.join(PACK)).unwrap();
                fs::write(d.join(PACK), "x").unwrap()
            }),
            ("meta: the digest", |d| {
                let mut bytes = fs::read(d.join("meta")).unwrap();
                bytes[30] ^= 1;
                fs::write(d.join("meta"), bytes).unwrap()
            }),
            ("meta: at offset 3: the file ends too early", |d| {
                fs::write(d.join("meta"), "abc").unwrap()
            }),
            ("meta has 268435457 bytes", |d| {
                let file = File::create(d.join("meta")).unwrap();
                file.set_len(META_BYTES_MAX + 1).unwrap()
            }),
            ("meta belongs to entry 0303", |d| {
                fs::write(d.join("meta"), meta(id(3), 1).encode()).unwrap()
            }),
            ("it has no spool", |d| {
                fs::rename(d.join("spool"), d.join("kept")).unwrap();
                std::os::unix::fs::symlink("kept", d.join("spool")).unwrap()
            }),
        ];
        for (expected, damage) in cases {
            let fixture = Fixture::new();
            let state = fixture.open();
            fixture.publish(&state, 1, 10);
            damage(&fixture.publish(&state, 2, 20));
            let (found, rejected) = state.scan().unwrap();
            assert_eq!(found.len(), 1, "{expected}");
            assert_eq!(found[0].meta.id, id(1), "{expected}");
            let reason = rejected[0].reason.to_string();
            assert!(reason.starts_with(expected), "{reason} is not {expected}");
            assert!(rejected.len() == 1 && rejected[0].removed);
            assert_eq!(fixture.in_snapshots(), [id(1).as_str()], "{expected}");
            assert_eq!(fs::read(&fixture.pack).unwrap(), PACKED);
        }
    }

    #[test]
    fn what_has_no_entrys_name_is_reported_and_left_alone() {
        let fixture = Fixture::new();
        let state = fixture.open();
        fs::create_dir(state.snapshots_dir().join("lost+found")).unwrap();
        fs::write(state.snapshots_dir().join(id(1).as_str()), "a file").unwrap();
        let (found, rejected) = state.scan().unwrap();
        assert!(found.is_empty());
        let removed: Vec<bool> = rejected.iter().map(|r| r.removed).collect();
        assert_eq!(removed, [true, false], "{rejected:?}");
        assert_eq!(fixture.in_snapshots(), ["lost+found"]);
    }

    #[test]
    fn only_entries_can_be_removed() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let dir = fixture.publish(&state, 1, 10);
        let mirror = state.mirror_path("host", "repo");
        fs::create_dir_all(&mirror).unwrap();
        let elsewhere = state.tmp_dir().join(id(1).as_str());
        fs::create_dir(&elsewhere).unwrap();
        let snapshots = state.snapshots_dir();
        for wrong in [
            &mirror,
            &elsewhere,
            &snapshots,
            &snapshots.join(".building-x"),
        ] {
            let error = state.remove(wrong).unwrap_err();
            assert!(matches!(error, StoreError::NotAnEntry { .. }), "{error}");
        }
        assert!(mirror.is_dir() && elsewhere.is_dir() && dir.is_dir());

        let mut open = File::open(dir.join(PACK)).unwrap();
        state.remove(&dir).unwrap();
        assert_eq!(fixture.in_snapshots(), [""; 0]);
        let mut bytes = Vec::new();
        open.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, PACKED);
        let again = state.remove(&dir).unwrap_err();
        assert!(matches!(&again, StoreError::Io { path, source, .. }
            if *path == dir && source.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn links_are_to_files_and_stay_inside_the_entry() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let mut staging = state.staging().unwrap();
        for path in [
            "", "/x", "../x", "a/../x", "a//b", "meta", "spool", "meta/x", "a\0b",
        ] {
            let error = staging.link(&fixture.pack, path).unwrap_err();
            assert!(matches!(error, StoreError::LinkPath { .. }), "{path:?}");
        }
        let symlink = fixture.dir.path().join("symlink");
        std::os::unix::fs::symlink("mirror.pack", &symlink).unwrap();
        assert_eq!(staging.link(&symlink, "a/b").unwrap(), Linked::Hard);
        let linked = fs::symlink_metadata(staging.dir().join("a/b")).unwrap();
        assert_eq!(linked.ino(), fs::metadata(&fixture.pack).unwrap().ino());
        let gone = fixture.dir.path().join("gone");
        let error = staging.link(&gone, "c").unwrap_err();
        assert!(matches!(&error, StoreError::Io { op: "link", path, .. } if *path == gone));
        let twice = staging.link(&fixture.pack, "a/b").unwrap_err();
        assert!(matches!(twice, StoreError::Io { op: "link", .. }));
    }

    #[test]
    fn across_file_systems_a_file_is_copied() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let device = |path: &Path| fs::metadata(path).map(|stat| stat.dev()).ok();
        let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
            eprintln!("skipped: /dev/shm cannot be written");
            return;
        };
        if device(other.path()) == device(state.root()) {
            eprintln!("skipped: /dev/shm is the file system of the temporary directory");
            return;
        }
        let pack = other.path().join("pack");
        fs::write(&pack, PACKED).unwrap();
        let mut staging = state.staging().unwrap();
        fs::write(spool_path(staging.dir()), SPOOL).unwrap();
        assert_eq!(staging.link(&pack, PACK).unwrap(), Linked::Copied);
        let twice = staging.link(&pack, PACK).unwrap_err();
        assert!(matches!(twice, StoreError::Io { .. }));
        let meta = meta(id(1), 1).encode();
        let dir = staging.publish(id(1), &meta).unwrap();
        fs::remove_file(&pack).unwrap();
        assert_eq!(fs::read(dir.join(PACK)).unwrap(), PACKED);
        assert_eq!(scan(&state), (vec![id(1)], vec![]));
        let copied = (SPOOL.len() + PACKED.len() + meta.len()) as u64;
        assert_eq!(state.entry_bytes(&dir).unwrap(), copied);
    }

    #[test]
    fn an_entry_owns_a_pack_once_the_mirror_has_dropped_it() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let dir = fixture.publish(&state, 1, 10);
        let own = (SPOOL.len() + meta(id(1), 10).encode().len()) as u64;
        assert_eq!(state.entry_bytes(&dir).unwrap(), own);
        fs::remove_file(&fixture.pack).unwrap();
        assert_eq!(state.entry_bytes(&dir).unwrap(), own + PACKED.len() as u64);
        assert!(state.entry_bytes(&state.root().join("gone")).is_err());
    }

    #[test]
    fn mirrors_are_found_at_any_depth_but_not_inside_each_other() {
        let fixture = Fixture::new();
        let state = fixture.open();
        let make = |dir: &Path| {
            fs::create_dir_all(dir.join("objects")).unwrap();
            fs::write(dir.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        };
        let expected = [
            ("a.example", "b.git/c"),
            ("a.example", "deep/er/.github"),
            ("a.example", "repo"),
            ("localhost:3000", "x/y"),
        ];
        for (host, path) in expected {
            make(&state.mirror_path(host, path));
        }
        let mirrors = state.root().join(MIRRORS_NAME);
        make(&mirrors.join("a.example/repo.git/modules/inner.git"));
        make(&mirrors.join("a.example/not-a-mirror"));
        make(&mirrors.join("at-host-level.git"));
        make(&mirrors.join("at-host-level.git/modules/inner.git"));
        fs::create_dir_all(mirrors.join("a.example/no-head.git/objects")).unwrap();
        fs::create_dir_all(mirrors.join("a.example/.git")).unwrap();
        fs::write(mirrors.join("a.example/file.git"), "x").unwrap();
        std::os::unix::fs::symlink("..", mirrors.join("a.example/deep/loop")).unwrap();
        let outside = fixture.dir.path().join("elsewhere");
        make(&outside);
        std::os::unix::fs::symlink(&outside, mirrors.join("localhost:3000/link.git")).unwrap();
        let deepest = "d/".repeat(MIRROR_DEPTH_MAX);
        make(&mirrors.join("z").join(&deepest).join("in.git"));
        make(&mirrors.join("z").join(&deepest).join("d/out.git"));

        let mut expected: Vec<_> = expected
            .map(|(host, path)| (host.to_owned(), path.to_owned()))
            .into();
        expected.push(("localhost:3000".into(), "link".into()));
        expected.push(("z".into(), format!("{deepest}in")));
        expected.sort();
        assert_eq!(state.mirrors().unwrap(), expected);
        for (host, path) in &expected {
            assert!(state.mirror_path(host, path).join("HEAD").exists());
        }
    }

    #[test]
    fn the_file_system_has_a_size() {
        let fixture = Fixture::new();
        let space = fixture.open().space().unwrap();
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    }
}
