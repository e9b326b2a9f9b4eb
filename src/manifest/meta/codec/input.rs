//! The bytes of a file of these kinds on their way to what they say, whole or as they come, and why they say nothing.

use std::borrow::Cow;

use crate::extent::LayoutError;
use crate::manifest::meta::InvalidMeta;
use crate::manifest::parts::Unsound;

/// The format version that is written, and the only one that is read.
pub const VERSION: u32 = 6;

/// Why bytes are not the metadata, the outline or the manifest of an entry. Offsets are in bytes from the file's beginning;
/// for what is wrong with several parts together, the offset of the field that holds them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    #[error("at offset {offset}: the file ends too early, {wanted} more bytes are needed")]
    End { offset: usize, wanted: usize },
    #[error("at offset 0: not the metadata, the outline or the manifest of an entry")]
    Magic,
    #[error("the digest at offset {offset} does not match, so the file is damaged")]
    Digest { offset: usize },
    #[error("at offset {offset}: format version {version}, but only {VERSION} can be read")]
    Version { offset: usize, version: u32 },
    #[error("at offset {offset}: a payload of {stated} bytes is stated, {present} are there")]
    PayloadLength {
        offset: usize,
        stated: u64,
        present: usize,
    },
    #[error("at offset {offset}: its items take more memory than there is for them")]
    Memory { offset: usize },
    #[error("at offset {offset}: {count} items are stated, which {present} bytes cannot hold")]
    Count {
        offset: usize,
        count: u64,
        present: usize,
    },
    #[error("at offset {offset}: not {expected}")]
    Value {
        offset: usize,
        expected: &'static str,
    },
    #[error("at offset {offset}: {source}")]
    Layout { offset: usize, source: LayoutError },
    #[error("at offset {offset}: {source}")]
    Invalid { offset: usize, source: InvalidMeta },
    #[error("at offset {offset}: {source}")]
    Manifest { offset: usize, source: Unsound },
    #[error("at offset {offset}: {bytes} bytes stand after the last field")]
    Trailing { offset: usize, bytes: usize },
}

/// What brings more of a file that comes piece by piece; nothing at its end.
pub(super) type More<'a> = &'a mut dyn FnMut(&mut Vec<u8>);

/// The bytes before the digest, read from `at` on.
///
/// Invariant: `taken` of the `window`'s bytes stand before that. Those behind it follow, of which `left` may be taken.
pub(super) struct Input<'a> {
    pub window: Cow<'a, [u8]>,
    pub taken: usize,
    pub at: usize,
    pub left: usize,
    pub more: Option<More<'a>>,
    /// So much memory may be taken for what stands there.
    pub room_bytes: usize,
    /// So long may a text be.
    pub text_bytes_max: usize,
}

impl Input<'_> {
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8], MetaError> {
        if len > self.left {
            return Err(MetaError::End {
                offset: self.at,
                wanted: len - self.left,
            });
        }
        let present = self.window.len() - self.taken;
        if len > present {
            self.fill(len)?;
        }
        let taken = &self.window[self.taken..][..len];
        self.taken += len;
        self.at += len;
        self.left -= len;
        Ok(taken)
    }

    /// Has so many bytes come that were not taken.
    fn fill(&mut self, len: usize) -> Result<(), MetaError> {
        let window = self.window.to_mut();
        window.drain(..self.taken);
        self.taken = 0;
        while window.len() < len {
            let before = window.len();
            if let Some(more) = &mut self.more {
                more(window);
            }
            if window.len() == before {
                return Err(MetaError::End {
                    offset: self.at,
                    wanted: len - before,
                });
            }
        }
        Ok(())
    }

    /// Counts memory that is taken for what stands there.
    pub(super) fn holds(&mut self, bytes: usize) -> Result<(), MetaError> {
        let offset = self.at;
        let left = self.room_bytes.checked_sub(bytes);
        self.room_bytes = left.ok_or(MetaError::Memory { offset })?;
        Ok(())
    }

    /// The length of a text, which is counted.
    pub(super) fn text(&mut self) -> Result<usize, MetaError> {
        let offset = self.at;
        let len = self.count(1)?;
        if len > self.text_bytes_max {
            return Err(MetaError::Memory { offset });
        }
        self.holds(len)?;
        Ok(len)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A count of items that take at least `bytes_min` each: never more than can be there.
    pub(super) fn count(&mut self, bytes_min: usize) -> Result<usize, MetaError> {
        let offset = self.at;
        let count = u64::from_le_bytes(self.array()?);
        let present = self.left;
        if count > (present / bytes_min) as u64 {
            return Err(MetaError::Count {
                offset,
                count,
                present,
            });
        }
        Ok(count as usize)
    }
}
