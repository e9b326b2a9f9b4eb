//! What has expired at one of the servers that share a store is gone at all of them, and in the store. The head of a
//! repository has a generation, and so has each mirror (`mirror`'s `generation`): nothing that has expired up to then is in
//! its packs.
//!
//! - Who has something expire raises that of the head: what stood there before is named no more, and removed an hour later.
//!   That it is going to is noted in the mirror before anything goes, so that a server that is killed in between does it
//!   when it is there again.
//! - Who finds a later one than its own compares its mirror with the upstream, and removes all that no ref leads to, however
//!   lately it was left: so it need not know what has expired. Only then it is of that generation, and shares again.
//! - It is raised by a swap alone, also where there is no head yet: two that count by themselves would mean two things by one
//!   number.
//! - Who finds an earlier one, in a store that was restored, raises it to its own.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::left::locks;
use super::shared::{ShareError, Shared};
use super::state::Jobs;
use crate::io::clock::unix_ms;
use crate::limits::OFFER_ROUNDS_MAX;
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
        let before = match self.tells(repo) {
            true => Some(read(repo).await?),
            false => None,
        };
        if let Some(before) = before.filter(|before| !before.is_due) {
            let due = Noted {
                is_due: true,
                ..before
            };
            write(repo, due).await?;
        }
        let expired = git.expire(&repo.mirror, locks(repo), expiry, now).await;
        match (&expired, before) {
            (Ok(Expired::Nothing | Expired::Busy | Expired::AnnexBroken), Some(before)) => {
                write(repo, before).await?;
            }
            // Something is gone, or may be.
            (_, Some(_)) => self.look_shared_soon(&repo.name),
            _ => {}
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
            let mut noted = read(repo).await?;
            let mut own = Generation {
                number: noted.number,
                raise: RandomId(noted.raise),
            };
            if base.head.is_later(own) {
                let asker = Asker::of(Cause::Timer);
                self.fresh_since(repo, read_at, &asker).await?;
                self.leave_expired(repo).await?;
                // What the store had forgotten is told again.
                noted.is_due |= !base.head.follows(own);
                own = base.head.at();
                write(repo, noted_of(own, noted.is_due)).await?;
            }
            let is_behind = base.is_there() && base.head.generation < own.number;
            if shared.is_readonly || !(noted.is_due || is_behind) {
                return Ok((base, own));
            }
            if noted.is_due {
                own = Generation {
                    number: own.number + 1,
                    raise: SystemRandom.draw(),
                };
            }
            if raise(shared, place, &base, own).await? {
                write(repo, noted_of(own, false)).await?;
                let (repository, generation) = (&*repo.name, own.number);
                tracing::info!(repository, generation, "what has expired is shared no more");
            }
        }
        Err(ShareError::Busy)
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

fn noted_of(generation: Generation, is_due: bool) -> Noted {
    Noted {
        number: generation.number,
        raise: generation.raise.0,
        is_due,
    }
}

async fn read(repo: &Repo) -> Result<Noted, MirrorError> {
    let mirror = repo.mirror.clone();
    on_disk(repo, move || Noted::read(&mirror)).await
}

async fn write(repo: &Repo, noted: Noted) -> Result<(), MirrorError> {
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
