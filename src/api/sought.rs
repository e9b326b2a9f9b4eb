//! An archive on the way to its first byte: found, followed, or built, and read as soon as there is any of
//! it. What a request waits for belongs to it alone and ends with it; builds and clones are others' too.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Asked, Core};
use super::freshness::{Taken, is_known};
use super::preamble::Progress;
use crate::access::permissions::Shown;
use crate::archive::ahead::Ahead;
use crate::archive::growth::Status;
use crate::archive::handle::ReaderHandle;
use crate::archive::open_files::OpenError;
use crate::archive::place::{Archive, Files};
use crate::archive::reader::ArchiveReader;
use crate::jobs::asker::{Asker, ClientPart};
use crate::jobs::look::Wanted;
use crate::limits::{LIVE_ONLY_LOOK_MS, LIVE_ONLY_WAIT_MS, LOOKS_MAX};
use crate::manifest::preamble::Waits;
use crate::manifest::want::{Named, Shape, Want};
use crate::repos::builds::{Started, Ticket};
use crate::repos::error::StartError;
use crate::repos::repo::{Found, Repo};
use crate::telemetry::metrics::Outcome;

/// Time between two looks at a build that a request waits for.
const LOOK: Duration = Duration::from_millis(LIVE_ONLY_LOOK_MS);

/// What a request seeks.
pub(super) struct Sought {
    pub repo: Arc<Repo>,
    pub named: Named,
    pub taken: Taken,
    pub asker: Asker,
    pub shown: Option<Shown>,
    /// Whether it is known which archive it is, and that one is waited for.
    pub is_found: Rc<Cell<bool>>,
}

impl Sought {
    pub(super) fn of(asked: &Asked<'_, '_>, taken: Taken) -> Sought {
        Sought {
            repo: asked.repo.clone(),
            named: asked.named.clone(),
            taken,
            asker: asked.asker(),
            shown: asked.shown.clone(),
            is_found: Rc::default(),
        }
    }
}

/// An archive of which the first byte can be read.
pub(super) struct First {
    pub archive: Arc<Archive>,
    pub outcome: Outcome,
    pub reader: ArchiveReader,
}

/// One that is waited for.
pub(super) type FirstWait = Pin<Box<dyn Future<Output = Result<First, StartError>>>>;

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

/// What is waited for before an archive's first byte, and what has come of it; `is_found` says whether it is
/// known which archive that is.
pub(super) fn progress(repo: &Repo, shape: Shape, is_found: bool) -> Progress {
    let arrived = repo.arrived.bytes();
    let what = match (repo.is_mirrored(), is_found, arrived) {
        (false, _, Some(_)) => Waits::Clone,
        (false, true, None) if shape == Shape::Tip => Waits::Turn,
        (false, false, None) if shape == Shape::Tip => Waits::Tip,
        (false, _, None) => Waits::CloneTurn,
        (true, true, _) => Waits::Turn,
        (true, false, None) => Waits::Comparison,
        (true, false, Some(_)) => Waits::Fetch,
    };
    let received_bytes = match what {
        Waits::Clone | Waits::Fetch => arrived.unwrap_or(0),
        _ => 0,
    };
    Progress {
        what,
        received_bytes,
    }
}

impl Core {
    /// Waits until the first byte of what is sought can be read.
    pub(super) async fn first(self: Rc<Self>, sought: Sought) -> Result<First, StartError> {
        let repo = &sought.repo;
        let mut taken = self
            .fresh_enough((repo, &sought.named), sought.taken, &sought.asker)
            .await?;
        let mut failure = None;
        let wait_ms = self.faults.live_only_wait_ms.unwrap_or(LIVE_ONLY_WAIT_MS);
        let until = Instant::now() + Duration::from_millis(wait_ms);
        let mut looks = 0;
        while looks < LOOKS_MAX {
            looks += 1;
            sought.is_found.set(false);
            let (started, outcome, build) = self.find(&sought, taken.since()).await;
            let archive = match started {
                Ok(archive) => archive,
                Err(why) => {
                    taken = taken.stale(repo, &sought.named).ok_or(why)?;
                    continue;
                }
            };
            match self.reader(&archive).await {
                Ok(mut reader) => {
                    // A build that fails before its first byte is an error with a status.
                    reader.wait_for(0).await;
                    if !matches!(archive.fanout.status(), Status::Failed(_)) {
                        if let Some(later) = self.aged(&sought, (taken, looks), &archive).await? {
                            taken = later;
                            continue;
                        }
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
                    return try_again(format!("the snapshot cannot be opened: {e}; try again"));
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
            if !wait_over(repo, (build, taken), until).await {
                return try_again(format!(
                    "the server's disk takes nothing more, and the builds of {} go on at the pace of \
                     slow clients; try again later, or clone it from upstream",
                    repo.name
                ));
            }
        }
        let why = failure.as_deref().unwrap_or("it went while it was read");
        try_again(format!("no snapshot of {}: {why}; try again", repo.name))
    }

    /// Finds an archive of what the upstream had at `since` or later, or has one built; with the build if there
    /// is one.
    async fn find(
        &self,
        sought: &Sought,
        since: Option<Instant>,
    ) -> (Started, Outcome, Option<Build>) {
        let (repo, is_default) = (&sought.repo, sought.named.is_default());
        if is_default
            && since.is_none()
            && let Some(archive) = repo.current()
        {
            return (Ok(archive), Outcome::Hit, None);
        }
        let mut part = None;
        if is_default && !repo.is_mirrored() {
            let (repo, asker) = (repo.clone(), sought.asker.clone());
            part = match self.ask(move |jobs| jobs.clone_part(repo, asker)).await {
                Ok(part) => part,
                Err(why) => return (Err(why), Outcome::Build, None),
            };
        }
        loop {
            let found = match is_default {
                true => Ok((Arc::default(), repo.find(since))),
                false => self.find_named(sought, since).await,
            };
            match found {
                // It ends, or clients hold it up and another one may begin.
                Ok((_, Found::Older(mut ticket))) => wait_a_while(&mut ticket, LOOK).await,
                Ok((want, found)) => {
                    sought.is_found.set(true);
                    return self.begin(want, found, (&sought.asker, part)).await;
                }
                Err(why) => return (Err(why), Outcome::Build, None),
            }
        }
    }

    /// Finds what a request names: where it is not known, by a look at the mirror.
    async fn find_named(
        &self,
        sought: &Sought,
        since: Option<Instant>,
    ) -> Result<(Arc<Want>, Found), StartError> {
        let repo = &sought.repo;
        let permissions = &self.permissions;
        if is_known(
            repo,
            &sought.named,
            (&sought.shown, permissions),
            sought.taken,
        ) && let Some(known) = repo.find_known(&sought.named, since)
        {
            return Ok(known);
        }
        let (at, named) = (repo.clone(), sought.named.clone());
        let asker = sought.asker.clone();
        let wanted = self.ask(move |jobs| jobs.resolve(at, named, since, asker));
        let (Wanted { want, near, claim }, part) = wanted.await?;
        let found = match repo.find_want(&want, since) {
            Found::Vacant(permit) => Found::Vacant(permit.near(near).holding((part, claim))),
            found => found,
        };
        Ok((want, found))
    }

    /// Has what was found built, if that is for this request to do, and waits for a build to begin.
    async fn begin(
        &self,
        want: Arc<Want>,
        found: Found,
        (asker, part): (&Asker, Option<ClientPart>),
    ) -> (Started, Outcome, Option<Build>) {
        let (mut ticket, outcome) = match found {
            Found::Hit(archive) => return (Ok(archive), Outcome::Hit, None),
            Found::Following(ticket) | Found::Older(ticket) => {
                if let Some(raised) = ticket.raise() {
                    self.plane.spawn(|_| async move { raised.take_place() });
                }
                (ticket, Outcome::Follow)
            }
            Found::Refused(why) => return (Err(why), Outcome::Build, None),
            Found::Vacant(permit) => {
                let ticket = permit.ticket();
                let asker = asker.clone();
                self.plane
                    .spawn(move |jobs| jobs.build(permit, asker, part));
                (ticket, Outcome::Build)
            }
        };
        let started = wait_begun(&mut ticket).await;
        (started, outcome, Some(Build { want, ticket }))
    }

    /// Joins the archive's readers, with its files open if it has a place already.
    pub(super) async fn reader(&self, archive: &Arc<Archive>) -> Result<ArchiveReader, Unreadable> {
        let (handle, files) = self.joined(archive).await?;
        let archive = archive.clone();
        Ok(ArchiveReader::new(handle, archive, files, self.ahead()))
    }

    /// The same, for whoever reads it in another way.
    pub(super) async fn joined(
        &self,
        archive: &Arc<Archive>,
    ) -> Result<(ReaderHandle, Option<Arc<Files>>), Unreadable> {
        // Joined first: from here on the entry is not evicted.
        let handle = archive.fanout.join(0).ok_or(Unreadable::Over)?;
        let files = match archive.files() {
            Some(files) => Some(files),
            None if archive.fanout.total_bytes().is_none() => None,
            None => {
                let opened = self.prefetch.open(archive.clone(), self.open_files.clone());
                // The threads end with the process.
                let opened = opened.await.map_err(|_| Unreadable::Over)?;
                Some(opened.map_err(Unreadable::Files)?)
            }
        };
        Ok((handle, files))
    }

    /// What a reader has read ahead of it.
    pub(super) fn ahead(&self) -> Ahead {
        Ahead::new(self.prefetch.clone(), self.meter.clone())
    }
}

fn try_again(message: String) -> Result<First, StartError> {
    Err(StartError {
        status: 503,
        message,
    })
}

/// Waits for a build to begin.
async fn wait_begun(ticket: &mut Ticket) -> Started {
    let gone = || StartError {
        status: 503,
        message: "the server is shutting down".into(),
    };
    match ticket.started.wait_for(Option::is_some).await {
        Ok(started) => started.clone().unwrap_or_else(|| Err(gone())),
        Err(_) => Err(gone()),
    }
}

/// Waits until a request would find something else than this build. False if that is not
/// before `until`.
async fn wait_over(repo: &Repo, (build, taken): (Option<Build>, Taken), until: Instant) -> bool {
    let Some(Build { want, mut ticket }) = build else {
        return true;
    };
    while repo.follows(&want, &ticket, taken.since()) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        wait_a_while(&mut ticket, LOOK.min(left)).await;
    }
    true
}

/// Waits until a build has ended, or it is time to look at its pace again.
async fn wait_a_while(ticket: &mut Ticket, look: Duration) {
    let ended = async { while ticket.started.changed().await.is_ok() {} };
    drop(monoio::time::timeout(look, ended).await);
}
