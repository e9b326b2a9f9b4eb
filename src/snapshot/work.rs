//! What a running build works with, whatever it is about to send: where its bytes go, the encoders,
//! and its turn among other builds.

use std::sync::Arc;
use std::time::Duration;

use super::checking::{Gate, Progress};
use super::job::EncoderState;
use super::output::{BuildError, Output};
use super::reuse::Frames;
use super::ring::{Lane, Pending, RingError, Size};
use super::source::Source;
use super::turns::Turn;
use crate::io::sched;
use crate::limits::{ENCODER_NICE, TELL_AFTER_US};
use crate::manifest::record::Stretch;

/// What the window is for an archive that goes no faster than its readers.
pub(super) const LIVE_ONLY_JOBS: usize = 2;

/// See the module's text.
pub(super) struct Work<'a> {
    pub(super) output: Output<'a>,
    pub(super) lane: Lane<'a, EncoderState>,
    /// Lets the check of the packs go on while the build has a turn.
    pub(super) checking: Arc<Gate>,
    /// How far that has come.
    checked: Arc<Progress>,
    pub(super) source: Arc<Source>,
    /// Empty buffers for chunks of big files, at most one more than the window.
    pub(super) spare: Vec<Vec<u8>>,
}

impl<'a> Work<'a> {
    /// Nothing is in flight yet.
    pub(super) fn new(
        output: Output<'a>,
        lane: Lane<'a, EncoderState>,
        (checking, checked): (Arc<Gate>, Arc<Progress>),
        source: Arc<Source>,
    ) -> Work<'a> {
        Work {
            output,
            lane,
            checking,
            checked,
            source,
            spare: Vec::new(),
        }
    }

    /// How many results the encoders work on at once: all builds that have a turn share them. What
    /// waits for its readers does not make more than they will take soon.
    pub(super) fn window(&self) -> usize {
        if self.output.fanout.is_live_only() {
            return LIVE_ONLY_JOBS;
        }
        let running = self.output.turn.as_ref().map_or(1, Turn::running);
        2 * self.lane.ring().threads() / running.max(1) + 2
    }

    /// Has frames of the earlier snapshot be a part of the archive; gives where they are then.
    pub(super) fn take_frames(
        &mut self,
        at: Stretch,
        checksum: u64,
    ) -> Result<Stretch, BuildError> {
        let source = self.source.clone();
        match source.reuse.frames(&at) {
            Some(Frames::Linked { at, file }) => {
                self.output.fanout.push_stored(file, at.offset, at.bytes)?;
                Ok(at)
            }
            Some(Frames::Copied(file)) => self.output.copy(file, at, checksum),
            None => Err(BuildError::Again),
        }
    }

    /// Waits for an encoder; its archive's readers are told of what they can have meanwhile.
    pub(super) fn wait<T>(&self, pending: Pending<T>) -> Result<T, RingError> {
        let soon = Duration::from_micros(TELL_AFTER_US);
        pending.wait(soon, || self.output.fanout.tell())
    }

    /// Whether another build should go on instead.
    pub(super) fn is_turn_over(&self) -> bool {
        self.output.turn.as_ref().is_some_and(Turn::is_over)
    }

    /// Waits until so many bytes of a linked file were found to be as git wrote them. What a tag promises
    /// leaves only then: a download that breaks off is resumed by that tag, from a sound pack.
    pub(super) fn wait_checked(&mut self, file: u32, bytes: u64) -> Result<(), BuildError> {
        let fanout = self.output.fanout;
        while !self
            .checked
            .wait_for(file as usize, bytes, || fanout.tell())?
        {
            if self.is_turn_over() {
                self.pass_turn()?;
            }
        }
        Ok(())
    }

    /// From here on other packs are checked.
    pub(super) fn check(&mut self, (checking, checked): (Arc<Gate>, Arc<Progress>)) {
        (self.checking, self.checked) = (checking, checked);
    }

    /// Waits until all packs were checked.
    pub(super) fn wait_all_checked(&mut self) -> Result<(), BuildError> {
        self.output.fanout.tell();
        while !self.checked.wait_for_end()? {
            if self.is_turn_over() {
                self.pass_turn()?;
            }
        }
        Ok(())
    }

    /// Lets another build go on; the caller has nothing in flight, or no more than a window of jobs.
    pub(super) fn pass_turn(&mut self) -> Result<(), BuildError> {
        let Some(turn) = &mut self.output.turn else {
            return Ok(());
        };
        self.output.fanout.tell();
        self.checking.close();
        self.source.largest_tree.forget();
        self.output.fanout.rest();
        turn.pass()?;
        self.output.fanout.resume();
        self.checking.open();
        Ok(())
    }

    /// The build is larger than it seemed: others have waited for it long enough.
    pub(super) fn grow(&mut self) -> Result<(), BuildError> {
        if self.lane.size() == Size::Small {
            sched::be_nice(ENCODER_NICE);
            self.lane.grow();
            if let Some(turn) = &mut self.output.turn {
                turn.grow()?;
            }
        }
        Ok(())
    }
}
