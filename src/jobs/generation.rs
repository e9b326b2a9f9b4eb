//! What has expired at one of the servers that share a store is gone at all of them, and in the store. The head of a
//! repository has a generation, and so has each mirror (`mirror`'s `generation`): nothing that has expired up to then is in
//! its packs.
//!
//! - Who has something expire raises that of the head, by the swap that shares what it has built since (`telling`): what
//!   stood there before is named no more, and removed an hour later.
//! - Who finds a later one than its own compares its mirror with the upstream, and removes all that no ref leads to, however
//!   lately it was left: so it need not know what has expired. Only then it is of that generation, and shares again. Where
//!   the upstream does not answer for an hour, what others have shared since takes the place of all that it has.
//! - It is raised by a swap alone, also where there is no head yet: two that count by themselves would mean two things by one
//!   number.
//! - Who finds one that does not follow its own, in a store that was emptied or restored, is behind as well, whichever number
//!   is larger, for others may have begun anew there; then it raises it above both. It drops nothing for that alone: nobody
//!   knows whether anything has expired there. What was the last one is remembered beside the mirror, too (`memories`): a
//!   mirror that is made anew is of none, and may have what had expired by then.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::flights::take_duty;
use super::shared::{Behind, Seen, ShareError, Shared, place_of};
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::{LISTED_TWICE_MS, OFFER_ROUNDS_MAX, REMOTE_KEPT_MS};
use crate::manifest::want::Want;
use crate::mirror::{Generation as Noted, MirrorError};
use crate::repos::repo::Repo;
use crate::store::remote::change::Generation;
use crate::store::remote::key::{Place, RandomId};
use crate::store::remote::memory::Memory;
use crate::store::remote::publish::{Base, Draw, SystemRandom};
use crate::store::remote::twice::names_of;
use crate::telemetry::metrics::Cause;

/// A head, and what a server has on top of it.
pub(super) struct Agreed {
    /// As it was read.
    pub(super) base: Base,
    /// When it had been: a comparison that began before, while the head was still on its way, is older than what it says
    /// perhaps.
    pub(super) read: Instant,
    /// The same as a date.
    pub(super) read_unix_ms: u64,
    /// Of what is shared from here on: the next one where others are to be told of something.
    pub(super) generation: Generation,
    /// Of what is here, up to now; or was, where the head does not follow that: who has it still follows the next one.
    pub(super) after: Generation,
    /// Since when they are.
    pub(super) owed: Option<Instant>,
}

impl Jobs {
    /// Whether what there is of a repository is shared with others, or taken from them.
    pub(super) fn is_shared(&self, repo: &Repo) -> bool {
        self.shared.is_some() && self.permissions.of_repository(&repo.name).is_none()
    }

    /// How long it is waited for what cannot be done as it should, and how long the store keeps what nothing names.
    pub(super) fn kept(&self) -> Duration {
        Duration::from_millis(self.faults.store_kept_ms.unwrap_or(REMOTE_KEPT_MS))
    }

    /// Sees to it that a mirror is of the head's generation, or of a later one of which others are to be told.
    pub(super) async fn at_generation(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        place: &Place,
    ) -> Result<Agreed, ShareError> {
        for _ in 0..OFFER_ROUNDS_MAX {
            // The semaphore is never closed, so this only waits.
            let turn = shared.looks.acquire().await;
            let base = shared.base(&repo.name, place).await?;
            let (read, read_unix_ms) = (Instant::now(), unix_ms());
            drop(turn);
            if !repo.mirror.is_dir() {
                if shared.memories.due(place).await?.is_some() {
                    return Err(ShareError::Owed);
                }
                self.drop_earlier(shared, repo, &base).await;
                return Ok(Agreed {
                    read,
                    read_unix_ms,
                    generation: base.head.at(),
                    after: base.head.at(),
                    owed: None,
                    base,
                });
            }
            let mut own = self.noted_told(shared, repo, &base).await?;
            let seen = shared.memories.of_place(place).await?;
            let seen = seen.map_or(Generation::default(), |memory| memory.at());
            let caught = (own, base.head.at());
            let is_caught = |now: &mut Seen| now.caught == Some(caught);
            let is_past = base.head.is_past(own) && !shared.with_seen(&repo.name, is_caught);
            let is_behind = is_past || own.is_before(seen);
            self.note_behind(shared, repo, is_behind);
            if is_behind {
                let asker = Asker::of(Cause::Timer);
                if let Err(why) = self.fresh_since(repo, read, &asker).await {
                    self.drop_if_long_behind(shared, repo, &base).await;
                    return Err(why.into());
                }
                own = match self.catch_up(shared, repo, (&base, own, seen)).await? {
                    Ok(own) => own,
                    Err(left) => {
                        tokio::time::sleep(left).await;
                        continue;
                    }
                };
            }
            let next = self.to_tell(shared, repo, own).await?;
            let (owed, left) = shared.with_seen(&repo.name, |seen| match next {
                None => (seen.owed.take().and(None), None),
                Some(_) => (Some(*seen.owed.get_or_insert_with(Instant::now)), seen.left),
            });
            return Ok(Agreed {
                base,
                read,
                read_unix_ms,
                generation: next.unwrap_or(own),
                after: left.unwrap_or(own),
                owed,
            });
        }
        Err(ShareError::Busy)
    }

    /// Whether the upstream, which was just compared, has listed what refs there are as it did some time before; if not, how
    /// long it is until the next time counts.
    async fn is_listed_twice(
        &self,
        shared: &Shared,
        repo: &Arc<Repo>,
        base: &Base,
    ) -> Result<Result<(), Duration>, ShareError> {
        let refs = self.read_refs(repo).await?;
        let names = names_of(refs.refs.iter().map(|one| &one.name));
        let wait_ms = self.faults.store_look_ms.unwrap_or(LISTED_TWICE_MS);
        let times = (shared.objects.now_ms(), wait_ms);
        let take = |seen: &mut Seen| seen.listed_refs.take(base.head.at(), names, times);
        let is_believed = shared.with_seen(&repo.name, take);
        Ok(is_believed.map_err(Duration::from_millis))
    }

    /// Removes all that no ref leads to, once the upstream has listed them twice; the mirror is of the head's generation then,
    /// or of the one that was seen where that is later, which it gives.
    async fn catch_up(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        (base, own, seen): (&Base, Generation, Generation),
    ) -> Result<Result<Generation, Duration>, ShareError> {
        // What is removed depends on the refs that were listed twice, so no other listing comes between.
        let comparing = take_duty(&self.freshening, &repo.name).await;
        let listed = self.is_listed_twice(shared, repo, base).await;
        let left = match listed {
            Ok(Ok(())) => self.leave_expired(repo).await.map_err(ShareError::from),
            Ok(Err(_)) | Err(_) => Ok(()),
        };
        // It was none: who waits for it has another one.
        comparing.done(Ok(()));
        left?;
        if let Err(wait) = listed? {
            return Ok(Err(wait));
        }
        let is_later = base.head.is_later(seen);
        let now = if is_later { base.head.at() } else { seen };
        if !base.head.follows(own) || is_later && !base.head.follows(seen) {
            // What the store had forgotten is told again, by who tells.
            let is_readonly = shared.is_readonly;
            let forgotten = |memory: &mut Memory| match is_readonly {
                true => memory.set_at(now),
                false => drop(memory.due.get_or_insert_with(|| SystemRandom.draw())),
            };
            shared.memories.change(&place_of(repo), forgotten).await?;
            let left = [seen, own].into_iter().find(|one| !base.head.follows(*one));
            shared.with_seen(&repo.name, |seen| seen.left = left);
        }
        write(repo, now).await?;
        // Not before: who takes over packs of an earlier one looks at both.
        self.note_behind(shared, repo, false);
        // That of a head which it does not follow it is not; all that may have expired by that is gone all the same.
        let caught = Some((now, base.head.at()));
        shared.with_seen(&repo.name, |seen| seen.caught = caught);
        Ok(Ok(now))
    }

    /// The generation that a mirror notes, once it has heard of what it has told itself: its server may have ended before, or the answer
    /// got lost.
    async fn noted_told(
        &self,
        shared: &Shared,
        repo: &Repo,
        base: &Base,
    ) -> Result<Generation, ShareError> {
        let place = place_of(repo);
        let due = shared.memories.due(&place).await?;
        let Some(raise) = due.filter(|raise| base.head.has_raised(*raise)) else {
            return Ok(read(repo).await?);
        };
        if base.head.raise == raise {
            write(repo, base.head.at()).await?;
        }
        self.end_duty(shared, &place, (raise, base.head.at()))
            .await?;
        Ok(read(repo).await?)
    }

    /// Where the upstream does not say for long what refs lead to now, what others have shared since takes the place of mirror
    /// and snapshots, if there is something and the mirror is nobody's own. What is to be told of here is told without it.
    async fn drop_if_long_behind(self: &Rc<Self>, shared: &Shared, repo: &Arc<Repo>, base: &Base) {
        let is_long = shared.is_long_behind(&repo.name, self.kept());
        let is_there = |base: &Base| {
            let current = base.head.current(&shared.about(&Want::default()));
            !base.is_below() && current.is_some_and(|current| base.head.is_valid(current))
        };
        if !is_long || !is_there(base) || !repo.notes.is_clonable() {
            return;
        }
        // Until nothing else is at it there may be less, or it is behind no more.
        let may = async || {
            let (now, own) = (
                shared.base(&repo.name, &place_of(repo)).await,
                read(repo).await,
            );
            // One that does not follow is no proof that anything has expired: others may have begun anew.
            let has_expired = |now: &Base| own.is_ok_and(|own| now.head.is_later(own));
            now.is_ok_and(|now| is_there(&now) && has_expired(&now))
        };
        if self
            .drop_alone(repo, may)
            .await
            .is_ok_and(|is_gone| is_gone)
        {
            let repository = &*repo.name;
            tracing::warn!(
                repository,
                "dropped: something has expired elsewhere, and the upstream cannot be compared"
            );
            self.note_behind(shared, repo, false);
        }
    }

    /// Notes whether a mirror may have what has expired elsewhere.
    fn note_behind(&self, shared: &Shared, repo: &Repo, is_behind: bool) {
        let was_behind = shared.with_seen(&repo.name, |seen| {
            let was_behind = seen.behind.is_some();
            match is_behind {
                true if !was_behind => seen.behind = Some(Behind::new(&self.meter)),
                true => {}
                false => seen.behind = None,
            }
            was_behind
        });
        if is_behind && !was_behind {
            let repository = &*repo.name;
            tracing::warn!(
                repository,
                "something has expired elsewhere: nothing is shared until the upstream was compared twice"
            );
        }
    }

    /// Where there is no mirror nobody can tell what is in a snapshot that was made before something has expired. That
    /// something of it is broken in the store says nothing of it here.
    async fn drop_earlier(self: &Rc<Self>, shared: &Shared, repo: &Arc<Repo>, base: &Base) {
        let Some(archive) = repo.archive_of(&Want::default()) else {
            return;
        };
        let place = place_of(repo);
        // What is not known is not thought to be sound.
        let known = shared.memories.of_place(&place).await.ok().flatten();
        let made = known.and_then(|memory| memory.made(archive.id.as_str()));
        let snapshot = (&shared.about(&archive.want), archive.id.as_str());
        if base.is_below() || !base.head.may_have_expired(snapshot, made) {
            return;
        }
        let is_still = async || {
            let now = shared.base(&repo.name, &place).await;
            !repo.mirror.is_dir() && now.is_ok_and(|now| now.is_as(base))
        };
        if self
            .drop_alone(repo, is_still)
            .await
            .is_ok_and(|is_gone| is_gone)
        {
            let repository = &*repo.name;
            tracing::info!(
                repository,
                "dropped what was shared before something expired"
            );
        }
    }
}

/// The generation that a mirror notes.
pub(super) async fn read(repo: &Repo) -> Result<Generation, MirrorError> {
    let mirror = repo.mirror.clone();
    let noted = on_disk(repo, move || Noted::read(&mirror)).await?;
    Ok(Generation {
        number: noted.number,
        raise: RandomId(noted.raise),
    })
}

/// Has a mirror note another one.
pub(super) async fn write(repo: &Repo, now: Generation) -> Result<(), MirrorError> {
    let noted = Noted {
        number: now.number,
        raise: now.raise.0,
    };
    let mirror = repo.mirror.clone();
    on_disk(repo, move || noted.write(&mirror)).await
}

async fn on_disk<T: Send + 'static>(
    repo: &Repo,
    work: impl FnOnce() -> Result<T, MirrorError> + Send + 'static,
) -> Result<T, MirrorError> {
    let done = spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        let source = std::io::Error::other(panic);
        Err(MirrorError::io("work on", &repo.mirror, source))
    })
}
