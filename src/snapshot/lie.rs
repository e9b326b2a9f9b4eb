//! How well the frames of an entry lie in its files, and so whether it is to be built once more.

use crate::limits::DEAD_FRAMES_BYTES;
use crate::manifest::outline::Outline;
use crate::manifest::record::Linked;

/// How the frames of a new entry lie in its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// Well enough.
    Fine,
    /// In so many stretches that each download costs more for it.
    Scattered,
    /// More bytes of the files are of no use than are of use.
    Wasteful,
}

impl Lie {
    /// Of an entry, of whose own file, of `spool_bytes`, all is of use; more stretches than `stretches_max`
    /// are too many. What is not fine is built once more, which joins files: at once, or once nothing moves
    /// for a while.
    pub(crate) fn of(
        outline: &Outline,
        spool_bytes: u64,
        linked: &[Linked],
        (stretches, stretches_max): (usize, usize),
    ) -> Lie {
        if is_to_be_compacted(outline, spool_bytes, linked) {
            return Lie::Wasteful;
        }
        match stretches > stretches_max {
            true => Lie::Scattered,
            false => Lie::Fine,
        }
    }
}

fn is_to_be_compacted(outline: &Outline, spool_bytes: u64, linked: &[Linked]) -> bool {
    let mut live = vec![0; outline.parts.len()];
    for (at, _) in outline.stretches() {
        live[at.part as usize] += at.bytes;
    }
    let frames = linked.iter().filter(|file| file.whole.is_some());
    let files = frames.map(|file| file.bytes).zip(live.into_iter().skip(1));
    is_wasteful(files.chain([(spool_bytes, spool_bytes)]))
}

/// Whether of files, each of so many bytes and so many of use, more is of no use than is of use.
pub(super) fn is_wasteful(files: impl Iterator<Item = (u64, u64)>) -> bool {
    let sum = |(all, live): (u64, u64), (bytes, live_bytes)| (all + bytes, live + live_bytes);
    let (all, live) = files.fold((0, 0), sum);
    all.saturating_sub(live) > live.max(DEAD_FRAMES_BYTES)
}
