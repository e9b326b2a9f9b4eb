//! An archive on the way to its first byte: found, followed, or built, and read as soon as there is any of
//! it. What a request waits for belongs to it alone and ends with it; builds and clones are others' too.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Asked, Core};
use super::preamble::Progress;
use crate::archive::growth::Status;
use crate::archive::open_files::OpenError;
use crate::archive::place::Archive;
use crate::archive::reader::ArchiveReader;
use crate::jobs::asker::ClientPart;
use crate::limits::{LIVE_ONLY_LOOK_MS, LIVE_ONLY_WAIT_MS, LOOKS_MAX};
use crate::manifest::want::{Named, Want};
use crate::repos::builds::{Started, Ticket};
use crate::repos::error::StartError;
use crate::repos::repo::{Found, Repo};
use crate::telemetry::metrics::Outcome;

/// What a request seeks.
pub(super) struct Sought {
    repo: Arc<Repo>,
    named: Named,
    client: IpAddr,
}

impl Sought {
    pub(super) fn of(asked: &Asked<'_, '_>) -> Sought {
        Sought {
            repo: asked.repo.clone(),
            named: asked.named.clone(),
            client: asked.peer.ip(),
        }
    }
}

/// An archive of which the first byte can be read.
pub(super) struct First {
    pub archive: Arc<Archive>,
    pub outcome: Outcome,
    pub reader: ArchiveReader,
}

impl First {
    /// One that was there.
    pub(super) fn hit(archive: Arc<Archive>, reader: ArchiveReader) -> First {
        First {
            archive,
            outcome: Outcome::Hit,
            reader,
        }
    }
}

/// A build that others may follow, too.
struct Build {
    want: Arc<Want>,
    ticket: Ticket,
}

/// Why an archive that was found cannot be read.
pub(super) enum Unreadable {
    /// Its files cannot be opened.
    Files(OpenError),
    /// Its build failed, or its first bytes are gone because the spool failed.
    Over,
    /// Bytes that had to be waited for are gone because the spool failed.
    Lost,
}

/// What is waited for before an archive's first byte.
pub(super) fn progress(repo: &Repo) -> Progress {
    let what = match repo.is_mirrored() {
        true => "its turn to be built",
        false => "the first clone of the repository",
    };
    Progress {
        what,
        received_bytes: 0,
    }
}

impl Core {
    /// Waits until the first byte of what is sought can be read.
    pub(super) async fn first(self: Rc<Self>, sought: Sought) -> Result<First, StartError> {
        let repo = &sought.repo;
        let refused = |message: String| {
            Err(StartError {
                status: 503,
                message,
            })
        };
        let mut failure = None;
        let wait_ms = self.faults.live_only_wait_ms.unwrap_or(LIVE_ONLY_WAIT_MS);
        let until = Instant::now() + Duration::from_millis(wait_ms);
        let mut looks = 0;
        while looks < LOOKS_MAX {
            looks += 1;
            let (started, outcome, build) = self.find(&sought).await;
            let archive = started?;
            match self.reader(&archive).await {
                Ok(mut reader) => {
                    // A build that fails before its first byte is an error with a status.
                    reader.wait_for(0).await;
                    if !matches!(archive.fanout.status(), Status::Failed(_)) {
                        return Ok(First {
                            archive,
                            outcome,
                            reader,
                        });
                    }
                }
                Err(Unreadable::Files(e)) if e.is_not_found() => {
                    // Evicted between the look and the first read, or deleted by somebody.
                    if repo.forget(&archive) {
                        self.catalog.retired.add(archive);
                    }
                    continue;
                }
                Err(Unreadable::Files(e)) => {
                    return refused(format!("the snapshot cannot be opened: {e}; try again"));
                }
                Err(Unreadable::Over | Unreadable::Lost) => {}
            }
            match archive.fanout.status() {
                Status::Failed(why) => failure = Some(why),
                // It came too late for this one, which is no fault of any: the wait is what is bounded.
                _ if build.is_some() => looks -= 1,
                _ => {}
            }
            // The next build can only begin when this one has ended, or waits for slow clients.
            if !wait_over(repo, build, until).await {
                return refused(format!(
                    "the server's disk takes nothing more, and the builds of {} go on at the pace of \
                     slow clients; try again later, or clone it from upstream",
                    repo.name
                ));
            }
        }
        let why = failure.as_deref().unwrap_or("it went while it was read");
        refused(format!("no snapshot of {}: {why}; try again", repo.name))
    }

    /// Finds an archive, or has one built; with the build if there is one.
    async fn find(&self, sought: &Sought) -> (Started, Outcome, Option<Build>) {
        let repo = &sought.repo;
        if !sought.named.is_default() {
            return match self.find_named(sought).await {
                Ok((want, found)) => self.begin(want, found, None).await,
                Err(why) => (Err(why), Outcome::Build, None),
            };
        }
        if let Some(archive) = repo.current() {
            return (Ok(archive), Outcome::Hit, None);
        }
        let mut part = None;
        if !repo.is_mirrored() {
            let (repo, client) = (repo.clone(), sought.client);
            part = match self.ask(move |jobs| jobs.clone_part(repo, client)).await {
                Ok(part) => part,
                Err(why) => return (Err(why), Outcome::Build, None),
            };
        }
        self.begin(Arc::default(), repo.find(), part).await
    }

    /// Finds what a request names: where it is not known, by a look at the mirror.
    async fn find_named(&self, sought: &Sought) -> Result<(Arc<Want>, Found), StartError> {
        let repo = &sought.repo;
        if let Some(known) = repo.find_known(&sought.named) {
            return Ok(known);
        }
        let (at, named, client) = (repo.clone(), sought.named.clone(), sought.client);
        let want = self
            .ask(move |jobs| jobs.resolve(at, named, client))
            .await?;
        let found = repo.find_want(&want);
        Ok((want, found))
    }

    /// Has what was found built, if that is for this request to do, and waits for a build to begin.
    async fn begin(
        &self,
        want: Arc<Want>,
        found: Found,
        part: Option<ClientPart>,
    ) -> (Started, Outcome, Option<Build>) {
        let (mut ticket, outcome) = match found {
            Found::Hit(archive) => return (Ok(archive), Outcome::Hit, None),
            Found::Following(ticket) => (ticket, Outcome::Follow),
            Found::Refused(why) => return (Err(why), Outcome::Build, None),
            Found::Vacant(permit) => {
                let ticket = permit.ticket();
                self.plane.spawn(move |jobs| jobs.build(permit, part));
                (ticket, Outcome::Build)
            }
        };
        let started = wait_begun(&mut ticket).await;
        (started, outcome, Some(Build { want, ticket }))
    }

    /// Joins the archive's readers, with its files open if it has a place already.
    pub(super) async fn reader(&self, archive: &Arc<Archive>) -> Result<ArchiveReader, Unreadable> {
        // Joined first: from here on the entry is not evicted.
        let handle = archive.fanout.join(0).ok_or(Unreadable::Over)?;
        let prefetch = self.prefetch.clone();
        let files = match archive.files() {
            Some(files) => Some(files),
            None if archive.fanout.total_bytes().is_none() => None,
            None => {
                let opened = prefetch.open(archive.clone(), self.open_files.clone());
                // The threads end with the process.
                let opened = opened.await.map_err(|_| Unreadable::Over)?;
                Some(opened.map_err(Unreadable::Files)?)
            }
        };
        let (archive, meter) = (archive.clone(), self.meter.clone());
        Ok(ArchiveReader::new(handle, archive, files, prefetch, meter))
    }
}

/// Waits for a build to begin.
async fn wait_begun(ticket: &mut Ticket) -> Started {
    let gone = || StartError {
        status: 503,
        message: "the server is shutting down".into(),
    };
    match ticket.wait_for(Option::is_some).await {
        Ok(started) => started.clone().unwrap_or_else(|| Err(gone())),
        Err(_) => Err(gone()),
    }
}

/// Waits until a request would find something else than this build. False if that is not
/// before `until`.
async fn wait_over(repo: &Repo, build: Option<Build>, until: Instant) -> bool {
    let Some(Build { want, mut ticket }) = build else {
        return true;
    };
    while repo.follows(&want, &ticket) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let ended = async { while ticket.changed().await.is_ok() {} };
        let look = Duration::from_millis(LIVE_ONLY_LOOK_MS).min(left);
        // It ended, or it is time to look at its pace again.
        drop(monoio::time::timeout(look, ended).await);
    }
    true
}
