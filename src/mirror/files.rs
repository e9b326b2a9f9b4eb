//! The files of a mirror, listed and synced.

use gix::ObjectId;
use std::fs::{DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Syncs every file and directory below and including `root`.
pub(super) fn sync_tree(root: &Path) -> io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in entries(&folder)? {
            if entry.file_type()?.is_dir() {
                pending.push(entry.path());
            } else {
                File::open(entry.path())?.sync_all()?;
            }
        }
        File::open(&folder)?.sync_all()?;
    }
    Ok(())
}

pub(super) fn entries(folder: &Path) -> io::Result<Vec<DirEntry>> {
    std::fs::read_dir(folder)?.collect()
}

/// Tells whether files were replaced, made or removed, or have grown: the inode, date and length of each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(PathBuf, u64, [i64; 2], u64)>);

impl Stamp {
    /// Of the files at these paths and below them, as far as they are there.
    pub(super) fn of(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Stamp> {
        let mut pending = Vec::from_iter(paths);
        let mut stamp = Vec::new();
        while let Some(path) = pending.pop() {
            let found = match std::fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                found => found?,
            };
            if found.is_dir() {
                pending.extend(entries(&path)?.iter().map(DirEntry::path));
            }
            let date = [found.mtime(), found.mtime_nsec()];
            stamp.push((path, found.ino(), date, found.len()));
        }
        // The order of a directory says nothing.
        stamp.sort_unstable();
        Ok(Stamp(stamp))
    }
}

/// The ids of all loose objects. A power cut leaves empty files; git looks for their objects elsewhere.
pub(super) fn loose_ids(objects: &Path) -> io::Result<Vec<ObjectId>> {
    let mut ids = Vec::new();
    for first in 0..=u8::MAX {
        let first = format!("{first:02x}");
        let found = match entries(&objects.join(&first)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            found => found?,
        };
        for entry in found {
            let id = format!("{first}{}", entry.file_name().to_string_lossy());
            let Ok(id) = ObjectId::from_hex(id.as_bytes()) else {
                continue;
            };
            match entry.metadata() {
                Ok(found) if found.len() > 0 => ids.push(id),
                Ok(_) => {}
                // Packed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ids)
}
