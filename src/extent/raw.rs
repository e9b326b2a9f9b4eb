//! Raw runs on the wire.
//!
//! Framing of a raw run (zstd format, RFC 8878 section 3.1.1): one frame per
//! [`RAW_FRAME_BYTES`] of data; each frame has a 9 byte header (single segment, 4 byte content
//! size, checksum flag), one raw block per [`RAW_BLOCK_BYTES`] with its 3 byte header, and the
//! low 4 bytes of the XXH64 of the content.

/// Data bytes in one frame of a raw run; the last frame of a run may hold fewer.
pub const RAW_FRAME_BYTES: u64 = 4 << 20;
/// Data bytes in one raw block: the format's maximum (RFC 8878 section 3.1.1.2.3).
pub const RAW_BLOCK_BYTES: u64 = 128 << 10;
/// Most framing bytes that can stand between two ranges of data: the checksum of one frame,
/// the header of the next, and its first block header.
pub const INLINE_BYTES_MAX: usize = CHECKSUM_BYTES as usize + FRAME_HEADER_BYTES as usize + 3;

pub(super) const FRAME_HEADER_BYTES: u64 = 9;
pub(super) const BLOCK_HEADER_BYTES: u64 = 3;
pub(super) const CHECKSUM_BYTES: u64 = 4;
pub const FRAME_MAGIC: u32 = 0xFD2F_B528;
/// Frame header descriptor: content size in 4 bytes, single segment, with checksum.
pub(super) const DESCRIPTOR: u8 = 0b1010_0100;

const _: () = assert!(RAW_FRAME_BYTES.is_multiple_of(RAW_BLOCK_BYTES));
const _: () = assert!(RAW_FRAME_BYTES <= u32::MAX as u64);

/// Bytes on the wire of a raw run of `len` data bytes.
pub fn raw_wire_bytes(len: u64) -> u64 {
    let full = len / RAW_FRAME_BYTES;
    let rest = len % RAW_FRAME_BYTES;
    full * frame_wire_bytes(RAW_FRAME_BYTES) + if rest > 0 { frame_wire_bytes(rest) } else { 0 }
}

/// Frames in a raw run of `len` data bytes.
pub fn raw_frames(len: u64) -> u64 {
    len.div_ceil(RAW_FRAME_BYTES)
}

pub(super) fn frame_wire_bytes(len: u64) -> u64 {
    FRAME_HEADER_BYTES + len.div_ceil(RAW_BLOCK_BYTES) * BLOCK_HEADER_BYTES + len + CHECKSUM_BYTES
}

/// A few framing bytes, held by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inline {
    bytes: [u8; INLINE_BYTES_MAX],
    start: u8,
    end: u8,
}

impl Inline {
    pub(super) fn empty() -> Inline {
        Inline {
            bytes: [0; INLINE_BYTES_MAX],
            start: 0,
            end: 0,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let end = self.end as usize;
        self.bytes[end..end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len() as u8;
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }

    /// The bytes where they never go away, if they are the most frequent ones: the header of a
    /// full block that is not its frame's last.
    pub fn as_static(&self) -> Option<&'static [u8]> {
        static FULL_BLOCK: [u8; 3] = block_header(0, RAW_FRAME_BYTES);
        (self.as_slice() == FULL_BLOCK).then_some(&FULL_BLOCK)
    }

    /// Drops all but the first `len` bytes.
    pub fn truncate(&mut self, len: u64) {
        let have = u64::from(self.end - self.start);
        self.end = self.start + have.min(len) as u8;
    }
}

/// Frame header (RFC 8878 section 3.1.1.1) with the header of the frame's first block.
pub(super) fn frame_head(
    data_bytes: u64,
) -> [u8; (FRAME_HEADER_BYTES + BLOCK_HEADER_BYTES) as usize] {
    let mut head = [0; 12];
    head[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    head[4] = DESCRIPTOR;
    head[5..9].copy_from_slice(&(data_bytes as u32).to_le_bytes());
    head[9..].copy_from_slice(&block_header(0, data_bytes));
    head
}

/// Header of the raw block that starts at `block_start` of a frame of `data_bytes`:
/// last-block flag, type 0, size (RFC 8878 section 3.1.1.2).
pub(super) const fn block_header(block_start: u64, data_bytes: u64) -> [u8; 3] {
    let left = data_bytes - block_start;
    let is_last = left <= RAW_BLOCK_BYTES;
    let size = if is_last { left } else { RAW_BLOCK_BYTES } as u32;
    let value = is_last as u32 | size << 3;
    [value as u8, (value >> 8) as u8, (value >> 16) as u8]
}

/// The checksum zstd keeps of a frame's content: the low 4 bytes of XXH64 with seed 0
/// (RFC 8878 section 3.1.1).
pub fn content_checksum(data: &[u8]) -> u32 {
    low_checksum(xxhash_rust::xxh64::xxh64(data, 0))
}

/// The same from the whole checksum.
pub fn low_checksum(xxh64: u64) -> u32 {
    xxh64 as u32
}
