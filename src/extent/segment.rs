//! Where the bytes at an offset of the wire come from.

use super::raw::{
    BLOCK_HEADER_BYTES, CHECKSUM_BYTES, FRAME_HEADER_BYTES, Inline, RAW_BLOCK_BYTES,
    RAW_FRAME_BYTES, block_header, frame_head, frame_wire_bytes,
};

/// Where the next bytes of the wire come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// Framing bytes, computed.
    Inline(Inline),
    /// `len` bytes of the spool file from `offset`.
    Spool { offset: u64, len: u64 },
    /// `len` bytes of linked file `file` from `offset`: at most one block of a raw run, or frames.
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

/// The segment at wire offset `within` of a raw run.
pub(super) fn raw_segment(
    file: u32,
    offset: u64,
    len: u64,
    checksums: &[u32],
    within: u64,
) -> Segment {
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
