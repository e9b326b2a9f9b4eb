//! In which order the files of an archive are downloaded, and how far it reaches with what has come: functions of its
//! layout, without any input or output.
//!
//! Files are cut into pieces, each with a checksum. What the archive begins with is asked for first. Its frontier moves
//! over pieces that were found to be right, and over no others.

use std::ops::Range;

use xxhash_rust::xxh64::xxh64;

use super::sums::Sums;
use crate::extent::{Extent, Layout, RAW_FRAME_BYTES, low_checksum, raw_frames};
use crate::limits::{DOWNLOAD_PIECE_BYTES, SUM_PIECE_BYTES};
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

/// A file of an archive, by the pieces in which it comes.
#[derive(Debug)]
struct Pieces {
    bytes: u64,
    /// How long a piece is, but the last.
    piece_bytes: u64,
    sums: Vec<Sum>,
    /// Whether somebody is to fetch it.
    planned: Vec<bool>,
    /// Whether it is there.
    there: Vec<bool>,
}

impl Pieces {
    fn new(bytes: u64, piece_bytes: u64, sums: Vec<Sum>) -> Option<Pieces> {
        let count = sums.len();
        (count as u64 == bytes.div_ceil(piece_bytes)).then(|| Pieces {
            bytes,
            piece_bytes,
            sums,
            planned: vec![false; count],
            there: vec![false; count],
        })
    }

    fn number(&self, at: u64) -> usize {
        // There is a checksum in memory of each.
        (at / self.piece_bytes) as usize
    }

    fn end(&self, number: usize) -> u64 {
        self.bytes.min((number as u64 + 1) * self.piece_bytes)
    }
}

/// Pieces of one file that are fetched by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The file: a linked one by its number, or the spool file, which is the one behind them.
    pub file: usize,
    /// Which bytes of it.
    pub range: Range<u64>,
    /// How long a piece is, but the last.
    piece_bytes: u64,
    sums: Vec<Sum>,
}

impl Stretch {
    /// Whether these are its bytes; else where the first piece begins that is something else.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, bytes: &[u8]) -> Result<(), u64> {
        if bytes.len() as u64 != self.range.end - self.range.start {
            return Err(self.range.start);
        }
        let mut at = self.range.start;
        // What was asked for is in memory.
        let pieces = bytes.chunks(self.piece_bytes as usize);
        for (piece, sum) in pieces.zip(&self.sums) {
            if !sum.is_of(piece) {
                return Err(at);
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// What an archive has next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// So many bytes of its spool file.
    Spool { len: u64 },
    /// A frame of a linked file, with the checksum of its content.
    Raw {
        file: u32,
        offset: u64,
        len: u64,
        checksum: u32,
    },
    /// Frames of a linked file.
    Stored { file: u32, offset: u64, len: u64 },
}

/// Why an archive cannot be downloaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not all pieces of {name} have a checksum")]
pub struct Unchecked {
    /// Of which file.
    pub name: String,
}

/// See the module's text.
#[derive(Debug)]
pub struct Plan {
    layout: Layout,
    files: Vec<Pieces>,
    stretches: Vec<Stretch>,
    next: usize,
    /// The frontier: an extent, and how far it reaches into it.
    extent: usize,
    within: u64,
}

impl Plan {
    /// That of an archive.
    ///
    /// # Errors
    /// See [`Unchecked`].
    pub fn new(meta: &Meta, sums: &Sums) -> Result<Plan, Unchecked> {
        let unchecked = |path: &str| Unchecked {
            name: part_name(path).to_owned(),
        };
        let frames = |path: &str, bytes: u64| {
            let sums = sums.files.get(part_name(path));
            let sums = sums.map_or(&[][..], Vec::as_slice);
            let sums = sums.iter().map(|sum| Sum::Whole(*sum)).collect();
            Pieces::new(bytes, SUM_PIECE_BYTES, sums).ok_or_else(|| unchecked(path))
        };
        for extent in meta.layout.extents() {
            if let Extent::RawRun { file, .. } = extent
                && let Some(linked) = meta.linked.get(*file as usize)
                && linked.whole.is_some()
            {
                return Err(unchecked(&linked.path));
            }
        }
        let mut files = Vec::new();
        for (number, linked) in meta.linked.iter().enumerate() {
            files.push(match linked.whole {
                Some(_) => frames(&linked.path, linked.bytes)?,
                None => {
                    let sums = pack_sums(&meta.layout, number as u32);
                    let pieces =
                        sums.and_then(|sums| Pieces::new(linked.bytes, RAW_FRAME_BYTES, sums));
                    pieces.ok_or_else(|| unchecked(&linked.path))?
                }
            });
        }
        files.push(frames(&meta.spool, meta.spool_bytes())?);
        let mut plan = Plan {
            layout: meta.layout.clone(),
            files,
            stretches: Vec::new(),
            next: 0,
            extent: 0,
            within: 0,
        };
        plan.order();
        Ok(plan)
    }

    /// What the archive begins with first, in short stretches, that somebody gets something soon.
    fn order(&mut self) {
        let extents = self.layout.extents().to_vec();
        for extent in extents {
            let (file, range) = self.lies(&extent);
            let (first, last) = (
                self.files[file].number(range.start),
                self.files[file].number(range.end - 1),
            );
            for number in first..=last {
                self.plan(file, number);
            }
        }
        for file in 0..self.files.len() {
            for number in 0..self.files[file].sums.len() {
                self.plan(file, number);
            }
        }
    }

    /// Has a piece fetched, together with those behind it.
    fn plan(&mut self, file: usize, first: usize) {
        let doubled = SUM_PIECE_BYTES << self.stretches.len().min(16);
        let bytes_max = doubled.min(DOWNLOAD_PIECE_BYTES);
        let pieces = &mut self.files[file];
        let start = first as u64 * pieces.piece_bytes;
        let mut end = first;
        while end < pieces.sums.len()
            && !pieces.planned[end]
            && (end == first || pieces.end(end) - start <= bytes_max)
        {
            pieces.planned[end] = true;
            end += 1;
        }
        if end > first {
            self.stretches.push(Stretch {
                file,
                range: start..pieces.end(end - 1),
                piece_bytes: pieces.piece_bytes,
                sums: pieces.sums[first..end].to_vec(),
            });
        }
    }

    fn lies(&self, extent: &Extent) -> (usize, Range<u64>) {
        match *extent {
            Extent::Spool { offset, len } => (self.files.len() - 1, offset..offset + len),
            Extent::RawRun {
                file, offset, len, ..
            }
            | Extent::Stored { file, offset, len } => (file as usize, offset..offset + len),
        }
    }

    /// What is to be fetched next.
    pub fn next_stretch(&mut self) -> Option<Stretch> {
        let stretch = self.stretches.get(self.next)?.clone();
        self.next += 1;
        Some(stretch)
    }

    /// It is there, and was found right.
    pub fn note(&mut self, stretch: &Stretch) {
        let pieces = &mut self.files[stretch.file];
        let first = pieces.number(stretch.range.start);
        pieces.there[first..first + stretch.sums.len()].fill(true);
    }

    /// What the archive has next, as far as it is there; the frontier moves over it.
    pub fn advance(&mut self) -> Option<Ready> {
        let extent = *self.layout.extents().get(self.extent)?;
        let (file, range) = self.lies(&extent);
        let pieces = &self.files[file];
        let offset = range.start + self.within;
        let number = pieces.number(offset);
        if !pieces.there[number] {
            return None;
        }
        let len = pieces.end(number).min(range.end) - offset;
        self.within += len;
        if offset + len == range.end {
            (self.extent, self.within) = (self.extent + 1, 0);
        }
        Some(match extent {
            Extent::Spool { .. } => Ready::Spool { len },
            Extent::Stored { file, .. } => Ready::Stored { file, offset, len },
            Extent::RawRun { file, .. } => match pieces.sums[number] {
                Sum::Low(checksum) => Ready::Raw {
                    file,
                    offset,
                    len,
                    checksum,
                },
                Sum::Whole(_) => return None,
            },
        })
    }

    /// Whether all of the archive is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.extent == self.layout.extents().len()
    }
}

/// The checksums of the frames of a pack, if the archive has all of it in frames, in order.
fn pack_sums(layout: &Layout, number: u32) -> Option<Vec<Sum>> {
    let (mut sums, mut at) = (Vec::new(), 0);
    for extent in layout.extents() {
        match *extent {
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } if file == number => {
                if offset != at || !at.is_multiple_of(RAW_FRAME_BYTES) {
                    return None;
                }
                let first = first_checksum as usize;
                let frames = layout
                    .checksums()
                    .get(first..first + raw_frames(len) as usize)?;
                sums.extend(frames.iter().map(|low| Sum::Low(*low)));
                at = offset + len;
            }
            Extent::Stored { file, .. } if file == number => return None,
            _ => {}
        }
    }
    Some(sums)
}

#[cfg(test)]
mod tests;
