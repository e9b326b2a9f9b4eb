//! Git's smart HTTP protocol, read-only, from the mirror: `info/refs` and `git-upload-pack`.
//!
//! Each request is one `git upload-pack`, whose output goes to the client as git makes it. The
//! head of the response waits for the first of it, so that a failure before is a status.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::background::{Command, Plane};
use super::core::{Asked, Core, Note, Reply};
use super::pipe::{PipeReader, PipeWriter, pipe};
use super::registry::{Repo, StartError};
use crate::http::conn::{Answer, Payload};
use crate::http::head::RequestHead;
use crate::http::response::Head;
use crate::http::{Version, gzip};
use crate::limits::{GIT_PROTOCOL_BYTES_MAX, GIT_REQUEST_BYTES_MAX, UPLOAD_PACK_WAIT_MS};
use crate::metrics::Outcome;
use crate::mirror::{MirrorError, Upload};

/// What comes before the refs, except in version 2 of the protocol (gitprotocol-http(5)).
const ADVERTISEMENT: &[u8] = b"001e# service=git-upload-pack\n0000";
/// How git begins its answer when it lacks an object, behind the length of the line.
const NOT_OUR_REF: &[u8] = b"ERR upload-pack: not our ref";

/// A core's request.
pub struct GitRequest {
    repo: Arc<Repo>,
    call: Call,
    protocol: Option<String>,
    asked: Instant,
    reply: Reply<PipeReader>,
}

/// What the client calls.
pub enum Call {
    /// `info/refs`.
    InfoRefs,
    /// `git-upload-pack` with this request.
    UploadPack {
        /// As it was sent.
        body: Vec<u8>,
        /// Whether it is compressed.
        gzip: bool,
    },
}

/// The way of git's output to the client.
///
/// Invariant: `reply` and `reader` are there until the first byte, then both are the core's.
struct Relay {
    reply: Option<(Reply<PipeReader>, PipeReader)>,
    writer: PipeWriter,
    before: &'static [u8],
    /// Whether an object that the mirror lacks is worth a look at the upstream.
    may_retry: bool,
    /// Whether git refused because the mirror lacks an object, and the client did not hear of it.
    lacks_object: bool,
}

impl Relay {
    fn new(reply: Reply<PipeReader>, before: &'static [u8]) -> Relay {
        let (writer, reader) = pipe();
        Relay {
            reply: Some((reply, reader)),
            writer,
            before,
            may_retry: true,
            lacks_object: false,
        }
    }

    async fn push(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        if self.reply.is_some() && self.may_retry && is_not_our_ref(&bytes) {
            self.lacks_object = true;
            return Err("the mirror lacks what is wanted".into());
        }
        self.begin().await?;
        let pushed = self.writer.push(bytes).await;
        pushed.map_err(|_| "the client has left".into())
    }

    async fn begin(&mut self) -> Result<(), String> {
        let Some((reply, reader)) = self.reply.take() else {
            return Ok(());
        };
        let left = |_| "the client has left".to_owned();
        reply.send(Ok(reader)).map_err(left)?;
        let pushed = self.writer.push(self.before.to_vec()).await;
        pushed.map_err(|_| "the client has left".into())
    }

    async fn end(mut self) {
        // A git that says nothing has still answered.
        if self.begin().await.is_ok() {
            self.writer.end().await;
        }
    }

    async fn fail(self, error: StartError) {
        match self.reply {
            // Fails when the client has left.
            Some((reply, _)) => drop(reply.send(Err(error))),
            None => self.writer.fail(&error.message).await,
        }
    }
}

fn is_not_our_ref(bytes: &[u8]) -> bool {
    bytes
        .get(4..)
        .is_some_and(|text| text.starts_with(NOT_OUR_REF))
}

impl Plane {
    /// Answers a core.
    pub(super) async fn git_protocol(self: Rc<Self>, request: GitRequest) {
        let version_2 = |p: &String| p.split(':').any(|word| word == "version=2");
        let before = match &request.call {
            Call::InfoRefs if !request.protocol.as_ref().is_some_and(version_2) => ADVERTISEMENT,
            _ => &[],
        };
        let GitRequest {
            repo,
            call,
            protocol,
            asked,
            reply,
        } = request;
        let mut relay = Relay::new(reply, before);
        let protocol = protocol.as_deref();
        match self
            .upload_pack(&repo, call, protocol, asked, &mut relay)
            .await
        {
            Ok(()) => relay.end().await,
            Err(error) => relay.fail(error).await,
        }
    }

    async fn upload_pack(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        call: Call,
        protocol: Option<&str>,
        asked: Instant,
        relay: &mut Relay,
    ) -> Result<(), StartError> {
        self.ensure_mirror(repo).await?;
        if matches!(call, Call::InfoRefs) {
            // What is there is better than nothing; why it is old was logged.
            let _ = self.fresh_lately(repo).await;
        }
        let wait = Duration::from_millis(UPLOAD_PACK_WAIT_MS);
        let turn = tokio::time::timeout(wait, self.turns.uploads.acquire()).await;
        let _turn = turn.map_err(|_| StartError {
            status: 503,
            message: "too many downloads at once; try again later".into(),
        })?;
        let mut input = match call {
            Call::InfoRefs => None,
            Call::UploadPack { body, gzip } => Some(request_file(body, gzip).await?),
        };
        let ended = self
            .run_upload_pack(repo, protocol, &mut input, relay)
            .await;
        if !relay.lacks_object {
            return ended;
        }
        // The commit may be younger than the mirror's refs.
        let _ = self.fresh_since(repo, asked).await;
        relay.may_retry = false;
        self.run_upload_pack(repo, protocol, &mut input, relay)
            .await
    }

    async fn run_upload_pack(
        &self,
        repo: &Repo,
        protocol: Option<&str>,
        input: &mut Option<File>,
        relay: &mut Relay,
    ) -> Result<(), StartError> {
        let failed = |e: &dyn std::fmt::Display| StartError {
            status: 500,
            message: format!("{}: {e}", repo.name),
        };
        let request = input.as_mut().map(|file| {
            file.seek(SeekFrom::Start(0))?;
            file.try_clone()
        });
        let upload = Upload {
            mirror: &repo.mirror,
            protocol,
            request: request.transpose().map_err(|e| failed(&e))?,
        };
        let watcher = relay.writer.watcher();
        let sink = async |bytes| relay.push(bytes).await;
        let ended = self.git.upload_pack(upload, sink, watcher.gone()).await;
        ended.map_err(|e| {
            if !matches!(e, MirrorError::Output { .. }) {
                tracing::warn!(repository = &*repo.name, "{e}");
            }
            failed(&e)
        })
    }
}

/// The request as a file for git to read.
async fn request_file(body: Vec<u8>, gzip: bool) -> Result<File, StartError> {
    let failed = |message: String| StartError {
        status: 500,
        message,
    };
    let made = tokio::task::spawn_blocking(move || {
        let request = match gzip {
            true => gzip::decode(&body, GIT_REQUEST_BYTES_MAX).map_err(|reject| StartError {
                status: reject.status,
                message: reject.message.into(),
            })?,
            false => body,
        };
        let file = crate::mirror::upload::request_file(&request);
        file.map_err(|e| failed(format!("cannot keep the request: {e}")))
    });
    made.await
        .unwrap_or_else(|panic| Err(failed(format!("cannot read the request: {panic}"))))
}

/// How the body of `git-upload-pack` is to be read, or the status and the line that refuse it.
fn upload_call(head: &RequestHead<'_>, body: Vec<u8>) -> Result<Call, (u16, &'static str)> {
    if head.content_type != Some(b"application/x-git-upload-pack-request") {
        let why = "send Content-Type: application/x-git-upload-pack-request";
        return Err((415, why));
    }
    let gzip = match head.content_encoding.unwrap_or(b"identity") {
        b"identity" => false,
        b"gzip" | b"x-gzip" => true,
        _ => return Err((415, "unknown Content-Encoding; send gzip or none")),
    };
    Ok(Call::UploadPack { body, gzip })
}

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
        body: Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        match upload_call(asked.head, body) {
            Ok(call) => {
                let kind = "application/x-git-upload-pack-result";
                self.git(asked, call, kind, out).await
            }
            Err((status, why)) => self.failed(asked, status, why, out),
        }
    }

    async fn git(
        &self,
        asked: &Asked<'_, '_>,
        call: Call,
        kind: &str,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        if asked.head.version == Version::Http10 {
            // The length is not known before the end, and HTTP/1.0 has no other sign of it.
            let why = "git's protocol needs HTTP/1.1; have the proxy in front speak it";
            return self.failed(asked, 505, why, out);
        }
        let request = |reply| {
            Command::Git(GitRequest {
                repo: asked.repo.clone(),
                call,
                protocol: protocol(asked.head),
                asked: Instant::now(),
                reply,
            })
        };
        let source = match self.ask(request).await {
            Ok(reader) => Box::new(reader),
            Err(StartError { status, message }) => {
                return self.failed(asked, status, &message, out);
            }
        };
        self.with_date(|date| {
            let head = Head::new(out, 200, date)
                .chunked()
                .header("Content-Type", kind)
                .header("Cache-Control", "no-cache, max-age=0, must-revalidate")
                .connection(asked.head.keep_alive);
            // All values are the program's own.
            let _ = head.finish();
        });
        Answer {
            payload: Payload::Stream {
                source,
                start: 0,
                end: None,
            },
            keep_alive: asked.head.keep_alive,
            note: self.note_for(asked, Outcome::Git, 200),
        }
    }
}
