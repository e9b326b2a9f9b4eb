//! What who runs the server wants done with a repository.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::Asker;
use super::clone::lost;
use super::state::Jobs;
use super::sweep::remove;
use super::taken::refused;
use crate::archive::place::Archive;
use crate::repos::error::StartError;
use crate::repos::repo::{Found, Repo};
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

    /// Removes all that there is of a repository. What is being sent goes on, and leaves the disk when nobody reads it
    /// any more; what is being built is for those alone who follow it already.
    pub(crate) async fn drop_repository(self: Rc<Self>, name: Arc<str>) -> Result<(), StartError> {
        let Some(repo) = self.catalog.registry.named(&name) else {
            return Err(refused(&name, 404, "is not there"));
        };
        // A task of its own: whoever asked for it may leave in the middle.
        let dropped = spawn_local(self.drop_whole(repo));
        dropped.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn drop_whole(self: Rc<Self>, repo: Arc<Repo>) -> Result<(), StartError> {
        let name = repo.name.clone();
        let is_gone = self.drop_alone(&repo, async || true).await?;
        self.remove_retired_of(&name).await;
        let removals = self.git.removals.clone();
        // It cannot fail but by a panic, which was printed.
        let _ = spawn_blocking(move || removals.wait()).await;
        self.catalog.registry.forget(repo);
        if !is_gone {
            return Err(refused(
                &name,
                500,
                "has lost all but its mirror, which stays on the disk; the log says why",
            ));
        }
        tracing::info!(repository = &*name, "dropped");
        Ok(())
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
