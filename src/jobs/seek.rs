//! What a mirror lacks because no followed ref leads to it, asked for at its upstream: by its id, or by the ref
//! that was named with it. It comes into the mirror's annex.
//!
//! Who asks for the same shares one fetch. What an upstream has not got it is asked for once more after a
//! second, for of its replicas one may be late; then that is remembered for a while.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gix::bstr::ByteSlice;
use tokio::task::{spawn_blocking, spawn_local};

use super::asker::{Asker, ClientPart};
use super::clone::{freshen_error, lost};
use super::look::failed;
use super::room::Need;
use super::semaphores::Semaphores;
use super::state::Jobs;
use super::unknown::{Given, SeekDuty, Sought};
use crate::io::clock::unix_ms;
use crate::limits::{HAVES_MAX, UNKNOWN_AGAIN_MS};
use crate::manifest::want::AnyId;
use crate::mirror::{Apart, Brought, Git, Kept, KeptTip, MirrorError, Tip};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::lookup::{Leads, Objects};
use crate::snapshot::view::object_hash;
use crate::telemetry::metrics::{AnnexResult, Event};

impl Jobs {
    /// Has the upstream asked for something that the mirror lacks, unless it was just now.
    pub(super) async fn seek(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        sought: Sought,
        asker: &Asker,
    ) -> Given {
        let Some(sought) = self.sought_by(repo, sought, asker).await? else {
            return Ok(None);
        };
        if let Apart::Id(id) = sought.wanted
            && sought.by.is_none()
            && repo.annex.is_fresh(&id)
        {
            repo.annex.note_used(&id);
            return Ok(Some(id));
        }
        if self.is_absent(repo, &sought.key()) {
            return Ok(None);
        }
        let key = (repo.name.clone(), sought.clone());
        let part = tokio::select! {
            biased;
            () = self.seeking.begun(&key) => None,
            part = self.semaphores.fetches_of_client.acquire(asker.client) => Some(part),
        };
        let (flight, duty) = self.seeking.join(&key);
        match duty {
            // A task of its own: whoever asked for it may leave.
            Some(duty) => {
                let jobs = self.clone();
                spawn_local(jobs.seek_alone(repo.clone(), (sought, asker.clone()), (duty, part)));
            }
            None => self.check_way(repo, asker, &flight).await?,
        }
        flight.end().await.unwrap_or_else(|| Err(lost()))
    }

    /// Whether its upstream lacked something lately.
    pub(super) fn is_absent(&self, repo: &Repo, key: &str) -> bool {
        let mut absent = self.absent.borrow_mut();
        absent.has(&repo.name, key, Instant::now())
    }

    /// It does now.
    pub(super) fn note_absent(&self, repo: &Repo, key: &str) {
        let mut absent = self.absent.borrow_mut();
        absent.note(&repo.name, key, Instant::now());
    }

    async fn seek_alone(
        self: Rc<Self>,
        repo: Arc<Repo>,
        (sought, asker): (Sought, Asker),
        (duty, _part): (SeekDuty, Option<ClientPart>),
    ) {
        let places = self.unknown.borrow_mut().of(&repo.name);
        let (_place, is_there) = match places.try_acquire() {
            Ok(place) => (Ok(place), None),
            // It is never closed, so this only waits. Meanwhile a comparison may have brought it.
            Err(_) => (
                places.acquire().await,
                self.reached_by(&repo, &sought).await,
            ),
        };
        let given = match is_there {
            Some(id) => Ok(Some(id)),
            None => self.ask_twice(&repo, &sought, &asker).await,
        };
        self.meter.add(
            Event::Annex(match &given {
                Ok(Some(_)) => AnnexResult::Given,
                Ok(None) => AnnexResult::Refused,
                Err(_) => AnnexResult::Failed,
            }),
            1,
        );
        let by_permission = self.permissions.of_repository(&repo.name).is_some();
        match &given {
            Ok(found) if by_permission => self.note_sought(&sought, *found, &asker),
            Ok(None) => {
                self.note_absent(&repo, &sought.key());
                if let Apart::Id(id) = sought.wanted {
                    self.forget_annexed(&repo, &[id]).await;
                }
            }
            _ => {}
        }
        duty.done(given);
        self.keep_annex_soon(&repo);
    }

    /// The object, if the mirror's refs lead to it by now.
    async fn reached_by(&self, repo: &Repo, sought: &Sought) -> Option<AnyId> {
        let Apart::Id(id) = sought.wanted else {
            return None;
        };
        let is_reached = self.git.is_reached(&repo.mirror, id).await;
        is_reached.unwrap_or(false).then_some(id)
    }

    /// Several at once, each for itself.
    pub(super) async fn seek_all(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        asker: &Asker,
    ) -> Vec<Given> {
        let begin = |id: &AnyId| {
            let (jobs, repo, asker, id) = (self.clone(), repo.clone(), asker.clone(), *id);
            spawn_local(async move { jobs.seek(&repo, Sought::id(id), &asker).await })
        };
        let begun = Vec::from_iter(ids.iter().map(begin));
        let mut given = Vec::new();
        for one in begun {
            given.push(one.await.unwrap_or_else(|_| Err(lost())));
        }
        given
    }

    async fn ask_twice(self: &Rc<Self>, repo: &Arc<Repo>, sought: &Sought, asker: &Asker) -> Given {
        if let Apart::Id(id) = sought.wanted
            && !may_have(repo, id).await
        {
            return Ok(None);
        }
        if let Apart::Id(id) = sought.wanted
            && self.is_brought(repo, id).await
        {
            return Ok(Some(id));
        }
        if let Some(id) = self.ask_for(repo, sought, asker).await? {
            return Ok(Some(id));
        }
        tokio::time::sleep(Duration::from_millis(UNKNOWN_AGAIN_MS)).await;
        self.ask_for(repo, sought, asker).await
    }

    /// Asks once.
    async fn ask_for(self: &Rc<Self>, repo: &Arc<Repo>, sought: &Sought, asker: &Asker) -> Given {
        let git = self.git_of(repo, asker)?;
        let _seat = Semaphores::place(&self.semaphores.fetches, repo, asker).await?;
        // Until it is a tip: what it has taken for there must not go.
        let _arriving = repo.locks.arrivals.read().await;
        let (unix_began_ms, began) = (unix_ms(), Instant::now());
        let fetched = self.fetch_apart(repo, &git, &sought.wanted).await;
        Semaphores::note_try(&self.semaphores.fetches, repo, &fetched);
        if let Apart::Ref(name) = &sought.wanted
            && !matches!(&fetched, Err(e) if !is_absent(e))
        {
            let id = fetched.as_ref().ok().map(|brought| brought.id);
            repo.annex.note_ref(name.as_bstr(), id, began);
        }
        let (brought, id) = match fetched {
            Ok(brought) => {
                let id = brought.id;
                (brought, id)
            }
            Err(e) if is_absent(&e) => match self.fetch_by_ref(repo, &git, sought).await? {
                Some(brought) => brought,
                None => return Ok(None),
            },
            Err(e) => {
                tracing::warn!(repository = &*repo.name, "cannot fetch: {e}");
                return Err(freshen_error(repo, &e));
            }
        };
        self.take_in(repo, (brought, id), unix_began_ms).await?;
        Ok(Some(id))
    }

    /// What the ref that was named brings, if it leads to what is sought.
    async fn fetch_by_ref(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        git: &Git,
        sought: &Sought,
    ) -> Result<Option<(Brought, AnyId)>, StartError> {
        let (Apart::Id(id), Some(name)) = (&sought.wanted, &sought.or_by) else {
            return Ok(None);
        };
        let named = Apart::Ref(name.clone());
        let brought = match self.fetch_apart(repo, git, &named).await {
            Ok(brought) => brought,
            Err(e) if is_absent(&e) => return Ok(None),
            Err(e) => return Err(freshen_error(repo, &e)),
        };
        let leads = git.leads_to(brought.path(), brought.id, *id).await;
        Ok(leads
            .map_err(|e| failed(repo, &e))?
            .then_some((brought, *id)))
    }

    async fn fetch_apart(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        git: &Git,
        wanted: &Apart,
    ) -> Result<Brought, MirrorError> {
        let at = (&*repo.mirror, &*repo.url);
        let haves = self.haves(repo).await;
        let fetched = git.fetch_apart(at, wanted, haves.clone()).await;
        match fetched {
            Err(e) if self.is_for_room(&e).await => {
                self.make_room(&repo.name, Need::Must).await;
                git.fetch_apart(at, wanted, haves).await
            }
            fetched => fetched,
        }
    }

    /// What an upstream is offered: where the default branch is, what somebody has asked for, other branches.
    async fn haves(&self, repo: &Arc<Repo>) -> Vec<AnyId> {
        // Without any all is fetched.
        let Ok(refs) = self.read_refs(repo).await else {
            return Vec::new();
        };
        let wants = repo.wants();
        let used = wants.iter().filter_map(|want| refs.get(want.followed()?));
        let branches = refs
            .refs
            .iter()
            .filter(|one| one.name.starts_with(b"refs/heads/"));
        let tips = used
            .chain(branches.rev())
            .map(|one| one.peeled.unwrap_or(one.target));
        let mut haves = Vec::new();
        for id in refs.head_id().into_iter().chain(tips) {
            if haves.len() >= HAVES_MAX {
                break;
            }
            if !haves.contains(&id) {
                haves.push(id);
            }
        }
        haves
    }

    /// What has come is the annex's, unless the mirror has it by now.
    async fn take_in(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        (brought, id): (Brought, AnyId),
        given_unix_ms: u64,
    ) -> Result<(), StartError> {
        let wrong = |e: &dyn std::fmt::Display| failed(repo, e);
        let dir = brought.path().to_owned();
        let commit = spawn_blocking(move || commit_of(&dir, id)).await;
        let commit = commit.map_err(|panic| wrong(&panic))?;
        if self.reached_by(repo, &Sought::id(id)).await.is_some() {
            return Ok(());
        }
        let mirror = repo.mirror.clone();
        let kept = spawn_blocking(move || brought.keep(&mirror)).await;
        let Kept { packs, bytes } = kept
            .map_err(|panic| wrong(&panic))?
            .map_err(|e| wrong(&e))?;
        repo.annex.note_packs(id, packs);
        let kept = KeptTip {
            given_unix_ms,
            used_unix_ms: unix_ms(),
            bytes,
        };
        let tips = [
            Some((id, kept)),
            commit.map(|commit| (commit, KeptTip { bytes: 0, ..kept })),
        ];
        self.change_tips(repo, |all| {
            for (id, mut tip) in tips.into_iter().flatten() {
                if let Some(Tip::Kept(before)) = all.0.get(&id) {
                    tip.bytes += before.bytes;
                }
                all.0.insert(id, Tip::Kept(tip));
            }
        })
        .await?;
        tracing::info!(repository = &*repo.name, %id, bytes, "fetched by its id");
        self.mirror_changed(repo);
        self.note_due(repo);
        Ok(())
    }
}

/// Whether an upstream has not got it, or gives out only what its refs name.
fn is_absent(e: &MirrorError) -> bool {
    matches!(e, MirrorError::Vanished { .. })
}

/// Whether a repository can have an object of this kind of id.
async fn may_have(repo: &Arc<Repo>, id: AnyId) -> bool {
    let mirror = repo.mirror.clone();
    let hash = spawn_blocking(move || object_hash(&mirror)).await;
    matches!(hash, Ok(Ok(hash)) if hash == id.kind())
}

/// The commit that a tag leads to.
fn commit_of(repository: &Path, id: AnyId) -> Option<AnyId> {
    let objects = Objects::open(repository, id.kind()).ok()?;
    match objects.lead(id).ok()? {
        Leads::Commit(commit) if commit != id => Some(commit),
        _ => None,
    }
}
