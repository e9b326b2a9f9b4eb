//! Where a build's finished bytes go, and why there may be no more of them.

use std::path::PathBuf;
use std::sync::Arc;

use gix::ObjectId;
use xxhash_rust::xxh64::Xxh64;

use super::ring::RingError;
use super::source::JobError;
use super::turns::{Closed, Turn};
use super::verify::VerifyError;
use crate::archive::fanout::Fanout;
use crate::archive::growth::Abandoned;
use crate::extent::Piece;
use crate::faults::Faults;
use crate::io::shortage::Detail;
use crate::limits::FRAME_TAR_BYTES;
use crate::tree::decoder::OpenError;
use crate::tree::frames::{Compressor, FrameError};
use crate::tree::walk::WalkError;

/// Why a build ended without an archive.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot {op} {}: {source}", .path.display())]
    Io {
        op: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("HEAD commit {commit} cannot be read: {detail}; run git fsck on the mirror")]
    Commit {
        commit: ObjectId,
        #[source]
        detail: Detail,
    },
    #[error(transparent)]
    Packs(#[from] OpenError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Ring(#[from] RingError),
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    #[error(transparent)]
    Closed(#[from] Closed),
    #[error("the index cannot be summed: {0}")]
    Index(String),
    #[error("a job that was given all it asked for asked again; report this")]
    Again,
    #[error("fault injected after {0} bytes")]
    Injected(u64),
}

/// Takes the bytes that belong into the spool file.
pub trait Spool {
    /// Has `piece` written at `offset`; never blocks.
    fn write(&self, offset: u64, piece: Piece);
}

/// Where finished bytes go, in order.
pub(super) struct Output<'a> {
    pub(super) fanout: &'a Fanout,
    spool: &'a dyn Spool,
    /// The build's turn; none before its first bytes have left.
    pub(super) turn: Option<Turn>,
    /// Lets go of what others may need, before the first wait for a reader.
    pub(super) let_go: Option<Box<dyn FnOnce() + 'a>>,
    compressor: Compressor,
    /// Of all pieces since [`Output::begin_record`].
    checksum: Xxh64,
    pub(super) level: i32,
    pub(super) faults: Faults,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        fanout: &'a Fanout,
        spool: &'a dyn Spool,
        level: i32,
        faults: Faults,
    ) -> Result<Output<'a>, JobError> {
        Ok(Output {
            fanout,
            spool,
            turn: None,
            let_go: None,
            compressor: Compressor::new().ok_or(JobError::NoMemory)?,
            checksum: Xxh64::new(0),
            level,
            faults,
        })
    }

    /// Begins the frames of a record; gives their offset in the spool file.
    pub(super) fn begin_record(&mut self) -> u64 {
        self.checksum.reset(0);
        self.fanout.layout_spool_bytes()
    }

    /// What a record says of the frames since [`Output::begin_record`]: their length and checksum.
    pub(super) fn end_record(&self, spool_offset: u64) -> (u64, u64) {
        let end = self.fanout.layout_spool_bytes();
        (end - spool_offset, self.checksum.digest())
    }

    /// Hands on frames that are ready.
    pub(super) fn piece(&mut self, frames: Vec<u8>) -> Result<(), BuildError> {
        if self.faults.build_fails_at(self.fanout.wire_bytes()) {
            return Err(BuildError::Injected(self.fanout.wire_bytes()));
        }
        self.checksum.update(&frames);
        let piece: Piece = Arc::new(frames);
        if self.fanout.waits_for_readers(1)? {
            self.wait_readers(Fanout::wait_room)?;
        }
        if let Some(offset) = self.fanout.push_piece(piece.clone())? {
            self.spool.write(offset, piece);
        }
        Ok(())
    }

    /// Waits until readers have taken all that is kept for them.
    pub(super) fn wait_drained(&mut self) -> Result<(), BuildError> {
        self.wait_readers(Fanout::wait_drained)
    }

    /// Waits for readers, which may take hours: meanwhile the build holds nothing that others need.
    fn wait_readers(
        &mut self,
        wait: impl FnOnce(&Fanout) -> Result<(), Abandoned>,
    ) -> Result<(), BuildError> {
        if let Some(let_go) = self.let_go.take() {
            let_go();
        }
        let fanout = self.fanout;
        Ok(self.rest(|| wait(fanout))??)
    }

    /// Does what waits for others, without a turn.
    pub(super) fn rest<T>(&mut self, wait: impl FnOnce() -> T) -> Result<T, Closed> {
        match &mut self.turn {
            Some(turn) => turn.rest(wait),
            None => Ok(wait()),
        }
    }

    /// Compresses `tar` here and now and hands it on.
    pub(super) fn frames(&mut self, tar: &[u8]) -> Result<(), BuildError> {
        for chunk in tar.chunks(FRAME_TAR_BYTES) {
            let mut frame = Vec::new();
            self.compressor.push_frame(self.level, chunk, &mut frame)?;
            self.piece(frame)?;
        }
        Ok(())
    }
}
