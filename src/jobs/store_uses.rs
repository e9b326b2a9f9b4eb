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
pub(super) struct Use {
    day: Day,
    /// The head has named nothing before it, as this server has seen it.
    is_since_emptied: bool,
}

impl Use {
    /// On which day it was.
    pub(super) fn day(self) -> Day {
        self.day
    }

    /// Whether it is later than what a head says. What has left on a day whose use is said may be used later on the same day.
    pub(super) fn is_news(self, head: &Head) -> bool {
        self.is_since_emptied || head.wants_day(self.day)
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
        let Some(used) = self.unsaid_use(shared, repo, None).await else {
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
    pub(super) async fn may_share(&self, shared: &Shared, repo: &Repo, base: &Base) -> bool {
        if !base.head.is_emptied() {
            return true;
        }
        let used = self.unsaid_use(shared, repo, Some(&base.head)).await;
        used.is_some_and(|used| used.is_news(&base.head))
    }

    /// That somebody has asked for a repository, if no head says so yet as far as is known, or since this one names nothing.
    pub(super) async fn unsaid_use(
        &self,
        shared: &Shared,
        repo: &Repo,
        head: Option<&Head>,
    ) -> Option<Use> {
        let is_since_emptied = head.is_some_and(|head| shared.is_used_since_emptied(repo, head));
        let date = match is_since_emptied {
            true => used_date(repo),
            false => shared.unsaid_date(repo),
        };
        let date = date?;
        let told_ms = self.faults.store_used_ms.unwrap_or(USED_TOLD_MS);
        let looks = shared.looks_within(Duration::from_millis(told_ms)).await;
        let today = Day {
            date: day_of(unix_ms()),
            looks,
        };
        Some(Use {
            day: today.at(date),
            is_since_emptied,
        })
    }
}

impl Shared {
    /// On which date somebody has asked for a repository, if that is not said.
    fn unsaid_date(&self, repo: &Repo) -> Option<u64> {
        let said = self
            .seen
            .borrow()
            .get(&repo.name)
            .map_or(0, |seen| seen.uses.said);
        used_date(repo).filter(|date| !is_said(said, *date, day_of(unix_ms())))
    }

    /// Whether somebody has asked for a repository since this server has first seen that its head names nothing any more.
    fn is_used_since_emptied(&self, repo: &Repo, head: &Head) -> bool {
        let seen = self.seen.borrow();
        let emptied = seen.get(&repo.name).and_then(|seen| seen.emptied);
        emptied.is_some_and(|(shares, first)| {
            let ms = u64::try_from(first.elapsed().as_millis()).unwrap_or(u64::MAX);
            shares == head.shares && repo.asked.within(ms)
        })
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
                said: used.day().date,
                again: None,
            };
        });
    }

    /// Nothing that is right rests on it, so nothing fails where it cannot be read: the last one that is known holds, or none.
    async fn looks_within(&self, time: Duration) -> u64 {
        let known = self.looked_days.get();
        if let Some((read, looks)) = known
            && read.elapsed() < time
        {
            return looks;
        }
        let looks = used::looks(&self.objects).await.unwrap_or_else(|why| {
            tracing::debug!(
                "on how many days somebody has looked at the store is not known: {}",
                causes(&why)
            );
            known.map_or(0, |(_, looks)| looks)
        });
        self.looked_days.set(Some((Instant::now(), looks)));
        looks
    }
}

/// The date on which somebody has asked for a repository, if anybody has. One that is still to come was one of a clock that
/// was ahead: who asks now is noted anew.
fn used_date(repo: &Repo) -> Option<u64> {
    let date = day_of(repo.asked.unix_ms());
    (repo.asked.within(u64::MAX) && date <= day_of(unix_ms())).then_some(date)
}

/// Whether the use of a date is said. What was said of a day that is still to come, by a clock that was ahead, is said no more.
fn is_said(said: u64, date: u64, today: u64) -> bool {
    (date..=today).contains(&said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_by_a_clock_that_was_ahead_is_not() {
        for (said, date, is) in [
            (0, 100, false),
            (99, 100, false),
            (100, 100, true),
            (100, 98, true),
            (101, 100, false),
            (465, 100, false),
        ] {
            assert_eq!(is_said(said, date, 100), is, "{said} {date}");
        }
    }
}
