//! A client that says it can is sent to the store for a part, after all that is asked of one who gets it here. It says so
//! by the origin that a manifest has named: it goes to no other.

use std::sync::Arc;

use super::core::{Asked, Core, Note};
use crate::archive::place::Archive;
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::Method;
use crate::http::wire::caching::{Caching, Lifetime};
use crate::http::wire::response::Head;
use crate::limits::REDIRECTED_BYTES_MIN;
use crate::telemetry::metrics::Outcome;

/// In a manifest's answer where parts may be had, in a request for one that the client would go there.
pub(super) const STORE: &str = "Tarpon-Store";

impl Core {
    /// The origin that clients are sent to for parts of what is asked for. What an upstream permits is not in the store.
    pub(super) fn store_of(&self, asked: &Asked<'_, '_>) -> Option<&str> {
        let store = self.config.store.as_ref()?;
        let origin = store.redirect.as_deref();
        origin.filter(|_| asked.shown.is_none())
    }

    /// Where in the store a part of this length is read, if this client goes there and it is there.
    pub(super) async fn url_in_store(
        &self,
        asked: &Asked<'_, '_>,
        name: &str,
        bytes: u64,
    ) -> Option<String> {
        let origin = self.store_of(asked)?;
        let goes_there = asked.head.store == Some(origin.as_bytes());
        if !goes_there || asked.head.method == Method::Head || bytes < REDIRECTED_BYTES_MIN {
            return None;
        }
        let (repo, name) = (asked.repo.clone(), name.to_owned());
        let url = self.ask(move |jobs| async move { Ok(jobs.straight(repo, name, bytes).await) });
        url.await.ok().flatten()
    }

    /// Sends it there.
    pub(super) fn send_to_store(
        &self,
        asked: &Asked<'_, '_>,
        archive: &Arc<Archive>,
        url: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let caching = Caching {
            lifetime: Lifetime::Never,
            ..asked.caching()
        };
        self.with_date(|date| {
            let head = Head::new(out, 307, date, caching)
                .header("Location", url)
                .content_length(0);
            // A URL has no character that a header has not.
            let _ = head.connection(asked.head.keep_alive).finish();
        });
        Answer {
            payload: Payload::Written,
            keep_alive: asked.head.keep_alive,
            note: self.note_of((asked, archive), Outcome::Redirect, 307),
        }
    }
}
