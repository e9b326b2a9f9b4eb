//! Git's smart HTTP protocol, read-only, from the mirror: `info/refs` and `git-upload-pack`.

use std::pin::pin;
use std::time::Instant;

use tokio::sync::oneshot;

use super::core::{Asked, Core, Note};
use crate::http::net::body::Body;
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::Version;
use crate::http::wire::head::RequestHead;
use crate::http::wire::response::Head;
use crate::jobs::clone::{IS_ITS_OWN_UPSTREAM, LOOP};
use crate::jobs::upload::{Call, GitRequest};
use crate::limits::GIT_PROTOCOL_BYTES_MAX;
use crate::mirror::Via;
use crate::mirror::via::Refused;
use crate::repos::error::StartError;
use crate::telemetry::metrics::Outcome;

/// Whether the body of a `git-upload-pack` is compressed, or the status and the line that refuse the
/// request whatever its body holds.
pub(super) fn upload_form(head: &RequestHead<'_>) -> Result<bool, (u16, &'static str)> {
    if head.version == Version::Http10 {
        return Err(OLD_VERSION);
    }
    if head.content_type != Some(b"application/x-git-upload-pack-request") {
        let why = "send Content-Type: application/x-git-upload-pack-request";
        return Err((415, why));
    }
    match head.content_encoding.unwrap_or(b"identity") {
        b"identity" => Ok(false),
        b"gzip" | b"x-gzip" => Ok(true),
        _ => Err((415, "unknown Content-Encoding; send gzip or none")),
    }
}

/// The length of a response is not known before its end, and HTTP/1.0 has no other sign of it.
const OLD_VERSION: (u16, &str) = (
    505,
    "git's protocol needs HTTP/1.1; have the proxy in front speak it",
);

/// `Git-Protocol`, if it is one that git may see.
fn protocol(head: &RequestHead<'_>) -> Option<String> {
    let value = std::str::from_utf8(head.git_protocol?).ok()?;
    let is_fit =
        value.len() <= GIT_PROTOCOL_BYTES_MAX && value.bytes().all(|b| b.is_ascii_graphic());
    is_fit.then(|| value.to_owned())
}

impl Core {
    /// Answers `GET …/info/refs`.
    pub(super) async fn info_refs(&self, asked: &Asked<'_, '_>, out: &mut Vec<u8>) -> Answer<Note> {
        let kind = "application/x-git-upload-pack-advertisement";
        self.git(asked, Call::InfoRefs, kind, out).await
    }

    /// Answers `POST …/git-upload-pack`.
    pub(super) async fn upload_pack(
        &self,
        asked: &Asked<'_, '_>,
        body: Body,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        match upload_form(asked.head) {
            Ok(gzip) => {
                let call = Call::UploadPack { body, gzip };
                let kind = "application/x-git-upload-pack-result";
                self.git(asked, call, kind, out).await
            }
            Err((status, why)) => self.failed(asked, status, why, out),
        }
    }

    /// By way of which servers the request came, or the status and the line that refuse it.
    fn via(&self, head: &RequestHead<'_>) -> Result<Via, (u16, &'static str)> {
        match Via::read(head.via.iter()) {
            Ok(via) if via.leads_back_to(&self.via) => Err((LOOP, IS_ITS_OWN_UPSTREAM)),
            Ok(via) => Ok(via),
            Err(Refused::TooMany) => Err((LOOP, "too many servers are each other's upstreams")),
            Err(Refused::Malformed) => Err((400, "malformed Tarpon-Via; only servers send it")),
        }
    }

    /// Waits for an answer, but not for long while there is no mirror that could give one.
    async fn hear_of_mirror<T>(
        &self,
        asked: &Asked<'_, '_>,
        answer: oneshot::Receiver<Result<T, StartError>>,
    ) -> Option<Result<T, StartError>> {
        let mut heard = pin!(self.hear(answer));
        if !asked.repo.is_mirrored() {
            match monoio::time::timeout(self.mirror_wait(), heard.as_mut()).await {
                Ok(heard) => return Some(heard),
                Err(_) if !asked.repo.is_mirrored() => return None,
                Err(_) => {}
            }
        }
        Some(heard.await)
    }

    async fn git(
        &self,
        asked: &Asked<'_, '_>,
        call: Call,
        kind: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        if asked.head.version == Version::Http10 {
            let (status, why) = OLD_VERSION;
            return self.failed(asked, status, why, out);
        }
        let via = match self.via(asked.head) {
            Ok(via) => via,
            Err((status, why)) => return self.failed(asked, status, why, out),
        };
        let (reply, answer) = oneshot::channel();
        let now = Instant::now();
        let request = GitRequest {
            repo: asked.repo.clone(),
            call,
            protocol: protocol(asked.head),
            client: asked.peer.ip(),
            asker: asked.asker().by_way_of(via).since(now),
            asked: now,
            reply,
        };
        asked.repo.want_clone();
        // What is read from here on is at least as young.
        let compared = asked.repo.compared();
        self.plane.spawn(|jobs| jobs.git_protocol(request));
        let Some(made) = self.hear_of_mirror(asked, answer).await else {
            return self.come_again(asked, out);
        };
        let made = match made {
            Ok(made) => Box::new(made),
            Err(StartError { status, message }) => {
                return self.failed(asked, status, &message, out);
            }
        };
        self.with_date(|date| {
            let head = Head::new(out, 200, date, asked.caching())
                .chunked()
                .header("Content-Type", kind)
                .connection(asked.head.keep_alive);
            let head = match compared {
                Some(compared) => head.age_s(compared.began.elapsed().as_secs()),
                None => head,
            };
            // All values are the program's own.
            let _ = head.finish();
        });
        Answer {
            payload: Payload::Made(made),
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::Git, 200),
        }
    }
}
