//! The sum of a file whose pieces come in any order.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;
use xxhash_rust::xxh64::Xxh64;

use super::sums::Running;
use crate::manifest::parts::{Manifest, Part};

/// What is made of a file from its first byte to its last.
pub(super) trait InOrder {
    /// Up to where it is made.
    fn next(&self) -> u64;

    /// What follows in the file.
    fn add(&mut self, bytes: &[u8]);
}

impl InOrder for Running {
    fn next(&self) -> u64 {
        Running::next(self)
    }

    fn add(&mut self, bytes: &[u8]) {
        Running::add(self, bytes);
    }
}

/// XXH64 of a file.
pub(super) struct Whole {
    sum: Xxh64,
    next: u64,
}

impl Whole {
    /// The sum of so many bytes, if these are all.
    pub(super) fn finish(&self, bytes: u64) -> Option<u64> {
        (self.next == bytes).then(|| self.sum.digest())
    }
}

impl InOrder for Whole {
    fn next(&self) -> u64 {
        self.next
    }

    fn add(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.next += bytes.len() as u64;
    }
}

/// The sum of a file whose pieces come in any order.
pub(super) struct Summed<S> {
    pub running: Arc<Mutex<S>>,
    there: Mutex<There>,
}

/// Invariant: while `is_taken`, one thread adds to the sum what `pieces` has that is next.
#[derive(Debug, Default)]
struct There {
    is_taken: bool,
    /// What was fetched and is not summed: where it begins and ends.
    pieces: BTreeMap<u64, u64>,
}

impl<S> Summed<S> {
    fn new(sum: S) -> Summed<S> {
        Summed {
            running: Arc::new(Mutex::new(sum)),
            there: Mutex::default(),
        }
    }
}

impl Summed<Whole> {
    /// Of any file.
    pub(super) fn whole() -> Summed<Whole> {
        Summed::new(Whole {
            sum: Xxh64::new(0),
            next: 0,
        })
    }
}

impl Summed<Running> {
    /// The one to be made of a part, if it is a pack.
    pub(super) fn of(manifest: &Manifest, part: &Part) -> Option<Summed<Running>> {
        if !part.name.ends_with(".pack") {
            return None;
        }
        let kind = match manifest.commit.as_deref().map_or(0, str::len) {
            64 => Kind::Sha256,
            _ => Kind::Sha1,
        };
        Some(Summed::new(Running::new(part.bytes, kind)))
    }
}

impl<S: InOrder> Summed<S> {
    fn lock(&self) -> MutexGuard<'_, There> {
        self.there
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The sum so far, to which nobody adds meanwhile.
    pub(super) fn sum(&self) -> MutexGuard<'_, S> {
        self.running
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds what came of `file`, and what it is in front of, to the sum, for as long as it `goes_on`; or leaves that to
    /// who is at it. Whether it did.
    pub(super) fn add(
        &self,
        came: Range<u64>,
        file: &File,
        buffer: &mut [u8],
        goes_on: impl Fn() -> bool,
    ) -> io::Result<bool> {
        let mut there = self.lock();
        there.pieces.insert(came.start, came.end);
        if std::mem::replace(&mut there.is_taken, true) {
            return Ok(false);
        }
        let mut sum = self.sum();
        while let Some(end) = there.pieces.remove(&sum.next()) {
            drop(there);
            while sum.next() < end {
                if !goes_on() {
                    return Ok(true);
                }
                let left = usize::try_from(end - sum.next()).unwrap_or(usize::MAX);
                let want = left.min(buffer.len());
                file.read_exact_at(&mut buffer[..want], sum.next())?;
                sum.add(&buffer[..want]);
            }
            there = self.lock();
        }
        there.is_taken = false;
        Ok(true)
    }
}
