//! Heads say on which day somebody last used their repositories. That somebody has asked for one is remembered until it is
//! said: by the write that shares what was built for it, or by one of its own.
//!
//! A head that was emptied since nobody used its repository is told by who shares again, and by nobody else: what would come
//! back without a use would leave once more.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shared::{ShareError, Shared, Uses, causes, place_of};
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::USED_TOLD_MS;
use crate::repos::repo::Repo;
use crate::store::remote::day::{Day, day_of};
use crate::store::remote::head::Head;
use crate::store::remote::publish::{Base, Draw, SystemRandom};
use crate::store::remote::swap::Swapped;
use crate::store::remote::used;

/// A use that is not said yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use(Day);

impl Use {
    /// On which day it was.
    pub(super) fn day(self) -> Day {
        self.0
    }

    /// Whether it is later than what a head says.
    pub(super) fn is_news(self, head: &Head) -> bool {
        head.wants_day(self.0)
    }
}

impl Jobs {
    /// Says it, each time that somebody has asked on another day.
    pub(super) async fn tell_uses(self: Rc<Self>) {
        let shared = self.shared.as_ref();
        let Some(shared) = shared.filter(|shared| !shared.is_readonly) else {
            return;
        };
        loop {
            tokio::time::sleep(Duration::from_millis(self.look_in_use_ms())).await;
            for repo in self.catalog.registry.all() {
                if shared.objects.rests() {
                    break;
                }
                if !self.is_told_of(&repo) || !shared.is_use_due(&repo) {
                    continue;
                }
                if let Err(why) = self.tell_use(shared, &repo).await {
                    let (repository, why) = (&*repo.name, causes(&why));
                    tracing::debug!(repository, "that it is used is not said yet: {why}");
                    shared.put_off_use(&repo, self.again());
                }
            }
        }
    }

    /// Whether there is something of a repository, of which others may know.
    fn is_told_of(&self, repo: &Repo) -> bool {
        let is_here = repo.is_mirrored() || repo.has_snapshot() || self.cold.is_known(&repo.name);
        is_here && self.is_shared(repo)
    }

    async fn tell_use(&self, shared: &Shared, repo: &Arc<Repo>) -> Result<(), ShareError> {
        let Some(used) = self.unsaid_use(shared, repo).await? else {
            return Ok(());
        };
        // The semaphore is never closed, so this only waits.
        let _turn = shared.looks.acquire().await;
        let place = place_of(repo);
        let base = shared.base(&repo.name, &place).await?;
        if !base.is_there() || base.is_below() || base.head.is_emptied() {
            shared.put_off_use(repo, self.again());
            return Ok(());
        }
        if used.is_news(&base.head) {
            let next = base.head.used_on(used.day(), SystemRandom.draw());
            if let Swapped::Lost(_) = base.swap(&shared.objects, &place, &next).await? {
                // Whoever has written may have said it: the next look sees.
                return Ok(());
            }
        }
        shared.note_said(repo, used);
        Ok(())
    }

    /// Whether something is shared on top of a head: where what it has named has left since nobody used it, only by a use.
    pub(super) async fn may_share(
        &self,
        shared: &Shared,
        repo: &Repo,
        base: &Base,
    ) -> Result<bool, ShareError> {
        if !base.head.is_emptied() {
            return Ok(true);
        }
        let used = self.unsaid_use(shared, repo).await?;
        Ok(used.is_some_and(|used| used.is_news(&base.head)))
    }

    /// That somebody has asked for a repository, if no head says so yet as far as is known.
    pub(super) async fn unsaid_use(
        &self,
        shared: &Shared,
        repo: &Repo,
    ) -> Result<Option<Use>, ShareError> {
        let Some(date) = shared.unsaid_date(repo) else {
            return Ok(None);
        };
        let told_ms = self.faults.store_used_ms.unwrap_or(USED_TOLD_MS);
        let looks = shared.looks_within(Duration::from_millis(told_ms)).await?;
        let today = Day {
            date: day_of(unix_ms()),
            looks,
        };
        Ok(Some(Use(today.at(date))))
    }
}

impl Shared {
    /// On which date somebody has asked for a repository, if that is not said.
    fn unsaid_date(&self, repo: &Repo) -> Option<u64> {
        let said = self
            .seen
            .borrow()
            .get(&repo.name)
            .map(|seen| seen.uses.said);
        let date = day_of(repo.asked.unix_ms());
        (repo.asked.within(u64::MAX) && date > said.unwrap_or(0)).then_some(date)
    }

    fn is_use_due(&self, repo: &Repo) -> bool {
        let seen = self.seen.borrow();
        let again = seen.get(&repo.name).and_then(|seen| seen.uses.again);
        again.is_none_or(|again| again <= Instant::now()) && self.unsaid_date(repo).is_some()
    }

    fn put_off_use(&self, repo: &Repo, wait: Duration) {
        let again = Some(Instant::now() + wait);
        self.with_seen(&repo.name, |seen| seen.uses.again = again);
    }

    /// A head says by now that somebody used a repository.
    pub(super) fn note_said(&self, repo: &Repo, used: Use) {
        self.with_seen(&repo.name, |seen| {
            seen.uses = Uses {
                said: seen.uses.said.max(used.day().date),
                again: None,
            };
        });
    }

    async fn looks_within(&self, time: Duration) -> Result<u64, ShareError> {
        if let Some((read, looks)) = self.looked_days.get()
            && read.elapsed() < time
        {
            return Ok(looks);
        }
        let looks = used::looks(&self.objects).await?;
        self.looked_days.set(Some((Instant::now(), looks)));
        Ok(looks)
    }
}
