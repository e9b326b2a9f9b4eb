//! Cuts the archive into its zstd frames (RFC 8878 section 3.1.1) without decoding them, so that
//! they can be decoded in parallel.
//!
//! Only frames that can be checked are taken: with content size and checksum. Those of raw blocks
//! alone, as packs are sent in, come out as their content.

use std::sync::Arc;

use super::chunk::{Chunk, Slice};
use super::error::RestoreError;
use crate::extent::RAW_BLOCK_BYTES;
use crate::limits::{RESTORE_FRAME_BYTES_MAX, STORED_SLICES_MAX};

const MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();
const SINGLE_SEGMENT: u8 = 1 << 5;
const HAS_CHECKSUM: u8 = 1 << 2;
/// Bits that no frame of ours has: dictionary id, reserved, unused.
const NEVER_SET: u8 = 0b1_1011;
const DESCRIPTOR_BYTES: usize = 5;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// Longest field: window descriptor and content size.
const LONGEST_FIELD_BYTES: usize = 9;
/// The format's longest block (RFC 8878 section 3.1.1.2.3).
const BLOCK_BYTES: usize = RAW_BLOCK_BYTES as usize;

/// One whole frame.
#[derive(Debug)]
pub struct Frame {
    /// Where it begins in the archive.
    pub offset: u64,
    /// What it says it decodes to.
    pub content_bytes: usize,
    pub body: Body,
}

/// A frame's bytes, in order.
#[derive(Debug)]
pub enum Body {
    /// To be decoded: the frame from its magic number to its checksum.
    Coded(Vec<Slice>),
    /// Of raw blocks alone: the content as it is, and the low half of its XXH64.
    Stored { content: Vec<Slice>, checksum: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Descriptor,
    ContentSize,
    BlockHeader,
    Checksum,
}

/// What comes next in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A field of so many bytes.
    Field(Field, usize),
    /// The rest of a block.
    Block { left: usize, is_last: bool },
}

const BEGINNING: Next = Next::Field(Field::Descriptor, DESCRIPTOR_BYTES);

/// The cutter.
///
/// Invariants: `wire` and the current chunk from where the frame begins in it are the current
/// frame so far, of `wire_bytes`; `field` is what has come of the field that is `next`; `stored`
/// is the content so far while all blocks are raw.
#[derive(Debug)]
pub struct Cutter {
    offset: u64,
    wire: Vec<Slice>,
    wire_bytes: usize,
    next: Next,
    field: Vec<u8>,
    has_window: bool,
    content_bytes: usize,
    stored: Option<Vec<Slice>>,
}

impl Default for Cutter {
    fn default() -> Self {
        Cutter {
            offset: 0,
            wire: Vec::new(),
            wire_bytes: 0,
            next: BEGINNING,
            field: Vec::new(),
            has_window: false,
            content_bytes: 0,
            stored: Some(Vec::new()),
        }
    }
}

impl Cutter {
    fn corrupt<T>(&self, what: &str) -> Result<T, RestoreError> {
        Err(RestoreError::Corrupt {
            offset: self.offset + self.wire_bytes as u64,
            what: what.into(),
        })
    }

    /// Goes on in `chunk` from `at` to the end of a frame, and gives it; `None` at the chunk's
    /// end.
    pub fn cut(
        &mut self,
        chunk: &Arc<Chunk>,
        at: &mut usize,
    ) -> Result<Option<Frame>, RestoreError> {
        let begin = *at;
        let ended = loop {
            if *at == chunk.len() {
                break None;
            }
            if let Some(checksum) = self.step(chunk, at)? {
                break Some(checksum);
            }
        };
        if *at > begin {
            self.wire.push(Slice::new(chunk, begin..*at));
        }
        Ok(ended.map(|checksum| self.end(checksum)))
    }

    /// Takes at least one byte; the checksum when that ends the frame.
    fn step(&mut self, chunk: &Arc<Chunk>, at: &mut usize) -> Result<Option<u32>, RestoreError> {
        let have = chunk.len() - *at;
        match self.next {
            Next::Field(field, len) => {
                let take = (len - self.field.len()).min(have);
                self.field.extend_from_slice(&chunk[*at..*at + take]);
                *at += take;
                self.wire_bytes += take;
                if self.field.len() < len {
                    return Ok(None);
                }
                let mut bytes = [0; LONGEST_FIELD_BYTES];
                bytes[..len].copy_from_slice(&self.field);
                self.field.clear();
                match field {
                    Field::Descriptor => self.descriptor(&bytes)?,
                    Field::ContentSize => self.content_size(&bytes[..len])?,
                    Field::BlockHeader => self.block_header(&bytes)?,
                    Field::Checksum => {
                        return Ok(Some(u32::from_le_bytes([
                            bytes[0], bytes[1], bytes[2], bytes[3],
                        ])));
                    }
                }
            }
            Next::Block { left, is_last } => {
                let take = left.min(have);
                match &mut self.stored {
                    Some(stored) if stored.len() < STORED_SLICES_MAX => {
                        stored.push(Slice::new(chunk, *at..*at + take));
                    }
                    stored => *stored = None,
                }
                *at += take;
                self.wire_bytes += take;
                self.block(left - take, is_last);
            }
        }
        Ok(None)
    }

    /// The frame, whose last byte has been taken.
    fn end(&mut self, checksum: u32) -> Frame {
        let ended = std::mem::take(self);
        self.offset = ended.offset + ended.wire_bytes as u64;
        Frame {
            offset: ended.offset,
            content_bytes: ended.content_bytes,
            body: match ended.stored {
                Some(content) => Body::Stored { content, checksum },
                None => Body::Coded(ended.wire),
            },
        }
    }

    fn descriptor(&mut self, field: &[u8]) -> Result<(), RestoreError> {
        if field[..4] != MAGIC {
            return self.corrupt("there is no zstd frame");
        }
        let descriptor = field[4];
        // Without a window the content size has one byte at least; with one it may be left out.
        self.has_window = descriptor & SINGLE_SEGMENT == 0;
        if descriptor & NEVER_SET != 0 || (self.has_window && descriptor >> 6 == 0) {
            return self.corrupt("the zstd frame is of a kind that is not used");
        }
        if descriptor & HAS_CHECKSUM == 0 {
            return self.corrupt("the zstd frame has no checksum");
        }
        let len = usize::from(self.has_window) + (1 << (descriptor >> 6));
        self.next = Next::Field(Field::ContentSize, len);
        Ok(())
    }

    fn content_size(&mut self, field: &[u8]) -> Result<(), RestoreError> {
        let field = &field[usize::from(self.has_window)..];
        let mut wide = [0; 8];
        wide[..field.len()].copy_from_slice(field);
        let bias = if field.len() == 2 { 256 } else { 0 };
        let size = u64::from_le_bytes(wide).saturating_add(bias);
        match usize::try_from(size) {
            Ok(size) if size <= RESTORE_FRAME_BYTES_MAX => self.content_bytes = size,
            _ => return self.corrupt("the zstd frame is too large"),
        }
        self.next = Next::Field(Field::BlockHeader, BLOCK_HEADER_BYTES);
        Ok(())
    }

    fn block_header(&mut self, field: &[u8]) -> Result<(), RestoreError> {
        let header = u32::from_le_bytes([field[0], field[1], field[2], 0]);
        let size = (header >> 3) as usize;
        let kind = header >> 1 & 3;
        let on_wire = match kind {
            1 => 1,
            0 | 2 if size <= BLOCK_BYTES => size,
            _ => return self.corrupt("the zstd block is of no valid kind or size"),
        };
        if self.wire_bytes + on_wire > RESTORE_FRAME_BYTES_MAX + RESTORE_FRAME_BYTES_MAX / 256 {
            return self.corrupt("the zstd frame is too large");
        }
        if kind != 0 {
            self.stored = None;
        }
        self.block(on_wire, header & 1 == 1);
        Ok(())
    }

    /// `left` bytes of a block are next, or what is behind it.
    fn block(&mut self, left: usize, is_last: bool) {
        self.next = match (left, is_last) {
            (0, false) => Next::Field(Field::BlockHeader, BLOCK_HEADER_BYTES),
            (0, true) => Next::Field(Field::Checksum, CHECKSUM_BYTES),
            _ => Next::Block { left, is_last },
        };
    }

    /// The archive ends: it must do so behind a frame.
    pub fn finish(&self) -> Result<(), RestoreError> {
        match self.wire_bytes {
            0 => Ok(()),
            _ => self.corrupt("it ends inside a zstd frame"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(data: &[u8]) -> Vec<u8> {
        let mut context = zstd_safe::CCtx::create();
        let checksum = zstd_safe::CParameter::ChecksumFlag(true);
        context.set_parameter(checksum).unwrap();
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
        context.compress2(&mut out, data).unwrap();
        out
    }

    /// Cuts `input`, which arrives in pieces of `step` bytes.
    fn cut_all(input: &[u8], step: usize) -> Result<Vec<Frame>, RestoreError> {
        let mut cutter = Cutter::default();
        let mut frames = Vec::new();
        for piece in input.chunks(step) {
            let chunk = Arc::new(Chunk::new(piece.to_vec(), piece.len(), &Arc::default()));
            let mut at = 0;
            while let Some(frame) = cutter.cut(&chunk, &mut at)? {
                frames.push(frame);
            }
        }
        cutter.finish()?;
        Ok(frames)
    }

    fn join(slices: &[Slice]) -> Vec<u8> {
        slices.iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn frames_are_cut_where_they_end_however_the_bytes_arrive() {
        let contents = [
            vec![],
            vec![7; 300],
            b"abc".repeat(100_000),
            noise(3 * BLOCK_BYTES + 5),
            b"abc".repeat(400_000),
            [noise(BLOCK_BYTES), vec![1; 1 << 20]].concat(),
        ];
        let frames: Vec<Vec<u8>> = contents.iter().map(|c| frame(c)).collect();
        let whole = frames.concat();
        for step in [1, 2, 3, 7, 4096, whole.len()] {
            let found = cut_all(&whole, step).unwrap();
            assert_eq!(found.len(), frames.len(), "step {step}");
            let mut offset = 0;
            for ((found, frame), content) in found.iter().zip(&frames).zip(&contents) {
                assert_eq!(found.offset, offset, "step {step}");
                assert_eq!(found.content_bytes, content.len(), "step {step}");
                match &found.body {
                    Body::Coded(wire) => assert_eq!(&join(wire), frame, "step {step}"),
                    Body::Stored {
                        content: stored,
                        checksum,
                    } => {
                        assert_eq!(&join(stored), content, "step {step}");
                        assert_eq!(checksum.to_le_bytes(), frame[frame.len() - 4..]);
                    }
                }
                offset += frame.len() as u64;
            }
            let stored = |f: &&Frame| matches!(f.body, Body::Stored { .. });
            // The empty one and the noise; the latter in single bytes is of too many slices.
            let expected = if step < 400 { 1 } else { 2 };
            assert_eq!(found.iter().filter(stored).count(), expected, "step {step}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_checked_or_held_is_refused() {
        let good = frame(b"hello hello hello");
        let cut = |bytes: &[u8]| cut_all(bytes, bytes.len()).map(|_| ());
        cut(&good).unwrap();
        for (at, bit) in [(0, 1), (4, HAS_CHECKSUM), (4, 1 << 4), (4, 1)] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert_eq!(cut(&bad).unwrap_err().exit_code(), 5, "byte {at} bit {bit}");
        }
        assert_eq!(cut(&good[..good.len() - 1]).unwrap_err().exit_code(), 5);
        let huge = [&MAGIC[..], &[0b1110_0100], &u64::MAX.to_le_bytes(), &[0; 3]].concat();
        assert_eq!(cut(&huge).unwrap_err().exit_code(), 5);
    }
}
