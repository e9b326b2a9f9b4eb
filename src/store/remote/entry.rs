//! An entry of the cache by its parts: what is uploaded of it, and the files that one is made of again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change::{About, NewSnapshot};
use super::key::{hex, manifest_name, meta_name, outline_name, sums_name};
use super::objects::Content;
use super::publish::Contents;
use super::sums::{KnownSums, SummedFile, Sums, Unchecked, pieces_of, sums_of};
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
    #[error("{} is not what was built: its checksum is another", path.display())]
    Rotten { path: PathBuf },
    #[error(transparent)]
    Unchecked(#[from] Unchecked),
}

impl EntryError {
    pub(crate) fn of(op: &'static str, path: &Path) -> impl Fn(io::Error) -> EntryError {
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
    /// The names of its packs' files.
    pub packs: Vec<String>,
    /// Where its parts lie.
    pub contents: Contents<Content>,
}

/// Looks what an entry has: the files that it links, its own, and what is known of them.
///
/// # Errors
/// See [`EntryError`].
pub fn describe(
    dir: &Path,
    about: About,
    compared_unix_ms: u64,
    known: &KnownSums,
) -> Result<Described, EntryError> {
    let read = |name: &str| read_small(&dir.join(name));
    let meta_bytes = read(META_NAME)?;
    let meta = Meta::decode(&meta_bytes)?;
    let manifest_bytes = read(MANIFEST_NAME)?;
    let (mut contents, mut parts) = (Contents::new(), Vec::new());
    let (mut sums, mut packs) = (Sums::default(), Vec::new());
    let linked = meta.linked.iter();
    let files = linked.map(|linked| (&linked.path, linked.bytes, linked.whole));
    let own = (&meta.spool, meta.spool_bytes(), Some(meta.spool_checksum));
    for (path, bytes, whole) in files.chain([own]) {
        let name = part_name(path).to_owned();
        if let Some(whole) = whole {
            let sums_of_it = frames_sums((&name, &dir.join(path), bytes), whole, known)?;
            sums.files.insert(name.clone(), sums_of_it);
        } else {
            packs.push(name.clone());
        }
        parts.push(name);
    }
    let paths = meta.linked.iter().map(|linked| &linked.path);
    let paths = paths.chain([&meta.spool]).zip(&parts);
    for ((path, name), pieces) in paths.zip(pieces_of(&meta, &sums)?) {
        let file = SummedFile {
            path: dir.join(path),
            pieces: Arc::new(pieces),
        };
        contents.insert(name.clone(), (file.pieces.bytes, Content::File(file)));
    }
    let mut add = |name: String, bytes: Vec<u8>| {
        let part = (bytes.len() as u64, Content::Bytes(bytes));
        contents.insert(name.clone(), part);
        name
    };
    let manifest = add(manifest_name(&manifest_bytes), manifest_bytes);
    parts.push(add(meta_name(&meta_bytes), meta_bytes));
    let sums = sums.encode();
    parts.push(add(sums_name(&sums), sums));
    // Without it the next build takes nothing over.
    if let Ok(outline) = read(OUTLINE_NAME) {
        parts.push(add(outline_name(&outline), outline));
    }
    let snapshot = NewSnapshot {
        about,
        id: meta.id,
        shows: hex(&meta.shown),
        manifest,
        parts,
        compared_unix_ms,
    };
    Ok(Described {
        snapshot,
        packs,
        contents,
    })
}

fn read_small(path: &Path) -> Result<Vec<u8>, EntryError> {
    let read = || {
        let bytes = fs::metadata(path)?.len();
        match bytes <= REMOTE_META_BYTES_MAX as u64 {
            true => fs::read(path),
            false => Err(io::ErrorKind::FileTooLarge.into()),
        }
    };
    read().map_err(EntryError::of("read", path))
}

/// The checksums of the pieces of a file of frames, which is read once, and compared with what was built: nothing that has
/// rotted here is given to others.
fn frames_sums(
    (name, path, bytes): (&str, &Path, u64),
    whole: u64,
    known: &KnownSums,
) -> Result<Vec<u64>, EntryError> {
    if let Some(sums) = known.get(name) {
        return Ok(sums);
    }
    let sums = File::open(path).and_then(|file| sums_of(&file, bytes));
    let (sums, found) = sums.map_err(EntryError::of("read", path))?;
    if found != whole {
        let path = path.to_owned();
        return Err(EntryError::Rotten { path });
    }
    known.add(name.to_owned(), sums.clone());
    Ok(sums)
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

    /// One that was begun before.
    ///
    /// # Errors
    /// It cannot be opened, or is not of this length.
    pub fn again(path: PathBuf, bytes: u64) -> Result<Incoming, EntryError> {
        let opened = OpenOptions::new().write(true).open(&path);
        let opened = opened.and_then(|file| match file.metadata()?.len() == bytes {
            true => Ok(file),
            false => Err(io::ErrorKind::InvalidData.into()),
        });
        let file = opened.map_err(EntryError::of("open", &path))?;
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
