//! What has expired at one of the servers that share a store is gone at all of them, and in the store. The head of a
//! repository has a generation, and so has each mirror (`mirror`'s `generation`): nothing that has expired up to then is in
//! its packs.
//!
//! - Who has something expire raises that of the head: what stood there before is named no more, and removed an hour later.
//!   That it is going to is noted in the mirror before anything goes, so that a server that is killed in between does it
//!   when it is there again.
//! - Who finds a later one than its own compares its mirror with the upstream, and removes all that no ref leads to, however
//!   lately it was left: so it need not know what has expired. Only then it is of that generation, and shares again. Where
//!   the upstream does not answer for an hour, what others have shared since takes the place of all that it has.
//! - It is raised by a swap alone, also where there is no head yet: two that count by themselves would mean two things by one
//!   number.
//! - Who finds an earlier one, in a store that was restored, raises it to its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::left::locks;
use super::shared::{Seen, ShareError, Shared};
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::{OFFER_ROUNDS_MAX, REMOTE_KEPT_MS};
use crate::manifest::want::Want;
use crate::mirror::{Expired, Generation as Noted, Git, MirrorError};
use crate::repos::repo::Repo;
use crate::store::remote::change::{Change, Generation};
use crate::store::remote::key::{Place, RandomId};
use crate::store::remote::listing::Listing;
use crate::store::remote::publish::{Base, Contents, Draw, Published, SystemRandom, Uploads};
use crate::telemetry::metrics::Cause;

impl Jobs {
    /// Whether what there is of a repository is shared with others, or taken from them.
    pub(super) fn is_shared(&self, repo: &Repo) -> bool {
        self.shared.is_some() && self.permissions.of_repository(&repo.name).is_none()
    }

    fn tells(&self, repo: &Repo) -> bool {
        let is_readonly = self.shared.as_ref().is_none_or(|shared| shared.is_readonly);
        self.is_shared(repo) && !is_readonly
    }

    /// Removes from a mirror what no ref has led to for long. Before anything goes it is noted that others are to be told.
    pub(super) async fn expire_mirror(
        &self,
        repo: &Arc<Repo>,
        git: &Git,
    ) -> Result<Expired, MirrorError> {
        let (expiry, now) = (self.config.unreachable_expiry, super::maintain::now());
        let Some(shared) = self.shared.as_ref().filter(|_| self.tells(repo)) else {
            return git.expire(&repo.mirror, locks(repo), expiry, now).await;
        };
        // Who tells others meanwhile would tell them before it is so, and take this for told.
        let telling = shared.with_seen(&repo.name, |seen| seen.telling.clone());
        let _alone = telling.lock().await;
        let mut was_due = false;
        let begin = |noted: &mut Noted| was_due = std::mem::replace(&mut noted.is_due, true);
        note(shared, repo, begin).await?;
        let expired = git.expire(&repo.mirror, locks(repo), expiry, now).await;
        match &expired {
            Ok(Expired::Nothing | Expired::Busy | Expired::AnnexBroken) => {
                note(shared, repo, |noted| noted.is_due = was_due).await?;
            }
            // Something is gone, or may be.
            _ => self.look_shared_soon(&repo.name),
        }
        expired
    }

    /// Sees to it that head and mirror are of one generation. Gives the head that was read for that, and the generation.
    pub(super) async fn at_generation(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        place: &Place,
    ) -> Result<(Base, Generation), ShareError> {
        for _ in 0..OFFER_ROUNDS_MAX {
            let read_at = Instant::now();
            let base = shared.base(&repo.name, place).await?;
            if !repo.mirror.is_dir() {
                let generation = base.head.at();
                self.drop_earlier(shared, repo, &base).await;
                return Ok((base, generation));
            }
            let mut own = generation_of(read(repo).await?);
            if base.head.is_later(own) {
                let asker = Asker::of(Cause::Timer);
                if let Err(why) = self.fresh_since(repo, read_at, &asker).await {
                    self.drop_if_long_behind(shared, repo, &base).await;
                    return Err(why.into());
                }
                self.leave_expired(repo).await?;
                shared.with_seen(&repo.name, |seen| seen.behind = None);
                // What the store had forgotten is told again.
                let is_forgotten = !base.head.follows(own);
                own = base.head.at();
                note(shared, repo, |noted| {
                    (noted.number, noted.raise) = (own.number, own.raise.0);
                    noted.is_due |= is_forgotten;
                })
                .await?;
            }
            if shared.is_readonly || self.is_told(shared, (repo, place), &base, own).await? {
                return Ok((base, own));
            }
        }
        Err(ShareError::Busy)
    }

    /// Whether there is nothing to tell the others, or something expires just now; else it is told, if nobody else was faster.
    async fn is_told(
        &self,
        shared: &Shared,
        (repo, place): (&Arc<Repo>, &Place),
        base: &Base,
        own: Generation,
    ) -> Result<bool, ShareError> {
        let telling = shared.with_seen(&repo.name, |seen| seen.telling.clone());
        let Ok(_alone) = telling.try_lock() else {
            return Ok(true);
        };
        let is_due = read(repo).await?.is_due;
        let is_behind = base.is_there() && base.head.generation < own.number;
        if !(is_due || is_behind) {
            return Ok(true);
        }
        if is_due {
            // Who ended in the middle has not said so, and what is shared from now on is of the next generation.
            self.end_what_is_gone(repo).await;
        }
        let next = match is_due {
            false => own,
            true => Generation {
                number: own.number + 1,
                raise: SystemRandom.draw(),
            },
        };
        if raise(shared, place, base, next).await? {
            note(shared, repo, |noted| {
                *noted = Noted {
                    number: next.number,
                    raise: next.raise.0,
                    is_due: false,
                };
            })
            .await?;
            let (repository, generation) = (&*repo.name, next.number);
            tracing::info!(repository, generation, "what has expired is shared no more");
        }
        Ok(false)
    }

    /// Where the upstream does not say for long what refs lead to now, what others have shared since takes the place of mirror
    /// and snapshots, if there is something and the mirror is nobody's own.
    async fn drop_if_long_behind(self: &Rc<Self>, shared: &Shared, repo: &Arc<Repo>, base: &Base) {
        let kept_ms = self.faults.store_kept_ms.unwrap_or(REMOTE_KEPT_MS);
        let since = |seen: &mut Seen| *seen.behind.get_or_insert_with(Instant::now);
        let behind = shared.with_seen(&repo.name, since).elapsed();
        let current = base.head.current(&shared.about(&Want::default()));
        let is_there = current.is_some_and(|current| base.head.is_valid(current));
        if is_there && repo.notes.is_clonable() && behind >= Duration::from_millis(kept_ms) {
            let repository = &*repo.name;
            tracing::warn!(
                repository,
                "dropped: something has expired elsewhere, and the upstream cannot be compared"
            );
            self.drop_all(repo).await;
            shared.with_seen(&repo.name, |seen| seen.behind = None);
        }
    }

    /// Where there is no mirror nobody can tell what is in a snapshot that no head of now names.
    async fn drop_earlier(self: &Rc<Self>, shared: &Shared, repo: &Arc<Repo>, base: &Base) {
        let Some(archive) = repo.archive_of(&Want::default()) else {
            return;
        };
        let about = shared.about(&archive.want);
        let snapshots = base.head.snapshots.iter();
        let mut of_it = snapshots.filter(|one| one.about == about);
        let is_named = of_it.any(|one| one.id == archive.id.as_str() && base.head.is_valid(one));
        if base.head.generation > 0 && !is_named {
            let repository = &*repo.name;
            tracing::info!(
                repository,
                "dropped what was shared before something expired"
            );
            self.drop_all(repo).await;
        }
    }
}

/// Swaps a head for one that names nothing of what it has named; whether nobody else was faster.
async fn raise(
    shared: &Shared,
    place: &Place,
    base: &Base,
    generation: Generation,
) -> Result<bool, ShareError> {
    let change = Change {
        generation,
        ..Change::default()
    };
    let (listing, contents) = (Listing::default(), Contents::new());
    let stamp = (&mut SystemRandom, unix_ms());
    let mut uploads = Uploads::default();
    let what = (&change, &contents);
    let raised = uploads.publish(&shared.objects, place, (base, &listing), what, stamp);
    Ok(matches!(raised.await?, Published::Done(_)))
}

fn generation_of(noted: Noted) -> Generation {
    Generation {
        number: noted.number,
        raise: RandomId(noted.raise),
    }
}

async fn read(repo: &Repo) -> Result<Noted, MirrorError> {
    let mirror = repo.mirror.clone();
    on_disk(repo, move || Noted::read(&mirror)).await
}

/// Changes what a mirror notes, one at a time.
async fn note(
    shared: &Shared,
    repo: &Repo,
    change: impl FnOnce(&mut Noted),
) -> Result<(), MirrorError> {
    let _alone = shared.noting.lock().await;
    let mut noted = read(repo).await?;
    change(&mut noted);
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
