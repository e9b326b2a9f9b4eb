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
use super::resident::stretch;
use crate::extent::Next;
use crate::io::residency;
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

/// Places of a file, as a power of two, in what is remembered of an archive's files beside its own offsets: these are
/// in front of them all.
const FILE_PLACES_LOG: u32 = 44;
/// So many files have places: what stands for one fits what is remembered.
const FILES_REMEMBERED: u64 = 255;

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

    /// What is looked at together, as far as the file goes.
    fn stretch(&self, at: u64) -> Range<u64> {
        let all = stretch(at);
        all.start..all.end.min(self.bytes)
    }

    /// Where it is remembered of `at` that it was in memory; nowhere for files whose places others have.
    fn remembered(&self, at: u64) -> Option<u64> {
        let number = self.number.map_or(0, |number| u64::from(number) + 1);
        (number < FILES_REMEMBERED && at < 1 << FILE_PLACES_LOG)
            .then(|| (number + 1) << FILE_PLACES_LOG | at)
    }

    /// As [`Source::poll_resident`](crate::extent::Source::poll_resident).
    pub(crate) fn poll_resident(
        &mut self,
        at: u64,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<u64>> {
        let (until, remembered) = (stretch(at).end, self.remembered(at));
        if !self.ahead.is_reading() {
            if remembered.is_some_and(|place| self.files.resident.was_seen(place)) {
                return Poll::Ready(Ok(until));
            }
            let range = self.stretch(at);
            if residency::in_memory(self.file()?, range.clone()) == Some(true) {
                self.saw(remembered);
                self.ahead.was_there();
                return Poll::Ready(Ok(until));
            }
            self.ahead
                .begin(self.files.clone(), vec![(self.number, range)]);
        }
        ready!(self.ahead.poll(context))?;
        self.saw(remembered);
        Poll::Ready(Ok(until))
    }

    fn saw(&self, place: Option<u64>) {
        if let Some(place) = place {
            self.files.resident.saw(place);
        }
    }

    /// As [`Source::was_cold`](crate::extent::Source::was_cold).
    pub(crate) fn was_cold(&mut self, at: u64) {
        if let Some(place) = self.remembered(at) {
            self.files.resident.missed(place);
        }
        // Without a look at what is there: it may be there and not be read yet.
        let ranges = vec![(self.number, self.stretch(at))];
        self.ahead.begin(self.files.clone(), ranges);
    }

    /// The file.
    pub(crate) fn file(&self) -> io::Result<BorrowedFd<'_>> {
        self.files.file(self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::open_files::OpenFile;

    /// What is remembered of one file says nothing of another, nor of the archive.
    #[test]
    fn files_are_remembered_apart() {
        let nowhere = || OpenFile::uncounted(residency::nowhere().unwrap());
        let files = Arc::new(Files::new(nowhere(), vec![nowhere(), nowhere()]));
        let of = |number| {
            let prefetch = Arc::new(Prefetch::start().unwrap());
            let ahead = Ahead::new(
                prefetch,
                crate::telemetry::metrics::Metrics::new(1).meter(0),
            );
            OneFile::new(files.clone(), (number, 100 << 20), ahead)
        };
        let (spool, first, second) = (of(None), of(Some(0)), of(Some(1)));
        let at = 17 << 20;
        first.saw(first.remembered(at));
        let is_seen = |file: &OneFile| files.resident.was_seen(file.remembered(at).unwrap());
        assert!(is_seen(&first) && !is_seen(&second) && !is_seen(&spool));
        assert!(!files.resident.was_seen(at));
        assert_eq!(of(Some(u32::MAX)).remembered(at), None);
        let all = first.stretch(at);
        assert!(all.contains(&at) && all.end <= 100 << 20);
        assert_eq!(first.stretch(99 << 20).end, 100 << 20);
    }
}
