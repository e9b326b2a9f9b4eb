//! What whoever sends an archive reads it from.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::raw::Inline;

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
/// A source is polled by one task at a time. No method blocks.
pub trait Source {
    /// What stands at wire offset `at`, at most `max` bytes of it; pending until there is
    /// something, never [`Next::Wait`].
    fn poll_next(&mut self, at: u64, max: u64, context: &mut Context<'_>) -> Poll<Next>;

    /// Brings the bytes from wire offset `at` on into memory as far as the source likes; ready
    /// with the offset below which they are there, which is above `at`.
    fn poll_resident(&mut self, at: u64, context: &mut Context<'_>) -> Poll<io::Result<u64>>;

    /// Hears that what stands at wire offset `at` was not in memory: it is to be read, whatever was said of it.
    fn was_cold(&mut self, at: u64);

    /// How many bytes from `at` on can be promised to a client that needs their number first.
    fn available(&self, at: u64) -> u64;

    /// The spool (`None`) or a linked file.
    fn file(&self, file: Option<u32>) -> io::Result<BorrowedFd<'_>>;
}
