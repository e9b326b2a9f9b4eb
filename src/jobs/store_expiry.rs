//! What nobody uses leaves the store, and what is used least where there is too much of it ([`expiry`]). Whoever has the lease
//! looks at all heads once a day, and each hour for as long as something is on its way out. Two that look at once do no harm.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::shared::{ShareError, Shared, causes};
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::{
    LEASE_MS, STORE_EXPIRY_LOOK_MS, STORE_LEAST_USED_MAX, STORE_SWEEP_MS, USED_STEP_MS,
};
use crate::manifest::id::is_lower_hex;
use crate::store::remote::collect::sweep;
use crate::store::remote::day::{Day, day_of};
use crate::store::remote::expiry::{Fate, change_head, head_in};
use crate::store::remote::head::{Condemned, Head};
use crate::store::remote::key::{Place, RandomId};
use crate::store::remote::lease::Watch;
use crate::store::remote::memory::Memory;
use crate::store::remote::publish::{Draw, SystemRandom};
use crate::store::remote::used;

/// Who looks at all of the store.
const LEASE: &str = "v1/lease.json";
/// Where repositories are.
const REPOSITORIES: &str = "v1/repos";

/// A repository that may leave; the one that was used least lately is the first in order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Least {
    idle_days: Reverse<u64>,
    bytes: u64,
    dir: String,
}

/// What a look at all heads has come to.
#[derive(Debug, Default)]
struct Totals {
    /// On which day.
    day: Day,
    repositories: usize,
    /// What heads name.
    named_bytes: u64,
    emptied: usize,
    /// Something is condemned, and will be removed.
    is_on_its_way: bool,
    /// So many of them that were used least lately, the one of these that was used last on top.
    least: BinaryHeap<Least>,
}

impl Totals {
    fn note(&mut self, dir: &str, head: &Head) {
        self.named_bytes = self.named_bytes.saturating_add(head.named_bytes());
        self.least.push(Least {
            idle_days: Reverse(head.idle_days(self.day)),
            bytes: head.named_bytes(),
            dir: dir.to_owned(),
        });
        if self.least.len() > STORE_LEAST_USED_MAX {
            self.least.pop();
        }
    }

    /// What was noted of a repository is so much now: it may have left since, or been shared again.
    fn recount(&mut self, noted_bytes: u64, now_bytes: u64) {
        let others = self.named_bytes.saturating_sub(noted_bytes);
        self.named_bytes = others.saturating_add(now_bytes);
    }
}

/// A head that was found, and what it does not come up to, if there is such: then it is left as it is.
struct Found {
    place: Place,
    head: Head,
    seen: Option<Memory>,
}

/// The lease, for as long as it is this server's.
struct Held<'s> {
    shared: &'s Shared,
    watch: &'s mut Watch,
    me: RandomId,
    renewed: Instant,
}

impl Held<'_> {
    async fn take(&mut self) -> Result<bool, ShareError> {
        self.renewed = Instant::now();
        let (random, objects) = (&mut SystemRandom, &self.shared.objects);
        let clock = (random, || objects.now_ms());
        Ok(self.watch.take(objects, LEASE, self.me, clock).await?)
    }

    /// It is renewed by work done; whether it was held all the time.
    async fn keep(&mut self) -> Result<bool, ShareError> {
        if self.renewed.elapsed() < Duration::from_millis(LEASE_MS / 4) {
            return Ok(true);
        }
        self.renewed = Instant::now();
        let (random, objects) = (&mut SystemRandom, &self.shared.objects);
        Ok(self.watch.keep(objects, LEASE, self.me, random).await?)
    }

    async fn give_back(&mut self) -> Result<(), ShareError> {
        let objects = &self.shared.objects;
        let random = &mut SystemRandom;
        Ok(self
            .watch
            .give_back(objects, LEASE, self.me, random)
            .await?)
    }
}

impl Jobs {
    /// See the module's text.
    pub(super) async fn keep_store_small(self: Rc<Self>) {
        let shared = self.shared.as_ref();
        let Some(shared) = shared.filter(|shared| !shared.is_readonly) else {
            return;
        };
        let look_ms = self.faults.store_expiry_ms.unwrap_or(STORE_EXPIRY_LOOK_MS);
        let (mut watch, me) = (Watch::default(), SystemRandom.draw());
        loop {
            let wait_ms = look_ms / 2 + SystemRandom::below(look_ms);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            if shared.objects.rests() {
                continue;
            }
            let held = Held {
                shared,
                watch: &mut watch,
                me,
                renewed: Instant::now(),
            };
            if let Err(why) = self.look_at_all_if_due(shared, held).await {
                tracing::debug!("not all of the store was looked at: {}", causes(&why));
            }
        }
    }

    /// Looks at all, if it is time and nobody else does, and says when it is time next.
    async fn look_at_all_if_due(&self, shared: &Shared, held: Held<'_>) -> Result<(), ShareError> {
        let now_hour = unix_ms() / USED_STEP_MS;
        if self.faults.store_expiry_ms.is_none()
            && !used::is_look_due(&shared.objects, now_hour).await?
        {
            return Ok(());
        }
        let Some(seen) = self.look_at_all(shared, held).await? else {
            return Ok(());
        };
        let again_hours = match seen.is_on_its_way {
            true => 1,
            false => STORE_SWEEP_MS / USED_STEP_MS,
        };
        let (random, next) = (&mut SystemRandom, now_hour + again_hours);
        // Who does not hear of it looks once more.
        used::note_next_look(&shared.objects, next, random).await?;
        Ok(())
    }

    async fn look_at_all(
        &self,
        shared: &Shared,
        mut held: Held<'_>,
    ) -> Result<Option<Totals>, ShareError> {
        if !held.take().await? {
            return Ok(None);
        }
        let looked = self.look_at_heads(shared, &mut held).await;
        // It expires by itself where that fails.
        let given_back = held.give_back().await;
        let seen = looked?;
        given_back?;
        if let Some(seen) = &seen {
            let (repositories, bytes) = (seen.repositories, seen.named_bytes);
            let emptied = seen.emptied;
            tracing::info!(repositories, bytes, emptied, "looked at all of the store");
        }
        Ok(seen)
    }

    /// `None` if the lease was lost.
    async fn look_at_heads(
        &self,
        shared: &Shared,
        held: &mut Held<'_>,
    ) -> Result<Option<Totals>, ShareError> {
        let Some(mut seen) = self.count_look(shared).await? else {
            return Ok(None);
        };
        let (mut after, mut is_first) = (None, true);
        while is_first || after.is_some() {
            let page = shared.objects.page(REPOSITORIES, after.take()).await?;
            is_first = false;
            let is_one = |name: &&String| name.len() == 32 && is_lower_hex(name.as_bytes());
            for name in page.dirs.iter().filter(is_one) {
                if !held.keep().await? {
                    return Ok(None);
                }
                let dir = format!("{REPOSITORIES}/{name}");
                // What is wrong with one of them keeps no other.
                if let Err(why) = self.look_at_one(shared, &dir, &mut seen).await {
                    tracing::warn!(dir, "cannot be looked at in the store: {}", causes(&why));
                }
            }
            after = page.next;
        }
        let is_whole = self.make_small(shared, held, &mut seen).await?;
        Ok(is_whole.then_some(seen))
    }

    /// What is found is judged by the day on which this look is counted; `None` if others write all the time.
    async fn count_look(&self, shared: &Shared) -> Result<Option<Totals>, ShareError> {
        let date = day_of(unix_ms());
        let counted = used::count_look(&shared.objects, date, &mut SystemRandom).await?;
        Ok(counted.map(|looks| Totals {
            day: Day { date, looks },
            ..Totals::default()
        }))
    }

    async fn look_at_one(
        &self,
        shared: &Shared,
        dir: &str,
        seen: &mut Totals,
    ) -> Result<(), ShareError> {
        let Some(found) = self.found_in(shared, dir).await? else {
            return Ok(());
        };
        let (place, head) = (&found.place, &found.head);
        seen.repositories += 1;
        let (day, expiry_ms) = (seen.day, self.store_expiry_ms());
        match head.fate(expiry_ms, day) {
            Fate::Stays => {}
            Fate::NoteToday => {
                let note = |head: &Head, write| {
                    (head.fate(expiry_ms, day) == Fate::NoteToday)
                        .then(|| head.noted_on(day, write))
                };
                let at = (place, found.seen.as_ref());
                change_head(&shared.objects, at, &mut SystemRandom, note).await?;
            }
            Fate::Empty => {
                let is_due = |head: &Head| head.fate(expiry_ms, day) == Fate::Empty;
                let why = "nobody has used it for long";
                self.empty(shared, &found, (seen, why, is_due)).await?;
                return Ok(());
            }
        }
        self.sweep_idle(shared, &found).await?;
        seen.is_on_its_way |= head.is_empty() && !head.condemned.is_empty();
        if !head.is_empty() {
            seen.note(dir, head);
        }
        Ok(())
    }

    /// Reads a head, and what was seen of it.
    async fn found_in(&self, shared: &Shared, dir: &str) -> Result<Option<Found>, ShareError> {
        let Some((place, head)) = head_in(&shared.objects, dir).await? else {
            return Ok(None);
        };
        let (objects, memories) = (&shared.objects, &shared.memories);
        let remembered = memories.of_place(&place).await?;
        let seen = memories.seen(objects, (&place, &head), remembered).await;
        Ok(Some(Found { place, head, seen }))
    }

    /// Condemns all that a head names, if it is due still; whether that is done.
    async fn empty(
        &self,
        shared: &Shared,
        found: &Found,
        (seen, why, is_due): (&mut Totals, &str, impl Fn(&Head) -> bool),
    ) -> Result<bool, ShareError> {
        let now_unix_ms = unix_ms();
        let next = |head: &Head, write| is_due(head).then(|| head.emptied((write, now_unix_ms)));
        let Found {
            place, seen: had, ..
        } = found;
        let at = (place, had.as_ref());
        let is_done = change_head(&shared.objects, at, &mut SystemRandom, next).await?;
        if is_done {
            seen.emptied += 1;
            seen.is_on_its_way = true;
            let repository = format!("{}/{}", place.identity.host, place.identity.path);
            tracing::info!(repository, "leaves the store: {why}");
        }
        Ok(is_done)
    }

    /// Of a repository that nobody uses nobody removes what was condemned.
    async fn sweep_idle(&self, shared: &Shared, found: &Found) -> Result<(), ShareError> {
        let Found { place, head, seen } = found;
        let now_unix_ms = unix_ms();
        let kept_ms = self.kept().as_millis() as u64;
        let is_due =
            |condemned: &Condemned| now_unix_ms.saturating_sub(condemned.since_unix_ms) >= kept_ms;
        // What was given up is removed with what is condemned next; nothing is of an empty one.
        let is_left = head.is_empty() && !head.removed.is_empty();
        if head.condemned.iter().any(is_due) || is_left {
            let stamp = (&mut SystemRandom, now_unix_ms);
            sweep(&shared.objects, (place, seen.as_ref()), is_due, stamp).await?;
        }
        Ok(())
    }

    /// Empties what was used least lately, until no more is named than may be. What somebody used today or yesterday stays.
    /// Whether the lease was held all the time.
    async fn make_small(
        &self,
        shared: &Shared,
        held: &mut Held<'_>,
        seen: &mut Totals,
    ) -> Result<bool, ShareError> {
        let limit = self
            .config
            .store
            .as_ref()
            .and_then(|store| store.limit_bytes);
        let Some(limit) = limit else { return Ok(true) };
        let least = std::mem::take(&mut seen.least).into_sorted_vec();
        for one in least {
            if seen.named_bytes <= limit || one.idle_days.0 <= 1 {
                break;
            }
            if !held.keep().await? {
                return Ok(false);
            }
            // What is wrong with one of them keeps no other.
            if let Err(why) = self.empty_least(shared, &one, (seen, limit)).await {
                let dir = one.dir;
                tracing::warn!(dir, "stays in the store: {}", causes(&why));
            }
        }
        if seen.named_bytes > limit {
            let bytes = seen.named_bytes;
            tracing::warn!(bytes, limit, "more is used in the store than --store-limit");
        }
        Ok(true)
    }

    /// Empties one of those, if that is still to be.
    async fn empty_least(
        &self,
        shared: &Shared,
        one: &Least,
        (seen, limit): (&mut Totals, u64),
    ) -> Result<(), ShareError> {
        let Some(found) = self.found_in(shared, &one.dir).await? else {
            seen.recount(one.bytes, 0);
            return Ok(());
        };
        // Somebody else may look, too.
        let bytes = found.head.named_bytes();
        seen.recount(one.bytes, bytes);
        if seen.named_bytes <= limit {
            return Ok(());
        }
        let day = seen.day;
        let is_due = |head: &Head| head.idle_days(day) == one.idle_days.0 && !head.is_empty();
        let why = "there is more than --store-limit, and it was used least lately";
        if self.empty(shared, &found, (seen, why, is_due)).await? {
            seen.recount(bytes, 0);
        }
        Ok(())
    }

    fn store_expiry_ms(&self) -> u64 {
        let store = self.config.store.as_ref();
        let expiry = store.map(|store| store.expiry.as_millis());
        u64::try_from(expiry.unwrap_or(u128::MAX)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_left_meanwhile_is_counted_no_more() {
        let mut totals = Totals {
            named_bytes: 70,
            ..Totals::default()
        };
        // Another one was faster; one was shared again.
        totals.recount(30, 0);
        totals.recount(10, 15);
        assert_eq!(totals.named_bytes, 45);
        totals.recount(50, 1);
        assert_eq!(totals.named_bytes, 1);
    }
}
