//! The list of extents that an archive consists of.

use std::ops::Range;

use super::raw::{RAW_BLOCK_BYTES, RAW_FRAME_BYTES, frame_wire_bytes, raw_frames, raw_wire_bytes};
use super::segment::{Segment, raw_segment};

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
    /// `len` bytes of linked file number `file` from `offset`, frames that are sent as they are.
    Stored { file: u32, offset: u64, len: u64 },
}

impl Extent {
    /// Bytes this extent takes on the wire.
    pub fn wire_bytes(&self) -> u64 {
        match *self {
            Extent::Spool { len, .. } | Extent::Stored { len, .. } => len,
            Extent::RawRun { len, .. } => raw_wire_bytes(len),
        }
    }
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
                Extent::Spool { offset, len }
                | Extent::RawRun { offset, len, .. }
                | Extent::Stored { offset, len, .. } => (offset, len),
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
                Extent::Stored { .. } => {}
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
            self.push_extent(self.wire_bytes, Extent::Spool { offset, len });
        }
        self.wire_bytes += len;
    }

    /// Appends a range of a linked file; `checksums` holds the low 4 bytes of the XXH64 of each
    /// of its frames. A range that continues the previous one's file after whole frames is
    /// merged with it, so a pack stays one extent.
    pub fn push_raw(&mut self, file: u32, offset: u64, len: u64, checksums: &[u32]) {
        // One too few would frame all later bytes with checksums of others.
        assert_eq!(checksums.len() as u64, raw_frames(len));
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
        let run = Extent::RawRun {
            file,
            offset,
            len,
            first_checksum,
        };
        self.push_extent(wire, run);
    }

    /// Appends frames that lie in a linked file. A stretch that continues the previous one's is merged
    /// with it.
    pub fn push_stored(&mut self, file: u32, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let wire = self.wire_bytes;
        self.wire_bytes += len;
        if let Some(Extent::Stored {
            file: last_file,
            offset: last_offset,
            len: last_len,
        }) = self.extents.last_mut()
            && *last_file == file
            && *last_offset + *last_len == offset
        {
            *last_len += len;
            return;
        }
        self.push_extent(wire, Extent::Stored { file, offset, len });
    }

    fn push_extent(&mut self, wire: u64, extent: Extent) {
        // The binary search needs them in order, and none of them empty.
        debug_assert!(self.starts.last().is_none_or(|last| *last < wire));
        self.starts.push(wire);
        self.extents.push(extent);
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
            Extent::Stored { file, offset, len } => Segment::File {
                file,
                offset: offset + within,
                len: len - within,
            },
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
                Extent::RawRun { .. } | Extent::Stored { .. } => None,
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
                Extent::Stored { file, offset, .. } => each(Some(file), offset + from..offset + to),
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

/// The sum, if it is a possible offset in a file.
fn add_within_file(a: u64, b: u64) -> Option<u64> {
    a.checked_add(b).filter(|sum| *sum <= i64::MAX as u64)
}

#[cfg(test)]
mod tests;
