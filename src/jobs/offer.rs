//! What was built here is uploaded for other servers, in the background. No client and no build waits for it, and no
//! file stays for it: what leaves this server's disk before it was uploaded is not uploaded.

use std::rc::Rc;
use std::sync::{Arc, Weak, mpsc};
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::Asker;
use super::generation::Agreed;
use super::makings::Making;
use super::plane::Handle;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use super::store_uses::Use;
use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::limits::{
    LEASES_END_MS, OFFER_RETRY_MAX_MS, OFFER_RETRY_MS, OFFER_ROUNDS_MAX, OFFERED_LOOK_MS,
    OFFERS_AT_ONCE, UPLOADS_END_MS,
};
use crate::manifest::want::Want;
use crate::repos::repo::Repo;
use crate::store::remote::change::Change;
use crate::store::remote::entry::{Described, describe};
use crate::store::remote::key::{Place, hex, refs_name};
use crate::store::remote::listing::Listing;
use crate::store::remote::objects::{Content, Objects};
use crate::store::remote::publish::{Base, Contents, Published, SystemRandom, Uploads};
use crate::telemetry::metrics::{Cause, Event, OfferResult};

impl Jobs {
    /// Has a snapshot uploaded that was just published, if it is that of a plain request and not an upstream's to
    /// permit: others are not taken from there.
    pub(super) fn offer(self: &Rc<Self>, repo: &Arc<Repo>, archive: &Arc<Archive>) {
        let Some(shared) = self.shares(repo, &archive.want) else {
            return;
        };
        if archive.set_offered(true) {
            return;
        }
        let mut offers = shared.offers.borrow_mut();
        let is_running = offers.contains_key(&repo.name);
        let waiting = offers.entry(repo.name.clone()).or_default();
        // The backlog has what the newest head needs.
        waiting.retain(|old| {
            let old = old.upgrade();
            old.is_some_and(|old| old.want != archive.want)
        });
        waiting.push(Arc::downgrade(archive));
        if !is_running {
            spawn_local(self.clone().offer_all(repo.clone()));
        }
    }

    /// Where a snapshot of that is uploaded, if it is.
    fn shares(&self, repo: &Repo, want: &Want) -> Option<&Shared> {
        let shared = self.shared.as_ref().filter(|shared| !shared.is_readonly);
        let is_asked = self.permissions.of_repository(&repo.name).is_some();
        shared.filter(|_| want.is_default() && !is_asked)
    }

    /// Held while a snapshot is made that will be offered: whoever was sent all of it may have asked for nothing else, and
    /// the server may be told to stop before it is in its place.
    pub(super) fn making(&self, repo: &Repo, want: &Want) -> Option<Making<'_>> {
        let shared = self.shares(repo, want)?;
        Some(shared.makings.begin(&repo.name))
    }

    /// The same of what is served, which an earlier process may have published, or one without a store, once somebody uses it.
    pub(super) fn offer_current(self: &Rc<Self>, repo: &Arc<Repo>) {
        if self.shared.is_some()
            && repo.asked.is_in_use()
            && let Some(archive) = repo.archive_of(&Want::default())
        {
            self.offer(repo, &archive);
        }
    }

    async fn offer_all(self: Rc<Self>, repo: Arc<Repo>) {
        let Some(shared) = &self.shared else { return };
        let (mut uploads, mut wait_ms) = (Uploads::default(), OFFER_RETRY_MS);
        while let Some(next) = next_offer(shared, &repo.name) {
            let Some(archive) = next.upgrade() else {
                continue;
            };
            let offered = self
                .offer_now(shared, (&repo, &archive), &mut uploads)
                .await;
            let repository = &*repo.name;
            let current = repo.archive_of(&archive.want);
            let is_current = current.is_some_and(|current| Arc::ptr_eq(&current, &archive));
            let offered = match offered {
                // Its files may have left.
                Err(_) if !is_current => Ok(OfferResult::Superseded),
                offered => offered,
            };
            match offered {
                Ok(result) => {
                    self.meter.add(Event::Offer(result), 1);
                    tracing::info!(repository, id = %archive.id, result = result.name(), "shared");
                    shared.is_refused.set(false);
                    wait_ms = OFFER_RETRY_MS;
                }
                Err(why) => {
                    self.meter.add(Event::Offer(OfferResult::Failed), 1);
                    if why.is_denied() {
                        // It is the same for all, and until somebody has changed it.
                        wait_ms = OFFER_RETRY_MAX_MS;
                    }
                    let is_said = why.is_denied() && shared.is_refused.replace(true);
                    let why = causes(&why);
                    if is_said {
                        tracing::debug!(repository, id = %archive.id, wait_ms, "not shared yet: {why}");
                    } else {
                        tracing::warn!(repository, id = %archive.id, wait_ms, "not shared yet: {why}");
                    }
                    again(shared, &repo.name, &archive);
                    drop(archive);
                    let _put_off = PutOff::new(shared, &repo.name);
                    // Servers that were refused together do not come back together.
                    let jitter_ms = SystemRandom::below(wait_ms);
                    tokio::time::sleep(Duration::from_millis(wait_ms + jitter_ms)).await;
                    wait_ms = (wait_ms * 2).min(OFFER_RETRY_MAX_MS);
                }
            }
        }
    }

    /// Uploads a snapshot and has the head name it, if it is what the upstream has once the head was read: so nothing
    /// older ever takes the place of what another server has seen.
    async fn offer_now(
        self: &Rc<Self>,
        shared: &Shared,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        uploads: &mut Uploads,
    ) -> Result<OfferResult, ShareError> {
        let place = place_of(repo);
        for round in 0..OFFER_ROUNDS_MAX {
            if round > 0 {
                // Those who write all the time do not meet again at once.
                shared.objects.before_again(round).await;
            }
            let agreed = self.at_generation(shared, repo, &place).await?;
            let base = &agreed.base;
            let about = shared.about(&archive.want);
            if !self.may_share(shared, repo, base).await {
                archive.set_offered(false);
                return Ok(OfferResult::Unused);
            }
            let used = self.unsaid_use(shared, repo, Some(&base.head)).await;
            if agreed.owed.is_none()
                && self
                    .is_known(shared, (repo, archive), (base, &place))
                    .await?
            {
                // Its packs may be others.
                self.look_shared_soon(&repo.name);
                return Ok(OfferResult::Known);
            }
            let (current, seen_unix_ms) = self.current((repo, archive), &agreed).await?;
            if !current.is_some_and(|current| Arc::ptr_eq(&current, archive)) {
                // It may be what the upstream has once more.
                archive.set_offered(false);
                return Ok(OfferResult::Superseded);
            }
            // Nothing is waited for with it but the disk and the store. The semaphore is never closed.
            let _turn = shared.turns.acquire().await;
            if !shared.base(&repo.name, &place).await?.is_as(base) {
                continue;
            }
            let listing = Listing::read(&shared.objects, &place).await?;
            let (dir, sums) = (archive.dir(), shared.sums.clone());
            let described = spawn_blocking(move || describe(&dir, about, seen_unix_ms, &sums));
            let described = described.await??;
            let made = self.change_of((repo, archive), described, (&agreed, used));
            let (change, contents) = made.await;
            let stamp = (&mut SystemRandom, unix_ms());
            let (there, what) = ((base, &listing), (&change, &contents));
            let published = uploads.publish(&shared.objects, &place, there, what, stamp);
            match published.await? {
                Published::Done(_) => {
                    // What is named no more goes also if nobody uses it, or this server ends before.
                    shared.memories.note_unswept(&place, true);
                    shared.look_within(&repo.name, self.kept());
                    if let Some(used) = used {
                        shared.note_said(repo, used);
                    }
                    if agreed.owed.is_some() {
                        self.note_told(shared, repo, agreed.generation).await?;
                    }
                    return Ok(OfferResult::Done);
                }
                Published::Already => return Ok(OfferResult::Known),
                Published::Lost(_) | Published::Behind => {}
            }
        }
        Err(ShareError::Busy)
    }

    /// What is current of what an archive is of, once the upstream was compared, and when that was; or without, where others are
    /// to be told by it.
    async fn current(
        self: &Rc<Self>,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        agreed: &Agreed,
    ) -> Result<(Option<Arc<Archive>>, u64), ShareError> {
        let (read, asker) = (agreed.read, Asker::of(Cause::Timer));
        match self.fresh_since(repo, read, &asker).await {
            Ok(()) => Ok((repo.hit_of(&archive.want, Some(read)), agreed.read_unix_ms)),
            Err(_) if self.tells_uncompared((repo, archive), agreed).await => {
                let seen_unix_ms = repo.fresh_unix_ms().unwrap_or(0);
                Ok((repo.archive_of(&archive.want), seen_unix_ms))
            }
            Err(why) => Err(why.into()),
        }
    }

    /// Whether a head shows what an archive does already, and all of it is there; if it is what this server has made other
    /// packs of, that is not.
    async fn is_known(
        &self,
        shared: &Shared,
        (repo, archive): (&Repo, &Archive),
        (base, place): (&Base, &Place),
    ) -> Result<bool, ShareError> {
        let (about, shows) = (shared.about(&archive.want), hex(&archive.shown));
        let current = base.head.current(&about);
        let Some(current) = current.filter(|current| current.shows == shows) else {
            return Ok(false);
        };
        if self.is_made_of(shared, (repo, archive), current).await {
            return Ok(false);
        }
        let listing = Listing::read(&shared.objects, place).await?;
        Ok(base.head.shows(&about, &shows, &listing))
    }

    /// What a head is to say of an archive, and where its parts lie.
    async fn change_of(
        &self,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        described: Described,
        (agreed, used): (&Agreed, Option<Use>),
    ) -> (Change, Contents<Content>) {
        let mut contents = described.contents;
        let refs = self.shown_refs(repo, archive).await;
        let mirror = refs.map(|refs| {
            let name = refs_name(&refs);
            let part = (refs.len() as u64, Content::Bytes(refs));
            contents.insert(name.clone(), part);
            (described.packs, name)
        });
        let change = Change {
            generation: agreed.generation,
            after: agreed.after,
            used: used.map(Use::day),
            mirror,
            snapshots: vec![described.snapshot],
        };
        (change, contents)
    }
}

impl Handle<Jobs> {
    /// Waits until all that was to be shared is, but for what cannot be just now, and not for longer than this.
    pub(crate) fn wait_offered(&self, limit: Duration) {
        let (done, is_done) = mpsc::channel();
        self.spawn(move |jobs| async move {
            if let Some(shared) = &jobs.shared {
                shared.wait_offered(limit).await;
                let wait = Duration::from_millis(LEASES_END_MS);
                jobs.give_back_leases(shared, Instant::now() + wait).await;
            }
            // Fails when nobody waits any more.
            let _ = done.send(());
        });
        let wait_ms = UPLOADS_END_MS + LEASES_END_MS;
        let _ = is_done.recv_timeout(limit + Duration::from_millis(wait_ms));
    }
}

impl Shared {
    /// The same: what others or timers begin meanwhile is not waited for. What is not uploaded by then is given up, and removed
    /// where half of it is there.
    async fn wait_offered(&self, limit: Duration) {
        let look = Duration::from_millis(OFFERED_LOOK_MS);
        let ends = Instant::now() + limit;
        let (names, then) = (self.to_offer(), self.makings.now());
        while self.is_offering((&names, then)) && Instant::now() < ends {
            tokio::time::sleep(look).await;
        }
        self.objects.end_uploads();
        let ends = Instant::now() + Duration::from_millis(UPLOADS_END_MS);
        while self.turns.available_permits() < OFFERS_AT_ONCE && Instant::now() < ends {
            tokio::time::sleep(look).await;
        }
    }
}

/// A repository of which nothing is uploaded for a while, for that has failed.
struct PutOff<'s>(&'s Shared, &'s Arc<str>);

impl PutOff<'_> {
    fn new<'s>(shared: &'s Shared, name: &'s Arc<str>) -> PutOff<'s> {
        shared.put_off.borrow_mut().insert(name.clone());
        PutOff(shared, name)
    }
}

impl Drop for PutOff<'_> {
    fn drop(&mut self) {
        self.0.put_off.borrow_mut().remove(self.1);
    }
}

/// What is to be uploaded next; when there is nothing more, nobody is at the repository from here on.
fn next_offer(shared: &Shared, name: &Arc<str>) -> Option<Weak<Archive>> {
    let mut offers = shared.offers.borrow_mut();
    let next = offers.get_mut(name).and_then(Vec::pop);
    if next.is_none() {
        offers.remove(name);
    }
    next
}

/// It is tried again, unless there is something newer.
fn again(shared: &Shared, name: &Arc<str>, archive: &Arc<Archive>) {
    let mut offers = shared.offers.borrow_mut();
    let waiting = offers.entry(name.clone()).or_default();
    let is_same = |other: &Weak<Archive>| {
        let other = other.upgrade();
        other.is_some_and(|other| other.want == archive.want)
    };
    if !waiting.iter().any(is_same) {
        waiting.insert(0, Arc::downgrade(archive));
    }
}
