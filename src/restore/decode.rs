//! What is in a frame: decoded in one piece by whoever has time, or as a stream in the archive's
//! order.

use std::ops::Range;

use xxhash_rust::xxh64::Xxh64;
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::budget::{Buffer, Room};
use super::chunk::Slice;
use super::error::RestoreError;
use super::frames::{Body, Frame};
use crate::limits::{BARREN_BYTES_MAX, RESTORE_WINDOW_LOG_MAX};

/// Content of the archive that follows each other. Its memory goes back when the last entry of it
/// is written.
#[derive(Debug)]
pub enum Content {
    Decoded(Buffer),
    /// As it arrived; the room is that of what is known about it.
    Stored {
        slices: Vec<Slice>,
        _room: Room,
    },
}

impl Content {
    /// All of it, in order.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (decoded, stored) = match self {
            Self::Decoded(buffer) => (Some(&buffer.bytes[..]), &[][..]),
            Self::Stored { slices, .. } => (None, &slices[..]),
        };
        decoded
            .into_iter()
            .chain(stored.iter().map(|slice| &slice[..]))
    }

    /// The bytes `range`, by the pieces that they are in.
    pub fn slices(&self, range: &Range<usize>) -> impl Iterator<Item = &[u8]> {
        let mut begin = 0;
        self.pieces().filter_map(move |piece| {
            let from = range.start.max(begin) - begin;
            let to = range.end.saturating_sub(begin).min(piece.len());
            begin += piece.len();
            piece.get(from..to).filter(|part| !part.is_empty())
        })
    }
}

/// Memory that a whole frame is decoded with.
#[derive(Debug)]
pub enum Space {
    /// Nothing has to be decoded.
    Stored(Room),
    /// For the content, and for a frame that came in several chunks, in one piece.
    Coded(Buffer, Option<Buffer>),
}

fn corrupt<T>(offset: u64, what: &str) -> Result<T, RestoreError> {
    let what = format!("zstd: {what}");
    Err(RestoreError::Corrupt { offset, what })
}

/// The content of a whole frame, checked.
pub fn whole(context: &mut DCtx<'_>, frame: Frame, space: Space) -> Result<Content, RestoreError> {
    let (content, len) = match (frame.body, space) {
        (
            Body::Stored {
                content: slices,
                checksum,
            },
            Space::Stored(room),
        ) => {
            if let Some(checksum) = checksum {
                let mut hash = Xxh64::new(0);
                slices.iter().for_each(|slice| hash.update(slice));
                // The format keeps the low half (RFC 8878 section 3.1.1).
                if hash.digest() as u32 != checksum {
                    return corrupt(frame.offset, "the checksum of a frame is wrong");
                }
            }
            let len = slices.iter().map(|slice| slice.len()).sum();
            let _room = room;
            (Content::Stored { slices, _room }, len)
        }
        (Body::Coded(wire), Space::Coded(mut buffer, mut joined)) => {
            buffer.bytes.clear();
            let wire = join(joined.as_mut(), &wire);
            if let Err(code) = context.decompress(&mut buffer.bytes, wire) {
                return corrupt(frame.offset, zstd_safe::get_error_name(code));
            }
            let len = buffer.bytes.len();
            (Content::Decoded(buffer), len)
        }
        _ => return corrupt(frame.offset, "a frame got the room of another"),
    };
    match len == frame.content_bytes {
        true => Ok(content),
        false => corrupt(frame.offset, "a frame is not as long as it says"),
    }
}

/// How much memory it takes to put `wire` together.
pub fn joined_bytes(wire: &[Slice]) -> Option<usize> {
    let len = || wire.iter().map(|slice| slice.len()).sum();
    (wire.len() > 1).then(len)
}

/// The bytes of `wire`; put together in `joined` if they are in several slices.
fn join<'s>(joined: Option<&'s mut Buffer>, wire: &'s [Slice]) -> &'s [u8] {
    match (joined, wire) {
        (Some(joined), wire) => {
            joined.bytes.clear();
            for slice in wire {
                joined.bytes.extend_from_slice(slice);
            }
            &joined.bytes
        }
        (None, [one]) => one,
        (None, _) => &[],
    }
}

/// Decodes frames of any length, one after the other, with a window of bounded size.
pub struct Stream {
    context: DCtx<'static>,
    /// What came of the frame since it last brought content.
    barren_bytes: usize,
    /// Whether it brought any.
    has_content: bool,
    /// Whether it has ended.
    is_ended: bool,
}

impl Default for Stream {
    fn default() -> Self {
        let mut context = DCtx::create();
        let window = DParameter::WindowLogMax(RESTORE_WINDOW_LOG_MAX);
        // The number is one that zstd takes.
        let _ = context.set_parameter(window);
        Stream {
            context,
            barren_bytes: 0,
            has_content: false,
            is_ended: false,
        }
    }
}

impl Stream {
    /// A frame begins.
    pub fn begin(&mut self) {
        // Only between two frames nothing can be lost, and nothing else can fail.
        let _ = self.context.reset(ResetDirective::SessionOnly);
        self.barren_bytes = 0;
        self.has_content = false;
        self.is_ended = false;
    }

    /// Decodes from `wire`, which stands at `offset` of the archive, into the free capacity of
    /// `into`; returns how much of `wire` was used. All of it, unless `into` is full.
    pub fn decode(
        &mut self,
        wire: &[u8],
        offset: u64,
        into: &mut Vec<u8>,
    ) -> Result<usize, RestoreError> {
        let mut input = InBuffer::around(wire);
        let mut begin = into.len();
        while !self.is_ended && into.len() < into.capacity() {
            let used = input.pos;
            let at = into.len();
            let mut output = OutBuffer::around_pos(into, at);
            let hint = match self.context.decompress_stream(&mut output, &mut input) {
                Ok(hint) => hint,
                Err(code) => {
                    let offset = offset + used as u64;
                    return corrupt(offset, zstd_safe::get_error_name(code));
                }
            };
            self.is_ended = hint == 0;
            self.barren_bytes += input.pos - used;
            if into.len() > begin {
                self.barren_bytes = 0;
                self.has_content = true;
                begin = into.len();
            } else if self.barren_bytes > BARREN_BYTES_MAX {
                return corrupt(offset, "a frame goes on without content");
            } else if input.pos == used {
                break;
            }
        }
        if self.is_ended && input.pos < wire.len() {
            return corrupt(offset, "a frame ends before its end");
        }
        Ok(input.pos)
    }

    /// The frame is over: all of it must have been decoded. Whether it was without content.
    pub fn finish(&self, offset: u64) -> Result<bool, RestoreError> {
        match self.is_ended {
            true => Ok(!self.has_content),
            false => corrupt(offset, "a frame does not end where it should"),
        }
    }
}
