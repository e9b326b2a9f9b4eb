//! An entry of the cache by its parts: what is uploaded of it, and the files that one is made of again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::change::{About, NewSnapshot};
use super::key::{manifest_name, meta_name, outline_name};
use super::objects::Content;
use super::publish::Contents;
use crate::limits::REMOTE_META_BYTES_MAX;
use crate::manifest::meta::{META_NAME, Meta, MetaError};
use crate::manifest::outline::OUTLINE_NAME;
use crate::manifest::parts::{MANIFEST_NAME, part_name};

/// What is the matter with the files of an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the metadata are not sound: {0}")]
    Meta(#[from] MetaError),
}

impl EntryError {
    fn of(op: &'static str, path: &Path) -> impl Fn(io::Error) -> EntryError {
        move |source| EntryError::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }
}

/// An entry by its parts.
#[derive(Debug)]
pub struct Described {
    /// What a head is to say of it.
    pub snapshot: NewSnapshot,
    /// Where its parts lie.
    pub contents: Contents<Content>,
}

/// Looks what an entry has: the files that it links, its own, and what is known of them.
///
/// # Errors
/// See [`EntryError`].
pub fn describe(dir: &Path, about: About, compared_unix_ms: u64) -> Result<Described, EntryError> {
    let read = |name: &str| {
        let path = dir.join(name);
        let read = || {
            let bytes = fs::metadata(&path)?.len();
            match bytes <= REMOTE_META_BYTES_MAX as u64 {
                true => fs::read(&path),
                false => Err(std::io::ErrorKind::FileTooLarge.into()),
            }
        };
        read().map_err(EntryError::of("read", &path))
    };
    let meta_bytes = read(META_NAME)?;
    let meta = Meta::decode(&meta_bytes)?;
    let manifest_bytes = read(MANIFEST_NAME)?;
    let (mut contents, mut parts) = (Contents::new(), Vec::new());
    let files = meta
        .linked
        .iter()
        .map(|linked| (&linked.path, linked.bytes));
    for (path, bytes) in files.chain([(&meta.spool, meta.spool_bytes())]) {
        let name = part_name(path).to_owned();
        contents.insert(name.clone(), (bytes, Content::File(dir.join(path))));
        parts.push(name);
    }
    let mut add = |name: String, bytes: Vec<u8>| {
        let part = (bytes.len() as u64, Content::Bytes(bytes));
        contents.insert(name.clone(), part);
        name
    };
    let manifest = add(manifest_name(&manifest_bytes), manifest_bytes);
    parts.push(add(meta_name(&meta_bytes), meta_bytes));
    // Without it the next build takes nothing over.
    if let Ok(outline) = read(OUTLINE_NAME) {
        parts.push(add(outline_name(&outline), outline));
    }
    let snapshot = NewSnapshot {
        about,
        id: meta.id,
        manifest,
        parts,
        compared_unix_ms,
    };
    Ok(Described { snapshot, contents })
}

/// A file that is downloaded in pieces, in any order.
#[derive(Debug)]
pub struct Incoming {
    file: File,
    path: PathBuf,
}

impl Incoming {
    /// A new one of this length.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make(path: PathBuf, bytes: u64) -> Result<Incoming, EntryError> {
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        let made = made.and_then(|file| file.set_len(bytes).map(|()| file));
        let file = made.map_err(EntryError::of("make", &path))?;
        Ok(Incoming { file, path })
    }

    /// Puts a piece into its place.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&self, piece: &[u8], at: u64) -> Result<(), EntryError> {
        let put = self.file.write_all_at(piece, at);
        put.map_err(EntryError::of("write", &self.path))
    }
}
