//! The checksums of a raw run's frames.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh64::Xxh64;

use crate::extent::{RAW_FRAME_BYTES, low_checksum};
use crate::limits::SUM_READ_BYTES;

/// Brings a range of a linked file into memory and sums its frames, off the network cores. It is
/// read through `buffer`, which stays in the processor's cache. Mapped, it was brought in page by
/// page under the lock of the process's address space, and whoever needed that lock to begin another
/// build waited until an encoder, which is nice, got its next turn: tens of milliseconds.
pub(super) fn sum_frames(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Vec<u32>> {
    buffer.resize(SUM_READ_BYTES, 0);
    let mut sums = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let frame_end = range.end.min(at + RAW_FRAME_BYTES);
        let mut checksum = Xxh64::new(0);
        while at < frame_end {
            let len = (frame_end - at).min(buffer.len() as u64);
            let part = &mut buffer[..len as usize];
            file.read_exact_at(part, at)?;
            checksum.update(part);
            at += len;
        }
        sums.push(low_checksum(checksum.digest()));
    }
    Ok(sums)
}
