//! The memory that the archive arrives in. It is written and decoded from where it is: nothing
//! copies it on the way.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::budget::Buffer;
use crate::limits::SMALL_CHUNK_BYTES;

/// Bytes of the archive that follow each other. Their memory goes back to its budget.
#[derive(Debug)]
pub struct Chunk {
    buffer: Buffer,
    len: usize,
}

impl Chunk {
    /// The first `len` bytes of `buffer`. What is small does not keep the memory that it came in.
    pub fn new(mut buffer: Buffer, len: usize) -> Chunk {
        if len < buffer.bytes.len() / 2 {
            buffer.shrink(len, SMALL_CHUNK_BYTES);
        }
        Chunk { buffer, len }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer.bytes[..self.len]
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
