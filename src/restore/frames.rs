//! Cuts the archive into its zstd frames (RFC 8878 section 3.1.1) without decoding them, so that
//! they can be decoded in parallel.
//!
//! Only frames that can be checked are taken: with content size and checksum.

use super::error::RestoreError;
use crate::extent::RAW_BLOCK_BYTES;
use crate::limits::RESTORE_FRAME_BYTES_MAX;

const MAGIC: [u8; 4] = 0xFD2F_B528u32.to_le_bytes();
const SINGLE_SEGMENT: u8 = 1 << 5;
const HAS_CHECKSUM: u8 = 1 << 2;
/// Bits that no frame of ours has: dictionary id, reserved, unused.
const NEVER_SET: u8 = 0b1_1011;
const DESCRIPTOR_END: usize = 5;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// The format's longest block (RFC 8878 section 3.1.1.2.3).
const BLOCK_BYTES: usize = RAW_BLOCK_BYTES as usize;

/// One whole frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the archive.
    pub offset: u64,
    pub bytes: Vec<u8>,
    /// What it says it decodes to.
    pub content_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Descriptor,
    ContentSize,
    BlockHeader,
    Checksum,
}

/// The cutter.
///
/// Invariant: `bytes` holds the current frame's beginning; when it is `need` bytes long, `next` is
/// at its end.
#[derive(Debug)]
pub struct Cutter {
    offset: u64,
    bytes: Vec<u8>,
    need: usize,
    next: Next,
    content_bytes: usize,
}

impl Default for Cutter {
    fn default() -> Self {
        Cutter {
            offset: 0,
            bytes: Vec::new(),
            need: DESCRIPTOR_END,
            next: Next::Descriptor,
            content_bytes: 0,
        }
    }
}

impl Cutter {
    fn corrupt<T>(&self, what: &str) -> Result<T, RestoreError> {
        Err(RestoreError::Corrupt {
            offset: self.offset + self.bytes.len() as u64,
            what: what.into(),
        })
    }

    /// Takes bytes off the front of `input` up to the end of a frame, and gives it; `None` when
    /// all of `input` is taken. `buffer` gives memory for the next frame.
    pub fn cut(
        &mut self,
        input: &mut &[u8],
        buffer: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Frame>, RestoreError> {
        loop {
            let take = (self.need - self.bytes.len()).min(input.len());
            let (taken, rest) = input.split_at(take);
            self.bytes.extend_from_slice(taken);
            *input = rest;
            if self.bytes.len() < self.need {
                return Ok(None);
            }
            match self.next {
                Next::Descriptor => self.descriptor()?,
                Next::ContentSize => self.content_size()?,
                Next::BlockHeader => self.block_header()?,
                Next::Checksum => {
                    let frame = Frame {
                        offset: self.offset,
                        bytes: std::mem::replace(&mut self.bytes, buffer()),
                        content_bytes: self.content_bytes,
                    };
                    self.bytes.clear();
                    self.offset += frame.bytes.len() as u64;
                    self.need = DESCRIPTOR_END;
                    self.next = Next::Descriptor;
                    return Ok(Some(frame));
                }
            }
        }
    }

    fn descriptor(&mut self) -> Result<(), RestoreError> {
        if self.bytes[..4] != MAGIC {
            return self.corrupt("there is no zstd frame");
        }
        let descriptor = self.bytes[4];
        // Without a window the content size has one byte at least; with one it may be left out.
        let has_window = descriptor & SINGLE_SEGMENT == 0;
        if descriptor & NEVER_SET != 0 || (has_window && descriptor >> 6 == 0) {
            return self.corrupt("the zstd frame is of a kind that is not used");
        }
        if descriptor & HAS_CHECKSUM == 0 {
            return self.corrupt("the zstd frame has no checksum");
        }
        self.need += usize::from(has_window) + (1 << (descriptor >> 6));
        self.next = Next::ContentSize;
        Ok(())
    }

    fn content_size(&mut self) -> Result<(), RestoreError> {
        let has_window = self.bytes[DESCRIPTOR_END - 1] & SINGLE_SEGMENT == 0;
        let field = &self.bytes[DESCRIPTOR_END + usize::from(has_window)..];
        let mut wide = [0; 8];
        wide[..field.len()].copy_from_slice(field);
        let bias = if field.len() == 2 { 256 } else { 0 };
        let size = u64::from_le_bytes(wide).saturating_add(bias);
        match usize::try_from(size) {
            Ok(size) if size <= RESTORE_FRAME_BYTES_MAX => self.content_bytes = size,
            _ => return self.corrupt("the zstd frame is too large"),
        }
        self.need += BLOCK_HEADER_BYTES;
        self.next = Next::BlockHeader;
        Ok(())
    }

    fn block_header(&mut self) -> Result<(), RestoreError> {
        let at = self.bytes.len() - BLOCK_HEADER_BYTES;
        let field = &self.bytes[at..];
        let header = u32::from_le_bytes([field[0], field[1], field[2], 0]);
        let size = (header >> 3) as usize;
        let on_wire = match header >> 1 & 3 {
            1 => 1,
            0 | 2 if size <= BLOCK_BYTES => size,
            _ => return self.corrupt("the zstd block is of no valid kind or size"),
        };
        let last = header & 1 == 1;
        self.need += on_wire
            + if last {
                CHECKSUM_BYTES
            } else {
                BLOCK_HEADER_BYTES
            };
        if self.need > RESTORE_FRAME_BYTES_MAX + RESTORE_FRAME_BYTES_MAX / 256 {
            return self.corrupt("the zstd frame is too large");
        }
        if last {
            self.next = Next::Checksum;
        }
        Ok(())
    }

    /// The archive ends: it must do so behind a frame.
    pub fn finish(&self) -> Result<(), RestoreError> {
        match self.bytes.is_empty() {
            true => Ok(()),
            false => self.corrupt("it ends inside a zstd frame"),
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

    #[test]
    fn frames_are_cut_where_they_end_however_the_bytes_arrive() {
        let contents = [
            vec![],
            vec![7; 300],
            b"abc".repeat(100_000),
            b"abc".repeat(400_000),
            vec![1; 1 << 20],
        ];
        let frames: Vec<Vec<u8>> = contents.iter().map(|c| frame(c)).collect();
        let whole = frames.concat();
        for step in [1, 2, 3, 7, 4096, whole.len()] {
            let mut cutter = Cutter::default();
            let mut found = Vec::new();
            for mut piece in whole.chunks(step) {
                while let Some(frame) = cutter.cut(&mut piece, Vec::new).unwrap() {
                    found.push(frame);
                }
            }
            cutter.finish().unwrap();
            let bytes: Vec<_> = found.iter().map(|f| f.bytes.clone()).collect();
            assert_eq!(bytes, frames, "step {step}");
            let sizes: Vec<_> = found.iter().map(|f| f.content_bytes).collect();
            assert_eq!(sizes, contents.each_ref().map(Vec::len), "step {step}");
        }
    }

    #[test]
    fn a_frame_that_cannot_be_checked_or_held_is_refused() {
        let good = frame(b"hello hello hello");
        let cut = |bytes: &[u8]| {
            let mut cutter = Cutter::default();
            let mut input = bytes;
            while cutter.cut(&mut input, Vec::new)?.is_some() {}
            cutter.finish()
        };
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
