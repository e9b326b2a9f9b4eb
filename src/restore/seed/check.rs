//! Whether a file is what a manifest says of a part.

use std::fs::File;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh64::Xxh64;

use super::super::pieces::{Taken, push_pieces};
use super::super::stop::Stop;
use crate::limits::STREAM_READ_BYTES;
use crate::manifest::parts::Manifest;

/// What a file was found to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Right,
    /// Something else, or something that cannot be read.
    Wrong,
    /// Nobody waits for it any more.
    Stopped,
}

/// Reads all of a file that has the length of the part.
pub(super) fn check(file: &File, manifest: &Manifest, number: usize, stop: &Stop) -> Verdict {
    let part = &manifest.parts[number];
    let mut pieces = Vec::new();
    push_pieces(manifest, number, &mut pieces);
    let mut whole = Xxh64::new(0);
    let mut buffer = vec![0; STREAM_READ_BYTES];
    for piece in &pieces {
        let mut taken = Taken::new(piece);
        let sums = &manifest.layout.checksums()[piece.sums.clone()];
        while taken.at < piece.range.end {
            if stop.is_set() {
                return Verdict::Stopped;
            }
            let left = usize::try_from(piece.range.end - taken.at).unwrap_or(usize::MAX);
            let bytes = &mut buffer[..left.min(STREAM_READ_BYTES)];
            if file.read_exact_at(bytes, taken.at).is_err() {
                return Verdict::Wrong;
            }
            if part.whole.is_some() {
                whole.update(bytes);
            }
            if taken.add(bytes, piece, sums).is_err() {
                return Verdict::Wrong;
            }
        }
    }
    match part.whole.is_none_or(|sum| sum == whole.digest()) {
        true => Verdict::Right,
        false => Verdict::Wrong,
    }
}
