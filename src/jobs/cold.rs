//! Snapshots of one commit of a repository that is not mirrored yet: the commit is fetched without its history
//! into a small repository of its own, which serves nothing else. The clone runs behind it.
//!
//! It lies in `tmp/`, so that it counts for what is kept, goes when room is needed, and at the next start. Nothing of
//! it is needed twice: a build borrows its packs by links, and what is served has one of its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::asker::Asker;
use super::clone::{LOOP, clone_error, kept_for, stuck};
use super::look::Wanted;
use super::resolve::{absent, name_key};
use super::semaphores::Semaphores;
use super::state::Jobs;
use super::tips::ColdSource;
use crate::manifest::want::{Named, Revision, Shape, Want};
use crate::mirror::{MirrorError, TipOf};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
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
        if !self.has_room_for_tips().await {
            return Err(stuck(repo));
        }
        let found = self.fetch_cold(repo, named, &cold, (&git, since)).await;
        Semaphores::note_try(&self.semaphores.fetches, repo, &found);
        let result = match &found {
            Ok(_) => FetchResult::Changed,
            Err(_) => FetchResult::Failed,
        };
        self.meter.add(Event::Fetch(result), 1);
        match found {
            Ok(Ok(Some(mut wanted))) => {
                wanted.claim = Some(cold.claim());
                self.look_after_tips(repo, asker);
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
        let source = cold.source()?;
        let tip = match want.revision() {
            Revision::Head => source.head(),
            Revision::Ref(name) => source.at(name),
            Revision::Commit(id) | Revision::BranchAt(_, id) => Some((TipOf::Commit(*id), *id)),
        };
        let at = (&*cold, source);
        let fetched = self.fetch_once(repo, at, &self.git, tip?).await;
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
}

/// A look at an upstream's refs that has failed is remembered by this.
pub(super) const LOOK: &str = "a look before the clone";

/// What could not be had before the clone is remembered by this.
fn tip_key(named: &Named) -> String {
    let name = named.name().unwrap_or_default();
    match named.commit() {
        Some(id) => format!("before the clone {id} {name}"),
        None => format!("before the clone {name}"),
    }
}
