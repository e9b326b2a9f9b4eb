//! Cuts the archive into its zstd frames (RFC 8878 section 3.1.1) without decoding them, so that
//! they can be decoded in parallel.
//!
//! A frame that says that it is of moderate size comes out whole; those of raw blocks alone, as packs
//! are sent in, as their content. Any other comes out in parts as it arrives, to be decoded as a
//! stream. Skippable frames are passed over.

use std::sync::Arc;

use super::chunk::{Chunk, Slice};
use super::error::RestoreError;
use crate::extent::{FRAME_MAGIC, RAW_BLOCK_BYTES};
use crate::limits::{
    FRAME_SLICES_MAX, RESTORE_FRAME_BYTES_MAX, RESTORE_WINDOW_LOG_MAX, SKIPPABLE_BYTES_MAX,
    SKIPPABLES_BYTES_MAX, STORED_SLICES_MAX,
};
use crate::manifest::preamble::SKIPPABLE_MAGIC;

const MAGIC: [u8; 4] = FRAME_MAGIC.to_le_bytes();
const SINGLE_SEGMENT: u8 = 1 << 5;
const HAS_CHECKSUM: u8 = 1 << 2;
/// Bits that no frame of an archive has: dictionary id, reserved, unused.
const NEVER_SET: u8 = 0b1_1011;
const MAGIC_BYTES: usize = 4;
const BLOCK_HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;
/// Longest field: window descriptor and content size.
const LONGEST_FIELD_BYTES: usize = 9;
/// The format's longest block (RFC 8878 section 3.1.1.2.3).
const BLOCK_BYTES: usize = RAW_BLOCK_BYTES as usize;

/// What the archive is cut into.
#[derive(Debug)]
pub enum Cut {
    Whole(Frame),
    Part(Part),
    /// A skippable frame came and went.
    Skipped {
        /// Where it began.
        offset: u64,
    },
}

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
    /// To be decoded: the frame from its magic number to its end.
    Coded(Vec<Slice>),
    /// Of raw blocks alone: the content as it is, and the low half of its XXH64 if it is there.
    Stored {
        content: Vec<Slice>,
        checksum: Option<u32>,
    },
}

/// Bytes of a frame that follow each other. The first of them are the frame's own first.
#[derive(Debug)]
pub struct Part {
    /// Where they begin in the archive.
    pub offset: u64,
    pub wire: Vec<Slice>,
    /// Whether the frame begins with them.
    pub is_first: bool,
    /// Whether it ends with them.
    pub is_last: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Magic,
    Descriptor,
    Sizes,
    BlockHeader,
    Checksum,
    SkippedSize,
}

/// What comes next in the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A field of so many bytes.
    Field(Field, usize),
    /// The rest of a block.
    Block { left: usize, is_last: bool },
    /// The rest of a skippable frame.
    Skip { left: u64 },
}

const BEGINNING: Next = Next::Field(Field::Magic, MAGIC_BYTES);

/// How the current frame comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Whole,
    Parts { is_first: bool },
    Skipped,
}

/// How a frame ends.
enum End {
    Checked(u32),
    Unchecked,
}

/// The cutter.
///
/// Invariants: `wire` and the current chunk from where the frame, or the part of it that is not yet
/// out, begins in it are that frame or part so far; `frame_bytes` have come of the frame; `field` is
/// what has come of the field that is `next`; `stored` is the content so far while all blocks are
/// raw.
#[derive(Debug)]
pub struct Cutter {
    /// Where the frame begins.
    offset: u64,
    frame_bytes: u64,
    /// Of all skippable frames.
    skipped_bytes: u64,
    form: Form,
    wire: Vec<Slice>,
    next: Next,
    field: Vec<u8>,
    descriptor: u8,
    content_bytes: usize,
    stored: Option<Vec<Slice>>,
    /// Whether a frame with content had no checksum.
    has_unchecked: bool,
}

impl Default for Cutter {
    fn default() -> Self {
        Cutter {
            offset: 0,
            frame_bytes: 0,
            skipped_bytes: 0,
            form: Form::Whole,
            wire: Vec::new(),
            next: BEGINNING,
            field: Vec::new(),
            descriptor: 0,
            content_bytes: 0,
            stored: Some(Vec::new()),
            has_unchecked: false,
        }
    }
}

impl Cutter {
    /// Whether one of the frames so far had no checksum.
    pub fn has_unchecked(&self) -> bool {
        self.has_unchecked
    }

    /// How much of the archive has been taken.
    pub fn position(&self) -> u64 {
        self.offset + self.frame_bytes
    }

    fn corrupt<T>(&self, what: &str) -> Result<T, RestoreError> {
        Err(RestoreError::Corrupt {
            offset: self.position(),
            what: what.into(),
        })
    }

    /// Goes on in `chunk` from `at` and gives what is complete; `None` at the chunk's end.
    pub fn cut(&mut self, chunk: &Arc<Chunk>, at: &mut usize) -> Result<Option<Cut>, RestoreError> {
        let (begin, offset) = (*at, self.position());
        let ended = loop {
            if *at == chunk.len() {
                break None;
            }
            if let Some(end) = self.step(chunk, at)? {
                break Some(end);
            }
        };
        if *at == begin {
            return Ok(None);
        }
        if self.form != Form::Skipped {
            if self.wire.len() == FRAME_SLICES_MAX {
                return self.corrupt("the zstd frame comes in too many pieces");
            }
            self.wire.push(Slice::new(chunk, begin..*at));
        }
        Ok(match (self.form, ended) {
            (Form::Parts { is_first }, ended) => {
                let wire = std::mem::take(&mut self.wire);
                // What came of the frame before its form was known is in there, too.
                let offset = if is_first { self.offset } else { offset };
                self.form = Form::Parts { is_first: false };
                let is_last = ended.is_some();
                if is_last {
                    self.reset();
                }
                Some(Cut::Part(Part {
                    offset,
                    wire,
                    is_first,
                    is_last,
                }))
            }
            (_, None) => None,
            (Form::Whole, Some(end)) => Some(Cut::Whole(self.end(end))),
            (Form::Skipped, Some(_)) => {
                let offset = self.offset;
                self.reset();
                Some(Cut::Skipped { offset })
            }
        })
    }

    /// Takes at least one byte; how the frame ends when it does.
    fn step(&mut self, chunk: &Arc<Chunk>, at: &mut usize) -> Result<Option<End>, RestoreError> {
        let have = chunk.len() - *at;
        match self.next {
            Next::Field(field, len) => {
                let take = (len - self.field.len()).min(have);
                self.field.extend_from_slice(&chunk[*at..*at + take]);
                *at += take;
                self.frame_bytes += take as u64;
                if self.field.len() < len {
                    return Ok(None);
                }
                let mut bytes = [0; LONGEST_FIELD_BYTES];
                bytes[..len].copy_from_slice(&self.field);
                self.field.clear();
                let [a, b, c, d, ..] = bytes;
                let word = u32::from_le_bytes([a, b, c, d]);
                match field {
                    Field::Magic => self.magic(word),
                    Field::Descriptor => self.descriptor(bytes[0]),
                    Field::Sizes => self.sizes(&bytes[..len]),
                    Field::BlockHeader => self.block_header(word),
                    Field::Checksum => Ok(Some(End::Checked(word))),
                    Field::SkippedSize => self.skippable(word),
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
                self.frame_bytes += take as u64;
                Ok(self.block(left - take, is_last))
            }
            Next::Skip { left } => {
                let take = left.min(have as u64);
                *at += take as usize;
                self.frame_bytes += take;
                Ok(self.skip(left - take))
            }
        }
    }

    /// The next frame begins.
    fn reset(&mut self) {
        let ended = std::mem::take(self);
        self.offset = ended.position();
        self.skipped_bytes = ended.skipped_bytes;
        self.has_unchecked = ended.has_unchecked;
    }

    /// The frame, whose last byte has been taken.
    fn end(&mut self, end: End) -> Frame {
        let (wire, stored) = (std::mem::take(&mut self.wire), self.stored.take());
        let (offset, content_bytes) = (self.offset, self.content_bytes);
        self.reset();
        let checksum = match end {
            End::Checked(checksum) => Some(checksum),
            End::Unchecked => None,
        };
        Frame {
            offset,
            content_bytes,
            body: match stored {
                Some(content) => Body::Stored { content, checksum },
                None => Body::Coded(wire),
            },
        }
    }

    fn magic(&mut self, magic: u32) -> Result<Option<End>, RestoreError> {
        self.next = if magic.to_le_bytes() == MAGIC {
            Next::Field(Field::Descriptor, 1)
        } else if magic & !0xF == SKIPPABLE_MAGIC {
            self.form = Form::Skipped;
            self.wire.clear();
            Next::Field(Field::SkippedSize, 4)
        } else {
            return self.corrupt("there is no zstd frame");
        };
        Ok(None)
    }

    fn skippable(&mut self, size: u32) -> Result<Option<End>, RestoreError> {
        let frame = self.frame_bytes + u64::from(size);
        self.skipped_bytes += frame;
        if frame > SKIPPABLE_BYTES_MAX {
            return self.corrupt("a skippable frame is too large");
        }
        if self.skipped_bytes > SKIPPABLES_BYTES_MAX {
            return self.corrupt("all skippable frames together are too large");
        }
        Ok(self.skip(size.into()))
    }

    fn skip(&mut self, left: u64) -> Option<End> {
        self.next = Next::Skip { left };
        (left == 0).then_some(End::Unchecked)
    }

    fn descriptor(&mut self, descriptor: u8) -> Result<Option<End>, RestoreError> {
        if descriptor & NEVER_SET != 0 {
            return self.corrupt("the zstd frame is of a kind that is not used");
        }
        self.descriptor = descriptor;
        let has_window = descriptor & SINGLE_SEGMENT == 0;
        let size_bytes = match descriptor >> 6 {
            0 => usize::from(!has_window),
            log => 1 << log,
        };
        self.next = Next::Field(Field::Sizes, usize::from(has_window) + size_bytes);
        Ok(None)
    }

    /// The window and the content size, one of them at least.
    fn sizes(&mut self, field: &[u8]) -> Result<Option<End>, RestoreError> {
        let has_window = self.descriptor & SINGLE_SEGMENT == 0;
        let (window, size) = field.split_at(usize::from(has_window));
        let mut wide = [0; 8];
        wide[..size.len()].copy_from_slice(size);
        let bias = if size.len() == 2 { 256 } else { 0 };
        let content_bytes = u64::from_le_bytes(wide).saturating_add(bias);
        let is_moderate = content_bytes <= RESTORE_FRAME_BYTES_MAX as u64;
        let window_bytes = match window {
            [descriptor] => {
                let base = 1u64 << (10 + (descriptor >> 3));
                base + base / 8 * u64::from(descriptor & 7)
            }
            // Decoded in one piece it needs none.
            _ if is_moderate => 0,
            _ => content_bytes,
        };
        if window_bytes > 1 << RESTORE_WINDOW_LOG_MAX {
            return self.corrupt("the zstd frame needs a window of more than 8 MiB");
        }
        match !size.is_empty() && is_moderate {
            true => self.content_bytes = content_bytes as usize,
            false => {
                self.form = Form::Parts { is_first: true };
                self.stored = None;
            }
        }
        self.next = Next::Field(Field::BlockHeader, BLOCK_HEADER_BYTES);
        Ok(None)
    }

    fn block_header(&mut self, header: u32) -> Result<Option<End>, RestoreError> {
        let size = (header >> 3) as usize;
        let kind = header >> 1 & 3;
        let on_wire = match kind {
            1 => 1,
            0 | 2 if size <= BLOCK_BYTES => size,
            _ => return self.corrupt("the zstd block is of no valid kind or size"),
        };
        let whole_max = (RESTORE_FRAME_BYTES_MAX + RESTORE_FRAME_BYTES_MAX / 256) as u64;
        if self.form == Form::Whole && self.frame_bytes + on_wire as u64 > whole_max {
            return self.corrupt("the zstd frame is too large");
        }
        if kind != 0 {
            self.stored = None;
        }
        Ok(self.block(on_wire, header & 1 == 1))
    }

    /// `left` bytes of a block are next, or what is behind it.
    fn block(&mut self, left: usize, is_last: bool) -> Option<End> {
        self.next = match (left, is_last) {
            (0, false) => Next::Field(Field::BlockHeader, BLOCK_HEADER_BYTES),
            (0, true) if self.descriptor & HAS_CHECKSUM == 0 => {
                self.has_unchecked = true;
                return Some(End::Unchecked);
            }
            (0, true) => Next::Field(Field::Checksum, CHECKSUM_BYTES),
            _ => Next::Block { left, is_last },
        };
        None
    }

    /// The archive ends: it must do so behind a frame.
    pub fn finish(&self) -> Result<(), RestoreError> {
        match self.frame_bytes {
            0 => Ok(()),
            _ => self.corrupt("it ends inside a zstd frame"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;
    use crate::limits::RECEIVED_BYTES_MAX;

    fn frame(data: &[u8]) -> Vec<u8> {
        let mut context = zstd_safe::CCtx::create();
        let checksum = zstd_safe::CParameter::ChecksumFlag(true);
        context.set_parameter(checksum).unwrap();
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
        context.compress2(&mut out, data).unwrap();
        out
    }

    /// Cuts `input`, which arrives in pieces of `step` bytes.
    fn cut_all(input: &[u8], step: usize) -> Result<Vec<Cut>, RestoreError> {
        cut_by(&mut Cutter::default(), input, step)
    }

    fn cut_by(cutter: &mut Cutter, input: &[u8], step: usize) -> Result<Vec<Cut>, RestoreError> {
        let budget = Budget::new(RECEIVED_BYTES_MAX);
        let mut cuts = Vec::new();
        for piece in input.chunks(step) {
            let mut buffer = budget.try_take(piece.len()).unwrap();
            buffer.bytes.clear();
            buffer.bytes.extend_from_slice(piece);
            buffer.shrink(piece.len(), 0);
            let chunk = Arc::new(Chunk::new(buffer, piece.len()));
            let mut at = 0;
            while let Some(cut) = cutter.cut(&chunk, &mut at)? {
                cuts.push(cut);
            }
            assert_eq!(at, piece.len());
        }
        cutter.finish()?;
        assert_eq!(cutter.position(), input.len() as u64);
        Ok(cuts)
    }

    fn whole_frame(cut: &Cut) -> &Frame {
        match cut {
            Cut::Whole(frame) => frame,
            other => panic!("{other:?}"),
        }
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
        for step in [1, 2, 3, 7, 64, 4096, usize::MAX] {
            // A large frame cannot come in pieces as small as that.
            let frames = if step < 64 { &frames[..3] } else { &frames };
            let whole = frames.concat();
            let found = cut_all(&whole, step).unwrap();
            assert_eq!(found.len(), frames.len(), "step {step}");
            let mut offset = 0;
            let found: Vec<&Frame> = found.iter().map(whole_frame).collect();
            for ((found, frame), content) in found.iter().zip(frames).zip(&contents) {
                assert_eq!(found.offset, offset, "step {step}");
                assert_eq!(found.content_bytes, content.len(), "step {step}");
                match &found.body {
                    Body::Coded(wire) => assert_eq!(&join(wire), frame, "step {step}"),
                    Body::Stored {
                        content: stored,
                        checksum,
                    } => {
                        assert_eq!(&join(stored), content, "step {step}");
                        let checksum = checksum.map(u32::to_le_bytes);
                        assert_eq!(
                            checksum.as_ref().map(|c| &c[..]),
                            frame.last_chunk::<4>().map(|c| &c[..])
                        );
                    }
                }
                offset += frame.len() as u64;
            }
            let stored = |f: &&&Frame| matches!(f.body, Body::Stored { .. });
            // The empty one and the noise; the latter in single bytes is of too many slices.
            let expected = if step < 400 { 1 } else { 2 };
            assert_eq!(found.iter().filter(stored).count(), expected, "step {step}");
        }
    }

    /// What other programs send: frames without a size, that a length cannot bound, between
    /// skippable ones.
    #[test]
    fn frames_without_a_size_come_in_parts_and_skippable_ones_not_at_all() {
        let skippable = |magic: u32, len: usize| {
            let head = [magic.to_le_bytes(), (len as u32).to_le_bytes()].concat();
            [head, vec![9; len]].concat()
        };
        let unsized_frame = streamed(&b"abcd".repeat(100_000));
        let large = frame(&vec![0; RESTORE_FRAME_BYTES_MAX + 1]);
        let pieces = [
            skippable(0x184D_2A50, 4),
            unsized_frame.clone(),
            skippable(0x184D_2A5F, 0),
            frame(b"whole"),
            large.clone(),
        ];
        let input = pieces.concat();
        for step in [1, 5, 64, 4096, input.len()] {
            let mut parts = Vec::new();
            let mut order = Vec::new();
            for cut in cut_all(&input, step).unwrap() {
                match cut {
                    Cut::Skipped { .. } => order.push("skipped"),
                    Cut::Whole(_) => order.push("whole"),
                    Cut::Part(part) => {
                        if part.is_first {
                            parts.push(Vec::new());
                        }
                        parts.last_mut().unwrap().extend(join(&part.wire));
                        if part.is_last {
                            order.push("parts");
                        }
                    }
                }
            }
            let expected = ["skipped", "parts", "skipped", "whole", "parts"];
            assert_eq!(order, expected, "step {step}");
            assert_eq!(parts, [&unsized_frame[..], &large], "step {step}");
        }
    }

    fn streamed(data: &[u8]) -> Vec<u8> {
        let mut context = zstd_safe::CCtx::create();
        let size = zstd_safe::CParameter::ContentSizeFlag(false);
        context.set_parameter(size).unwrap();
        let mut out = Vec::with_capacity(zstd_safe::compress_bound(data.len()));
        context.compress2(&mut out, data).unwrap();
        out
    }

    #[test]
    fn frames_that_have_no_checksum_are_known() {
        let checked = frame(b"content");
        let skippable = [SKIPPABLE_MAGIC.to_le_bytes(), [0; 4]].concat();
        let all_checked = [&checked[..], &skippable, &checked].concat();
        let one_is_not = [&checked[..], &streamed(b"content"), &checked].concat();
        for step in [1, 100] {
            for (input, has_unchecked) in [(&all_checked, false), (&one_is_not, true)] {
                let mut cutter = Cutter::default();
                cut_by(&mut cutter, input, step).unwrap();
                assert_eq!(cutter.has_unchecked(), has_unchecked, "step {step}");
            }
        }
    }

    #[test]
    fn a_frame_that_cannot_be_held_is_refused() {
        let good = frame(b"hello hello hello");
        let cut = |bytes: &[u8]| cut_all(bytes, bytes.len()).map(|_| ());
        cut(&good).unwrap();
        // The magic number, a reserved bit, an unused one, a dictionary.
        for (at, bit) in [(0, 1), (4, 1 << 3), (4, 1 << 4), (4, 1)] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert_eq!(cut(&bad).unwrap_err().exit_code(), 5, "byte {at} bit {bit}");
        }
        assert_eq!(cut(&good[..good.len() - 1]).unwrap_err().exit_code(), 5);
        // One segment of 2^64 bytes; a window of 8 MiB and of an eighth more.
        let huge = [&MAGIC[..], &[0b1110_0100], &u64::MAX.to_le_bytes(), &[0; 3]].concat();
        assert_eq!(cut(&huge).unwrap_err().exit_code(), 5);
        let window = |descriptor: u8| [&MAGIC[..], &[0, descriptor, 1, 0, 0]].concat();
        cut(&window(13 << 3)).unwrap();
        let error = cut(&window(13 << 3 | 1)).unwrap_err();
        assert!(error.to_string().contains("window"), "{error}");
    }

    #[test]
    fn skippable_frames_are_bounded_one_by_one_and_together() {
        let skippable = |len: u32| [SKIPPABLE_MAGIC.to_le_bytes(), len.to_le_bytes()].concat();
        let cut = |bytes: &[u8]| cut_all(bytes, 1 << 20).map(|cuts| cuts.len());
        let largest = SKIPPABLE_BYTES_MAX as u32 - 8;
        let one = [skippable(largest), vec![0; largest as usize]].concat();
        assert_eq!(cut(&one).unwrap(), 1);
        assert_eq!(cut(&skippable(largest + 1)).unwrap_err().exit_code(), 5);
        let most = (SKIPPABLES_BYTES_MAX / SKIPPABLE_BYTES_MAX) as usize;
        assert_eq!(cut(&one.repeat(most)).unwrap(), most);
        let over = [one.repeat(most), skippable(0)].concat();
        assert_eq!(cut(&over).unwrap_err().exit_code(), 5);
    }
}
