//! Reading ahead for a socket: a stretch of files is brought into memory by a thread while the core does something
//! else, once for each reader at a time.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::place::Files;
use super::prefetch::{FileRanges, Prefetch};
use crate::extent::Next;
use crate::io::residency;
use crate::limits::READ_AHEAD_BYTES;
use crate::telemetry::metrics::{Event, Meter, Prefault};

/// What one reader has read ahead of it.
pub(crate) struct Ahead {
    prefetch: Arc<Prefetch>,
    meter: Meter,
    reading: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Ahead {
    /// Nothing is being read.
    pub(crate) fn new(prefetch: Arc<Prefetch>, meter: Meter) -> Ahead {
        Ahead {
            prefetch,
            meter,
            reading: None,
        }
    }

    /// Whether something is being read, which [`Ahead::poll`] waits for.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// All that is needed was in memory.
    pub(super) fn was_there(&self) {
        self.meter.add(Event::Prefault(Prefault::Resident), 1);
    }

    /// Has these ranges read.
    pub(super) fn begin(&mut self, files: Arc<Files>, ranges: FileRanges) {
        self.reading = Some(self.prefetch.read(files, ranges));
    }

    /// Ready when what is being read is there; at once if nothing is.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Ok(()));
        };
        let read = ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let read = read.unwrap_or_else(|_| Err(io::Error::other("the server is shutting down")));
        self.meter.add(
            Event::Prefault(match &read {
                Ok(()) => Prefault::Read,
                Err(_) => Prefault::Failed,
            }),
            1,
        );
        Poll::Ready(read)
    }
}

/// One file of an archive, or of something like it, on its way to a socket.
///
/// Offsets of the wire are the file's own.
pub(crate) struct OneFile {
    files: Arc<Files>,
    /// As [`Next::File`] has it.
    number: Option<u32>,
    bytes: u64,
    ahead: Ahead,
}

impl OneFile {
    /// This file of these, which has so many bytes.
    pub(crate) fn new(
        files: Arc<Files>,
        (number, bytes): (Option<u32>, u64),
        ahead: Ahead,
    ) -> Self {
        OneFile {
            files,
            number,
            bytes,
            ahead,
        }
    }

    /// How many bytes there are from `at` on.
    pub(crate) fn available(&self, at: u64) -> u64 {
        self.bytes.saturating_sub(at)
    }

    /// What stands at `at`.
    pub(crate) fn next(&self, at: u64, max: u64) -> Next {
        match self.available(at).min(max) {
            0 => Next::End,
            len => Next::File {
                file: self.number,
                offset: at,
                len,
            },
        }
    }

    fn stretch(&self, at: u64) -> Range<u64> {
        at..at.saturating_add(READ_AHEAD_BYTES).min(self.bytes)
    }

    /// As [`Source::poll_resident`](crate::extent::Source::poll_resident).
    pub(crate) fn poll_resident(
        &mut self,
        at: u64,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<u64>> {
        let until = at.saturating_add(READ_AHEAD_BYTES);
        if !self.ahead.is_reading() {
            let range = self.stretch(at);
            if residency::in_memory(self.file()?, range.clone()) == Some(true) {
                self.ahead.was_there();
                return Poll::Ready(Ok(until));
            }
            self.ahead
                .begin(self.files.clone(), vec![(self.number, range)]);
        }
        self.ahead.poll(context).map_ok(|()| until)
    }

    /// As [`Source::was_cold`](crate::extent::Source::was_cold).
    pub(crate) fn was_cold(&mut self, at: u64) {
        let ranges = vec![(self.number, self.stretch(at))];
        self.ahead.begin(self.files.clone(), ranges);
    }

    /// The file.
    pub(crate) fn file(&self) -> io::Result<BorrowedFd<'_>> {
        self.files.file(self.number)
    }
}
