//! Who compares a repository with its upstream by timer, and repacks it: of the servers that share a store, and are asked for
//! it, one ([`lease`](crate::store::remote::lease)). Nothing right rests on it. Whoever lacks a commit, or is told to be fresh,
//! asks the upstream himself.
//!
//! - It is for what the head says: who has it answers for it that the head shows what the upstream has. So only one takes or
//!   renews it whose last comparison has found what the head shows; one that cannot compare, build or share any more
//!   gives it back or lets it expire, whatever the reason.
//! - Others leave it to that one for as long as the head shows what they have, for of anything new they hear by the head.
//!   They know it to be held for as long as a lease lasts since they have first seen it as it is, and do not read it again
//!   before: once in [`LEASE_MS`] at most.
//! - Of a repository that nobody asks for here nothing is read or written. A store that does not answer is asked again as
//!   late, and everything goes on as if there were no leases.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::leased::{Known, One, Own};
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::limits::{LEASE_COMPARED_MS, LEASE_MS, STORE_FIRST_WAIT_MS};
use crate::manifest::want::Want;
use crate::repos::repo::Repo;
use crate::store::remote::key::hex;
use crate::store::remote::lease::{Compared, Taken, Watch};
use crate::store::remote::publish::SystemRandom;
use crate::telemetry::metrics::{Event, LeaseResult};

impl Jobs {
    /// How long a lease lasts.
    fn lease_time(&self) -> Duration {
        Duration::from_millis(self.faults.store_lease_ms.unwrap_or(LEASE_MS))
    }

    /// The time by which one expires.
    fn lease_clock(&self, shared: &Shared) -> u64 {
        let lease_ms = self.faults.store_lease_ms.unwrap_or(LEASE_MS).max(1);
        shared.objects.now_ms().saturating_mul(LEASE_MS) / lease_ms
    }

    /// The store, if a repository's lease is there.
    fn leases_of(&self, repo: &Repo) -> Option<&Shared> {
        let shared = self.shared.as_ref()?;
        let is_asked = repo.asked.is_in_use() && repo.is_mirrored() && !shared.leases.is_over.get();
        (is_asked && self.is_shared(repo)).then_some(shared)
    }

    /// Whether a comparison that is due by timer is another server's, which does it. Takes the lease where it is free.
    pub(super) async fn is_left_to_others(&self, repo: &Arc<Repo>) -> bool {
        let Some(shared) = self.leases_of(repo) else {
            return false;
        };
        // What nobody else would look at.
        if !repo.annex.refs_in_use().is_empty() {
            return false;
        }
        let Some(archive) = shared.shown(repo) else {
            return false;
        };
        let one = shared.leases.one(&repo.name);
        if one.is_own(self.lease_time()) {
            return false;
        }
        if !one.is_known() {
            self.ask_lease(shared, repo, &one).await;
        }
        if !one.is_others() {
            return false;
        }
        // It may have been another head meanwhile.
        let is_shown = |now: Arc<Archive>| Arc::ptr_eq(&now, &archive);
        let is_left =
            shared.shown(repo).is_some_and(is_shown) && one.says(&shared.about(&archive.want).kind);
        if is_left {
            one.tell_age(&archive);
        }
        is_left
    }

    /// Whether the packs of a mirror that is asked for all the time are joined by another server. They are put off once: who
    /// never hears of that joins them himself.
    pub(super) fn is_joined_by_others(&self, repo: &Repo) -> bool {
        let Some(shared) = self.leases_of(repo) else {
            return false;
        };
        let Some(one) = shared.leases.get(&repo.name) else {
            return false;
        };
        let is_others = one.is_others()
            && shared
                .shown(repo)
                .is_some_and(|it| one.says(&shared.about(&it.want).kind));
        is_others && !one.is_put_off.replace(!one.is_put_off.get())
    }

    /// Asks whose a lease is, and takes it if it is nobody's and this server may.
    async fn ask_lease(&self, shared: &Shared, repo: &Arc<Repo>, one: &One) {
        let lease = self.lease_time();
        let mut watch = one.watch.lock().await;
        if one.is_known() || one.is_own(lease) {
            return;
        }
        if let Known::Own(_) = one.known.take() {
            self.meter.add(Event::Lease(LeaseResult::Lost), 1);
        }
        let began = Instant::now();
        let asked = self.whose_is(shared, repo, &mut watch);
        let wait_ms = STORE_FIRST_WAIT_MS;
        let asked = tokio::time::timeout(Duration::from_millis(wait_ms), asked).await;
        let asked = asked.unwrap_or(Err(ShareError::Slow { wait_ms }));
        // It was seen no later than now.
        let until = Instant::now() + lease;
        let now = match asked {
            Ok(Some(Taken::Own)) => {
                self.meter.add(Event::Lease(LeaseResult::Taken), 1);
                tracing::debug!(
                    repository = &*repo.name,
                    "compared by this server from here on"
                );
                Known::Own(Own::new(&self.meter, began))
            }
            Ok(Some(Taken::Others(Some(said)))) => Known::Others {
                until,
                compared: said.compared,
            },
            Ok(None) if shared.is_readonly => Known::Unsaid { until },
            // It is taken once this server has compared, or somebody else was faster.
            Ok(None | Some(Taken::Others(None))) => Known::Nothing,
            Err(why) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::debug!(repository, "who compares it is not known: {why}");
                Known::Unsaid { until }
            }
        };
        *one.known.borrow_mut() = now;
    }

    /// Whose it is; nothing if it is nobody's and this server does not take it.
    async fn whose_is(
        &self,
        shared: &Shared,
        repo: &Arc<Repo>,
        watch: &mut Watch,
    ) -> Result<Option<Taken>, ShareError> {
        let (key, objects) = (place_of(repo).lease(), &shared.objects);
        let clock = || self.lease_clock(shared);
        let compared = self.compared_in_head(shared, repo);
        let Some(compared) = compared.filter(|_| !shared.is_readonly) else {
            let lease = watch.look(objects, &key, (shared.leases.me, clock)).await?;
            return Ok(lease.map(|lease| Taken::Others(Some(lease))));
        };
        let me = (shared.leases.me, Some(compared));
        let stamp = (&mut SystemRandom, clock);
        Ok(Some(watch.take_for(objects, &key, me, stamp).await?))
    }

    /// What the head shows, if the last comparison of this server has found the same.
    fn compared_in_head(&self, shared: &Shared, repo: &Repo) -> Option<Compared> {
        let archive = shared.shown(repo)?;
        let last = repo.compared().filter(|_| repo.failure().is_none())?;
        let current = repo.hit_of(&archive.want, Some(last.began))?;
        let is_late = last.began.elapsed() >= self.compared_within();
        (Arc::ptr_eq(&current, &archive) && !is_late).then(|| Compared {
            kind: shared.about(&archive.want).kind,
            shows: hex(&archive.shown),
            unix_ms: last.unix_ms,
        })
    }

    /// How long ago the last comparison of who works on a repository is at most.
    fn compared_within(&self) -> Duration {
        let interval = self.config.ref_check_interval;
        Duration::from_millis(LEASE_COMPARED_MS).max(interval * 2)
    }

    /// Renews the lease of a repository whose head was looked at, if this server has it and answers for that; gives it back
    /// if it cannot compare.
    pub(super) async fn keep_lease(&self, shared: &Shared, repo: &Arc<Repo>) {
        let Some(one) = shared.leases.get(&repo.name) else {
            return;
        };
        let since = match &*one.known.borrow() {
            Known::Own(own) => own.renewed.elapsed(),
            _ => return,
        };
        let is_used = self.leases_of(repo).is_some();
        if !is_used || repo.failure().is_some() {
            return self.give_back_lease(shared, repo).await;
        }
        let lease = self.lease_time();
        match self.compared_in_head(shared, repo) {
            Some(compared) if since >= lease / 2 => {
                self.renew_lease(shared, repo, (&one, compared)).await;
            }
            None if since >= lease => {
                self.meter.add(Event::Lease(LeaseResult::Lost), 1);
                *one.known.borrow_mut() = Known::Nothing;
            }
            _ => {}
        }
    }

    async fn renew_lease(
        &self,
        shared: &Shared,
        repo: &Arc<Repo>,
        (one, compared): (&One, Compared),
    ) {
        let mut watch = one.watch.lock().await;
        let (key, began) = (place_of(repo).lease(), Instant::now());
        let (me, random) = ((shared.leases.me, Some(compared)), &mut SystemRandom);
        let kept = watch.keep_for(&shared.objects, &key, me, random);
        let wait = Duration::from_millis(STORE_FIRST_WAIT_MS);
        match tokio::time::timeout(wait, kept).await {
            Ok(Ok(true)) => {
                if let Known::Own(own) = &mut *one.known.borrow_mut() {
                    own.renewed = began;
                }
            }
            Ok(Ok(false)) => {
                self.meter.add(Event::Lease(LeaseResult::Lost), 1);
                tracing::debug!(
                    repository = &*repo.name,
                    "compared by another server by now"
                );
                *one.known.borrow_mut() = Known::Nothing;
            }
            // It is this server's until it expires.
            Ok(Err(_)) | Err(_) => {}
        }
    }

    /// This server cannot compare a repository, or nobody asks it for that any more.
    pub(super) async fn give_back_lease(&self, shared: &Shared, repo: &Repo) {
        let Some(one) = shared.leases.get(&repo.name) else {
            return;
        };
        let was_own = {
            let mut known = one.known.borrow_mut();
            let was_own = matches!(&*known, Known::Own(_));
            if was_own {
                // Others are to have it first.
                let until = Instant::now() + self.lease_time();
                *known = Known::Unsaid { until };
            }
            was_own
        };
        if !was_own {
            return;
        }
        let mut watch = one.watch.lock().await;
        let (key, random) = (place_of(repo).lease(), &mut SystemRandom);
        let given = watch.give_back(&shared.objects, &key, shared.leases.me, random);
        let wait = Duration::from_millis(STORE_FIRST_WAIT_MS);
        let repository = &*repo.name;
        match tokio::time::timeout(wait, given).await {
            Ok(Ok(())) => {
                self.meter.add(Event::Lease(LeaseResult::GivenBack), 1);
                tracing::debug!(repository, "compared by this server no more");
            }
            // It expires.
            Ok(Err(why)) => tracing::debug!(repository, "not given back: {}", causes(&why)),
            Err(_) => tracing::debug!(repository, "not given back in time"),
        }
    }

    /// Gives back what nobody asks for here any more, and forgets what was known of it.
    pub(super) async fn leave_leases(self: Rc<Self>) {
        let Some(shared) = &self.shared else { return };
        let names = Vec::from_iter(shared.leases.all.borrow().keys().cloned());
        for name in names {
            let repo = self.catalog.registry.named(&name);
            if repo.as_ref().is_some_and(|repo| repo.asked.is_in_use()) {
                continue;
            }
            if let Some(repo) = repo {
                self.give_back_lease(shared, &repo).await;
            }
            shared.leases.all.borrow_mut().remove(&name);
        }
    }

    /// The process is about to end: gives back all, for as long as there is time.
    pub(super) async fn give_back_leases(&self, shared: &Shared, ends: Instant) {
        shared.leases.is_over.set(true);
        let names = Vec::from_iter(shared.leases.all.borrow().keys().cloned());
        let all = async {
            for name in names {
                if let Some(repo) = self.catalog.registry.named(&name) {
                    self.give_back_lease(shared, &repo).await;
                }
            }
        };
        // What is not given back expires.
        let _ = tokio::time::timeout_at(ends.into(), all).await;
    }
}

impl Shared {
    /// The snapshot of a plain request, if the head shows the same, as it was read last.
    fn shown(&self, repo: &Repo) -> Option<Arc<Archive>> {
        let archive = repo.archive_of(&Want::default())?;
        let all = self.seen.borrow();
        let seen = all.get(&repo.name).filter(|seen| seen.is_settled())?;
        let head = &seen.last.as_ref()?.head;
        let current = head.current(&self.about(&archive.want))?;
        let is_it = current.shows == hex(&archive.shown) && head.is_valid(current);
        is_it.then_some(archive)
    }
}
