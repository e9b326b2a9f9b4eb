//! What who runs the server wants done with a repository.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::state::Jobs;
use super::sweep::remove;
use crate::archive::place::Archive;
use crate::repos::error::StartError;
use crate::repos::repo::{Found, Repo};
use crate::store::evict::Why;
use crate::telemetry::metrics::Cause;

impl Jobs {
    /// Has a mirror, and the snapshot of a plain request, as if somebody had asked for it.
    pub(crate) async fn prewarm(self: Rc<Self>, repo: Arc<Repo>) {
        repo.want_clone();
        let asker = Asker::of(Cause::Asked);
        if let Err(why) = self.ensure_mirror(&repo, &asker).await {
            tracing::warn!(repository = &*repo.name, "not prewarmed: {why}");
            return;
        }
        if let Found::Vacant(permit) = repo.find(None) {
            self.build_for(permit, Cause::Asked);
        }
    }

    /// Has the mirror cloned anew beside the one that there is, which it then replaces.
    pub(crate) async fn refetch(self: Rc<Self>, repo: Arc<Repo>) {
        tracing::info!(repository = &*repo.name, "the mirror is to be cloned anew");
        self.replace_mirror(&repo).await;
    }

    /// Removes the mirror of a repository, its annex and its snapshots. What is being sent goes on.
    pub(crate) async fn drop_repository(self: Rc<Self>, name: Arc<str>) -> Result<(), StartError> {
        let refused = |status, what: &str| StartError {
            status,
            message: format!("{name} {what}"),
        };
        let Some(repo) = self.catalog.registry.named(&name) else {
            return Err(refused(404, "is not there"));
        };
        let mirror = repo.mirror.clone();
        for archive in repo.archives() {
            if repo.forget(&archive) {
                self.catalog.retired.add(archive);
            }
        }
        self.remove_retired_of(&name).await;
        // The semaphore is never closed, so this only waits.
        let _sweeping = self.sweeping.acquire().await;
        let marks = self.catalog.usage.marks();
        self.evict_mirror(repo, Why::Asked, marks).await;
        match spawn_blocking(move || mirror.exists()).await {
            Ok(false) => {
                tracing::info!(repository = &*name, "dropped");
                Ok(())
            }
            _ => Err(refused(
                503,
                "is in use; its snapshots are gone, try again for the mirror",
            )),
        }
    }

    /// Removes the snapshots that nobody finds any more and nobody reads.
    async fn remove_retired_of(&self, name: &Arc<str>) {
        let catalog = self.catalog.clone();
        let is_of_it = |archive: &Arc<Archive>| archive.repository == *name;
        let retired = catalog.retired.all().into_iter().filter(is_of_it);
        let gone: Vec<_> = retired
            .filter(|archive| catalog.retired.take_idle(archive))
            .collect();
        let removed = spawn_blocking(move || {
            for archive in gone {
                remove(&catalog, &archive);
            }
        });
        if let Err(panic) = removed.await {
            tracing::error!("the removal of snapshots panicked: {panic}");
        }
    }
}
