//! `snapshot.bundle`: what the mirror's HEAD has and a commit that the client has has not.
//!
//! Git's own bundle, with `HEAD` and the branch that it names, made once for everybody who asks
//! and kept for a while.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use gix::bstr::ByteSlice;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::background::{Command, Plane};
use super::bundle_cache::{BundleFile, BundleKey};
use super::core::{Asked, Core, Note, Reply};
use super::flights::Duty;
use super::freshness::lost;
use super::prefetch::Prefetch;
use super::registry::{MirrorHead, Repo, StartError};
use crate::extent::{Next, Source};
use crate::http::response::Head;
use crate::http::service::{Answer, Payload};
use crate::io::residency;
use crate::limits::READ_AHEAD_BYTES;
use crate::metrics::{Event, Meter, Outcome, Prefault};
use crate::mirror::bundle::Tips;

/// A core's question for a bundle.
pub struct BundleRequest {
    repo: Arc<Repo>,
    /// Lower-case hex.
    base: String,
    reply: Reply<Found>,
}

/// What there is for a client that has the base.
enum Found {
    Bundle(Arc<BundleFile>),
    /// HEAD is the base, and the upstream was asked about that.
    UpToDate,
}

type Made = Result<Arc<BundleFile>, StartError>;

fn not_available(repo: &Repo, why: &str) -> StartError {
    StartError {
        status: 404,
        message: format!("{}: no bundle: {why}", repo.name),
    }
}

impl Plane {
    /// Answers a core.
    pub(super) async fn bundle(self: Rc<Self>, request: BundleRequest) {
        let found = self.find_bundle(&request.repo, &request.base).await;
        // Fails when the client has left.
        let _ = request.reply.send(found);
    }

    async fn find_bundle(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        base: &str,
    ) -> Result<Found, StartError> {
        self.ensure_mirror(repo).await?;
        let head = self.head(repo).await?;
        if head.commit.as_deref() != Some(base) && self.has_commit(repo, base).await? {
            return self.bundle_to(repo, base, head).await.map(Found::Bundle);
        }
        // A client that hears "nothing new" looks no further, so that needs a look at the upstream
        // that begins now. An unknown base must not make the server ask every time: it only sends
        // the client to the upstream itself.
        let fresh = match head.commit.as_deref() == Some(base) {
            true => self.fresh_now(repo).await,
            false => self.fresh_lately(repo).await,
        };
        let head = self.head(repo).await?;
        let known = self.has_commit(repo, base).await?;
        let up_to_date = head.commit.as_deref() == Some(base);
        match fresh {
            Err(e) if up_to_date || !known => Err(not_available(
                repo,
                &format!("the mirror may be behind its upstream ({})", e.message),
            )),
            _ if !known => Err(not_available(repo, "the base commit is unknown")),
            _ if up_to_date => Ok(Found::UpToDate),
            _ => self.bundle_to(repo, base, head).await.map(Found::Bundle),
        }
    }

    async fn has_commit(&self, repo: &Repo, id: &str) -> Result<bool, StartError> {
        let _turn = self.turns.lookups.acquire().await;
        let kinds = self.git.kinds(&repo.mirror, &[id.to_owned()]).await;
        let kinds = kinds.map_err(|e| StartError {
            status: 500,
            message: format!("{}: {e}", repo.name),
        })?;
        Ok(matches!(kinds.as_slice(), [Some(kind)] if kind == "commit"))
    }

    /// The bundle from `base` to `head`: one that is kept, is being made, or is made now.
    async fn bundle_to(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        base: &str,
        head: Arc<MirrorHead>,
    ) -> Made {
        if head.commit.is_none() {
            return Err(not_available(repo, "HEAD points nowhere"));
        }
        let key = BundleKey {
            repository: repo.name.clone(),
            base: base.to_owned(),
            head,
        };
        if let Some(kept) = self.bundles.borrow_mut().get(&key, Instant::now()) {
            return Ok(kept);
        }
        let (flight, duty) = self.bundling.join(&key);
        if let Some(duty) = duty {
            spawn_local(self.clone().make_bundle(repo.clone(), key, duty));
        }
        flight.end().await.unwrap_or_else(|| Err(lost()))
    }

    async fn make_bundle(
        self: Rc<Self>,
        repo: Arc<Repo>,
        key: BundleKey,
        duty: Duty<BundleKey, Made>,
    ) {
        let _turn = self.turns.bundles.acquire().await;
        let made = self.write_bundle(&repo, &key).await;
        if let Ok(bundle) = &made {
            tracing::info!(
                repository = &*repo.name,
                base = key.base,
                head = key.head.commit.as_deref().unwrap_or(""),
                bytes = bundle.bytes,
                "made a bundle"
            );
            let mut bundles = self.bundles.borrow_mut();
            bundles.insert(key, bundle.clone(), Instant::now());
        }
        duty.done(made);
    }

    async fn write_bundle(&self, repo: &Repo, key: &BundleKey) -> Made {
        let failed = |e: &dyn std::fmt::Display| StartError {
            status: 500,
            message: format!("{}: cannot make a bundle: {e}", repo.name),
        };
        let dir = self.shared.state.tmp_dir();
        let file = tokio::task::spawn_blocking(move || {
            let file = tempfile::tempfile_in(dir)?;
            Ok::<_, io::Error>((file.try_clone()?, file))
        });
        let file = file.await.map_err(|panic| failed(&panic))?;
        let (into, file) = file.map_err(|e| failed(&e))?;
        let tips = Tips {
            branch: key.head.branch.as_ref().map(|name| name.as_bytes()),
            base: &key.base,
        };
        match self.git.bundle(&repo.mirror, tips, into).await {
            Ok(()) => {}
            Err(e) if e.is_empty_bundle() => {
                return Err(not_available(
                    repo,
                    "HEAD has nothing that the base has not",
                ));
            }
            Err(e) => {
                let error = failed(&e);
                tracing::error!(repository = &*repo.name, "{}", error.message);
                return Err(error);
            }
        }
        let bundle = BundleFile::new(file).map_err(|e| failed(&e))?;
        Ok(Arc::new(bundle))
    }
}

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
        let request = |reply| Command::Bundle(BundleRequest { repo, base, reply });
        let (status, payload) = match self.ask(request).await {
            Err(StartError { status, message }) => {
                return self.failed(asked, status, &message, out);
            }
            Ok(Found::UpToDate) => (204, Payload::Written),
            Ok(Found::Bundle(bundle)) => {
                let end = Some(bundle.bytes);
                let source = Box::new(BundleReader {
                    bundle,
                    prefetch: self.shared.prefetch.clone(),
                    meter: self.meter.clone(),
                    reading: None,
                });
                let start = 0;
                (200, Payload::Stream { source, start, end })
            }
        };
        self.with_date(|date| {
            let mut head = Head::new(out, status, date);
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

    fn available(&self, at: u64) -> u64 {
        self.bundle.bytes.saturating_sub(at)
    }

    fn file(&self, _: Option<u32>) -> io::Result<BorrowedFd<'_>> {
        Ok(self.bundle.files.spool.as_fd())
    }
}
