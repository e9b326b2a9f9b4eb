//! Comparisons that nobody waits for: by timer, and when a request or a webhook says that it is time.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::asker::Asker;
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::mirror::MirrorError;
use crate::mirror::schedule::{Key, Shown};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::{Cause, Event};

impl Jobs {
    /// Starts the comparisons that are due.
    pub(super) async fn keep_fresh(self: Rc<Self>) {
        loop {
            let due = self.schedule.borrow_mut().start(unix_ms());
            if let Some(name) = due {
                spawn_local(self.clone().look_now(name));
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

    /// Somebody asks for a repository whose upstream was not looked at lately, and does not wait for that.
    pub(crate) async fn look_soon(self: Rc<Self>, repo: Arc<Repo>) {
        self.hasten(&repo, unix_ms());
        if !repo.is_mirrored() {
            self.keep_cold_fresh(&repo).await;
        }
    }

    /// A repository that nobody used is in use from now on.
    pub(crate) async fn look_often(self: Rc<Self>, repo: Arc<Repo>) {
        self.hasten_in_use(&repo);
    }

    pub(super) fn hasten_in_use(&self, repo: &Repo) {
        let interval_ms = self.config.ref_check_interval.as_millis() as u64;
        self.hasten(repo, unix_ms().saturating_add(interval_ms));
    }

    /// Waits until the mirror has what the upstream had at `since` or later, for `asker`.
    pub(crate) async fn fresh_for(
        self: Rc<Self>,
        repo: Arc<Repo>,
        since: Instant,
        asker: Asker,
    ) -> Result<(), StartError> {
        self.ensure_mirror(&repo, &asker).await?;
        self.fresh_or_cloned(&repo, since, &asker).await
    }

    fn hasten(&self, repo: &Repo, at_ms: u64) {
        self.schedule.borrow_mut().hasten(&repo.name, at_ms);
        self.wake.notify_one();
    }

    async fn look_now(self: Rc<Self>, name: Arc<str>) {
        match self.catalog.registry.named(&name) {
            Some(repo) if repo.mirror.is_dir() || repo.has_snapshot() => {
                match self.is_left_to_others(&repo).await {
                    true => self.note_compared(&repo, Shown::Same),
                    false => self.refresh(&repo).await,
                }
            }
            // Somebody took the mirror away, and nobody has asked for a snapshot since.
            gone => {
                if let Some(repo) = gone {
                    repo.set_not_kept();
                }
                self.schedule.borrow_mut().remove(&name);
            }
        }
        self.schedule.borrow_mut().ended(&name, unix_ms());
        self.wake.notify_one();
    }

    /// Makes the mirror like its upstream. One that is missing is cloned, for its snapshot would stay as it
    /// is for ever.
    async fn refresh(self: &Rc<Self>, repo: &Arc<Repo>) {
        let asker = Asker::of(Cause::Timer);
        // Why either fails was logged, and noted where it was tried.
        if let Ok(false) = self.ensure_mirror(repo, &asker).await
            && let Ok(flight) = self.freshening(repo, &asker).await
            && let Some(Ok(())) = flight.end().await
        {
            return;
        }
        if let Some(shared) = &self.shared {
            self.give_back_lease(shared, repo).await;
        }
    }

    /// A comparison has ended, or what takes its place: when the next one is due follows from it.
    pub(super) fn note_compared(&self, repo: &Repo, shown: Shown) {
        let in_use = repo.asked.is_in_use();
        let mut schedule = self.schedule.borrow_mut();
        schedule.compared(&repo.name, shown, in_use, unix_ms());
        self.wake.notify_one();
    }

    /// Nothing more is asked of a host by timer for as long as it wants that.
    pub(super) async fn heed(&self, repo: &Repo, error: &MirrorError) {
        let host = repo.name.host();
        let asks = self.compares_by_itself(repo);
        if !asks || !error.may_want_pause() || self.schedule.borrow().is_paused(host, unix_ms()) {
            return;
        }
        let Some(pause) = self.git.pause_wanted(&repo.mirror, &repo.url).await else {
            return;
        };
        let (seconds, until_ms) = (pause.as_secs(), unix_ms() + pause.as_millis() as u64);
        tracing::warn!(host, seconds, "asked for fewer requests: its timers stop");
        self.meter.add(Event::UpstreamPause, 1);
        self.schedule.borrow_mut().pause(host, until_ms);
        self.wake.notify_one();
    }
}
