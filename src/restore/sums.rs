//! Sums of files that are made while their bytes pass.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;

use crate::tree::sum::Sum;

/// The sum of a file, but for the sum at its end, that is made while its bytes pass: so a large pack,
/// which comes as fast as it can be summed, is not read again.
#[derive(Debug)]
pub struct Running {
    sum: Sum,
    pub hash: Kind,
    /// The bytes before it are summed.
    next: u64,
    end: u64,
}

impl Running {
    /// For a file of `bytes` with ids of the kind `hash`.
    pub fn new(bytes: u64, hash: Kind) -> Running {
        Running {
            sum: Sum::new(hash),
            hash,
            next: 0,
            end: bytes.saturating_sub(hash.len_in_bytes() as u64),
        }
    }

    /// Up to where it is made.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// What follows in the file.
    pub fn add(&mut self, bytes: &[u8]) {
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        self.sum.update(&bytes[..bytes.len().min(left)]);
        self.next += bytes.len() as u64;
    }

    /// The sum, if that was all.
    pub fn finish(&self) -> Option<Vec<u8>> {
        let is_whole = self.next == self.end + self.hash.len_in_bytes() as u64;
        is_whole.then(|| self.sum.clone().finish())
    }
}

/// Sums that were begun, by the paths of their files.
pub type Sums = BTreeMap<Vec<u8>, Arc<Mutex<Running>>>;

/// A sum that nobody else adds to meanwhile.
pub(super) fn lock(sum: &Mutex<Running>) -> MutexGuard<'_, Running> {
    sum.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
