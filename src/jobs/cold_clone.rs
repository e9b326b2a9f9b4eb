//! The clone behind single commits of a repository that is not mirrored yet, and what becomes of these.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::Asker;
use super::said::Gone;
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::io::fs::remove_tree;
use crate::limits::{
    COLD_CLONE_WAIT_MS, COLD_RETRY_MAX_MS, COLD_RETRY_MS, COLD_UNUSED_MS, WANTED_LOOK_MS,
};
use crate::repos::repo::Repo;
use crate::store::evict::Why;
use crate::store::usage::Marks;
use crate::telemetry::metrics::Evicted;

impl Jobs {
    /// Sees to it that the clone follows, however long the build takes, and that nothing is left once all have left
    /// who wait for what is built: then no clone is wanted, either.
    pub(super) fn look_after_tips(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) {
        // One task, however many ask.
        let Some(planned) = self.cold.plan(&repo.name) else {
            return;
        };
        let (jobs, repo, asker) = (self.clone(), repo.clone(), asker.clone());
        spawn_local(async move {
            let began = Instant::now();
            let is_claimed = || planned.upgrade().is_some_and(|cold| cold.is_claimed());
            while is_claimed() {
                if began.elapsed() >= Duration::from_millis(COLD_CLONE_WAIT_MS) {
                    jobs.clone_behind(&repo, &asker);
                }
                tokio::time::sleep(Duration::from_millis(WANTED_LOOK_MS)).await;
            }
            jobs.cold.end_plan(&repo.name, &planned);
        });
    }

    /// Clones the repository whose commit was wanted; tries again, later and later, for as long as somebody
    /// asks for it. It counts for the client whose request has brought it about.
    pub(super) fn clone_behind(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) {
        if self.cold.begin_clone(&repo.name) {
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
            if !self.cold.is_known(&repo.name) {
                // It was dropped.
                return;
            }
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

    /// So many bytes of single commits were brought.
    pub(super) fn note_brought(&self, bytes: u64) {
        if self.catalog.usage.add(bytes) {
            self.sweep_wanted.notify_one();
        }
    }

    /// Whether there is room for single commits: where there is more than may be, something leaves first.
    pub(super) async fn has_room_for_tips(self: &Rc<Self>) -> bool {
        if self.catalog.usage.is_sweep_due() {
            // The semaphore is never closed, so this only waits.
            let _sweeping = self.sweeping.acquire().await;
            if self.catalog.usage.is_sweep_due() {
                self.sweep_once(None).await;
            }
        }
        !self.is_stuck().await
    }

    /// Removes what single commits were fetched into, unless somebody is about to use it.
    pub(super) async fn evict_tips(&self, repo: &Repo, why: Why, marks: Marks) {
        let Some(path) = self.cold.take_idle(&repo.name) else {
            return;
        };
        let (catalog, meter) = (self.catalog.clone(), self.meter.clone());
        let name = repo.name.clone();
        let removed = spawn_blocking(move || {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove single commits");
            }
            let mut ledger = catalog.usage.ledger();
            let before = ledger.total_bytes();
            ledger.forget(&path);
            let in_use_bytes = ledger.total_bytes();
            let bytes = before - in_use_bytes;
            catalog.usage.other_gone(bytes);
            let gone = Gone {
                what: Evicted::Tips,
                why,
                repository: &name,
                bytes,
                in_use_bytes,
                marks,
            };
            gone.note(&meter);
        });
        if let Err(panic) = removed.await {
            tracing::error!("the removal of single commits panicked: {panic}");
        }
    }
}
