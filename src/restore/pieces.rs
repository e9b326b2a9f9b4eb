//! What one connection fetches of a part at a time, and whether what came of it is right.

use std::ops::Range;

use xxhash_rust::xxh64::Xxh64;

use crate::extent::{Extent, RAW_FRAME_BYTES, low_checksum};
use crate::limits::PIECE_FRAMES;
use crate::manifest::parts::Manifest;

/// What one connection fetches at a time: a stretch of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub part: usize,
    pub range: Range<u64>,
    /// Of a pack the checksums of each frame that the archive has of it.
    pub sums: Range<usize>,
}

/// What came of a piece, in order.
pub(super) struct Taken {
    /// What comes next is for here.
    pub at: u64,
    /// Frames that were found right.
    frames: usize,
    /// Of what came of the next one.
    sum: Xxh64,
}

impl Taken {
    pub(super) fn new(piece: &Piece) -> Taken {
        Taken {
            at: piece.range.start,
            frames: 0,
            sum: Xxh64::new(0),
        }
    }

    /// Before it all of a piece that has checksums is right.
    pub(super) fn sound_end(&self, piece: &Piece) -> u64 {
        let frames = self.frames as u64 * RAW_FRAME_BYTES;
        (piece.range.start + frames).min(piece.range.end)
    }

    /// Takes what came next, which is written. Where a frame is not right, gives where it begins: it is to come
    /// again.
    pub(super) fn add(&mut self, mut bytes: &[u8], piece: &Piece, sums: &[u32]) -> Result<(), u64> {
        if sums.is_empty() {
            self.at += bytes.len() as u64;
            return Ok(());
        }
        while !bytes.is_empty() {
            let begin = piece.range.start + self.frames as u64 * RAW_FRAME_BYTES;
            let end = (begin + RAW_FRAME_BYTES).min(piece.range.end);
            let left = usize::try_from(end - self.at).unwrap_or(usize::MAX);
            let (own, rest) = bytes.split_at(bytes.len().min(left));
            self.sum.update(own);
            self.at += own.len() as u64;
            bytes = rest;
            if self.at == end {
                let is_right = sums.get(self.frames) == Some(&low_checksum(self.sum.digest()));
                self.sum.reset(0);
                if !is_right {
                    self.at = begin;
                    return Err(begin);
                }
                self.frames += 1;
            }
        }
        Ok(())
    }
}

/// Cuts a part into pieces, of a pack where the archive's frames of it end.
pub(super) fn push_pieces(manifest: &Manifest, number: usize, pieces: &mut Vec<Piece>) {
    let part = &manifest.parts[number];
    if !part.is_of_pack() {
        return push_range(number, 0..part.bytes, None, pieces);
    }
    for extent in manifest.layout.extents() {
        if let Extent::RawRun {
            file,
            offset,
            len,
            first_checksum,
        } = *extent
            && file as usize == number
        {
            let first = Some(first_checksum as usize);
            push_range(number, offset..offset + len, first, pieces);
        }
    }
}

/// Cuts a stretch of a part into pieces. `first` is the checksum of its first frame, if those have some.
pub(super) fn push_range(
    part: usize,
    all: Range<u64>,
    first: Option<usize>,
    pieces: &mut Vec<Piece>,
) {
    let step = PIECE_FRAMES as u64 * RAW_FRAME_BYTES;
    for (n, from) in (0..).zip((all.start..all.end).step_by(step as usize)) {
        let range = from..(from + step).min(all.end);
        let sums = first.map_or(0..0, |first| {
            let begin = first + n * PIECE_FRAMES;
            let frames = (range.end - range.start).div_ceil(RAW_FRAME_BYTES);
            begin..begin + frames as usize
        });
        pieces.push(Piece { part, range, sums });
    }
}

#[cfg(test)]
mod tests;
