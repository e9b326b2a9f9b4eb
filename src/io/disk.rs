//! Writing spool files on the background plane: through io_uring where there is one, else on
//! the runtime's blocking threads.

#![allow(unsafe_code)] // The buffer trait of tokio-uring; its contract stands at the impl.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::extent::Piece;

/// A piece as a buffer that the kernel reads from.
struct PieceBuffer(Piece);

// SAFETY: the bytes live in a Vec behind an Arc that the buffer owns and nobody changes, so the
// pointer is stable and the `len` initialised bytes stay readable as long as the buffer lives.
unsafe impl tokio_uring::buf::IoBuf for PieceBuffer {
    fn stable_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.len()
    }

    fn bytes_total(&self) -> usize {
        self.0.len()
    }
}

/// A file that pieces are written to.
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

    /// Writes all of `piece` at `offset`.
    pub async fn write_all_at(&self, piece: Piece, offset: u64) -> io::Result<()> {
        match self {
            DiskFile::Uring(file) => file.write_all_at(PieceBuffer(piece), offset).await.0,
            DiskFile::Blocking(file) => {
                let file = file.clone();
                let written =
                    tokio::task::spawn_blocking(move || file.write_all_at(&piece, offset)).await;
                written.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            }
        }
    }

    /// Closes the file.
    pub async fn close(self) -> io::Result<()> {
        match self {
            DiskFile::Uring(file) => file.close().await,
            DiskFile::Blocking(_) => Ok(()),
        }
    }
}
