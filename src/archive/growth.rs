//! An archive while it grows: what is there, what of it is still in memory, and who reads it. Everything
//! here happens under the fan-out's lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::pace::{Pace, Times};
use crate::extent::{Layout, Next, Piece, Segment};
use crate::limits::{SPOOL_LAG_BYTES, TELL_BYTES};

/// How the archive ends. A reader is never left to guess.
#[derive(Debug, Clone)]
pub enum Status {
    /// More will come.
    Growing,
    /// All of it is there.
    Complete,
    /// It will never be complete; what was sent must not look whole.
    Failed(Arc<str>),
}

pub(super) struct Reader {
    pub(super) at: u64,
    pub(super) waker: Option<Waker>,
    /// Too slow for a live-only archive: it gets no more.
    pub(super) left_behind: bool,
    /// Of a live-only archive.
    pub(super) pace: Option<Pace>,
}

/// When the producer waited for the readers of a live-only archive.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    Never,
    Now,
    Until(Instant),
}

/// Invariants:
/// 1. Every spool byte of the layout is below `spooled` (written to the file) or in `window`.
/// 2. `window` holds consecutive pieces; the last one ends at `layout.spool_bytes()`.
/// 3. After `spool_error` is set, `spooled` does not grow, and every reader has a pace.
pub(super) struct Growth {
    pub(super) layout: Layout,
    pub(super) window: VecDeque<(u64, Piece)>,
    pub(super) window_bytes: u64,
    pub(super) window_bytes_max: u64,
    /// Nothing that is in the spool file stays in the window.
    pub(super) resting: bool,
    pub(super) spooled: u64,
    pub(super) spool_error: Option<Arc<str>>,
    pub(super) status: Status,
    /// What was appended since those who wait at the frontier were last called.
    pub(super) untold_bytes: u64,
    pub(super) readers: Vec<Option<Reader>>,
    pub(super) waits: Waits,
    pub(super) times: Times,
    /// Since when nobody reads.
    pub(super) alone: Option<Instant>,
    /// Nothing is to wait for its readers any more.
    pub(super) stopped: bool,
}

/// The producer has to stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Abandoned {
    /// Nobody can receive what it makes.
    #[error("the spool failed ({spool}) and the last client has left")]
    ByReaders { spool: Arc<str> },
    /// The archive has failed for another reason.
    #[error("{0}")]
    Stopped(Arc<str>),
}

impl Growth {
    /// What an archive of this layout begins with, or ends with.
    pub(super) fn new(layout: Layout, status: Status, window_bytes_max: u64) -> Growth {
        Growth {
            spooled: layout.spool_bytes(),
            layout,
            window: VecDeque::new(),
            window_bytes: 0,
            window_bytes_max,
            resting: false,
            spool_error: None,
            status,
            untold_bytes: 0,
            readers: Vec::new(),
            waits: Waits::Never,
            times: Times::default(),
            alone: None,
            stopped: false,
        }
    }

    /// The invariants that cost nothing to look at.
    fn check(&self) {
        let end = self
            .window
            .back()
            .map(|(at, piece)| at + piece.len() as u64);
        debug_assert!(end.is_none_or(|end| end == self.layout.spool_bytes()));
        debug_assert!(self.spooled <= self.layout.spool_bytes());
        debug_assert!(self.window_bytes > 0 || self.window.iter().all(|(_, p)| p.is_empty()));
    }

    /// Drops pieces from the window that nobody needs there, to make room for that many bytes. Those of a
    /// live-only archive that every reader has passed stay as long as there is room: whoever comes now
    /// finds its beginning, though the first reader was fast.
    pub(super) fn trim(&mut self, room_bytes: u64) {
        self.check();
        let live_only = self.spool_error.is_some();
        let slowest = if live_only {
            self.slowest_spool_offset()
        } else {
            0
        };
        while let Some((offset, piece)) = self.window.front() {
            let end = offset + piece.len() as u64;
            let over = live_only || self.resting || self.window_bytes > self.window_bytes_max;
            let on_disk = end <= self.spooled && over;
            let is_full = self.window_bytes + room_bytes > self.window_bytes_max;
            let passed = live_only && is_full && end > self.spooled && end <= slowest;
            if !on_disk && !passed {
                return;
            }
            self.window_bytes -= piece.len() as u64;
            self.window.pop_front();
        }
    }

    /// Whether those who wait at the frontier are called now, after so many bytes more were appended: a
    /// call costs each of them more than a small piece is worth. The first bytes of an archive, and those
    /// of a live-only one, are told at once; what is left untold is told before the producer waits.
    pub(super) fn is_to_be_told(&mut self, bytes: u64) -> bool {
        self.untold_bytes += bytes;
        self.untold_bytes >= TELL_BYTES
            || self.layout.wire_bytes() < TELL_BYTES
            || self.spool_error.is_some()
    }

    pub(super) fn spool_outcome(&self) -> Option<Result<(), Arc<str>>> {
        match &self.spool_error {
            Some(why) => Some(Err(why.clone())),
            None => (self.spooled == self.layout.spool_bytes()).then_some(Ok(())),
        }
    }

    /// The readers that still get what is made.
    pub(super) fn following(&self) -> impl Iterator<Item = &Reader> {
        self.readers.iter().flatten().filter(|r| !r.left_behind)
    }

    /// In live-only mode: leaves those behind who hold up the producer and were too slow. `None` if there
    /// were any; otherwise when to look again.
    pub(super) fn leave_behind(&mut self, now: Instant) -> Option<Instant> {
        let slowest = self.slowest_spool_offset();
        let alone = self.times.alone;
        let mut until = now + self.times.step;
        let mut left = false;
        let layout = &self.layout;
        for reader in self.readers.iter_mut().flatten() {
            let Some(pace) = reader.pace.filter(|_| reader.waker.is_none()) else {
                continue;
            };
            if reader.left_behind || layout.spool_offset_at(reader.at) > slowest {
                continue;
            }
            match pace.until() > now {
                true => until = until.min(pace.until()),
                false => (reader.left_behind, left) = (true, true),
            }
        }
        self.note_alone(now);
        if let Some(since) = self.alone {
            until = until.min(since + alone);
        }
        (!left).then_some(until)
    }

    /// In live-only mode: notes since when nobody reads.
    pub(super) fn note_alone(&mut self, now: Instant) {
        if self.spool_error.is_some() && self.following().next().is_none() {
            self.alone.get_or_insert(now);
        }
    }

    /// In live-only mode: how fast the slowest of those is that hold up the producer, or take what is
    /// left, if it is slow.
    pub(super) fn slow_bytes_s(&self, now: Instant) -> Option<u64> {
        let slowest = self.slowest_spool_offset();
        let slow = self.following().filter_map(|reader| {
            let holds = self.layout.spool_offset_at(reader.at) <= slowest;
            let pace = reader.pace.filter(|_| holds && reader.waker.is_none());
            pace.and_then(|pace| pace.slow_bytes_s(reader.at, now, &self.times))
        });
        slow.min()
    }

    /// Whether the producer waits for readers, or did just now.
    pub(super) fn waits_lately(&self, now: Instant) -> bool {
        match self.waits {
            Waits::Never => false,
            Waits::Now => true,
            Waits::Until(end) => now.saturating_duration_since(end) < self.times.look,
        }
    }

    /// In live-only mode: the spool offset below which every reader has passed. Without a reader
    /// nothing has: one may be about to come.
    pub(super) fn slowest_spool_offset(&self) -> u64 {
        let slowest = self.following().map(|r| r.at).min();
        slowest.map_or(0, |at| self.layout.spool_offset_at(at))
    }

    /// Whether anybody can still receive what is made. Once nobody can, nobody can join either:
    /// else a client would get an archive that is given up at the same moment.
    pub(super) fn is_wanted(&mut self, now: Instant) -> Result<(), Abandoned> {
        if let Status::Failed(why) = &self.status {
            return Err(Abandoned::Stopped(why.clone()));
        }
        let Some(spool) = self.spool_error.clone() else {
            return Ok(());
        };
        self.note_alone(now);
        let over = self.times.alone;
        match self.alone {
            Some(since) if now.saturating_duration_since(since) >= over => {
                let abandoned = Abandoned::ByReaders { spool };
                self.status = Status::Failed(Arc::from(abandoned.to_string()));
                Err(abandoned)
            }
            _ => Ok(()),
        }
    }

    /// Whether there is room for that many bytes, the last of which may belong to a larger piece.
    pub(super) fn has_room(&mut self, now: Instant, bytes: u64) -> Result<bool, Abandoned> {
        self.is_wanted(now)?;
        let unspooled = self.layout.spool_bytes() - self.spooled;
        Ok(match self.spool_error {
            None => unspooled < SPOOL_LAG_BYTES,
            Some(_) => self.window_bytes + bytes <= self.window_bytes_max,
        })
    }

    pub(super) fn reachable_from(&self, at: u64) -> bool {
        let needed = self.layout.spool_offset_at(at);
        let in_window = self
            .window
            .front()
            .is_some_and(|(offset, _)| *offset <= needed);
        let window_start = self
            .window
            .front()
            .map_or(self.layout.spool_bytes(), |(o, _)| *o);
        in_window || (needed <= self.spooled && window_start <= self.spooled)
    }

    pub(super) fn next(&self, at: u64, max: u64) -> Next {
        if let Status::Failed(why) = &self.status {
            return Next::Failed(why.clone());
        }
        let Some(mut segment) = self.layout.segment_at(at) else {
            return match self.status {
                Status::Complete => Next::End,
                _ => Next::Wait,
            };
        };
        segment.truncate(max);
        debug_assert!(
            at + segment.wire_bytes() <= self.layout.wire_bytes(),
            "beyond the frontier"
        );
        match segment {
            Segment::Inline(inline) => Next::Inline(inline),
            Segment::File { file, offset, len } => Next::File {
                file: Some(file),
                offset,
                len,
            },
            Segment::Spool { offset, len } => self.spool_bytes(offset, len),
        }
    }

    /// Spool bytes below this come from the file.
    pub(super) fn readable(&self) -> u64 {
        let window_start = self.window.front().map_or(u64::MAX, |(start, _)| *start);
        self.spooled.min(window_start)
    }

    /// Up to `len` spool bytes from `offset`: from the window if they are there.
    pub(super) fn spool_bytes(&self, offset: u64, len: u64) -> Next {
        let first = self.window.partition_point(|(start, _)| *start <= offset);
        if let Some((start, piece)) = first.checked_sub(1).and_then(|i| self.window.get(i)) {
            let skip = offset - start;
            if skip < piece.len() as u64 {
                let end = (skip + len).min(piece.len() as u64);
                return Next::Memory {
                    piece: piece.clone(),
                    start: skip as usize,
                    end: end as usize,
                };
            }
        }
        let readable = self.readable();
        if offset >= readable {
            return Next::Failed(Arc::from("bytes are gone: the spool failed"));
        }
        Next::File {
            file: None,
            offset,
            len: len.min(readable - offset),
        }
    }
}
