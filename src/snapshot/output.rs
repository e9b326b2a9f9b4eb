//! Where a build's finished bytes go, and why there may be no more of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use gix::ObjectId;
use xxhash_rust::xxh64::Xxh64;

use super::checking::VerifyError;
use super::reuse::changed;
use super::ring::RingError;
use super::source::JobError;
use super::turns::{Closed, Turn};
use crate::archive::fanout::Fanout;
use crate::archive::growth::Abandoned;
use crate::extent::Piece;
use crate::faults::Faults;
use crate::io::shortage::Detail;
use crate::limits::FRAME_TAR_BYTES;
use crate::manifest::record::Stretch;
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
    #[error("a pack of its own cannot be made: {0}")]
    Pack(#[source] Detail),
    /// They were sound when they were looked at: what is known to be sound is to be looked at again.
    #[error("frames of the previous snapshot cannot be read: {0}")]
    Frames(#[source] std::io::Error),
    #[error("a job that was given all it asked for asked again; report this")]
    Again,
    #[error("fault injected after {0} bytes")]
    Injected(u64),
}

/// The number of the entry's own file of frames in its outline.
const OWN_PART: u32 = 0;

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

    /// What a record says of the frames since [`Output::begin_record`]: where they are, and their checksum.
    pub(super) fn end_record(&self, offset: u64) -> (Stretch, u64) {
        let bytes = self.fanout.layout_spool_bytes() - offset;
        let at = Stretch {
            part: OWN_PART,
            offset,
            bytes,
        };
        (at, self.checksum.digest())
    }

    /// Copies frames of an earlier snapshot from `file`, and compares them with their checksum.
    pub(super) fn copy(
        &mut self,
        file: &File,
        from: Stretch,
        checksum: u64,
    ) -> Result<Stretch, BuildError> {
        let begun = self.begin_record();
        let mut at = 0;
        while at < from.bytes {
            let len = (from.bytes - at).min(FRAME_TAR_BYTES as u64);
            let mut frames = vec![0; len as usize];
            file.read_exact_at(&mut frames, from.offset + at)
                .map_err(BuildError::Frames)?;
            self.piece(frames)?;
            at += len;
        }
        let (copied, found) = self.end_record(begun);
        match found == checksum {
            true => Ok(copied),
            false => Err(BuildError::Frames(changed())),
        }
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
        self.fanout.tell();
        match &mut self.turn {
            Some(turn) => turn.rest(wait),
            None => Ok(wait()),
        }
    }

    /// Compresses `tar` here and now and hands it on.
    pub(super) fn frames(&mut self, tar: &[u8]) -> Result<(), BuildError> {
        tar.chunks(FRAME_TAR_BYTES)
            .try_for_each(|chunk| self.frame(chunk))
    }

    /// The same as one frame.
    pub(super) fn frame(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        let mut frame = Vec::new();
        self.compressor.push_frame(self.level, bytes, &mut frame)?;
        self.piece(frame)
    }
}
