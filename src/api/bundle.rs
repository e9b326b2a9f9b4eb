//! `snapshot.bundle`: what the mirror's HEAD has and a commit that the client has has not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::core::{Asked, Core, Note};
use crate::archive::prefetch::Prefetch;
use crate::extent::{Next, Source};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::response::Head;
use crate::io::residency;
use crate::jobs::bundle::Found;
use crate::jobs::bundle_cache::BundleFile;
use crate::limits::READ_AHEAD_BYTES;
use crate::repos::error::StartError;
use crate::telemetry::metrics::{Event, Meter, Outcome, Prefault};

impl Core {
    /// Answers `GET` of a bundle.
    pub(super) async fn bundle(
        &self,
        asked: &Asked<'_, '_>,
        base: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let repo = asked.repo.clone();
        let base = base.to_ascii_lowercase();
        let asker = asked.asker();
        repo.want_clone();
        let found =
            self.ask(move |jobs| async move { jobs.find_bundle(&repo, &base, &asker).await });
        let Ok(found) = monoio::time::timeout(self.mirror_wait(), found).await else {
            return self.come_again(asked, out);
        };
        let (status, payload) = match found {
            Err(StartError { status, message }) => {
                return self.failed(asked, status, &message, out);
            }
            Ok(Found::UpToDate) => (204, Payload::Written),
            Ok(Found::Bundle(bundle)) => {
                let end = Some(bundle.bytes);
                let source = Box::new(BundleReader {
                    bundle,
                    prefetch: self.prefetch.clone(),
                    meter: self.meter.clone(),
                    reading: None,
                });
                let start = 0;
                (200, Payload::Stream { source, start, end })
            }
        };
        self.with_date(|date| {
            let mut head = Head::new(out, status, date, asked.caching());
            if let Payload::Stream { end: Some(end), .. } = &payload {
                head = head
                    .content_length(*end)
                    .header("Content-Type", "application/x-git-bundle");
            }
            // All values are the program's own.
            let _ = head.connection(asked.head.keep_alive).finish();
        });
        Answer {
            payload,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::Bundle, status),
        }
    }
}

/// A bundle as the source of a response: one file, read ahead before it is sent.
struct BundleReader {
    bundle: Arc<BundleFile>,
    prefetch: Arc<Prefetch>,
    meter: Meter,
    reading: Option<oneshot::Receiver<io::Result<()>>>,
}

impl Source for BundleReader {
    fn poll_next(&mut self, at: u64, max: u64, _: &mut Context<'_>) -> Poll<Next> {
        let len = self.available(at).min(max);
        Poll::Ready(match len {
            0 => Next::End,
            len => Next::File {
                file: None,
                offset: at,
                len,
            },
        })
    }

    fn poll_resident(&mut self, at: u64, context: &mut Context<'_>) -> Poll<io::Result<u64>> {
        let until = at.saturating_add(READ_AHEAD_BYTES);
        let range = at..until.min(self.bundle.bytes);
        let files = &self.bundle.files;
        if self.reading.is_none() {
            if residency::in_memory(files.spool.as_fd(), range.clone()) == Some(true) {
                self.meter.add(Event::Prefault(Prefault::Resident), 1);
                return Poll::Ready(Ok(until));
            }
            self.reading = Some(self.prefetch.read(files.clone(), vec![(None, range)]));
        }
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Ok(until));
        };
        let read = std::task::ready!(Pin::new(reading).poll(context));
        self.reading = None;
        let read = read.unwrap_or_else(|_| Err(io::Error::other("the server is shutting down")));
        let counted = match &read {
            Ok(()) => Prefault::Read,
            Err(_) => Prefault::Failed,
        };
        self.meter.add(Event::Prefault(counted), 1);
        Poll::Ready(read.map(|()| until))
    }

    fn was_cold(&mut self, at: u64) {
        let range = at..at.saturating_add(READ_AHEAD_BYTES).min(self.bundle.bytes);
        let files = self.bundle.files.clone();
        self.reading = Some(self.prefetch.read(files, vec![(None, range)]));
    }

    fn available(&self, at: u64) -> u64 {
        self.bundle.bytes.saturating_sub(at)
    }

    fn file(&self, _: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        Ok(self.bundle.files.spool.as_fd())
    }
}
