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
mod tests;
