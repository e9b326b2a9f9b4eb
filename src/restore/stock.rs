//! Files of frames that a seed has, or gets while they are played.

use std::ops::Range;

use super::http::Conn;
use super::pieces::Piece;
use super::progress::Progress;
use super::reel::Reel;
use super::seed::{Lent, Seed};
use super::source::Source;
use super::spare::{self, Spare};
use super::stop::Stop;
use crate::limits::PART_READ_BYTES;
use crate::manifest::parts::Manifest;

/// See the module's text; by their place in the manifest.
#[derive(Default)]
pub(super) struct Stock<'f> {
    lent: Vec<Option<Lent<'f>>>,
    /// Those that it is to have.
    spare: Vec<Option<Spare<'f>>>,
}

impl<'f> Stock<'f> {
    /// Those that the seed has of what is played.
    pub(super) fn find(
        seed: &'f Seed<'f>,
        manifest: &Manifest,
        reel: &Reel,
        stop: &Stop,
    ) -> Stock<'f> {
        let find = |number: usize| match manifest.parts[number].is_of_pack() {
            false if !reel.of_part(number).is_empty() => seed.find(manifest, number, stop),
            _ => None,
        };
        Stock {
            lent: (0..manifest.parts.len()).map(find).collect(),
            spare: Vec::new(),
        }
    }

    /// Begins to keep all others, if what is not played of them is little. That is to be fetched for it.
    pub(super) fn keep(
        &mut self,
        seed: &'f Seed<'f>,
        manifest: &Manifest,
        reel: &Reel,
    ) -> Vec<Piece> {
        let (spare, pieces) = spare::plan(seed, manifest, reel, |number| self.has(number));
        self.spare = spare;
        pieces
    }

    /// Whether the seed has it.
    pub(super) fn has(&self, number: usize) -> bool {
        matches!(self.lent.get(number), Some(Some(_)))
    }

    /// What of a reel the seed has.
    pub(super) fn bytes_of(&self, reel: &Reel) -> u64 {
        let numbers = (0..self.lent.len()).filter(|number| self.has(*number));
        let bytes = |range: Range<u64>| range.end - range.start;
        let ranges = numbers.flat_map(|number| reel.of_part(number));
        ranges.map(bytes).sum()
    }

    /// One that is to be kept.
    pub(super) fn spare(&self, number: usize) -> Option<&Spare<'f>> {
        self.spare.get(number)?.as_ref()
    }

    /// Gives bytes of one to be played, if the seed has it; whether it has.
    pub(super) fn had(&self, number: usize, at: u64, into: &mut [u8], progress: &Progress) -> bool {
        match self.lent.get(number) {
            Some(Some(lent)) if lent.read(at, into) => {
                progress.came_from_seed(into.len() as u64);
                true
            }
            _ => false,
        }
    }

    /// What came of one to be played is kept, if the file is.
    pub(super) fn played(&self, number: usize, at: u64, bytes: &[u8]) {
        if let Some(spare) = self.spare(number) {
            spare.write(bytes, at);
            spare.came(at..at + bytes.len() as u64);
        }
    }

    /// Fetches pieces that nobody plays, one after the other.
    pub(super) fn fetch_all(&self, of: (&Source<'_>, &Manifest), pieces: &[Piece]) {
        let (mut conn, mut buffer) = (None, Vec::new());
        for piece in pieces {
            self.fetch(of, piece, &mut conn, &mut buffer);
        }
    }

    /// Fetches a piece that nobody plays; once that fails, no more of that is fetched.
    pub(super) fn fetch<'a>(
        &self,
        (source, manifest): (&Source<'a>, &Manifest),
        piece: &Piece,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut Vec<u8>,
    ) {
        let number = piece.part;
        let Some(spare) = self.spare(number).filter(|spare| !spare.is_lost()) else {
            return;
        };
        buffer.resize(PART_READ_BYTES, 0);
        let of = (source, &manifest.parts[number]);
        if !spare.fetch(of, piece, conn, buffer) {
            *conn = None;
            self.spare.iter().flatten().for_each(Spare::lose);
        }
    }
}
