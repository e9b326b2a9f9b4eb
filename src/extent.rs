//! Extents: what an archive consists of, and where each byte of the wire comes from.
//!
//! An archive is never one file. It is a list of extents, of two kinds: bytes of the entry's
//! spool file, and *raw runs*: ranges of an immutable linked file (a pack) that are put on the
//! wire inside raw (stored) zstd blocks. A raw run is framed while it is sent, so nothing of it
//! is ever copied into the cache, and every offset on the wire is arithmetic.
//!
//! Framing of a raw run (zstd format, RFC 8878 section 3.1.1): one frame per
//! [`RAW_FRAME_BYTES`] of data; each frame has a 9 byte header (single segment, 4 byte content
//! size, checksum flag), one raw block per [`RAW_BLOCK_BYTES`] with its 3 byte header, and the
//! low 4 bytes of the XXH64 of the content.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Data bytes in one frame of a raw run; the last frame of a run may hold fewer.
pub const RAW_FRAME_BYTES: u64 = 4 << 20;
/// Data bytes in one raw block: the format's maximum (RFC 8878 section 3.1.1.2.3).
pub const RAW_BLOCK_BYTES: u64 = 128 << 10;
/// Most framing bytes that can stand between two ranges of data: the checksum of one frame,
/// the header of the next, and its first block header.
pub const INLINE_BYTES_MAX: usize = CHECKSUM_BYTES as usize + FRAME_HEADER_BYTES as usize + 3;

const FRAME_HEADER_BYTES: u64 = 9;
const BLOCK_HEADER_BYTES: u64 = 3;
const CHECKSUM_BYTES: u64 = 4;
const MAGIC: u32 = 0xFD2F_B528;
/// Frame header descriptor: content size in 4 bytes, single segment, with checksum.
const DESCRIPTOR: u8 = 0b1010_0100;

const _: () = assert!(RAW_FRAME_BYTES.is_multiple_of(RAW_BLOCK_BYTES));
const _: () = assert!(RAW_FRAME_BYTES <= u32::MAX as u64);

/// One run of wire bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// `len` bytes of the spool file from `offset`, sent as they are.
    Spool { offset: u64, len: u64 },
    /// `len` bytes of linked file number `file` from `offset`, framed as raw blocks. The
    /// checksums of its frames are `checksums[first_checksum..]` of the layout.
    RawRun {
        file: u32,
        offset: u64,
        len: u64,
        first_checksum: u32,
    },
}

impl Extent {
    /// Bytes this extent takes on the wire.
    pub fn wire_bytes(&self) -> u64 {
        match *self {
            Extent::Spool { len, .. } => len,
            Extent::RawRun { len, .. } => raw_wire_bytes(len),
        }
    }
}

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

fn frame_wire_bytes(len: u64) -> u64 {
    FRAME_HEADER_BYTES + len.div_ceil(RAW_BLOCK_BYTES) * BLOCK_HEADER_BYTES + len + CHECKSUM_BYTES
}

/// The sum, if it is a possible offset in a file.
fn add_within_file(a: u64, b: u64) -> Option<u64> {
    a.checked_add(b).filter(|sum| *sum <= i64::MAX as u64)
}

/// A few framing bytes, held by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inline {
    bytes: [u8; INLINE_BYTES_MAX],
    start: u8,
    end: u8,
}

impl Inline {
    fn empty() -> Inline {
        Inline {
            bytes: [0; INLINE_BYTES_MAX],
            start: 0,
            end: 0,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
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

/// Where the next bytes of the wire come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// Framing bytes, computed.
    Inline(Inline),
    /// `len` bytes of the spool file from `offset`.
    Spool { offset: u64, len: u64 },
    /// `len` bytes of linked file `file` from `offset`, at most one block.
    File { file: u32, offset: u64, len: u64 },
}

impl Segment {
    /// Bytes of the segment; never 0.
    pub fn wire_bytes(&self) -> u64 {
        match self {
            Segment::Inline(inline) => inline.as_slice().len() as u64,
            Segment::Spool { len, .. } | Segment::File { len, .. } => *len,
        }
    }

    /// Drops all but the first `len` bytes.
    pub fn truncate(&mut self, max: u64) {
        match self {
            Segment::Inline(inline) => inline.truncate(max),
            Segment::Spool { len, .. } | Segment::File { len, .. } => *len = (*len).min(max),
        }
    }
}

/// Bytes of the archive on their way: shared by the window, the spool writer and the sockets.
pub type Piece = Arc<Vec<u8>>;

/// What a reader finds at its offset.
#[derive(Debug)]
pub enum Next {
    /// Bytes in memory: `piece[start..end]`.
    Memory {
        piece: Piece,
        start: usize,
        end: usize,
    },
    /// Framing bytes.
    Inline(Inline),
    /// Bytes of the spool (`None`) or of a linked file.
    File {
        file: Option<u32>,
        offset: u64,
        len: u64,
    },
    /// Nothing yet; the waker is called when there is.
    Wait,
    /// The end of a complete archive.
    End,
    /// The archive failed.
    Failed(Arc<str>),
}

impl Next {
    /// Bytes this step sends.
    pub fn wire_bytes(&self) -> u64 {
        match self {
            Next::Memory { start, end, .. } => (end - start) as u64,
            Next::Inline(inline) => inline.as_slice().len() as u64,
            Next::File { len, .. } => *len,
            Next::Wait | Next::End | Next::Failed(_) => 0,
        }
    }

    /// Drops all but the first `max` bytes of a file's range.
    pub fn truncate(&mut self, max: u64) {
        if let Next::File { len, .. } = self {
            *len = (*len).min(max);
        }
    }
}

/// Where a response's body comes from; the one thing between an archive and a socket.
///
/// A source is polled by one task at a time. Neither method blocks.
pub trait Source {
    /// What stands at wire offset `at`, at most `max` bytes of it; pending until there is
    /// something, never [`Next::Wait`].
    fn poll_next(&mut self, at: u64, max: u64, context: &mut Context<'_>) -> Poll<Next>;

    /// Brings the bytes from wire offset `at` on into memory as far as the source likes; ready
    /// with the offset below which they are there, which is above `at`.
    fn poll_resident(&mut self, at: u64, context: &mut Context<'_>) -> Poll<io::Result<u64>>;

    /// How many bytes from `at` on can be promised to a client that needs their number first.
    fn available(&self, at: u64) -> u64;

    /// The spool (`None`) or a linked file.
    fn file(&self, file: Option<u32>) -> io::Result<BorrowedFd<'_>>;
}

/// The growing list of an archive's extents.
///
/// Invariants:
/// 1. `starts[i]` is the wire offset of `extents[i]`; extents are non-empty and lie without gaps
///    from 0 to `wire_bytes`.
/// 2. Spool extents lie in the spool file in the same order, without gaps, from 0 to
///    `spool_bytes`.
/// 3. `checksums` holds one value per frame of every raw run, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    extents: Vec<Extent>,
    starts: Vec<u64>,
    checksums: Vec<u32>,
    wire_bytes: u64,
    spool_bytes: u64,
}

/// Why a list of extents is not a [`Layout`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("extent {extent} is empty")]
    Empty { extent: usize },
    #[error("extent {extent} ends beyond the largest file offset")]
    TooLong { extent: usize },
    #[error("extent {extent} starts at {found} of the spool file, where {expected} comes next")]
    SpoolGap {
        extent: usize,
        found: u64,
        expected: u64,
    },
    #[error("extent {extent} begins with checksum {found}, where {expected} comes next")]
    FirstChecksum {
        extent: usize,
        found: u64,
        expected: u64,
    },
    #[error("{found} checksums are there for {expected} raw frames")]
    ChecksumCount { found: u64, expected: u64 },
}

impl Layout {
    /// A layout from its written parts. Every invariant of [`Layout`] is checked, with
    /// arithmetic that cannot overflow whatever the parts are; file offsets and the length of
    /// the whole are at most `i64::MAX`, the largest a file can have.
    pub fn from_parts(extents: Vec<Extent>, checksums: Vec<u32>) -> Result<Layout, LayoutError> {
        let mut starts = Vec::with_capacity(extents.len());
        let (mut wire_bytes, mut spool_bytes, mut frames) = (0, 0, 0u64);
        for (index, extent) in extents.iter().enumerate() {
            starts.push(wire_bytes);
            let too_long = LayoutError::TooLong { extent: index };
            let (offset, len) = match *extent {
                Extent::Spool { offset, len } | Extent::RawRun { offset, len, .. } => (offset, len),
            };
            if len == 0 {
                return Err(LayoutError::Empty { extent: index });
            }
            // This bound also keeps `wire_bytes` of the extent, about 1.00003 times its
            // length, far below the end of u64.
            let end = add_within_file(offset, len).ok_or(too_long)?;
            wire_bytes = add_within_file(wire_bytes, extent.wire_bytes()).ok_or(too_long)?;
            match *extent {
                Extent::Spool { .. } if offset != spool_bytes => {
                    return Err(LayoutError::SpoolGap {
                        extent: index,
                        found: offset,
                        expected: spool_bytes,
                    });
                }
                Extent::Spool { .. } => spool_bytes = end,
                Extent::RawRun { first_checksum, .. } if u64::from(first_checksum) != frames => {
                    return Err(LayoutError::FirstChecksum {
                        extent: index,
                        found: first_checksum.into(),
                        expected: frames,
                    });
                }
                // No overflow: the sum of all lengths is below `wire_bytes`.
                Extent::RawRun { .. } => frames += raw_frames(len),
            }
        }
        let found = checksums.len() as u64;
        if found != frames {
            return Err(LayoutError::ChecksumCount {
                found,
                expected: frames,
            });
        }
        Ok(Layout {
            extents,
            starts,
            checksums,
            wire_bytes,
            spool_bytes,
        })
    }

    /// Length of the archive so far, in bytes on the wire.
    pub fn wire_bytes(&self) -> u64 {
        self.wire_bytes
    }

    /// Length of the spool file so far.
    pub fn spool_bytes(&self) -> u64 {
        self.spool_bytes
    }

    /// The extents in order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The checksums of all raw frames in order.
    pub fn checksums(&self) -> &[u32] {
        &self.checksums
    }

    /// Appends `len` bytes that stand next in the spool file.
    pub fn push_spool(&mut self, len: u64) {
        if len == 0 {
            return;
        }
        let offset = self.spool_bytes;
        self.spool_bytes += len;
        if let Some(Extent::Spool { len: last, .. }) = self.extents.last_mut() {
            *last += len;
        } else {
            self.starts.push(self.wire_bytes);
            self.extents.push(Extent::Spool { offset, len });
        }
        self.wire_bytes += len;
    }

    /// Appends a range of a linked file; `checksums` holds the low 4 bytes of the XXH64 of each
    /// of its frames. A range that continues the previous one's file after whole frames is
    /// merged with it, so a pack stays one extent.
    pub fn push_raw(&mut self, file: u32, offset: u64, len: u64, checksums: &[u32]) {
        debug_assert_eq!(checksums.len() as u64, raw_frames(len));
        if len == 0 {
            return;
        }
        let first_checksum = self.checksums.len() as u32;
        self.checksums.extend_from_slice(checksums);
        let wire = self.wire_bytes;
        self.wire_bytes += raw_wire_bytes(len);
        if let Some(Extent::RawRun {
            file: last_file,
            offset: last_offset,
            len: last_len,
            ..
        }) = self.extents.last_mut()
            && *last_file == file
            && *last_offset + *last_len == offset
            && last_len.is_multiple_of(RAW_FRAME_BYTES)
        {
            *last_len += len;
            return;
        }
        self.starts.push(wire);
        self.extents.push(Extent::RawRun {
            file,
            offset,
            len,
            first_checksum,
        });
    }

    /// The index of the extent that holds wire offset `at`, by binary search.
    fn locate(&self, at: u64) -> Option<usize> {
        if at >= self.wire_bytes {
            return None;
        }
        Some(self.starts.partition_point(|start| *start <= at) - 1)
    }

    /// The bytes at wire offset `at`: a segment of at least one byte, or `None` at the end.
    pub fn segment_at(&self, at: u64) -> Option<Segment> {
        let index = self.locate(at)?;
        let within = at - self.starts[index];
        Some(match self.extents[index] {
            Extent::Spool { offset, len } => Segment::Spool {
                offset: offset + within,
                len: len - within,
            },
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } => {
                let checksums = &self.checksums[first_checksum as usize..];
                raw_segment(file, offset, len, checksums, within)
            }
        })
    }

    /// Where the spool stands at wire offset `at`: the spool offset of the first spool byte at
    /// or after it.
    pub fn spool_offset_at(&self, at: u64) -> u64 {
        let Some(index) = self.locate(at) else {
            return self.spool_bytes;
        };
        if let Extent::Spool { offset, .. } = self.extents[index] {
            return offset + (at - self.starts[index]);
        }
        let later = self.extents[index..]
            .iter()
            .find_map(|extent| match extent {
                Extent::Spool { offset, .. } => Some(*offset),
                Extent::RawRun { .. } => None,
            });
        later.unwrap_or(self.spool_bytes)
    }

    /// The file ranges under the wire range, for reading them ahead: calls `each` with
    /// (`None` for the spool or the linked file's number, range of the file).
    pub fn file_ranges(&self, wire: Range<u64>, mut each: impl FnMut(Option<u32>, Range<u64>)) {
        let Some(first) = self.locate(wire.start) else {
            return;
        };
        for (extent, start) in self.extents[first..].iter().zip(&self.starts[first..]) {
            if *start >= wire.end {
                return;
            }
            let from = wire.start.saturating_sub(*start);
            let to = (wire.end - start).min(extent.wire_bytes());
            match *extent {
                Extent::Spool { offset, .. } => each(None, offset + from..offset + to),
                // Framing makes a data offset smaller than its wire offset by 0.003 %; for
                // reading ahead the difference does not matter as long as it stays inside.
                Extent::RawRun {
                    file, offset, len, ..
                } => {
                    let full_frames = from / frame_wire_bytes(RAW_FRAME_BYTES);
                    let framing = frame_wire_bytes(RAW_FRAME_BYTES) - RAW_FRAME_BYTES;
                    let data_from = from - full_frames * framing;
                    let range = data_from.saturating_sub(RAW_BLOCK_BYTES)..to.min(len);
                    each(
                        Some(file),
                        offset + range.start.min(len)..offset + range.end,
                    );
                }
            }
        }
    }
}

/// The segment at wire offset `within` of a raw run.
fn raw_segment(file: u32, offset: u64, len: u64, checksums: &[u32], within: u64) -> Segment {
    let frame_wire = frame_wire_bytes(RAW_FRAME_BYTES);
    let frame = within / frame_wire;
    let in_frame = within % frame_wire;
    let data_before = frame * RAW_FRAME_BYTES;
    let data_bytes = (len - data_before).min(RAW_FRAME_BYTES);
    if in_frame < FRAME_HEADER_BYTES {
        return head_inline(data_bytes, in_frame);
    }
    let in_blocks = in_frame - FRAME_HEADER_BYTES;
    let block = in_blocks / (BLOCK_HEADER_BYTES + RAW_BLOCK_BYTES);
    let in_block = in_blocks % (BLOCK_HEADER_BYTES + RAW_BLOCK_BYTES);
    let block_start = block * RAW_BLOCK_BYTES;
    let block_bytes = data_bytes.saturating_sub(block_start).min(RAW_BLOCK_BYTES);
    if block_bytes > 0 && in_block < BLOCK_HEADER_BYTES {
        let mut inline = Inline::empty();
        inline.push(&block_header(block_start, data_bytes)[in_block as usize..]);
        return Segment::Inline(inline);
    }
    if block_bytes > 0 && in_block < BLOCK_HEADER_BYTES + block_bytes {
        let skip = in_block - BLOCK_HEADER_BYTES;
        return Segment::File {
            file,
            offset: offset + data_before + block_start + skip,
            len: block_bytes - skip,
        };
    }
    // The checksum, and with it the head of the next frame, so that both leave in one write.
    let wire_end = frame_wire_bytes(data_bytes);
    let skip = (CHECKSUM_BYTES - (wire_end - in_frame)) as usize;
    let mut inline = Inline::empty();
    inline.push(&checksums[frame as usize].to_le_bytes()[skip..]);
    let next_data = (len - data_before - data_bytes).min(RAW_FRAME_BYTES);
    if next_data > 0 {
        inline.push(&frame_head(next_data));
    }
    Segment::Inline(inline)
}

/// Frame header and first block header from byte `skip` on.
fn head_inline(data_bytes: u64, skip: u64) -> Segment {
    let mut inline = Inline::empty();
    inline.push(&frame_head(data_bytes)[skip as usize..]);
    Segment::Inline(inline)
}

/// Frame header (RFC 8878 section 3.1.1.1) with the header of the frame's first block.
fn frame_head(data_bytes: u64) -> [u8; (FRAME_HEADER_BYTES + BLOCK_HEADER_BYTES) as usize] {
    let mut head = [0; 12];
    head[..4].copy_from_slice(&MAGIC.to_le_bytes());
    head[4] = DESCRIPTOR;
    head[5..9].copy_from_slice(&(data_bytes as u32).to_le_bytes());
    head[9..].copy_from_slice(&block_header(0, data_bytes));
    head
}

/// Header of the raw block that starts at `block_start` of a frame of `data_bytes`:
/// last-block flag, type 0, size (RFC 8878 section 3.1.1.2).
const fn block_header(block_start: u64, data_bytes: u64) -> [u8; 3] {
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

#[cfg(test)]
mod tests;
