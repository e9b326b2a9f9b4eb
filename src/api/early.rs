//! An answer that begins before its archive does.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::core::{Asked, Core, Note};
use super::preamble::{Awaited, Behind, Preamble, Progress};
use super::sought::{First, FirstWait};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::caching::{Caching, Lifetime};
use crate::http::wire::response::Head;
use crate::limits::EARLY_NOTE_WAIT_MS;
use crate::manifest::want::Named;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::Outcome;

impl Core {
    /// An answer that begins before its archive does.
    pub(super) async fn early(
        self: &Rc<Self>,
        asked: &Asked<'_, '_>,
        (began, first): (Instant, FirstWait),
        progress: impl Fn() -> Progress + 'static,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        // Before any byte of it is on its way.
        self.note_early(&asked.repo, &asked.named).await;
        let (core, pass, behind) = (self.clone(), asked.pass.clone(), Rc::new(Behind::default()));
        let found = behind.clone();
        let (repo, named) = (asked.repo.clone(), asked.named.clone());
        let (asker, identity) = (asked.asker(), asked.peer.identity.clone());
        let awaited = async move {
            let First {
                archive,
                reader,
                outcome,
            } = first.await.map_err(|why| StartError {
                message: core.without_paths(&why.message).into_owned(),
                ..why
            })?;
            // The preamble has nothing of it in it, and ends here if the right to it has.
            core.still_let_in((&pass, &identity), (&repo, asker))
                .await?;
            // The wait may have been long: an hour is from here.
            core.note_early(&repo, &named).await;
            found.set(outcome);
            Ok(Awaited {
                etag: archive.etag.to_string(),
                commit: archive.commit.as_deref().map(str::to_owned),
                source: Box::new(reader),
            })
        };
        self.with_date(|date| {
            let caching = Caching {
                lifetime: Lifetime::Live,
                ..asked.caching()
            };
            let head = Head::new(out, 200, date, caching)
                .header("Content-Type", "application/zstd")
                .header("X-Accel-Buffering", "no")
                .header("Cache-Status", "tarpon; fwd=uri-miss")
                .chunked()
                .connection(asked.head.keep_alive);
            // All values are the program's own.
            let _ = head.finish();
        });
        Answer {
            payload: Payload::Stream {
                source: Box::new(Preamble::new(began, progress, awaited)),
                start: 0,
                end: None,
            },
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::Build, 200).of(behind),
        }
    }

    /// Notes that it does, on the disk, too. Where that takes long, it begins all the same.
    async fn note_early(&self, repo: &Repo, named: &Named) {
        let Some(noted) = self.catalog.early.set(repo, named) else {
            return;
        };
        let (done, is_done) = oneshot::channel();
        // It goes on if the client leaves.
        self.plane.spawn(move |jobs| async move {
            jobs.note_early(noted).await;
            // Fails when nobody waits any more.
            let _ = done.send(());
        });
        let limit = Duration::from_millis(EARLY_NOTE_WAIT_MS);
        drop(monoio::time::timeout(limit, is_done).await);
    }
}
