//! Puts something where nothing is. What others have made there meanwhile stays.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::RestoreError;
use super::steps;
use crate::limits::BESIDE_TRIES_MAX;

/// Moves what is at `from` to `to`, where nothing may be.
pub(super) fn put(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let moved = match steps::rename_new(from, to) {
        // Not every file system can.
        Err(e) if is_unable(&e) && fs::symlink_metadata(to).is_err() => steps::rename(from, to),
        moved => moved,
    };
    moved.map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => came_meanwhile(to),
        _ => RestoreError::disk("rename to", to, e),
    })
}

fn is_unable(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}

/// The same with what was taken from `to`. Where something has come meanwhile it is put beside that.
pub(super) fn put_back(from: &Path, to: &Path) -> Result<(), RestoreError> {
    let Err(why) = put(from, to) else {
        return Ok(());
    };
    for number in 1..=BESIDE_TRIES_MAX {
        let mut beside = to.as_os_str().to_owned();
        beside.push(format!(".before-{number}"));
        let beside = PathBuf::from(beside);
        if put(from, &beside).is_ok() {
            return Err(RestoreError::Usage(format!(
                "{why}; what was there before is {} now",
                beside.display()
            )));
        }
    }
    Err(why)
}

pub(super) fn came_meanwhile(path: &Path) -> RestoreError {
    RestoreError::Usage(format!(
        "{} was changed or made meanwhile, and stays: the same command again looks at it",
        path.display()
    ))
}
