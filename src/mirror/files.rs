//! The files of a mirror, listed and synced.

use gix::ObjectId;
use std::fs::{DirEntry, File};
use std::io;
use std::path::Path;

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
