//! What was shared is looked at now and then: whether the head of a repository still says it, whether all of it is there,
//! whether something has expired at another server, and what is to be removed.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::shared::{Seen, ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::limits::{
    OFFER_RETRY_MAX_MS, STORE_LIST_MS, STORE_LOOK_ALL_MS, STORE_LOOK_IN_USE_MS, STORE_LOOK_TICK_MS,
    STORE_RAISED_LOOK_MS, STORE_SWEEP_MS,
};
use crate::manifest::want::Want;
use crate::repos::repo::Repo;
use crate::store::remote::collect::{Swept, sweep};
use crate::store::remote::head::Condemned;
use crate::store::remote::key::{Place, hex};
use crate::store::remote::listing::Listing;
use crate::store::remote::publish::{Base, SystemRandom};
use crate::store::remote::raised::{Heard, News};

fn is_long_ago(at: Option<Instant>, ms: u64) -> bool {
    at.is_none_or(|at| at.elapsed() >= Duration::from_millis(ms))
}

/// Nobody else looks at a head for as long as this is there.
struct Looking<'s>(&'s Shared, Arc<str>);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.with_seen(&self.1, |seen| seen.is_looked_at = false);
    }
}

impl Jobs {
    /// Looks at the heads of what is in use here, each in its time, and at those of others where there is something to see to.
    pub(super) async fn keep_shared(self: Rc<Self>) {
        let Some(shared) = &self.shared else { return };
        spawn_local(self.clone().hear_raised());
        spawn_local(self.clone().keep_memories());
        spawn_local(self.clone().tell_uses());
        let tick_ms = self.faults.store_look_ms.unwrap_or(STORE_LOOK_TICK_MS);
        let mut walked = None;
        loop {
            tokio::time::sleep(Duration::from_millis(tick_ms)).await;
            if shared.objects.rests() {
                continue;
            }
            let registry = &self.catalog.registry;
            // What is used again is found by a walk over all, which may be many; what is known to be looked at is few.
            let known = match is_long_ago(walked, self.look_in_use_ms()) {
                true => {
                    walked = Some(Instant::now());
                    spawn_local(self.clone().leave_leases());
                    let known = registry.all();
                    let names: HashSet<&Arc<str>> = known.iter().map(|repo| &repo.name).collect();
                    let mut seen = shared.seen.borrow_mut();
                    seen.retain(|name, _| names.contains(name));
                    drop(seen);
                    known
                }
                false => {
                    let seen = shared.seen.borrow();
                    let is_known = |seen: &Seen| seen.next.is_some() || seen.last.is_some();
                    let waiting = seen.iter().filter(|(_, seen)| is_known(seen));
                    let waiting = waiting.filter_map(|(name, _)| registry.named(name));
                    waiting.collect()
                }
            };
            for repo in known {
                let is_here = repo.is_mirrored() || repo.has_snapshot();
                if is_here && self.is_shared(&repo) && self.take_look(shared, &repo) {
                    spawn_local(self.clone().look_in_turn(repo));
                }
            }
        }
    }

    /// How often the head of what is in use is looked at.
    pub(super) fn look_in_use_ms(&self) -> u64 {
        self.faults.store_look_ms.unwrap_or(STORE_LOOK_IN_USE_MS)
    }

    /// Writes what was seen of heads, and sees to what an earlier process has had expire, or a mirror that is there no more.
    async fn keep_memories(self: Rc<Self>) {
        let Some(shared) = &self.shared else { return };
        if let Err(why) = shared.memories.find_duties().await {
            let why = causes(&why);
            tracing::error!(
                "what an earlier process has left to be done in the store is not known: {why}"
            );
        }
        let tick_ms = self.faults.store_look_ms.unwrap_or(STORE_LOOK_TICK_MS);
        let (mut told, mut swept) = (None, Instant::now());
        loop {
            tokio::time::sleep(Duration::from_millis(tick_ms)).await;
            if shared.objects.rests() {
                continue;
            }
            let registry = &self.catalog.registry;
            let is_there = |name: &str| registry.named(name).is_some();
            shared.memories.keep(&shared.objects, is_there).await;
            if is_long_ago(told, self.again().as_millis() as u64) {
                told = Some(Instant::now());
                self.tell_without_mirrors().await;
            }
            if swept.elapsed() >= self.kept() {
                swept = Instant::now();
                self.sweep_what_is_left(shared).await;
            }
        }
    }

    /// Hears now and then where something has expired, so that nobody asks for the heads of what nobody uses.
    async fn hear_raised(self: Rc<Self>) {
        let Some(shared) = &self.shared else { return };
        // All that was found at the start is known from then on, and the sender is there for as long as this is.
        let _ = self
            .taken_over
            .subscribe()
            .wait_for(|is_over| *is_over)
            .await;
        let wait_ms = self.faults.store_look_ms.unwrap_or(STORE_RAISED_LOOK_MS);
        let mut heard = Heard::default();
        loop {
            match heard.news(&shared.objects).await {
                Ok(news) => self.look_where(shared, &news),
                Err(why) => {
                    tracing::debug!("what has expired elsewhere was not heard: {}", causes(&why))
                }
            }
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    fn look_where(&self, shared: &Shared, news: &News) {
        if *news == News::default() {
            return;
        }
        for repo in self.catalog.registry.all() {
            let wait_ms = match news {
                _ if news.of.contains(place_of(&repo).dir()) => 0,
                // Not all at once.
                News { is_all: true, .. } => SystemRandom::below(STORE_LOOK_ALL_MS),
                _ => continue,
            };
            shared.look_within(&repo.name, Duration::from_millis(wait_ms));
        }
    }

    /// Whether it is time for a look; if so it is this one's.
    fn take_look(&self, shared: &Shared, repo: &Repo) -> bool {
        let interval_ms = self.look_in_use_ms();
        let is_in_use = repo.asked.is_in_use();
        let mut all = shared.seen.borrow_mut();
        let seen = match is_in_use {
            true => all.entry(repo.name.clone()).or_default(),
            false => match all.get_mut(&repo.name) {
                Some(seen) => seen,
                None => return false,
            },
        };
        if !is_in_use {
            seen.last = None;
        }
        let is_time = is_in_use && is_long_ago(seen.looked, interval_ms);
        let is_wanted = seen.next.is_some_and(|next| next <= Instant::now());
        let is_due = !seen.is_looked_at && (is_time || is_wanted);
        if is_due {
            (seen.is_looked_at, seen.looked) = (true, Some(Instant::now()));
            seen.next = None;
        }
        is_due
    }

    /// How long it is until a look that was in vain is tried again.
    pub(super) fn again(&self) -> Duration {
        Duration::from_millis(self.faults.store_look_ms.unwrap_or(OFFER_RETRY_MAX_MS))
    }

    /// The next look is due at once.
    pub(super) fn look_shared_soon(&self, name: &Arc<str>) {
        if let Some(shared) = &self.shared {
            shared.look_within(name, Duration::ZERO);
        }
    }

    async fn look_in_turn(self: Rc<Self>, repo: Arc<Repo>) {
        let Some(shared) = &self.shared else { return };
        let looking = Looking(shared, repo.name.clone());
        if let Err(why) = self.look_shared(shared, &repo).await {
            let (repository, why) = (&*repo.name, causes(&why));
            tracing::debug!(repository, "what is shared was not looked at: {why}");
            shared.look_within(&repo.name, self.again());
        }
        self.keep_lease(shared, &repo).await;
        drop(looking);
    }

    async fn look_shared(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
    ) -> Result<(), ShareError> {
        let place = place_of(repo);
        let agreed = self.at_generation(shared, repo, &place).await?;
        let base = &agreed.base;
        let archive = repo.archive_of(&Want::default());
        if let Some(archive) = &archive {
            note_made(shared, &place, base, archive);
        }
        if let Some(archive) = &archive
            && shows_other(shared, repo, base, archive)
        {
            // Which of the two is newer the upstream says.
            self.clone().look_soon(repo.clone()).await;
        }
        if let Some(archive) = &archive
            && agreed.owed.is_none()
        {
            self.adopt_if_other(shared, (repo, archive), &agreed).await;
        }
        if shared.is_readonly {
            return Ok(());
        }
        if let Some(since) = agreed.owed {
            let told = self.see_told(shared, (repo, &place), (&agreed, since));
            told.await?;
        } else if let Some(archive) = archive
            && self.may_share(shared, repo, base).await
            && !is_shared(shared, (repo, &place), base, &archive).await?
        {
            archive.set_offered(false);
            self.offer(repo, &archive);
        }
        // Also if nobody uses it any more.
        if agreed.owed.is_some() {
            shared.look_within(&repo.name, self.again());
        } else if !base.head.condemned.is_empty() {
            shared.look_within(&repo.name, self.kept());
        } else {
            shared.memories.note_unswept(&place, false);
        }
        // The semaphore is never closed, so this only waits.
        let _turn = shared.looks.acquire().await;
        self.sweep_if_due(shared, (repo, &place), base).await
    }

    /// Removes what was replaced by this server, or by an earlier process of it, where nobody uses the repository now.
    async fn sweep_what_is_left(&self, shared: &Shared) {
        if shared.is_readonly {
            return;
        }
        for place in shared.memories.unswept() {
            // The semaphore is never closed, so this only waits.
            let _turn = shared.looks.acquire().await;
            if let Err(why) = self.sweep_left(shared, &place).await {
                let (repository, why) = (&place.identity.path, causes(&why));
                tracing::debug!(repository, "what is left in the store stays: {why}");
            }
        }
    }

    async fn sweep_left(&self, shared: &Shared, place: &Place) -> Result<(), ShareError> {
        let (now_unix_ms, kept_ms) = (unix_ms(), self.kept().as_millis() as u64);
        let is_due =
            |condemned: &Condemned| now_unix_ms.saturating_sub(condemned.since_unix_ms) >= kept_ms;
        let stamp = (&mut SystemRandom, now_unix_ms);
        let memories = &shared.memories;
        let remembered = memories.of_place(place).await?;
        let base = Base::read(&shared.objects, place).await?;
        let base = memories.above(&shared.objects, (place, base), remembered);
        if base.await.is_below() {
            return Ok(());
        }
        let seen = memories.of_place(place).await?;
        let at = (place, seen.as_ref());
        let swept = sweep(&shared.objects, at, is_due, stamp).await?;
        if let Swept::Clean | Swept::Done { condemned: 0, .. } = swept {
            let head = Base::read(&shared.objects, place).await?.head;
            if head.condemned.is_empty() {
                shared.memories.note_unswept(place, false);
            }
        }
        Ok(())
    }

    /// Removes what nothing names any more. What is not done is done the next time.
    async fn sweep_if_due(
        &self,
        shared: &Shared,
        (repo, place): (&Repo, &Place),
        base: &Base,
    ) -> Result<(), ShareError> {
        let now_unix_ms = unix_ms();
        let kept_ms = self.kept().as_millis() as u64;
        let is_due =
            |condemned: &Condemned| now_unix_ms.saturating_sub(condemned.since_unix_ms) >= kept_ms;
        let has_due = base.head.condemned.iter().any(is_due);
        let take = |seen: &mut Seen| {
            let is_time = has_due || is_long_ago(seen.swept, STORE_SWEEP_MS);
            if is_time {
                seen.swept = Some(Instant::now());
            }
            is_time
        };
        if !base.is_there() || !shared.with_seen(&repo.name, take) {
            return Ok(());
        }
        let stamp = (&mut SystemRandom, now_unix_ms);
        let seen = shared.memories.of_place(place).await?;
        let at = (place, seen.as_ref());
        if let Swept::Done { condemned, removed } =
            sweep(&shared.objects, at, is_due, stamp).await?
        {
            let repository = &*repo.name;
            tracing::debug!(repository, condemned, removed, "swept in the store");
        }
        Ok(())
    }
}

/// Notes in which generation an archive was made, where the head says so.
fn note_made(shared: &Shared, place: &Place, base: &Base, archive: &Archive) {
    let (about, id) = (shared.about(&archive.want), archive.id.as_str());
    if !base.is_below() && base.head.is_of_now(&about, id) {
        shared.memories.note_made(place, id, base.head.at());
    }
}

/// Whether a head shows something else than an archive does, by a write of which nobody has heard here.
fn shows_other(shared: &Shared, repo: &Repo, base: &Base, archive: &Archive) -> bool {
    let current = base.head.current(&shared.about(&archive.want));
    let is_other = current.is_some_and(|current| current.shows != hex(&archive.shown));
    is_other
        && shared.with_seen(&repo.name, |seen| {
            seen.followed.replace(base.head.write) != Some(base.head.write)
        })
}

/// Whether a head shows what an archive does, and all of that is there, as far as it was looked at lately.
async fn is_shared(
    shared: &Shared,
    (repo, place): (&Repo, &Place),
    base: &Base,
    archive: &Archive,
) -> Result<bool, ShareError> {
    let (about, shows) = (shared.about(&archive.want), hex(&archive.shown));
    let Some(current) = base.head.current(&about) else {
        return Ok(false);
    };
    if current.shows != shows || !base.head.is_valid(current) {
        return Ok(false);
    }
    let is_known = |seen: &mut Seen| {
        let listed = seen.listed.filter(|(write, _)| *write == base.head.write);
        !is_long_ago(listed.map(|(_, at)| at), STORE_LIST_MS)
    };
    if shared.with_seen(&repo.name, is_known) {
        return Ok(true);
    }
    let listing = Listing::read(&shared.objects, place).await?;
    let is_there = !base.head.lacks(current, &listing);
    if is_there {
        let now = (base.head.write, Instant::now());
        shared.with_seen(&repo.name, |seen| seen.listed = Some(now));
    }
    Ok(is_there)
}
