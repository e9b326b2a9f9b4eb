//! The sum of a pack whose pieces come in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;

use super::pieces::Piece;
use super::sums::{self, Running};
use crate::manifest::parts::{Manifest, Part};

/// The sum of a pack whose pieces come in any order.
#[derive(Debug)]
pub(super) struct Summed {
    pub running: Arc<Mutex<Running>>,
    there: Mutex<There>,
}

/// Invariant: while `is_taken`, one thread adds to the sum what `pieces` has that is next.
#[derive(Debug, Default)]
struct There {
    is_taken: bool,
    /// What was fetched and is not summed: where it begins and ends.
    pieces: BTreeMap<u64, u64>,
}

impl Summed {
    /// The one to be made of a part, if it is a pack.
    pub(super) fn of(manifest: &Manifest, part: &Part) -> Option<Summed> {
        if !part.name.ends_with(".pack") {
            return None;
        }
        let kind = match manifest.commit.as_deref().map_or(0, str::len) {
            64 => Kind::Sha256,
            _ => Kind::Sha1,
        };
        Some(Summed {
            running: Arc::new(Mutex::new(Running::new(part.bytes, kind))),
            there: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, There> {
        self.there
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a piece of `file`, and what it is in front of, to the sum; or leaves that to who is at it.
    pub(super) fn add(&self, piece: &Piece, file: &File, buffer: &mut [u8]) -> io::Result<()> {
        let mut there = self.lock();
        there.pieces.insert(piece.range.start, piece.range.end);
        if std::mem::replace(&mut there.is_taken, true) {
            return Ok(());
        }
        let mut running = sums::lock(&self.running);
        while let Some(end) = there.pieces.remove(&running.next()) {
            drop(there);
            while running.next() < end {
                let left = usize::try_from(end - running.next()).unwrap_or(usize::MAX);
                let want = left.min(buffer.len());
                file.read_exact_at(&mut buffer[..want], running.next())?;
                running.add(&buffer[..want]);
            }
            there = self.lock();
        }
        there.is_taken = false;
        Ok(())
    }
}
