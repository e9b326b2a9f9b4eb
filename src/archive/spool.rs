//! Writes the pieces of one build to its spool file.

use std::error::Error;
use std::io;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedReceiver;

use crate::archive::fanout::Fanout;
use crate::extent::Piece;
use crate::io::disk::SpoolFile;
use crate::io::fs::progress;
use crate::io::shortage::is_disk_full;
use crate::telemetry::metrics::{Event, Meter, SpoolFailure};

/// The pieces of one build on their way to its spool file. Whatever way this ends, the fan-out
/// is told, so that the build does not wait for what will not come.
pub struct Spooler {
    fanout: Arc<Fanout>,
    /// Offsets and bytes, in order; the end of it ends the file.
    pieces: UnboundedReceiver<(u64, Piece)>,
    /// Bytes that the file takes; more are refused as if the disk were full.
    bytes_max: u64,
    /// More than these are not kept.
    limit_bytes: u64,
    written: bool,
}

impl Drop for Spooler {
    fn drop(&mut self) {
        if !self.written {
            self.fanout.spool_failed("the spool writer has ended");
        }
    }
}

impl Spooler {
    /// A writer of the pieces that are pushed to `fanout`.
    pub fn new(fanout: Arc<Fanout>, pieces: UnboundedReceiver<(u64, Piece)>) -> Spooler {
        Spooler {
            fanout,
            pieces,
            bytes_max: u64::MAX,
            limit_bytes: u64::MAX,
            written: false,
        }
    }

    /// Has the disk seem full after that many bytes.
    pub fn full_at(&mut self, bytes_max: Option<u64>) {
        self.bytes_max = bytes_max.unwrap_or(u64::MAX);
    }

    /// Ends with an error after that many bytes: nothing larger is kept.
    pub fn limit(&mut self, bytes: u64) {
        self.limit_bytes = bytes;
    }

    /// Writes until the last piece; `each` is told the bytes of every one. When the disk is full it waits
    /// once for `room` and tries again. After an error the archive is live-only.
    pub async fn run(
        mut self,
        file: impl SpoolFile,
        each: impl FnMut(u64),
        room: impl AsyncFnOnce(),
    ) -> io::Result<()> {
        let result = self.write_pieces(file, each, room).await;
        if let Err(error) = &result {
            self.fanout.spool_failed(&error.to_string());
        }
        result
    }

    async fn write_pieces(
        &mut self,
        file: impl SpoolFile,
        mut each: impl FnMut(u64),
        room: impl AsyncFnOnce(),
    ) -> io::Result<()> {
        let mut room = Some(room);
        while let Some((offset, piece)) = self.pieces.recv().await {
            let bytes = piece.len() as u64;
            let end = offset + bytes;
            if end > self.limit_bytes {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            let mut written = self.write(&file, &piece, offset).await;
            if written.as_ref().is_err_and(|e| is_disk_full(e))
                && let Some(room) = room.take()
            {
                room().await;
                written = self.write(&file, &piece, offset).await;
            }
            written?;
            each(bytes);
            self.fanout.spooled(end);
        }
        self.written = true;
        file.close().await
    }

    async fn write(&self, file: &impl SpoolFile, piece: &Piece, offset: u64) -> io::Result<()> {
        if offset + piece.len() as u64 > self.bytes_max {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        write_all_at(file, piece, offset).await
    }
}

/// Counts and logs that a build goes on without the cache because of `error`.
pub fn not_kept(meter: &Meter, repository: &str, error: &(dyn Error + 'static)) {
    let code = |error: &io::Error| error.raw_os_error() == Some(libc::EFBIG);
    let is_too_long = error.downcast_ref().is_some_and(code);
    let reason = match is_disk_full(error) || is_too_long {
        true => SpoolFailure::DiskFull,
        false => SpoolFailure::Io,
    };
    meter.add(Event::SpoolFailure(reason), 1);
    tracing::error!(
        repository,
        reason = reason.name(),
        "cannot spool, going on without the cache: {error}"
    );
}

async fn write_all_at(file: &impl SpoolFile, piece: &Piece, offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < piece.len() {
        let wrote = file.write_at(piece.clone(), written, offset + written as u64);
        written += progress(wrote.await)?;
    }
    Ok(())
}
