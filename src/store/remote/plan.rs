//! In which order the files of an archive are downloaded, and how far it reaches with what has come: functions of its
//! layout, without any input or output.
//!
//! Files are cut into pieces, each with a checksum. What the archive begins with is asked for first. Its frontier moves
//! over pieces that were found to be right, and over no others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::sums::{Pieces, Sum, Sums, Unchecked, pieces_of};
use crate::extent::{Extent, Layout};
use crate::limits::{DOWNLOAD_PIECE_BYTES, SUM_PIECE_BYTES};
use crate::manifest::meta::Meta;

/// A file of an archive, by the pieces in which it comes.
#[derive(Debug)]
struct Coming {
    /// Whether it is a pack's, which a mirror has as well.
    is_packs: bool,
    pieces: Arc<Pieces>,
    /// Whether somebody is to fetch it.
    planned: Vec<bool>,
    /// Whether it is there.
    there: Vec<bool>,
}

/// Pieces of one file that are fetched by one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The file: a linked one by its number, or the spool file, which is the one behind them.
    pub file: usize,
    /// Which bytes of it.
    pub range: Range<u64>,
    pieces: Arc<Pieces>,
}

impl Stretch {
    /// Whole pieces of a file.
    #[must_use]
    pub fn new(file: usize, range: Range<u64>, pieces: Arc<Pieces>) -> Stretch {
        Stretch {
            file,
            range,
            pieces,
        }
    }

    /// Whether these are its bytes; else where the first piece begins that is something else.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, bytes: &[u8]) -> Result<(), u64> {
        match bytes.len() as u64 == self.range.end - self.range.start {
            true => self.pieces.check(bytes, self.range.start),
            false => Err(self.range.start),
        }
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

/// See the module's text.
#[derive(Debug)]
pub struct Plan {
    layout: Layout,
    files: Vec<Coming>,
    /// What is to be fetched, in this order,
    stretches: Vec<Stretch>,
    /// and the numbers of those that nobody was told of yet.
    left: VecDeque<usize>,
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
        let are_packs = meta.linked.iter().map(|linked| linked.whole.is_none());
        let pieces = are_packs.chain([false]).zip(pieces_of(meta, sums)?);
        let files = pieces.map(|(is_packs, pieces)| Coming {
            is_packs,
            planned: vec![false; pieces.count()],
            there: vec![false; pieces.count()],
            pieces: Arc::new(pieces),
        });
        let mut plan = Plan {
            layout: meta.layout.clone(),
            files: files.collect(),
            stretches: Vec::new(),
            left: VecDeque::new(),
            extent: 0,
            within: 0,
        };
        plan.order();
        plan.rewind();
        Ok(plan)
    }

    /// What the archive begins with first, in short stretches, that somebody gets something soon.
    fn order(&mut self) {
        let extents = self.layout.extents().to_vec();
        for extent in extents {
            let (file, range) = self.lies(&extent);
            let pieces = self.files[file].pieces.clone();
            for number in pieces.number(range.start)..=pieces.number(range.end - 1) {
                self.plan(file, number);
            }
        }
        for file in 0..self.files.len() {
            for number in 0..self.files[file].pieces.count() {
                self.plan(file, number);
            }
        }
    }

    /// Has a piece fetched, together with those behind it.
    fn plan(&mut self, file: usize, first: usize) {
        let doubled = SUM_PIECE_BYTES << self.stretches.len().min(16);
        let bytes_max = doubled.min(DOWNLOAD_PIECE_BYTES);
        let Coming {
            pieces, planned, ..
        } = &mut self.files[file];
        let start = pieces.start(first);
        let mut end = first;
        while end < pieces.count()
            && !planned[end]
            && (end == first || pieces.end(end) - start <= bytes_max)
        {
            planned[end] = true;
            end += 1;
        }
        if end > first {
            self.stretches.push(Stretch {
                file,
                range: start..pieces.end(end - 1),
                pieces: pieces.clone(),
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
        let next = self.left.pop_front()?;
        self.stretches.get(next).cloned()
    }

    /// The same, of packs for as long as there is something of them: a mirror waits for these alone.
    pub fn next_stretch_of_packs(&mut self) -> Option<Stretch> {
        let of_packs = |next: &usize| self.files[self.stretches[*next].file].is_packs;
        match self.left.iter().position(of_packs) {
            Some(at) => {
                let next = self.left.remove(at)?;
                self.stretches.get(next).cloned()
            }
            None => self.next_stretch(),
        }
    }

    /// Whether all packs are there.
    #[must_use]
    pub fn has_packs(&self) -> bool {
        let mut packs = self.files.iter().filter(|file| file.is_packs);
        packs.all(|file| file.there.iter().all(|is_there| *is_there))
    }

    /// How much there is in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.stretches
            .iter()
            .map(|it| it.range.end - it.range.start)
            .sum()
    }

    /// Says all of it once more.
    pub fn rewind(&mut self) {
        self.left = (0..self.stretches.len()).collect();
    }

    /// It is there, and was found right.
    pub fn note(&mut self, stretch: &Stretch) {
        let Coming { pieces, there, .. } = &mut self.files[stretch.file];
        // None is empty.
        let (first, last) = (
            pieces.number(stretch.range.start),
            pieces.number(stretch.range.end - 1),
        );
        there[first..=last].fill(true);
    }

    /// What the archive has next, as far as it is there; the frontier moves over it.
    pub fn advance(&mut self) -> Option<Ready> {
        let extent = *self.layout.extents().get(self.extent)?;
        let (file, range) = self.lies(&extent);
        let Coming { pieces, there, .. } = &self.files[file];
        let offset = range.start + self.within;
        let number = pieces.number(offset);
        if !there[number] {
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
            Extent::RawRun { file, .. } => match pieces.sum(number) {
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

#[cfg(test)]
mod tests;
