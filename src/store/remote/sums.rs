//! Checksums of the pieces of files of frames, so that who downloads one can look at each piece as it comes. Packs need
//! none: the layout of an archive has those of their frames.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::limits::{SUM_PIECE_BYTES, SUMS_KEPT_MAX};

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
