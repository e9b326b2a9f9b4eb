//! Writing spool files on the background plane: through io_uring where there is one, else on
//! the runtime's blocking threads.

#![allow(unsafe_code)] // The buffer trait of tokio-uring; its contract stands at the impl.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::extent::Piece;

/// The rest of a piece as a buffer that the kernel reads from.
///
/// Invariant: `from` is at most the piece's length.
struct PieceBuffer {
    piece: Piece,
    from: usize,
}

impl PieceBuffer {
    fn rest(&self) -> &[u8] {
        &self.piece[self.from..]
    }
}

// SAFETY: the bytes live in a Vec behind an Arc that the buffer owns and nobody changes, so the
// pointer is stable and the `len` initialised bytes stay readable as long as the buffer lives.
unsafe impl tokio_uring::buf::IoBuf for PieceBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.rest().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.rest().len()
    }

    fn bytes_total(&self) -> usize {
        self.rest().len()
    }
}

/// A file that pieces are written to, without blocking the thread.
#[expect(async_fn_in_trait, reason = "used by tasks of one thread only")]
pub trait SpoolFile {
    /// Writes at least one byte of `piece[from..]`, which is not empty, at `offset`; returns how
    /// many.
    async fn write_at(&self, piece: Piece, from: usize, offset: u64) -> io::Result<usize>;

    /// Closes the file.
    async fn close(self) -> io::Result<()>;
}

/// A spool file on the disk.
pub enum DiskFile {
    /// Through io_uring.
    Uring(tokio_uring::fs::File),
    /// On blocking threads.
    Blocking(Arc<File>),
}

impl DiskFile {
    /// Takes a file over. `uring` says whether the current runtime is tokio-uring's.
    pub fn new(file: File, uring: bool) -> DiskFile {
        match uring {
            true => DiskFile::Uring(tokio_uring::fs::File::from_std(file)),
            false => DiskFile::Blocking(Arc::new(file)),
        }
    }
}

impl SpoolFile for DiskFile {
    async fn write_at(&self, piece: Piece, from: usize, offset: u64) -> io::Result<usize> {
        let buffer = PieceBuffer { piece, from };
        match self {
            DiskFile::Uring(file) => file.write_at(buffer, offset).submit().await.0,
            DiskFile::Blocking(file) => {
                let file = file.clone();
                let write = move || file.write_at(buffer.rest(), offset);
                let written = tokio::task::spawn_blocking(write).await;
                written.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            }
        }
    }

    async fn close(self) -> io::Result<()> {
        match self {
            DiskFile::Uring(file) => file.close().await,
            DiskFile::Blocking(_) => Ok(()),
        }
    }
}
