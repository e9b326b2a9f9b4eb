//! Checksums of the pieces of files, so that no piece is uploaded or taken that is not what was built. Those of packs are in
//! the layout of an archive, which has them of their frames; those of files of frames are a part of their own.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::extent::{Extent, RAW_FRAME_BYTES, low_checksum, raw_frames};
use crate::limits::{SUM_PIECE_BYTES, SUMS_KEPT_MAX};
use crate::manifest::meta::Meta;
use crate::manifest::parts::part_name;

/// What must hold of the bytes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// The low half of their XXH64, as layouts have it of packs.
    Low(u32),
    /// All of it.
    Whole(u64),
}

impl Sum {
    fn is_of(self, bytes: &[u8]) -> bool {
        let sum = xxh64(bytes, 0);
        match self {
            Sum::Low(low) => low_checksum(sum) == low,
            Sum::Whole(whole) => sum == whole,
        }
    }
}

/// A file by its pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    /// Its length.
    pub bytes: u64,
    /// How long a piece is, but the last.
    piece_bytes: u64,
    sums: Vec<Sum>,
}

impl Pieces {
    /// `None` if there is not one checksum for each.
    #[must_use]
    pub fn new(bytes: u64, piece_bytes: u64, sums: Vec<Sum>) -> Option<Pieces> {
        (sums.len() as u64 == bytes.div_ceil(piece_bytes)).then_some(Pieces {
            bytes,
            piece_bytes,
            sums,
        })
    }

    /// How long each is, but the last.
    #[must_use]
    pub fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sums.len()
    }

    /// In which piece a byte lies.
    #[must_use]
    pub fn number(&self, at: u64) -> usize {
        // There is a checksum in memory of each.
        (at / self.piece_bytes) as usize
    }

    /// Where a piece begins.
    #[must_use]
    pub fn start(&self, number: usize) -> u64 {
        number as u64 * self.piece_bytes
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self, number: usize) -> u64 {
        self.bytes.min(self.start(number + 1))
    }

    /// The checksum of a piece.
    #[must_use]
    pub fn sum(&self, number: usize) -> Sum {
        self.sums[number]
    }

    /// Whether these are the bytes of the pieces that begin at `start`; else where the first one begins that is something
    /// else.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, bytes: &[u8], start: u64) -> Result<(), u64> {
        let mut at = start;
        // What was read is in memory.
        for piece in bytes.chunks(self.piece_bytes as usize) {
            let number = self.number(at);
            let is_whole = at == self.start(number) && at + piece.len() as u64 == self.end(number);
            if !is_whole || !self.sums[number].is_of(piece) {
                return Err(at);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// A file that is uploaded, piece by piece as it was built.
#[derive(Debug, Clone)]
pub struct SummedFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it must be.
    pub pieces: Arc<Pieces>,
}

/// What is the matter with a file that is uploaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not what was built: it is damaged at {at}", path.display())]
    Rotten { path: PathBuf, at: u64 },
}

impl SummedFile {
    /// Opens it.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn open(&self) -> Result<File, FileError> {
        File::open(&self.path).map_err(|e| self.failed(e))
    }

    /// Reads whole pieces of it, and compares them.
    ///
    /// # Errors
    /// See [`FileError`].
    pub fn read(&self, file: &File, range: Range<u64>) -> Result<Vec<u8>, FileError> {
        let read = || {
            let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let mut bytes = vec![0; bytes];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|e| self.failed(e))?;
        let checked = self.pieces.check(&bytes, range.start);
        checked.map_err(|at| FileError::Rotten {
            path: self.path.clone(),
            at,
        })?;
        Ok(bytes)
    }

    fn failed(&self, source: io::Error) -> FileError {
        FileError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Why an archive cannot be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not all pieces of {name} have a checksum")]
pub struct Unchecked {
    /// Of which file.
    pub name: String,
}

/// The pieces of all files of an archive: the linked ones by their numbers, and the spool file behind them.
///
/// # Errors
/// See [`Unchecked`].
pub fn pieces_of(meta: &Meta, sums: &Sums) -> Result<Vec<Pieces>, Unchecked> {
    let unchecked = |path: &str| Unchecked {
        name: part_name(path).to_owned(),
    };
    let frames = |path: &str, bytes: u64| {
        let sums = sums.files.get(part_name(path));
        let sums = sums.map_or(&[][..], Vec::as_slice);
        let sums = sums.iter().map(|sum| Sum::Whole(*sum)).collect();
        Pieces::new(bytes, SUM_PIECE_BYTES, sums).ok_or_else(|| unchecked(path))
    };
    let mut of_packs = pack_sums(meta);
    let mut all = Vec::with_capacity(meta.linked.len() + 1);
    for (linked, sums) in meta.linked.iter().zip(&mut of_packs) {
        let sums = sums.take();
        all.push(match (linked.whole, sums) {
            (Some(_), Some(sums)) if sums.is_empty() => frames(&linked.path, linked.bytes)?,
            (None, Some(sums)) => {
                let pieces = Pieces::new(linked.bytes, RAW_FRAME_BYTES, sums);
                pieces.ok_or_else(|| unchecked(&linked.path))?
            }
            _ => return Err(unchecked(&linked.path)),
        });
    }
    all.push(frames(&meta.spool, meta.spool_bytes())?);
    Ok(all)
}

/// The checksums of the frames of each linked file; none of one that the archive does not have from its begin to its end
/// in raw frames, in order. What has no raw frames at all has an empty list.
fn pack_sums(meta: &Meta) -> Vec<Option<Vec<Sum>>> {
    let (layout, count) = (&meta.layout, meta.linked.len());
    let (mut sums, mut ends) = (vec![Some(Vec::new()); count], vec![0; count]);
    for extent in layout.extents() {
        let (file, offset, len, first) = match *extent {
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } => (file as usize, offset, len, first_checksum as usize),
            Extent::Stored { file, .. } => {
                let file = file as usize;
                if meta.linked.get(file).is_some_and(|it| it.whole.is_none()) {
                    sums[file] = None;
                }
                continue;
            }
            Extent::Spool { .. } => continue,
        };
        let (Some(of_file), Some(end)) = (sums.get_mut(file), ends.get_mut(file)) else {
            continue;
        };
        let frames = layout
            .checksums()
            .get(first..first + raw_frames(len) as usize);
        let follows = offset == *end && end.is_multiple_of(RAW_FRAME_BYTES);
        match (&mut *of_file, frames) {
            (Some(of_file), Some(frames)) if follows => {
                of_file.extend(frames.iter().map(|low| Sum::Low(*low)));
                *end = offset + len;
            }
            _ => *of_file = None,
        }
    }
    sums
}

/// Those of all files of frames of a snapshot, by their names as parts: the XXH64 of each [`SUM_PIECE_BYTES`], the last
/// of what is left.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// By name.
    pub files: BTreeMap<String, Vec<u64>>,
}

/// The bytes are no list of checksums.
#[derive(Debug, thiserror::Error)]
#[error("line {} column {}: {source}", source.line(), source.column())]
pub struct BadSums {
    source: serde_json::Error,
}

impl Sums {
    /// Reads what [`Sums::encode`] has written.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(bytes: &[u8]) -> Result<Sums, BadSums> {
        serde_json::from_slice(bytes).map_err(|source| BadSums { source })
    }

    /// The bytes of the part.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Its keys are texts, so this cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// The checksums of the pieces of a file of this length, and that of all of it.
///
/// # Errors
/// It cannot be read, or is shorter.
pub fn sums_of(file: &File, bytes: u64) -> io::Result<(Vec<u64>, u64)> {
    let (mut whole, mut pieces) = (Xxh64::new(0), Vec::new());
    let mut piece = vec![0; usize::try_from(SUM_PIECE_BYTES).map_err(io::Error::other)?];
    let mut at = 0;
    while at < bytes {
        // Not more than a piece, which is in memory.
        let piece = &mut piece[..SUM_PIECE_BYTES.min(bytes - at) as usize];
        file.read_exact_at(piece, at)?;
        whole.update(piece);
        pieces.push(xxh64(piece, 0));
        at += piece.len() as u64;
    }
    Ok((pieces, whole.digest()))
}

/// What was computed before: files of frames never change, and most of a snapshot's are those of the one before.
#[derive(Debug, Default)]
pub struct KnownSums {
    by_name: Mutex<HashMap<String, Vec<u64>>>,
}

impl KnownSums {
    /// Those of this file.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Vec<u64>> {
        let known = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).cloned()
    }

    /// Keeps them, and forgets all others when they are too many.
    pub fn add(&self, name: String, sums: Vec<u64>) {
        let mut known = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let count: usize = known.values().map(|sums| sums.len()).sum();
        if count + sums.len() > SUMS_KEPT_MAX {
            known.clear();
        }
        known.insert(name, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_the_whole_have_their_checksums() {
        let content = Vec::from_iter((0..2 * SUM_PIECE_BYTES + 3).map(|at| (at % 251) as u8));
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&content, 0).unwrap();
        let (pieces, whole) = sums_of(&file, content.len() as u64).unwrap();
        let expected = content.chunks(SUM_PIECE_BYTES as usize);
        let expected = Vec::from_iter(expected.map(|piece| xxh64(piece, 0)));
        assert_eq!((&pieces, whole), (&expected, xxh64(&content, 0)));
        assert!(
            sums_of(&file, content.len() as u64 + 1).is_err(),
            "it is shorter"
        );
        let files = BTreeMap::from([("a".to_owned(), pieces)]);
        let sums = Sums { files };
        assert_eq!(Sums::decode(&sums.encode()).unwrap(), sums);
        assert!(Sums::decode(b"{\"files\":{\"a\":[-1]}}").is_err());
    }

    #[test]
    fn not_too_many_are_remembered() {
        let known = KnownSums::default();
        known.add("a".into(), vec![1; SUMS_KEPT_MAX - 1]);
        known.add("b".into(), vec![2]);
        assert!(known.get("a").is_some() && known.get("b") == Some(vec![2]));
        known.add("c".into(), vec![3]);
        assert_eq!((known.get("a"), known.get("c")), (None, Some(vec![3])));
    }
}
