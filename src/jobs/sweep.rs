//! The sweep: what nobody reads any more is removed, and what is over the limits evicted.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::state::Jobs;
use crate::archive::place::Archive;
use crate::config::Config;
use crate::io::clock::unix_ms;
use crate::io::heap;
use crate::limits::{HEAP_TRIM_BUILDS, IDLE_ENTRY_OPEN_MS, RETIRED_KEPT_MS, SWEEP_INTERVAL_MS};
use crate::repos::catalog::Catalog;
use crate::repos::repo::Repo;
use crate::store::evict::{self, Bounds, Candidate};
use crate::telemetry::metrics::{Event, Meter};

impl Jobs {
    /// Sweeps from time to time, and when somebody wants it.
    pub(super) async fn keep_swept(self: Rc<Self>) {
        let mut due = tokio::time::interval(Duration::from_millis(SWEEP_INTERVAL_MS));
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = self.sweep_wanted.notified() => due.reset(),
            }
            spawn_local(self.clone().sweep());
        }
    }

    /// Removes superseded entries that nobody reads, and evicts what is over the limit.
    async fn sweep(self: Rc<Self>) {
        // A sweep that was asked for while one runs still happens, after it; more would be idle.
        let Ok(waiting) = self.sweep_waiting.try_acquire() else {
            return;
        };
        // The semaphore is never closed, so this only waits.
        let _sweeping = self.sweeping.acquire().await;
        drop(waiting);
        self.bundles.borrow_mut().expire(Instant::now());
        let (catalog, config) = (self.catalog.clone(), self.config.clone());
        let meter = self.meter.clone();
        let tidies = self.built.get() >= HEAP_TRIM_BUILDS;
        if tidies {
            self.built.set(0);
        }
        // Walks directories and deletes files: not on this thread.
        let swept = tokio::task::spawn_blocking(move || {
            sweep(&catalog, &config, &meter);
            if tidies {
                heap::give_back_unused();
            }
        });
        let swept = swept.await;
        if let Err(panic) = swept {
            tracing::error!("the sweep of the cache panicked: {panic}");
        }
    }
}

fn sweep(catalog: &Catalog, config: &Config, meter: &Meter) {
    remove_retired(catalog, RETIRED_KEPT_MS);
    let mut entries: Vec<(Arc<Repo>, Arc<Archive>, u64)> = Vec::new();
    for repo in catalog.registry.all() {
        if let Some(archive) = repo.current() {
            if catalog.state.is_gone(&archive.dir()) {
                lose(catalog, &repo, archive);
                continue;
            }
            let bytes = catalog.state.entry_bytes(&archive.dir()).unwrap_or(0);
            entries.push((repo, archive, bytes));
        }
    }
    close_idle(&entries);
    catalog.retired.close_idle();
    let used: u64 = entries.iter().map(|(_, _, bytes)| bytes).sum();
    let space = match catalog.state.space() {
        Ok(space) => space,
        Err(e) => {
            tracing::error!("cannot read the free space: {e}");
            return;
        }
    };
    let plan = evict::plan(
        &candidates(&entries),
        Bounds {
            limit_bytes: config.cache_limit.of(space.total_bytes),
            free_bytes: space.free_bytes,
            floor_bytes: config.cache_free_floor.of(space.total_bytes),
        },
    );
    if !plan.victims.is_empty() || !plan.enough {
        // What was replaced is worth less than what is current.
        remove_retired(catalog, 0);
    }
    let mut evicted = (0, 0);
    for (repo, archive, bytes) in &entries {
        if plan.victims.contains(&archive.id) && repo.take_idle(archive) {
            evicted = (evicted.0 + bytes, evicted.1 + 1);
            meter.add(Event::Eviction, 1);
            tracing::info!(repository = &*repo.name, bytes, "evicted");
            remove(catalog, archive);
        }
    }
    if !plan.enough {
        tracing::warn!("the disk is fuller than allowed and nothing more can be evicted");
    }
    let left = entries.len() as u64 - evicted.1;
    catalog.usage.set(used - evicted.0, left, space.total_bytes);
}

/// Somebody has removed the entry from the disk: it is built again when it is asked for.
fn lose(catalog: &Catalog, repo: &Repo, archive: Arc<Archive>) {
    let repository = &*repo.name;
    if repo.forget(&archive) {
        tracing::warn!(
            repository,
            "somebody has removed the snapshot from the disk"
        );
        // Those who read it have it open.
        catalog.retired.add(archive);
    }
}

fn candidates(entries: &[(Arc<Repo>, Arc<Archive>, u64)]) -> Vec<Candidate> {
    let now = unix_ms();
    let candidate = |(_, archive, bytes): &(Arc<Repo>, Arc<Archive>, u64)| Candidate {
        id: archive.id,
        bytes: *bytes,
        last_used_unix_ms: archive.last_used_unix_ms(),
        age_ms: now.saturating_sub(archive.created_unix_ms),
        pinned: archive.fanout.readers() > 0,
        current: true,
    };
    entries.iter().map(candidate).collect()
}

/// Removes archives that were replaced by newer ones and not read for `kept_ms`.
fn remove_retired(catalog: &Catalog, kept_ms: u64) {
    for archive in catalog.retired.take_over(kept_ms) {
        let name = archive.repository.split_once('/');
        let repo = name.and_then(|(host, path)| catalog.registry.get(host, path));
        let current = repo.and_then(|repo| repo.current());
        // The same snapshot may have been built anew, in the same place.
        if current.is_none_or(|current| current.id != archive.id) {
            remove(catalog, &archive);
        }
    }
}

/// Removes an entry that nobody finds any more.
pub(super) fn remove(catalog: &Catalog, archive: &Archive) {
    let Some(names) = archive.names() else {
        return;
    };
    let removed = catalog.state.remove(&archive.dir(), &names.spool);
    if let Err(e) = removed
        && !e.is_not_found()
    {
        tracing::error!(
            repository = &*archive.repository,
            "cannot remove an entry: {e}"
        );
    }
}

/// Keeps the number of descriptors bounded: entries that nobody asked for lately are closed.
fn close_idle(entries: &[(Arc<Repo>, Arc<Archive>, u64)]) {
    let now = unix_ms();
    for (_, archive, _) in entries {
        if now.saturating_sub(archive.last_used_unix_ms()) >= IDLE_ENTRY_OPEN_MS {
            archive.close_if_idle();
        }
    }
}
