//! What the upstream of a repository without a mirror is asked for: what its refs lead to, and single commits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::BString;
use tokio::task::{JoinError, spawn_blocking};

use super::cold::LOOK;
use super::look::{Wanted, failed, no_commit};
use super::resolve::{absent, name_key};
use super::room::Need;
use super::state::Jobs;
use super::tips::{Cold, ColdDir, ColdSource};
use crate::io::clock::unix_ms;
use crate::io::growth::disk_bytes;
use crate::limits::COLD_PART;
use crate::manifest::want::{CommitId, Named};
use crate::mirror::{Git, MirrorError, Seen, TipOf};
use crate::refs::Follow;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::lookup::{Leads, LookupError, Objects};

impl Jobs {
    /// Looks at the upstream's refs and fetches what is wanted, unless that was done since it is wanted.
    pub(super) async fn fetch_cold(
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
        let Some(source) = cold.source() else {
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
                let name = (name.into(), &is_young as &dyn Fn(Instant) -> bool);
                let (source, id) = self.lead_cold(repo, (cold, source), git, name).await?;
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
        let found = (what, id);
        let (source, id) = self.fetch_once(repo, (cold, source), git, found).await?;
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
    pub(super) async fn fetch_once(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        (cold, source): (&Cold, ColdSource),
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
        let at = (cold, source.clone());
        let fetched = self.fetch_into(repo, at, git, &by_id).await;
        if !(is_named && matches!(fetched, Err(MirrorError::Vanished { .. }))) {
            let source = fetched?;
            cold.note_fetched(what, id);
            return Ok((source, id));
        }
        let source = cold.source().unwrap_or(source);
        let source = self.fetch_into(repo, (cold, source), git, &what).await?;
        let id = git.last_tip(source.path()).await?;
        let led = lead_of(&source, id).await;
        let peeled = match led {
            Ok(Ok(Leads::Commit(commit))) => Some(commit).filter(|commit| *commit != id),
            _ => None,
        };
        let source = source.corrected(&what, (id, peeled));
        cold.fetched.borrow_mut().clear();
        cold.set_source(source.clone());
        repo.set_moved();
        cold.note_fetched(what, id);
        Ok((source, id))
    }

    /// Fetches what a ref leads to that is not followed, unless that was done lately.
    async fn lead_cold(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        (cold, source): (&Cold, ColdSource),
        git: &Git,
        (name, is_young): (BString, &dyn Fn(Instant) -> bool),
    ) -> Result<(ColdSource, CommitId), MirrorError> {
        let known = cold.others.borrow().get(&name).copied();
        if let Some((_, id)) = known.filter(|(fetched, _)| is_young(*fetched)) {
            return Ok((source, id));
        }
        let (began, what) = (Instant::now(), TipOf::Ref(name.clone()));
        let source = self.fetch_into(repo, (cold, source), git, &what).await?;
        let id = git.last_tip(source.path()).await?;
        cold.others.borrow_mut().insert(name, (began, id));
        cold.note_fetched(TipOf::Commit(id), id);
        Ok((source, id))
    }

    /// Fetches something into what there is: into another one where there is much already, or where a fetch was cut
    /// off, for what that has left is nobody's.
    async fn fetch_into(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        (cold, source): (&Cold, ColdSource),
        git: &Git,
        what: &TipOf,
    ) -> Result<ColdSource, MirrorError> {
        let mut source = source;
        let bytes_max = self.catalog.usage.marks().high_bytes / COLD_PART;
        if !cold.takes_more(bytes_max) {
            source.dir = self.cold_dir(git, &source.seen).await?;
            cold.set_source(source.clone());
        }
        cold.begin_fetch();
        let fetched = self.fetch_with_room(repo, &source, git, what).await;
        if matches!(fetched, Ok(()) | Err(MirrorError::Vanished { .. })) {
            let path = source.path().to_owned();
            let bytes = spawn_blocking(move || disk_bytes(&path)).await;
            let bytes = bytes.ok().and_then(Result::ok).unwrap_or(u64::MAX);
            self.note_brought(cold.end_fetch(bytes));
        }
        fetched.map(|()| source)
    }

    /// A new directory for single commits.
    async fn cold_dir(&self, git: &Git, seen: &Seen) -> Result<Arc<ColdDir>, MirrorError> {
        let tmp = self.catalog.state.tmp_dir();
        Ok(Arc::new(ColdDir {
            path: git.make_tips(&tmp, seen.hash).await?,
            removals: self.git.removals.clone(),
        }))
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
    pub(super) async fn look_at_cold_refs(
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
        let before = cold.source();
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
            _ => self.cold_dir(git, &seen).await?,
        };
        cold.set_source(ColdSource { dir, seen });
        cold.looked.set(Some(began));
        repo.set_seen(unix_began_ms, began);
        // This one is in use.
        self.cold.trim();
        Ok(())
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
        claim: None,
    }))
}
