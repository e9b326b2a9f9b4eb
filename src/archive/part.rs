//! A file of an archive that stands, as the source of a response.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::ahead::{Ahead, OneFile};
use super::growth::Status;
use super::handle::ReaderHandle;
use super::lending::{Borrower, poll_borrowed};
use super::place::Files;
use crate::extent::{Next, Source};

/// See the module's text. As long as there is one the entry is not removed.
pub(crate) struct PartReader {
    handle: ReaderHandle,
    file: OneFile,
    /// Where its files come as they are read.
    borrower: Option<Borrower>,
}

impl PartReader {
    /// A reader of one of these files, which has so many bytes, that has joined the archive's fan-out.
    pub(crate) fn new(
        handle: ReaderHandle,
        files: Arc<Files>,
        of: (Option<u32>, u64),
        (ahead, borrower): (Ahead, Option<Borrower>),
    ) -> PartReader {
        let file = OneFile::new(files, of, ahead);
        PartReader {
            handle,
            file,
            borrower,
        }
    }
}

impl Source for PartReader {
    fn poll_next(&mut self, at: u64, max: u64, context: &mut Context<'_>) -> Poll<Next> {
        let next = match self.handle.fanout().status() {
            // It was found damaged: nobody gets more of it.
            Status::Failed(why) => Next::Failed(why),
            Status::Growing | Status::Complete => self.file.next(at, max),
        };
        poll_borrowed(&mut self.borrower, next, context)
    }

    fn poll_resident(&mut self, at: u64, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        self.file.poll_resident(at, context)
    }

    fn was_cold(&mut self, at: u64) {
        self.file.was_cold(at);
    }

    fn available(&self, at: u64) -> u64 {
        self.file.available(at)
    }

    fn file(&self, _: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        self.file.file()
    }
}
