//! Mirrors are compared with their upstreams: by timer, and when a request needs to know what is
//! new.
//!
//! There is one measure of how fresh a mirror is: the moment at which the last comparison that succeeded
//! *began*, that is, when its git was started. Who needs what the upstream had at a time or later is content
//! with any comparison that began then; one that began before does not count, because it may have looked just
//! before the push that the request is about. So requests share what has not begun yet, and what runs only if
//! it began late enough for them.
//!
//! A comparison that finds something to fetch gives its place back for one among the fetches: those that look
//! are not to wait for those that bring.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::{Asker, ClientPart};
use super::clone::{Ended, freshen_error, lost};
use super::flights::{Duty, Flight};
use super::permission::{Gits, unsaid};
use super::room::Need;
use super::semaphores::{Semaphores, refused};
use super::state::Jobs;
use crate::access::verdicts::About;
use crate::classes::{Arrival, Seat};
use crate::io::clock::unix_ms;
use crate::limits::{FRESHEN_WAIT_MS, REFUSED_TRIES_MAX, UPSTREAM_ANSWER_KEPT_MS};
use crate::manifest::want::AnyId;
use crate::mirror::beside::Beside;
use crate::mirror::noted::note_upstream;
use crate::mirror::recover::remove_unfinished;
use crate::mirror::schedule::{Key, Shown};
use crate::mirror::{Freshened, Git, MirrorError, link_packs};
use crate::repos::error::StartError;
use crate::repos::repo::{Permit, Repo};
use crate::telemetry::metrics::{Cause, Event, FetchResult};

impl Jobs {
    /// The comparison that runs; begins one if none does. Fails when the request must not wait
    /// for it.
    pub(super) async fn freshening(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        asker: &Asker,
    ) -> Result<Flight<Ended>, StartError> {
        let part = tokio::select! {
            biased;
            () = self.freshening.begun(&repo.name) => None,
            part = self.semaphores.comparisons_of_client.acquire(asker.client) => Some(part),
        };
        let (flight, duty) = self.freshening.join(&repo.name);
        flight.raise(asker.cause);
        match duty {
            Some(duty) => {
                let (host, comparisons) = (repo.name.host(), &self.semaphores.comparisons);
                let seat = comparisons.enter(host, duty.urgency(), asker.arrival());
                let seat = seat.map_err(|why| refused(repo, &why))?;
                let gits = self.git_for(repo, asker)?.telling(&repo.arrived);
                // A task of its own: whoever asked for it may leave.
                let by = self.asked_by(repo, asker);
                let freshen = self
                    .clone()
                    .freshen(repo.clone(), (gits, by), (duty, seat, part));
                spawn_local(freshen);
            }
            None => self.check_way(repo, asker, &flight).await?,
        }
        Ok(flight)
    }

    /// Joins the comparison that runs, if one does, and waits for its end. Whether one ran.
    pub(super) async fn join_freshening(&self, repo: &Repo) -> bool {
        match self.freshening.running(&repo.name) {
            Some(flight) => {
                flight.raise(Cause::Asked);
                flight.end().await.is_some()
            }
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
        let mut tries = REFUSED_TRIES_MAX;
        while !repo.is_fresh_since(since) {
            let flight = self.freshening(repo, asker).await?;
            let ended = flight.clone().end().await.unwrap_or_else(|| Err(lost()));
            match (flight.began(), ended) {
                // Somebody else has shown what the upstream does not take any more.
                (_, Err(why)) if why == unsaid() && self.may_ask_again(asker, &mut tries) => {}
                (Some(began), ended) if began >= since => return ended,
                // It did not come to begin.
                (None, Err(why)) => return Err(why),
                _ => {}
            }
        }
        Ok(())
    }

    /// The same by a comparison that begins now or later, within [`FRESHEN_WAIT_MS`].
    pub(super) async fn fresh_now(self: &Rc<Self>, repo: &Arc<Repo>, asker: &Asker) -> Ended {
        let limit = Duration::from_millis(FRESHEN_WAIT_MS);
        self.fresh_in_time(repo, Instant::now(), asker, limit).await
    }

    /// The same within `limit`, and not at all if the upstream could not be asked just now. An error means
    /// that what the mirror has may be older.
    pub(super) async fn fresh_in_time(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        since: Instant,
        asker: &Asker,
        limit: Duration,
    ) -> Ended {
        if repo.is_fresh_since(since) {
            return Ok(());
        }
        if let Some((why, ago)) = repo.failure()
            && ago < Duration::from_millis(UPSTREAM_ANSWER_KEPT_MS)
        {
            return Err(why);
        }
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
        (gits, by): (Gits, Option<About>),
        (duty, mut seat, _part): (Duty<Arc<str>, Ended>, Seat, Option<ClientPart>),
    ) {
        self.room_for_pack(&repo).await;
        // The class is not closed while this runs.
        let _ = seat.placed().await;
        if let Some(setting_up) = self.setting_up.running(&repo.name) {
            // It changes the configuration and packs refs, as the comparison does.
            setting_up.end().await;
        }
        let ((unix_began_ms, began), compared) = self.compare(&repo, &gits, &duty, seat).await;
        let result = match &compared {
            Ok(Freshened::Unchanged) => FetchResult::Unchanged,
            Ok(Freshened::Moved { .. }) => FetchResult::Changed,
            Err(_) => FetchResult::Failed,
        };
        self.meter.add(Event::Fetch(result), 1);
        let moved = match compared {
            Ok(Freshened::Unchanged) => false,
            Ok(Freshened::Moved { refs_changed, .. }) => {
                tracing::info!(repository = &*repo.name, refs_changed, "fetched");
                true
            }
            Err(e) => {
                tracing::warn!(repository = &*repo.name, "cannot fetch: {e}");
                let why = freshen_error(&repo, &e);
                if matches!(e, MirrorError::Replaced { .. }) {
                    self.drop_all(&repo).await;
                    return duty.done(Err(why));
                }
                if self.is_refused_to(by, &e) {
                    // Others may be told otherwise.
                    return duty.done(Err(unsaid()));
                }
                self.note_failed(&repo, &why);
                self.tidy(&repo).await;
                duty.done(Err(why));
                return self.heed(&repo, &e).await;
            }
        };
        if moved {
            // Noted before anybody hears of it.
            repo.set_moved();
            self.absent.borrow_mut().forget(&repo.name);
            self.mirror_changed(&repo);
        }
        // Also when nothing moved: somebody may have put another mirror there.
        if let Some(head) = self.read_head(&repo).await {
            repo.set_head(head);
        }
        if let Err(why) = self.leave_nothing(&repo).await {
            self.note_failed(&repo, &why);
            return duty.done(Err(why));
        }
        repo.set_fresh(unix_began_ms, began);
        self.note_upstream(&repo).await;
        let shown = if moved { Shown::Moved } else { Shown::Same };
        self.note_compared(&repo, shown);
        let cause = duty.urgency().cause();
        duty.done(Ok(()));
        // Also when nothing moved: the last try may have failed.
        self.rebuild(&repo, cause);
        if moved {
            self.note_due(&repo);
            spawn_local(self.clone().join_small(repo));
        }
    }

    /// A comparison has failed.
    fn note_failed(&self, repo: &Repo, why: &StartError) {
        repo.set_failed(why.clone());
        self.note_compared(repo, Shown::Failed);
    }

    /// Has git compare, and fetch what is new; when that began, by two clocks, and what came of it.
    async fn compare(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        gits: &Gits,
        duty: &Duty<Arc<str>, Ended>,
        seat: Seat,
    ) -> ((u64, Instant), Result<Freshened, MirrorError>) {
        // Until refs are in force that may lead to what it has taken for there.
        let _arriving = repo.locks.arrivals.read().await;
        let cause = duty.urgency().cause();
        self.meter.add(Event::Comparison(cause), 1);
        let unix_began_ms = unix_ms();
        repo.looked.note(unix_began_ms);
        let began = duty.begin();
        let seat = Cell::new(Some(seat));
        // Nobody waits for a timer's.
        let is_asked = cause != Cause::Timer;
        let reading = Cell::new(is_asked.then(|| self.read_beside(repo)).flatten());
        let (host, fetches) = (repo.name.host(), &self.semaphores.fetches);
        let class = Cell::new(&self.semaphores.comparisons);
        let turn = async |missing: &BTreeSet<AnyId>| {
            drop(seat.take());
            // It has answered what it has.
            class.replace(fetches).note_try(host, false);
            self.bring(repo, reading.take()).await;
            // It has begun, and is not refused.
            if let Ok(mut fetching) = fetches.enter(host, duty.urgency(), Arrival::Promised) {
                let _ = fetching.placed().await;
                seat.set(Some(fetching));
            }
            self.link_annexed(repo, missing).await;
        };
        let beside = Arc::new(Beside::of(repo.annex.refs_in_use()));
        let gits = gits.asking_beside(&beside);
        let freshen = async |git: &Git| {
            let (mirror, url, refs) = (&repo.mirror, &repo.url, &repo.locks.refs);
            git.freshen_in_turn(mirror, url, refs, &turn).await
        };
        let mut compared = gits.each(&freshen).await;
        if let Err(e) = &compared
            && self.is_for_room(e).await
        {
            // What it has left takes room itself.
            self.tidy(repo).await;
            self.make_room(&repo.name, Need::Must).await;
            compared = gits.each(&freshen).await;
        }
        repo.arrived.end();
        if compared.is_ok() {
            repo.annex.note_told(&beside, began);
        }
        Semaphores::note_try(class.get(), repo, &compared);
        ((unix_began_ms, began), compared)
    }

    /// What was fetched by its id, and is a ref's now, becomes the mirror's without being fetched again.
    async fn link_annexed(&self, repo: &Arc<Repo>, missing: &BTreeSet<AnyId>) {
        let packs = repo.annex.packs_of(missing);
        if packs.is_empty() {
            return;
        }
        let mirror = repo.mirror.clone();
        let linked = spawn_blocking(move || link_packs(&mirror, &packs)).await;
        if let Ok(Err(error)) = linked {
            tracing::warn!(repository = &*repo.name, %error, "what its annex has is fetched again");
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
    pub(super) fn rebuild(self: &Rc<Self>, repo: &Arc<Repo>, cause: Cause) {
        let permits = repo.rebuild().into_iter();
        for permit in permits.chain(repo.rebuild_others(&[])) {
            self.build_for(permit, cause);
        }
        self.offer_current(repo);
    }

    /// Has a build run that nobody waits for yet.
    pub(super) fn build_for(self: &Rc<Self>, permit: Permit, cause: Cause) {
        spawn_local(self.clone().build(permit, Asker::of(cause), None));
    }

    /// Removes what a comparison that failed has left, unless something else writes packs. It
    /// still holds the duty, so that no other begins.
    async fn tidy(&self, repo: &Arc<Repo>) {
        let (_, Some(maintaining)) = self.maintaining.join(&repo.name) else {
            return;
        };
        let cleaned = repo.clone();
        let removed = tokio::task::spawn_blocking(move || {
            // Where a build packs, it goes after the next one that fails, or at the next start.
            let packing = cleaned.locks.packing.try_lock();
            packing.map_or(Ok(()), |_packing| remove_unfinished(&cleaned.mirror))
        });
        let removed = removed.await;
        maintaining.done(());
        if let Ok(Err(e)) = removed {
            tracing::warn!(repository = &*repo.name, "cannot remove half a pack: {e}");
        }
    }
}
