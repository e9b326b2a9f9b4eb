//! An archive as the source of a response.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::ahead::Ahead;
use super::lending::{Borrower, poll_borrowed};
use super::place::{Archive, Files};
use super::prefetch::FileRanges;
use super::resident::stretch;
use crate::archive::handle::ReaderHandle;
use crate::extent::{Next, Source};
use crate::io::residency;
use crate::limits::SPAN_GAP_BYTES;

/// A reader of one archive.
pub(crate) struct ArchiveReader {
    handle: ReaderHandle,
    archive: Arc<Archive>,
    /// `None` until they are needed, if the archive had none when the reader joined.
    files: Option<Arc<Files>>,
    ahead: Ahead,
    /// Where its files come as they are read.
    borrower: Option<Borrower>,
}

impl ArchiveReader {
    /// A reader that has joined the archive's fan-out.
    pub(crate) fn new(
        handle: ReaderHandle,
        archive: Arc<Archive>,
        files: Option<Arc<Files>>,
        ahead: Ahead,
    ) -> ArchiveReader {
        ArchiveReader {
            borrower: archive.borrower(),
            handle,
            archive,
            files,
            ahead,
        }
    }

    /// Waits until the byte at wire offset `at` is there, or the archive has ended.
    pub(crate) async fn wait_for(&mut self, at: u64) {
        std::future::poll_fn(|context| self.poll_next(at, 1, context).map(drop)).await;
    }

    /// Ranges under a stretch of the wire.
    fn ranges(&self, wire: Range<u64>) -> FileRanges {
        let mut ranges = FileRanges::new();
        let fanout = self.handle.fanout();
        fanout.file_ranges(wire.start, wire.end - wire.start, |file, range| {
            ranges.push((file, range))
        });
        ranges
    }

    /// Those that are not in memory, or not known to be.
    fn cold_ranges(&self, wire: Range<u64>) -> FileRanges {
        let mut ranges = self.ranges(wire);
        // Each question costs as much as sending a few pages: short ranges are asked about together, and
        // one by one only where something between them is not there.
        if ranges.len() > 1 && spans(&ranges).iter().all(|span| self.is_warm(span)) {
            return FileRanges::new();
        }
        ranges.retain(|range| !self.is_warm(range));
        ranges
    }

    /// Whether a range of a file is known to be in memory; of one that cannot be read nothing is to be
    /// waited for.
    fn is_warm(&self, (file, range): &(Option<u32>, Range<u64>)) -> bool {
        match self.file(*file) {
            Ok(fd) => residency::in_memory(fd, range.clone()) == Some(true),
            Err(_) => true,
        }
    }
}

/// The same ranges, those of one file joined that stand near each other.
fn spans(ranges: &FileRanges) -> FileRanges {
    let mut sorted = ranges.clone();
    sorted.sort_unstable_by_key(|(file, range)| (*file, range.start));
    let mut spans = FileRanges::new();
    for (file, range) in sorted {
        match spans.last_mut() {
            Some((last, span)) if *last == file && range.start <= span.end + SPAN_GAP_BYTES => {
                span.end = span.end.max(range.end);
            }
            _ => spans.push((file, range)),
        }
    }
    spans
}

impl Source for ArchiveReader {
    fn poll_next(&mut self, at: u64, max: u64, context: &mut Context<'_>) -> Poll<Next> {
        match self.handle.next(at, max, context.waker()) {
            Next::Wait => Poll::Pending,
            next => {
                if self.files.is_none() && matches!(next, Next::File { .. }) {
                    self.files = self.archive.files();
                }
                poll_borrowed(&mut self.borrower, next, context)
            }
        }
    }

    fn poll_resident(&mut self, at: u64, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let wire = stretch(at);
        let until = wire.end;
        let Some(files) = self.files.clone() else {
            return Poll::Ready(Err(io::ErrorKind::NotFound.into()));
        };
        if !self.ahead.is_reading() {
            if files.resident.was_seen(at) {
                return Poll::Ready(Ok(until));
            }
            let cold = self.cold_ranges(wire);
            if cold.is_empty() {
                files.resident.saw(at);
                self.ahead.was_there();
                return Poll::Ready(Ok(until));
            }
            self.ahead.begin(files.clone(), cold);
        }
        ready!(self.ahead.poll(context))?;
        files.resident.saw(at);
        Poll::Ready(Ok(until))
    }

    fn was_cold(&mut self, at: u64) {
        let Some(files) = self.files.clone() else {
            return;
        };
        files.resident.missed(at);
        // Without a look at what is there: it may be there and not be read yet.
        let ranges = self.ranges(at..stretch(at).end);
        self.ahead.begin(files, ranges);
    }

    fn available(&self, at: u64) -> u64 {
        self.handle.fanout().wire_bytes().saturating_sub(at)
    }

    fn file(&self, file: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        let files = self.files.as_ref().ok_or(io::ErrorKind::NotFound)?;
        files.file(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ranges_of_one_file_are_looked_at_together() {
        let near = SPAN_GAP_BYTES;
        let ranges = vec![
            (Some(1), 50..60),
            (None, 0..10),
            (Some(1), 10..20),
            (Some(1), 60 + near..70 + near),
            (Some(1), 71 + 2 * near..90 + 2 * near),
            (None, 5..7),
        ];
        let expected = vec![
            (None, 0..10),
            (Some(1), 10..70 + near),
            (Some(1), 71 + 2 * near..90 + 2 * near),
        ];
        assert_eq!(spans(&ranges), expected);
    }
}
