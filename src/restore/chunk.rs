//! The memory that the archive arrives in. It is written and decoded from where it is: nothing
//! copies it on the way.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard};

/// Memory of chunks that are done with, to be used again.
#[derive(Debug, Default)]
pub struct Pool {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Memory of at least `len` bytes, whatever they are.
    pub fn take(&self, len: usize) -> Vec<u8> {
        let spare = self.lock().pop().unwrap_or_default();
        match spare.len() < len {
            true => vec![0; len],
            false => spare,
        }
    }
}

/// Bytes of the archive that follow each other. Their memory goes back to the pool.
#[derive(Debug)]
pub struct Chunk {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

impl Chunk {
    /// The first `len` bytes of `bytes`, which came from `pool`.
    pub fn new(bytes: Vec<u8>, len: usize, pool: &Arc<Pool>) -> Chunk {
        Chunk {
            bytes,
            len,
            pool: pool.clone(),
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.lock().push(std::mem::take(&mut self.bytes));
    }
}

/// Some bytes of a chunk, which they keep.
#[derive(Debug, Clone)]
pub struct Slice {
    chunk: Arc<Chunk>,
    range: Range<usize>,
}

impl Slice {
    /// The bytes `range` of `chunk`.
    pub fn new(chunk: &Arc<Chunk>, range: Range<usize>) -> Slice {
        Slice {
            chunk: chunk.clone(),
            range,
        }
    }
}

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.chunk[self.range.clone()]
    }
}
