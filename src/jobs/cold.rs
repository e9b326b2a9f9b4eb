//! Snapshots of one commit of a repository that is not mirrored yet: the commit is fetched without its history
//! into a small repository of its own, which serves nothing else. The clone runs behind it.
//!
//! It lies in `tmp/`, so that it counts for what is kept and goes at the next start. Nothing of it is needed
//! twice: a build borrows its packs by links, and what is served has one of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gix::bstr::BString;
use tokio::task::{JoinError, spawn_blocking, spawn_local};

use super::asker::Asker;
use super::clone::{LOOP, clone_error, kept_for};
use super::look::{Wanted, failed, no_commit};
use super::resolve::{absent, name_key};
use super::room::Need;
use super::semaphores::Semaphores;
use super::state::Jobs;
use super::tips::{Cold, ColdDir, ColdSource};
use crate::io::clock::unix_ms;
use crate::limits::{
    COLD_CLONE_WAIT_MS, COLD_REFS_MAX, COLD_RETRY_MAX_MS, COLD_RETRY_MS, COLD_UNUSED_MS,
};
use crate::manifest::want::{CommitId, Named, Revision, Shape, Want};
use crate::mirror::{Git, MirrorError, TipOf};
use crate::refs::Follow;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::lookup::{Leads, LookupError, Objects};
use crate::telemetry::metrics::{Cause, Event, FetchResult};

impl Jobs {
    /// What is wanted of a repository without a mirror, once its commit is there; nothing where it takes the
    /// whole clone to tell.
    pub(super) async fn cold_tip(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        named: &Named,
        (asker, since): (&Asker, Option<Instant>),
    ) -> Result<Option<Wanted>, StartError> {
        self.left(repo).await;
        // Where the upstream's permission decides all is the mirror's, whose refs say what may be shown.
        if self.permissions.of_repository(&repo.name).is_some() {
            return Ok(None);
        }
        if let Some(known) = self.known_of_tip(repo, named) {
            return known;
        }
        let client = asker.client;
        let _part = self.semaphores.fetches_of_client.acquire(client).await;
        let cold = self.cold.alone(&repo.name).await;
        // Others may have asked meanwhile.
        if let Some(known) = self.known_of_tip(repo, named) {
            return known;
        }
        let git = self.git.by_way_of(&asker.via);
        let _seat = Semaphores::place(&self.semaphores.fetches, repo, asker).await?;
        let found = self.fetch_cold(repo, named, &cold, (&git, since)).await;
        Semaphores::note_try(&self.semaphores.fetches, repo, &found);
        let result = match &found {
            Ok(_) => FetchResult::Changed,
            Err(_) => FetchResult::Failed,
        };
        self.meter.add(Event::Fetch(result), 1);
        match found {
            Ok(Ok(Some(wanted))) => {
                self.clone_behind_later(repo, &cold, asker);
                Ok(Some(wanted))
            }
            Ok(Ok(None)) => {
                self.note_absent(repo, &tip_key(named));
                Ok(None)
            }
            Ok(Err(why)) => Err(why),
            Err(
                e @ (MirrorError::NotFound { .. }
                | MirrorError::Denied { .. }
                | MirrorError::Loop { .. }),
            ) => {
                let why = clone_error(repo, &e);
                // It may just have been cloned.
                if !repo.mirror.is_dir() {
                    repo.set_not_cloned(why.clone(), kept_for(&e));
                }
                Err(why)
            }
            Err(e) => {
                self.note_absent(repo, &tip_key(named));
                let repository = &*repo.name;
                tracing::warn!(repository, "no commit of it before the clone: {e}");
                Ok(None)
            }
        }
    }

    /// What is known before the upstream of a repository without a mirror is asked: that it lacks what is named, or
    /// that it takes the clone to tell. Behind every way to it this is noted.
    fn known_of_tip(
        &self,
        repo: &Repo,
        named: &Named,
    ) -> Option<Result<Option<Wanted>, StartError>> {
        if repo.mirror.is_dir() {
            return Some(Ok(None));
        }
        if let Some(why) = repo.not_cloned_lately()
            && matches!(why.status, 404 | LOOP)
        {
            return Some(Err(why));
        }
        let is_name = named.commit().is_none() && !named.is_head();
        if is_name && self.is_absent(repo, &name_key(named)) {
            return Some(Err(absent(repo, named)));
        }
        let in_vain = [LOOK.to_owned(), tip_key(named)];
        let is_in_vain = in_vain.iter().any(|key| self.is_absent(repo, key));
        is_in_vain.then_some(Ok(None))
    }

    /// Looks at the upstream's refs and fetches what is wanted, unless that was done since it is wanted.
    async fn fetch_cold(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        named: &Named,
        cold: &Cold,
        (git, since): (&Git, Option<Instant>),
    ) -> Result<Result<Option<Wanted>, StartError>, MirrorError> {
        let is_young = |looked: Instant| match since {
            Some(since) => looked >= since,
            None => looked.elapsed() < self.config.ref_check_interval,
        };
        if !cold.looked.get().is_some_and(is_young) {
            let looked = self.look_at_cold_refs(repo, cold, git).await;
            looked.inspect_err(|_| self.note_absent(repo, LOOK))?;
        }
        let Some(source) = cold.source.borrow().clone() else {
            return Ok(Ok(None));
        };
        let full = named.name_among(&source.seen.refs);
        repo.note_name(named, full.clone(), repo.epoch());
        let (what, id) = match tip_of(named, full.as_ref(), &source, &git.follow) {
            Ok(Some(found)) => found,
            Ok(None) => {
                let other = named.full_name().filter(|_| named.commit().is_none());
                let Some(name) = other else {
                    return Ok(Ok(None));
                };
                let id = lead(cold, &source, git, (name.into(), &is_young)).await?;
                let at = Named::new(None, Some(id));
                let Some(at) = at.map(|at| at.shaped(named.shape())) else {
                    return Ok(Ok(None));
                };
                return Ok(wanted(repo, &at, None, (source, id)).await);
            }
            Err(NotThere) => {
                self.note_absent(repo, &name_key(named));
                return Ok(Err(absent(repo, named)));
            }
        };
        let (source, id) = self.fetch_once(repo, cold, source, git, (what, id)).await?;
        let wanted = wanted(repo, named, full, (source, id)).await;
        if let Ok(Some(found)) = &wanted
            && let Some(commit) = found.want.commit()
        {
            // By a tag's own id.
            cold.note_fetched(TipOf::Commit(commit), commit);
        }
        Ok(wanted)
    }

    /// Fetches a commit unless it is there; the caller holds the right to. What a ref was listed with is fetched by
    /// its id, wherever the ref leads by now. Where the upstream does not give that out any more, the ref is fetched
    /// by its name, and the list is corrected.
    async fn fetch_once(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        cold: &Cold,
        source: ColdSource,
        git: &Git,
        (what, id): (TipOf, CommitId),
    ) -> Result<(ColdSource, CommitId), MirrorError> {
        if cold.fetched.borrow().contains(&(what.clone(), id)) {
            return Ok((source, id));
        }
        let is_named = matches!(what, TipOf::Head | TipOf::Ref(_));
        let by_id = match is_named {
            true => TipOf::Listed(id),
            false => what.clone(),
        };
        let fetched = self.fetch_with_room(repo, &source, git, &by_id).await;
        if !(is_named && matches!(fetched, Err(MirrorError::Vanished { .. }))) {
            fetched?;
            cold.note_fetched(what, id);
            return Ok((source, id));
        }
        self.fetch_with_room(repo, &source, git, &what).await?;
        let id = git.last_tip(source.path()).await?;
        let led = lead_of(&source, id).await;
        let peeled = match led {
            Ok(Ok(Leads::Commit(commit))) => Some(commit).filter(|commit| *commit != id),
            _ => None,
        };
        let source = source.corrected(&what, (id, peeled));
        cold.fetched.borrow_mut().clear();
        *cold.source.borrow_mut() = Some(source.clone());
        repo.set_moved();
        cold.note_fetched(what, id);
        Ok((source, id))
    }

    async fn fetch_with_room(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        source: &ColdSource,
        git: &Git,
        what: &TipOf,
    ) -> Result<(), MirrorError> {
        let (path, url) = (source.path(), &source.seen.url);
        let fetched = git.fetch_tip(path, url, what).await;
        match fetched {
            Err(e) if self.is_for_room(&e).await => {
                self.make_room(&repo.name, Need::Must).await;
                git.fetch_tip(path, url, what).await
            }
            fetched => fetched,
        }
    }

    /// Reads the upstream's refs; if they are others than before, what is served may be older.
    async fn look_at_cold_refs(
        &self,
        repo: &Repo,
        cold: &Cold,
        git: &Git,
    ) -> Result<(), MirrorError> {
        let (unix_began_ms, began) = (unix_ms(), Instant::now());
        repo.looked.note(unix_began_ms);
        let tmp = self.catalog.state.tmp_dir();
        let Some(seen) = git.look_at_refs(&tmp, &repo.url).await? else {
            return Ok(());
        };
        let before = cold.source.borrow().clone();
        let has_moved = before
            .as_ref()
            .is_none_or(|before| before.seen.refs != seen.refs);
        if has_moved {
            cold.fetched.borrow_mut().clear();
            repo.set_moved();
            if before.is_some() {
                self.absent.borrow_mut().forget(&repo.name);
            }
        }
        let dir = match before {
            Some(before) if before.seen.hash == seen.hash => before.dir,
            _ => Arc::new(ColdDir {
                path: git.make_tips(&tmp, seen.hash).await?,
                removals: self.git.removals.clone(),
            }),
        };
        *cold.source.borrow_mut() = Some(ColdSource { dir, seen });
        cold.looked.set(Some(began));
        repo.set_seen(unix_began_ms, began);
        Ok(())
    }

    /// What there is of a repository without a mirror, for a build of this want: its commit is there. Nothing where
    /// it is to be built from the mirror.
    pub(super) async fn cold_source(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        want: &Want,
    ) -> Option<ColdSource> {
        if want.shape() != Shape::Tip || repo.mirror.is_dir() {
            return None;
        }
        let cold = self.cold.known_alone(&repo.name).await?;
        let source = cold.source.borrow().clone()?;
        let tip = match want.revision() {
            Revision::Head => source.head(),
            Revision::Ref(name) => source.at(name),
            Revision::Commit(id) | Revision::BranchAt(_, id) => Some((TipOf::Commit(*id), *id)),
        };
        let fetched = self.fetch_once(repo, &cold, source, &self.git, tip?).await;
        if let Err(e) = &fetched {
            let repository = &*repo.name;
            tracing::warn!(repository, "no commit of it before the clone: {e}");
        }
        fetched.ok().map(|(source, _)| source)
    }

    /// Looks whether single commits that are served are still what the upstream has.
    pub(super) async fn keep_cold_fresh(self: &Rc<Self>, repo: &Arc<Repo>) {
        // Whoever fetches looks, too.
        let Some(cold) = self.cold.try_alone(&repo.name) else {
            return;
        };
        let comparisons = &self.semaphores.comparisons;
        let Ok(_seat) = Semaphores::place(comparisons, repo, &Asker::of(Cause::Timer)).await else {
            return;
        };
        let looked = self.look_at_cold_refs(repo, &cold, &self.git).await;
        Semaphores::note_try(&self.semaphores.comparisons, repo, &looked);
        if let Err(e) = looked {
            tracing::warn!(repository = &*repo.name, "cannot look at its refs: {e}");
        }
    }

    /// Sees to it that the clone follows, also where whoever wanted the commit has left before it was built.
    fn clone_behind_later(self: &Rc<Self>, repo: &Arc<Repo>, cold: &Cold, asker: &Asker) {
        // One task, however many ask.
        if cold.is_planned.replace(true) {
            return;
        }
        let (jobs, repo, asker) = (self.clone(), repo.clone(), asker.clone());
        spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(COLD_CLONE_WAIT_MS)).await;
            jobs.clone_behind(&repo, &asker);
        });
    }

    /// Clones the repository whose commit was wanted; tries again, later and later, for as long as somebody
    /// asks for it. It counts for the client whose request has brought it about.
    pub(super) fn clone_behind(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) {
        if let Some(cold) = self.cold.known(&repo.name)
            && !cold.has_clone.replace(true)
        {
            let (jobs, repo, asker) = (self.clone(), repo.clone(), asker.clone());
            spawn_local(async move {
                jobs.clone_until_there(&repo, &asker).await;
                jobs.cold.forget(&repo.name);
            });
        }
    }

    async fn clone_until_there(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) {
        let mut wait_ms = self.faults.cold_retry_ms.unwrap_or(COLD_RETRY_MS);
        let used = Duration::from_millis(COLD_UNUSED_MS);
        loop {
            // Its client may have very many before it.
            let part = tokio::time::timeout(used, self.part_to_clone(repo, asker.client)).await;
            if let Ok(part) = part {
                let behind = asker.behind();
                let cloned = self.ensure_mirror_with(part, repo, &behind).await;
                let Err(why) = cloned else {
                    return;
                };
                let message = &why.message;
                tracing::warn!(
                    repository = &*repo.name,
                    wait_ms,
                    "cloned again later: {message}"
                );
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                wait_ms = (wait_ms * 2).min(COLD_RETRY_MAX_MS);
            }
            let unused_ms = unix_ms().saturating_sub(repo.asked.unix_ms());
            if unused_ms >= COLD_UNUSED_MS {
                return;
            }
        }
    }
}

/// A look at an upstream's refs that has failed is remembered by this.
const LOOK: &str = "a look before the clone";

/// What could not be had before the clone is remembered by this.
fn tip_key(named: &Named) -> String {
    let name = named.name().unwrap_or_default();
    match named.commit() {
        Some(id) => format!("before the clone {id} {name}"),
        None => format!("before the clone {name}"),
    }
}

/// The upstream has no branch or tag of this name.
struct NotThere;

/// What is to be fetched, and what it leads to; nothing if that is not known before.
fn tip_of(
    named: &Named,
    full: Option<&BString>,
    source: &ColdSource,
    follow: &Follow,
) -> Result<Option<(TipOf, CommitId)>, NotThere> {
    if let Some(id) = named.commit() {
        let is_known = id.kind() == source.seen.hash;
        return Ok(is_known.then_some((TipOf::Commit(id), id)));
    }
    if named.is_head() {
        return Ok(source.head());
    }
    match full {
        Some(full) => Ok(source.at(full)),
        // What is not followed is not listed.
        None if named.full_name().is_some_and(|name| !follow.matches(name)) => Ok(None),
        None => Err(NotThere),
    }
}

/// Fetches what a ref leads to that is not followed, unless that was done lately.
async fn lead(
    cold: &Cold,
    source: &ColdSource,
    git: &Git,
    (name, is_young): (BString, &dyn Fn(Instant) -> bool),
) -> Result<CommitId, MirrorError> {
    let known = cold.others.borrow().get(&name).copied();
    if let Some((_, id)) = known.filter(|(fetched, _)| is_young(*fetched)) {
        return Ok(id);
    }
    let (began, what) = (Instant::now(), TipOf::Ref(name.clone()));
    git.fetch_tip(source.path(), &source.seen.url, &what)
        .await?;
    let id = git.last_tip(source.path()).await?;
    let mut others = cold.others.borrow_mut();
    if others.len() >= COLD_REFS_MAX {
        others.clear();
    }
    others.insert(name, (began, id));
    cold.note_fetched(TipOf::Commit(id), id);
    Ok(id)
}

/// What an object leads to that was fetched.
async fn lead_of(
    source: &ColdSource,
    id: CommitId,
) -> Result<Result<Leads, LookupError>, JoinError> {
    let source = source.clone();
    let led = spawn_blocking(move || {
        let objects = Objects::open(source.path(), source.seen.hash)?;
        objects.lead(id)
    });
    led.await
}

/// What is wanted, whose commit was fetched.
async fn wanted(
    repo: &Arc<Repo>,
    named: &Named,
    full: Option<BString>,
    (source, id): (ColdSource, CommitId),
) -> Result<Option<Wanted>, StartError> {
    let led = lead_of(&source, id)
        .await
        .map_err(|panic| failed(repo, &panic))?;
    let commit = match led.map_err(|e| failed(repo, &e))? {
        Leads::Commit(commit) => commit,
        Leads::Nowhere => return Ok(None),
        Leads::Other(kind) => return Err(no_commit(repo, id, kind)),
    };
    let want = match named.commit() {
        Some(_) => named.at(commit).and_then(|named| named.want(full)),
        None => named.want(full),
    };
    Ok(want.map(|want| Wanted {
        want: Arc::new(want),
        near: Some(commit),
    }))
}
