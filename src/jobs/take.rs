//! What another server has shared takes the place of a build.
//!
//! Where a clone runs already for that both go on, and the faster one wins: the clone if it is done before half of what is
//! shared has come; else that is served, for what is left of it takes no longer than what has come. The clone is given up
//! once all of that is here, so that nothing is lost by a store that trickles or fails.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_local;

use super::asker::{Asker, ClientPart};
use super::build::unwanted;
use super::clone::Ended;
use super::flights::Flight;
use super::import::Import;
use super::shared::place_of;
use super::state::Jobs;
use super::taking::{TakenFor, Taking};
use crate::manifest::want::Want;
use crate::repos::error::StartError;
use crate::repos::repo::{Permit, Repo};
use crate::store::remote::key::RandomId;
use crate::telemetry::metrics::Cause;

impl Jobs {
    /// Serves what another server has shared, if it has, as it comes; else the permit is given back. Who waits for packs of what
    /// is taken sees that from here on.
    pub(super) fn unless_shared(
        self: &Rc<Self>,
        permit: Permit,
        by: TakenFor,
    ) -> impl Future<Output = Option<Permit>> + use<> {
        let (jobs, repo) = (self.clone(), permit.repo().clone());
        let is_plain = permit.want().is_default();
        let taking = is_plain.then(|| jobs.takings.begin(&repo.name)).flatten();
        let is_asked_for = by == TakenFor::Request;
        async move {
            let begun = tokio::select! {
                biased;
                begun = jobs.begin_import(&repo, permit.want()) => begun,
                () = unwanted(&permit), if is_asked_for => return None,
            };
            let Some(mut import) = begun else {
                return Some(permit);
            };
            if by == TakenFor::Mirror {
                import.set_for_mirror();
            }
            jobs.serve_shared((&repo, permit), (import, taking), is_asked_for)
                .await;
            None
        }
    }

    /// Serves what was begun to be taken; whether all of it is here then.
    async fn serve_shared(
        self: &Rc<Self>,
        (repo, permit): (&Arc<Repo>, Permit),
        (import, taking): (Import, Option<Taking>),
        is_asked_for: bool,
    ) -> bool {
        permit.started(Ok(import.archive()));
        let taken = self.finish_import(repo, import, taking.as_ref()).await;
        let is_taken = taken.is_some();
        if let Some((archive, epoch)) = taken {
            self.publish(repo, archive, epoch).await;
            // What another server has seen says nothing of what there is now.
            self.plan(repo, None);
            // What nobody has asked for waits for its turn: a server that starts with much takes no mirrors.
            if is_asked_for || repo.asked.is_in_use() {
                spawn_local(self.clone().look_soon(repo.clone()));
            }
        }
        // The next build can begin when nobody holds the permit any more.
        drop(permit);
        if repo.is_mirrored() {
            // Somebody has cloned it meanwhile, or it was made of these packs before all was whole, and has moved on.
            self.rebuild(repo, Cause::Timer);
        }
        is_taken
    }

    /// Gives a permit back once there is the mirror that its build needs. What another server has shared meanwhile is served
    /// instead; then it is not given back, nor where there can be no mirror, or nobody wants the build any more.
    pub(super) async fn with_mirror(
        self: &Rc<Self>,
        permit: Permit,
        asker: &Asker,
        part: Option<ClientPart>,
    ) -> Option<Permit> {
        match self.mirror_or_shared(&permit, asker, part).await? {
            Made::Mirror(Ok(_)) => return Some(permit),
            Made::Mirror(Err(why)) => permit.refuse(why),
            Made::Shared(import, clone) => {
                let repo = permit.repo().clone();
                let is_asked_for = asker.cause == Cause::Asked;
                let served = self.serve_shared((&repo, permit), (*import, None), is_asked_for);
                if !served.await {
                    // Whoever asks again has what it has come to.
                    spawn_local(async move {
                        if let Some(clone) = clone {
                            clone.end().await;
                        }
                    });
                }
            }
        }
        None
    }

    /// Waits for a mirror. Where another server, which has perhaps begun to clone before, shares a snapshot meanwhile, that is
    /// taken beside the clone, and is what this gives if it is the faster one. Nothing if nobody wants the build any more.
    async fn mirror_or_shared(
        self: &Rc<Self>,
        permit: &Permit,
        asker: &Asker,
        part: Option<ClientPart>,
    ) -> Option<Made> {
        let (repo, want) = (permit.repo(), permit.want());
        let mirrored = self.ensure_mirror_with(part, repo, asker);
        tokio::pin!(mirrored);
        let mut seen = None;
        loop {
            tokio::select! {
                biased;
                mirrored = &mut mirrored => return Some(Made::Mirror(mirrored)),
                () = unwanted(permit) => return None,
                () = self.is_shared_meanwhile(repo, want, &mut seen) => {}
            }
            let begun = tokio::select! {
                biased;
                mirrored = &mut mirrored => return Some(Made::Mirror(mirrored)),
                () = unwanted(permit) => return None,
                begun = self.begin_import_beside(repo, want) => begun,
            };
            if let Some(import) = begun {
                let repository = &*repo.name;
                tracing::info!(
                    repository,
                    "another server has shared it before it was cloned"
                );
                let clone = self.cloning.running(&repo.name);
                return Some(Made::Shared(Box::new(import), clone));
            }
        }
    }

    /// Begins to take what is shared, and gives it once half of it is here.
    async fn begin_import_beside(self: &Rc<Self>, repo: &Arc<Repo>, want: &Want) -> Option<Import> {
        let import = self.begin_import(repo, want).await?;
        self.half_of(repo, import).await
    }

    /// Ready once the head of a repository without a mirror names a snapshot, by another write than was seen.
    async fn is_shared_meanwhile(&self, repo: &Repo, want: &Want, seen: &mut Option<RandomId>) {
        let shared = self
            .shared
            .as_ref()
            .filter(|_| want.is_default() && self.is_shared(repo));
        let Some(shared) = shared else {
            return std::future::pending().await;
        };
        let (place, about) = (place_of(repo), shared.about(want));
        loop {
            tokio::time::sleep(Duration::from_millis(self.look_in_use_ms())).await;
            if repo.mirror.is_dir() || shared.objects.rests() {
                continue;
            }
            // Nothing depends on it: who cannot read it clones.
            let Ok(base) = shared.base(&repo.name, &place).await else {
                continue;
            };
            let current = base.head.current(&about);
            let is_there = current.is_some_and(|current| base.head.is_valid(current));
            if is_there && seen.replace(base.head.write) != Some(base.head.write) {
                return;
            }
        }
    }
}

/// What a build that needs a mirror has got.
enum Made {
    /// That, or none.
    Mirror(Result<bool, StartError>),
    /// What takes its place, and the clone that goes on for as long as somebody has this.
    Shared(Box<Import>, Option<Flight<Ended>>),
}
