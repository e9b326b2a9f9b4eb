//! `snapshot.bundle`: what the mirror's HEAD, or what is named instead of it, has and a commit that the client has has
//! not.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::core::{Asked, Core, Note};
use crate::archive::ahead::OneFile;
use crate::extent::{Next, Source};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::response::Head;
use crate::jobs::bundle::Found;
use crate::jobs::bundle_cache::BundleFile;
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

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
        let (asker, named) = (asked.asker(), asked.named.clone());
        repo.want_clone();
        let found = self
            .ask(move |jobs| async move { jobs.find_bundle(&repo, &base, named, &asker).await });
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
                let files = bundle.files.clone();
                let source = Box::new(BundleReader {
                    file: OneFile::new(files, (None, bundle.bytes), self.ahead()),
                    _bundle: bundle,
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

/// A bundle as the source of a response.
struct BundleReader {
    /// It counts against what bundles may take for as long as it is sent.
    _bundle: Arc<BundleFile>,
    file: OneFile,
}

impl Source for BundleReader {
    fn poll_next(&mut self, at: u64, max: u64, _: &mut Context<'_>) -> Poll<Next> {
        Poll::Ready(self.file.next(at, max))
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
