//! Mirrors are compared with their upstreams: on schedule, and when a request needs to know what is
//! new.
//!
//! Requests share what runs. Who needs to know what the upstream had *at a time or later* is
//! content with any comparison that began then; one that began before does not count, because it
//! may have looked just before the push that the request is about.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::asker::{Asker, ClientPart};
use super::clone::{Ended, freshen_error, lost};
use super::flights::{Duty, Flight};
use super::room::Need;
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::{FRESHEN_WAIT_MS, MIRROR_FRESH_MS};
use crate::mirror::noted::note_upstream;
use crate::mirror::recover::remove_unfinished;
use crate::mirror::{Freshened, Git};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::{Event, FetchResult};

impl Jobs {
    /// Starts the comparisons that are due.
    pub(super) async fn keep_fresh(self: Rc<Self>) {
        loop {
            let due = self.schedule.borrow_mut().start(unix_ms());
            if let Some(name) = due {
                spawn_local(self.clone().fetch(name));
                continue;
            }
            let wake_at_ms = self.schedule.borrow().wake_at_ms();
            let Some(wake_at_ms) = wake_at_ms else {
                self.wake.notified().await;
                continue;
            };
            let wait = Duration::from_millis(wake_at_ms.saturating_sub(unix_ms()).max(1));
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn fetch(self: Rc<Self>, name: Arc<str>) {
        let parts = name.split_once('/');
        let repo = parts.and_then(|(host, path)| self.catalog.registry.get(host, path));
        let succeeded = match repo {
            Some(repo) if repo.mirror.is_dir() || repo.current().is_some() => {
                self.refresh(&repo).await
            }
            // Somebody took the mirror away, and nobody has asked for a snapshot since.
            gone => {
                if let Some(repo) = gone {
                    repo.set_not_kept();
                }
                self.schedule.borrow_mut().remove(&name);
                false
            }
        };
        self.schedule
            .borrow_mut()
            .finished(&name, succeeded, unix_ms());
        self.wake.notify_one();
    }

    /// Makes the mirror like its upstream; whether it is. One that is missing is cloned, for its
    /// snapshot would stay as it is for ever.
    async fn refresh(self: &Rc<Self>, repo: &Arc<Repo>) -> bool {
        match self.ensure_mirror(repo, &Asker::default()).await {
            Ok(cloned) => cloned || self.compare(repo).await,
            // It was logged.
            Err(_) => false,
        }
    }

    /// Waits for the comparison that runs, or for one that begins now; whether it succeeds.
    async fn compare(self: &Rc<Self>, repo: &Arc<Repo>) -> bool {
        let compared = match self.freshening(repo, &Asker::default()).await {
            Ok(flight) => flight.end().await,
            Err(_) => None,
        };
        matches!(compared, Some(Ok(())))
    }

    /// The comparison that runs; begins one if none does. Fails when the request must not wait
    /// for it.
    async fn freshening(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        asker: &Asker,
    ) -> Result<Flight<Ended>, StartError> {
        let part = tokio::select! {
            biased;
            () = self.freshening.begun(&repo.name) => None,
            part = self.semaphores.freshens.of_client(asker.client) => Some(part),
        };
        let (flight, duty) = self.freshening.join(&repo.name);
        match (duty, part) {
            (Some(duty), part) => {
                let git = self.git.by_way_of(&asker.via);
                let began = flight.began;
                // A task of its own: whoever asked for it may leave.
                spawn_local(self.clone().freshen(repo.clone(), git, began, (duty, part)));
            }
            (None, _) => self.check_way(repo, asker, &flight).await?,
        }
        Ok(flight)
    }

    /// Joins the comparison that runs, if one does, and waits for its end. Whether one ran.
    pub(super) async fn join_freshening(&self, repo: &Repo) -> bool {
        match self.freshening.running(&repo.name) {
            Some(flight) => flight.end().await.is_some(),
            None => false,
        }
    }

    /// Makes sure that the mirror has what its upstream had at `since` or later.
    pub(super) async fn fresh_since(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        since: Instant,
        asker: &Asker,
    ) -> Ended {
        loop {
            if repo.is_fresh_since(since) {
                return Ok(());
            }
            let flight = self.freshening(repo, asker).await?;
            let began = flight.began;
            let ended = flight.end().await.unwrap_or_else(|| Err(lost()));
            if began >= since {
                return ended;
            }
        }
    }

    /// Makes sure that the mirror was compared with its upstream lately: within
    /// [`MIRROR_FRESH_MS`]. An error means that what it has may be old: the upstream cannot be
    /// reached, now or as lately, or does not answer within [`FRESHEN_WAIT_MS`].
    pub(super) async fn fresh_lately(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) -> Ended {
        self.fresh_in_time(repo, lately(), asker).await
    }

    /// The same by a comparison that begins now or later.
    pub(super) async fn fresh_now(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) -> Ended {
        self.fresh_in_time(repo, Instant::now(), asker).await
    }

    async fn fresh_in_time(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        since: Instant,
        asker: &Asker,
    ) -> Ended {
        if let Some(why) = repo.failed_since(lately()) {
            return Err(why);
        }
        let limit = Duration::from_millis(FRESHEN_WAIT_MS);
        let fresh = self.fresh_since(repo, since, asker);
        let fresh = tokio::time::timeout(limit, fresh).await;
        fresh.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(StartError {
                status: 504,
                message: format!("{}: no news from upstream within {seconds} s", repo.name),
            })
        })
    }

    async fn freshen(
        self: Rc<Self>,
        repo: Arc<Repo>,
        git: Git,
        began: Instant,
        (duty, _part): (Duty<Arc<str>, Ended>, Option<ClientPart>),
    ) {
        self.room_for_pack(&repo).await;
        let _permit = self.semaphores.freshens.acquire(&repo.name).await;
        if let Some(setting_up) = self.setting_up.running(&repo.name) {
            // It changes the configuration and packs refs, as the comparison does.
            setting_up.end().await;
        }
        let unix_began_ms = unix_ms();
        // Until refs are in force that may lead to what it has taken for there.
        let arriving = repo.locks.arrivals.read().await;
        let mut freshened = git.freshen(&repo.mirror, &repo.url, &repo.locks.refs).await;
        if let Err(e) = &freshened
            && self.is_for_room(e).await
        {
            // What it has left takes room itself.
            self.tidy(&repo).await;
            self.make_room(&repo.name, Need::Must).await;
            freshened = git.freshen(&repo.mirror, &repo.url, &repo.locks.refs).await;
        }
        drop(arriving);
        let result = match &freshened {
            Ok(Freshened::Unchanged) => FetchResult::Unchanged,
            Ok(Freshened::Moved { .. }) => FetchResult::Changed,
            Err(_) => FetchResult::Failed,
        };
        self.meter.add(Event::Fetch(result), 1);
        let moved = match freshened {
            Ok(Freshened::Unchanged) => false,
            Ok(Freshened::Moved { refs_changed, .. }) => {
                tracing::info!(repository = &*repo.name, refs_changed, "fetched");
                true
            }
            Err(e) => {
                tracing::warn!(repository = &*repo.name, "cannot fetch: {e}");
                let why = freshen_error(&repo, &e);
                repo.set_failed(why.clone());
                self.tidy(&repo).await;
                return duty.done(Err(why));
            }
        };
        if moved {
            // Noted before anybody hears of it.
            repo.set_moved();
            self.mirror_changed(&repo);
        }
        // Also when nothing moved: somebody may have put another mirror there.
        if let Some(head) = self.read_head(&repo).await {
            repo.set_head(head);
        }
        repo.set_fresh(unix_began_ms, began);
        self.note_upstream(&repo).await;
        duty.done(Ok(()));
        // Also when nothing moved: the last try may have failed.
        self.rebuild(&repo);
        if moved {
            self.note_due(&repo);
            spawn_local(self.clone().join_small(repo));
        }
    }

    /// Notes, once, that the mirror's upstream can be asked for all that it has.
    async fn note_upstream(&self, repo: &Repo) {
        if repo.notes.is_clonable() {
            return;
        }
        let (mirror, url) = (repo.mirror.clone(), repo.url.clone());
        let noted = tokio::task::spawn_blocking(move || note_upstream(&mirror, &url));
        match noted.await {
            Ok(Ok(())) => repo.notes.set_clonable(),
            Ok(Err(e)) => {
                tracing::warn!(repository = &*repo.name, "cannot note its upstream: {e}");
            }
            Err(panic) => tracing::error!("a note of an upstream panicked: {panic}"),
        }
    }

    /// Builds the new snapshot of a repository whose old one is in use, while that is served.
    pub(super) fn rebuild(self: &Rc<Self>, repo: &Arc<Repo>) {
        if let Some(permit) = repo.rebuild() {
            spawn_local(self.clone().build(permit, None));
        }
        for permit in repo.rebuild_others() {
            spawn_local(self.clone().build(permit, None));
        }
    }

    /// Removes what a comparison that failed has left, unless something else writes packs. It
    /// still holds the duty, so that no other begins.
    async fn tidy(&self, repo: &Arc<Repo>) {
        let (_, Some(maintaining)) = self.maintaining.join(&repo.name) else {
            return;
        };
        let (_, Some(fetching_ids)) = self.fetching_ids.join(&repo.name) else {
            return;
        };
        let cleaned = repo.clone();
        let removed = tokio::task::spawn_blocking(move || {
            // Where a build packs, it goes after the next one that fails, or at the next start.
            let packing = cleaned.locks.packing.try_lock();
            packing.map_or(Ok(()), |_packing| remove_unfinished(&cleaned.mirror))
        });
        let removed = removed.await;
        fetching_ids.done(());
        maintaining.done(());
        if let Ok(Err(e)) = removed {
            tracing::warn!(repository = &*repo.name, "cannot remove half a pack: {e}");
        }
    }
}

/// The beginning of what counts as lately.
fn lately() -> Instant {
    let now = Instant::now();
    let since = now.checked_sub(Duration::from_millis(MIRROR_FRESH_MS));
    since.unwrap_or(now)
}
