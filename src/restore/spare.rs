//! A file of frames that stays in a seed: it gets what is played of it as that comes, and what is not played of it in
//! the end. This restore needs neither there: whatever goes wrong, it is not kept.

use std::ops::Range;

use super::http::Conn;
use super::landing::Keeping;
use super::piece::Coming;
use super::pieces::{Piece, push_range};
use super::reel::Reel;
use super::seed::Seed;
use super::source::Source;
use super::summed::{Summed, Whole};
use crate::limits::{SEED_SPARE_BYTES_MIN, SEED_SPARE_SHARE, WRITE_BYTES};
use crate::manifest::parts::{Manifest, Part};

/// See the module's text.
pub(super) struct Spare<'f> {
    keeping: Keeping<'f>,
    bytes: u64,
    /// XXH64 of all of it, as the manifest has it.
    whole: u64,
    sum: Summed<Whole>,
}

impl<'f> Spare<'f> {
    /// `None` if it is not to be kept.
    fn begin(seed: &'f Seed<'f>, manifest: &Manifest, number: usize) -> Option<Spare<'f>> {
        let part = &manifest.parts[number];
        Some(Spare {
            whole: part.whole?,
            keeping: Keeping::begin(seed, manifest, number)?,
            bytes: part.bytes,
            sum: Summed::whole(),
        })
    }

    /// It is not kept.
    pub(super) fn lose(&self) {
        self.keeping.lose();
    }

    pub(super) fn is_lost(&self) -> bool {
        self.keeping.is_lost()
    }

    /// Fetches a piece of it; whether it could. It is asked for once.
    pub(super) fn fetch<'a>(
        &self,
        (source, part): (&Source<'a>, &Part),
        piece: &Piece,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut [u8],
    ) -> bool {
        let coming = Coming {
            source,
            part,
            piece,
            sums: &[],
            write: &|bytes, at| {
                self.write(bytes, at);
                Ok(())
            },
            frontier: None,
            tries_max: 1,
        };
        let fetched = coming.fetch(conn, buffer);
        if fetched.is_ok() {
            self.came(piece.range.clone());
        }
        fetched.is_ok()
    }

    /// Writes what came of a stretch that [`Self::came`] is told of once it is whole.
    pub(super) fn write(&self, bytes: &[u8], at: u64) {
        self.keeping.write(bytes, at);
    }

    /// A stretch is there; with the last of it the file is, which is kept if it is what the manifest says. What was
    /// played of it has sums of its own.
    pub(super) fn came(&self, stretch: Range<u64>) {
        if self.is_lost() {
            return;
        }
        let mut buffer = vec![0; WRITE_BYTES];
        match self
            .sum
            .add(stretch, self.keeping.file(), &mut buffer, || true)
        {
            Ok(true) => {}
            Ok(false) => return,
            Err(_) => return self.lose(),
        }
        let sum = self.sum.sum().finish(self.bytes);
        match sum {
            Some(sum) if sum == self.whole => self.keeping.keep(),
            Some(_) => self.lose(),
            None => {}
        }
    }
}

/// Files of frames that are to be kept, by their place in the manifest, and what is to be fetched for that alone: little.
/// `is_had` says which the seed has.
pub(super) fn plan<'f>(
    seed: &'f Seed<'f>,
    manifest: &Manifest,
    reel: &Reel,
    is_had: impl Fn(usize) -> bool,
) -> (Vec<Option<Spare<'f>>>, Vec<Piece>) {
    let packs = manifest.parts.iter().filter(|part| part.is_of_pack());
    let all = packs.map(|part| part.bytes).sum::<u64>() + reel.bytes();
    let mut may_spare = (all / SEED_SPARE_SHARE).max(SEED_SPARE_BYTES_MIN);
    let mut all_pieces = Vec::new();
    let begin = |(number, part): (usize, &Part)| {
        let played = reel.of_part(number);
        if part.is_of_pack() || played.is_empty() || is_had(number) {
            return None;
        }
        let pieces = not_played(number, part.bytes, &played)?;
        let bytes = pieces
            .iter()
            .map(|piece| piece.range.end - piece.range.start);
        let left = may_spare.checked_sub(bytes.sum())?;
        let spare = Spare::begin(seed, manifest, number)?;
        may_spare = left;
        all_pieces.extend(pieces);
        Some(spare)
    };
    let spares = manifest.parts.iter().enumerate().map(begin).collect();
    (spares, all_pieces)
}

/// What of a file of so many bytes is not played, if nothing of it is played twice.
fn not_played(number: usize, bytes: u64, played: &[Range<u64>]) -> Option<Vec<Piece>> {
    if !played.is_sorted_by(|one, next| one.end <= next.start) {
        return None;
    }
    let (mut pieces, mut at) = (Vec::new(), 0);
    for range in played {
        push_range(number, at..range.start, None, &mut pieces);
        at = range.end;
    }
    push_range(number, at..bytes, None, &mut pieces);
    Some(pieces)
}
