//! `ensure-refs`: whether the mirror has refs and commits.

use std::time::Instant;

use super::core::{Asked, Core, Note};
use crate::http::net::body::Body;
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::response::Head;
use crate::jobs::ensure_refs::Wanted;
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

impl Core {
    /// Answers `POST …/ensure-refs`.
    pub(super) async fn ensure_refs(
        &self,
        asked: &Asked<'_, '_>,
        body: Body,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let wanted = match Wanted::parse(&body.pieces().concat()) {
            Ok(wanted) => wanted,
            Err(why) => return self.failed(asked, 400, &why, out),
        };
        // Not held while the upstream is asked.
        drop(body);
        let repo = asked.repo.clone();
        let (asked_at, client) = (Instant::now(), asked.peer.ip());
        let ensured = self
            .ask(move |jobs| async move { jobs.ensure_refs(repo, wanted, asked_at, client).await });
        let json = match ensured.await {
            // Strings and a flag always have a form in JSON.
            Ok(ensured) => serde_json::to_string(&ensured).unwrap_or_default(),
            Err(StartError { status, message }) => {
                return self.failed(asked, status, &message, out);
            }
        };
        self.with_date(|date| {
            let head = Head::new(out, 200, date)
                .header("Content-Type", "application/json")
                .content_length(json.len() as u64)
                .connection(asked.head.keep_alive);
            // All values are the program's own.
            let _ = head.finish();
        });
        out.extend_from_slice(json.as_bytes());
        Answer {
            payload: Payload::Written,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::EnsureRefs, 200),
        }
    }
}
