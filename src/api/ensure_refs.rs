//! `ensure-refs`: whether the mirror has refs and commits.

use std::rc::Rc;
use std::time::Instant;

use super::core::{Asked, Core, Note};
use super::line_ends::{LineEnds, Wait, every};
use crate::http::net::body::Body;
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::Version;
use crate::http::wire::response::Head;
use crate::jobs::ensure_refs::Wanted;
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

/// The answer, in one piece or behind what tells that it is worked on.
enum Told {
    Whole(String),
    Later(LineEnds),
}

impl Core {
    /// Answers `POST …/ensure-refs`.
    pub(super) async fn ensure_refs(
        self: &Rc<Self>,
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
        let mut ensured = self.clone().ensured(asked, wanted);
        let in_time = match asked.head.version {
            Version::Http10 => Ok(ensured.as_mut().await),
            Version::Http11 => monoio::time::timeout(every(), ensured.as_mut()).await,
        };
        let told = match in_time {
            Ok(Ok(json)) => Told::Whole(json),
            Ok(Err(StartError { status, message })) => {
                return self.failed(asked, status, &message, out);
            }
            Err(_) => Told::Later(LineEnds::new(ensured)),
        };
        self.with_date(|date| {
            let head = Head::new(out, 200, date, asked.caching())
                .header("Content-Type", "application/json");
            let head = match &told {
                Told::Whole(json) => head.content_length(json.len() as u64),
                Told::Later(_) => head.header("X-Accel-Buffering", "no").chunked(),
            };
            // All values are the program's own.
            let _ = head.connection(asked.head.keep_alive).finish();
        });
        let payload = match told {
            Told::Whole(json) => {
                out.extend_from_slice(json.as_bytes());
                Payload::Written
            }
            Told::Later(source) => Payload::Stream {
                source: Box::new(source),
                start: 0,
                end: None,
            },
        };
        Answer {
            payload,
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::EnsureRefs, 200),
        }
    }

    /// Asks for it; what there is, as JSON. A first clone that this begins goes on whoever leaves.
    fn ensured(self: Rc<Self>, asked: &Asked<'_, '_>, wanted: Wanted) -> Wait {
        let repo = asked.repo.clone();
        let (asked_at, asker) = (Instant::now(), asked.asker());
        let pass = (asked.pass.clone(), asked.peer.identity.clone());
        let still = (asked.repo.clone(), asked.asker());
        repo.want_clone();
        Box::pin(async move {
            let ensured = self.ask(move |jobs| async move {
                jobs.ensure_refs(repo, wanted, asked_at, asker).await
            });
            match ensured.await {
                // This may be long after the answer has begun. Strings and a flag always have a form in JSON.
                Ok(ensured) => self
                    .still_let_in((&pass.0, &pass.1), (&still.0, still.1))
                    .await
                    .map(|()| serde_json::to_string(&ensured).unwrap_or_default()),
                Err(why) => Err(StartError {
                    message: self.without_paths(&why.message).into_owned(),
                    ..why
                }),
            }
        })
    }
}
