//! The cache's steps on a file system, each with an error that says what could not be done where.

use std::io;
use std::path::{Path, PathBuf};

use crate::io::fs::{Fs, Kind, Os};
use crate::limits::META_BYTES_MAX;
use crate::manifest::id::EntryId;

/// What went wrong in the state directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {op} {}: {source}{}", path.display(), remedy(source))]
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

/// What cannot be done where a file cannot be linked.
pub(super) const LINK: &str = "link";

impl StoreError {
    /// Whether the system does not allow a link to a file: it is on another file system, belongs to somebody
    /// else (`protected_hardlinks`), or has as many names as there can be.
    pub fn cannot_be_linked(&self) -> bool {
        use libc::{EMLINK, ENOSYS, EOPNOTSUPP, EPERM, EXDEV};
        let StoreError::Io { op, source, .. } = self else {
            return false;
        };
        let code = source.raw_os_error();
        let is_it =
            code.is_some_and(|code| [EXDEV, EPERM, EMLINK, EOPNOTSUPP, ENOSYS].contains(&code));
        *op == LINK && is_it
    }

    /// Whether something was to be worked on that is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What to do about it, if that follows from the error alone.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::CrossesDevices => "; put mirrors/ and snapshots/ on one file system",
        _ => "",
    }
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "process unknown".into(),
    }
}

/// Adds what was done to which path to an error.
pub(super) trait At<T> {
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

/// Names and paths of what is in a directory, ordered. A name that is not UTF-8 is left out:
/// nothing that this program makes, or that a request can name, has one.
pub(super) fn list(fs: &impl Fs, dir: &Path) -> Result<Vec<(String, PathBuf)>, StoreError> {
    let mut names = fs.list(dir).at("list", dir)?;
    names.sort();
    let with_path = |name: String| {
        let path = dir.join(&name);
        (name, path)
    };
    Ok(names.into_iter().map(with_path).collect())
}

pub(super) fn exists(fs: &impl Fs, path: &Path) -> Result<bool, StoreError> {
    match fs.stat(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).at("look for", path),
    }
}

/// Makes a directory and those above it that are missing. They last once they are synced.
pub(super) fn create_dirs(fs: &impl Fs, dir: &Path) -> Result<(), StoreError> {
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
pub(super) fn sync(fs: &impl Fs, path: &Path) -> Result<(), StoreError> {
    fs.sync(path).at("sync", path)
}

/// Syncs the directory that `path` is in. One that may be written but not read cannot be
/// opened for that, and on a file system that is read-only nothing was made.
pub(super) fn sync_parent(fs: &impl Fs, path: &Path) -> Result<(), StoreError> {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    match fs.sync(parent) {
        Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => Ok(()),
        synced => synced.at("sync", parent),
    }
}

/// Deletes a file, link or whole directory.
pub(super) fn delete(fs: &impl Fs, path: &Path) -> Result<(), StoreError> {
    let deleted = match fs.stat(path).at("look at", path)?.kind {
        Kind::Dir => fs.remove_dir_all(path),
        Kind::File | Kind::Other => fs.remove_file(path),
    };
    deleted.at("delete", path)
}

/// For what must not fail any more; whatever stays is deleted at the next start.
pub(super) fn delete_or_warn(fs: &impl Fs, path: &Path) {
    if let Err(error) = delete(fs, path) {
        tracing::warn!(%error, "left for the next start to delete");
    }
}

/// Whether there is a repository in a directory.
pub(super) fn is_repository(dir: &Path) -> bool {
    Os.stat(&dir.join("HEAD")).is_ok() && dir.join("objects").is_dir()
}
