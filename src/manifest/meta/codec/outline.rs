//! The outline as a file.

use super::{Input, MetaError, Wire, seal, unseal};
use crate::manifest::outline::{LargeDirectory, Outline};
use crate::manifest::record::{Chunk, Record, Stretch};

const MAGIC: [u8; 8] = *b"tarpono\n";

impl Outline {
    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        seal(MAGIC, self)
    }

    /// Reads the file. Any bytes give an outline that holds every invariant, or an error.
    pub fn decode(bytes: &[u8]) -> Result<Outline, MetaError> {
        let outline: Outline = unseal(MAGIC, bytes)?;
        match outline.is_sound() {
            true => Ok(outline),
            false => Err(MetaError::Value {
                offset: 0,
                expected: "an outline that leads nowhere else",
            }),
        }
    }
}

wire_struct!(Outline {
    made_with: [u8; 32],
    parts: Vec<String>,
    directories: Vec<LargeDirectory>,
    jobs: Vec<Record>,
    entries: Vec<Chunk>,
    lines: Vec<Chunk>,
});
wire_struct!(LargeDirectory {
    path: Vec<u8>,
    id: Vec<u8>,
    inherited: [u8; 32],
    count: u32,
    entries_below: u32,
    directories: u32,
    first_job: u32,
    entries: (u32, u32),
    lines: (u32, u32),
});
wire_struct!(Stretch {
    part: u32,
    offset: u64,
    bytes: u64,
});
wire_struct!(Record {
    key: [u8; 32],
    at: Stretch,
    checksum: u64,
    sizes: Vec<u32>,
});
wire_struct!(Chunk {
    key: [u8; 32],
    at: Stretch,
    checksum: u64,
    raw_bytes: u32,
});

impl Wire for (u32, u32) {
    const BYTES_MIN: usize = 2 * u32::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
        self.1.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        Ok((u32::take(input)?, u32::take(input)?))
    }
}

#[cfg(test)]
mod tests;
