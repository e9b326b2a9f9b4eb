//! Others are told what has expired here.
//!
//! That something is going to is noted before anything goes, with the raise that will tell it: a server that
//! is killed in between tells it when it is there again, and one that has not heard that it has knows its own raise. It is
//! noted beside the mirror (`memories`): one that leaves the disk before, for whatever reason, takes no duty along. It is
//! told by the swap that shares what was built since: so no head names nothing of what somebody may still want, who has no
//! mirror to make it of.
//!
//! As anything that is shared it counts as what the upstream has if that was compared after the head was read. Where it
//! cannot be compared, what has the refs of the head, whoever has written these, is no older; and what has expired is gone
//! within an hour, also if others have seen something newer since, or where nobody here has a mirror any more.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::generation::{Agreed, write};
use super::left::locks;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::manifest::path::is_plain_path;
use crate::manifest::want::Want;
use crate::mirror::{Expired, Git, MirrorError};
use crate::repos::repo::{Found, Repo};
use crate::store::remote::change::{Change, Generation};
use crate::store::remote::key::{Identity, Place, RandomId, refs_name};
use crate::store::remote::listing::Listing;
use crate::store::remote::memory::Memory;
use crate::store::remote::publish::{Base, Contents, Draw, Published, SystemRandom, Uploads};
use crate::store::remote::raised;
use crate::telemetry::metrics::Cause;

impl Jobs {
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
        let (place, raise) = (place_of(repo), SystemRandom.draw());
        let owes = |memory: &mut Memory| memory.due = Some(raise);
        let was_due = shared.memories.change(&place, owes).await?.due;
        let expired = git.expire(&repo.mirror, locks(repo), expiry, now).await;
        match &expired {
            Ok(Expired::Nothing | Expired::Busy | Expired::AnnexBroken) => {
                let owed = |memory: &mut Memory| memory.due = was_due;
                shared.memories.change(&place, owed).await?;
            }
            // Something is gone, or may be.
            _ => self.look_shared_soon(&repo.name),
        }
        expired
    }

    /// The generation of what is shared from here on, if others are to hear of it. While something expires nobody is told.
    pub(super) async fn to_tell(
        &self,
        shared: &Shared,
        repo: &Arc<Repo>,
        own: Generation,
    ) -> Result<Option<Generation>, ShareError> {
        if !self.tells(repo) {
            return Ok(None);
        }
        let telling = shared.with_seen(&repo.name, |seen| seen.telling.clone());
        let Ok(_alone) = telling.try_lock() else {
            return Ok(None);
        };
        let due = shared.memories.due(&place_of(repo)).await?;
        let next = due.map(|raise| Generation {
            number: own.number + 1,
            raise,
        });
        if next.is_some() {
            // Who ended in the middle has not said so.
            self.end_what_is_gone(repo).await;
        }
        Ok(next)
    }

    /// Has others told by what is shared next; alone, where nobody has anything that it could take the place of, or where
    /// nothing can be built for an hour.
    pub(super) async fn see_told(
        self: &Rc<Self>,
        shared: &Shared,
        (repo, place): (&Arc<Repo>, &Place),
        (agreed, since): (&Agreed, Instant),
    ) -> Result<(), ShareError> {
        let is_over = since.elapsed() >= self.kept();
        let archive = repo.archive_of(&Want::default());
        let may_share = self.may_share(shared, repo, &agreed.base).await;
        if let Some(archive) = archive.filter(|_| may_share && !repo.holds_expired()) {
            archive.set_offered(false);
            self.offer(repo, &archive);
        } else if agreed.base.head.snapshots.is_empty() || is_over {
            self.tell_alone(shared, (repo, place), agreed).await?;
        } else if repo.has_snapshot() {
            self.rebuild(repo, Cause::Timer);
        } else if let Found::Vacant(permit) = repo.find(None) {
            self.build_for(permit, Cause::Timer);
        }
        Ok(())
    }

    /// Whether what is built is shared though the upstream cannot be compared.
    pub(super) async fn tells_uncompared(
        &self,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        agreed: &Agreed,
    ) -> bool {
        let Some(since) = agreed.owed.filter(|_| !repo.holds_expired()) else {
            return false;
        };
        if since.elapsed() >= self.kept() {
            return true;
        }
        let own = self.shown_refs(repo, archive).await;
        let own = own.map(|refs| refs_name(&refs));
        agreed.base.head.is_no_newer(own.as_deref())
    }

    /// Others are told, by a swap that was done.
    pub(super) async fn note_told(
        &self,
        shared: &Shared,
        repo: &Repo,
        generation: Generation,
    ) -> Result<(), ShareError> {
        write(repo, generation).await?;
        let told = (generation.raise, generation);
        self.end_duty(shared, &place_of(repo), told).await?;
        shared.with_seen(&repo.name, |seen| (seen.owed, seen.left) = (None, None));
        let (repository, generation) = (&*repo.name, generation.number);
        tracing::info!(repository, generation, "what has expired is shared no more");
        Ok(())
    }

    /// A head says by this raise what others were to be told, or has by the one that it is of now.
    pub(super) async fn end_duty(
        &self,
        shared: &Shared,
        place: &Place,
        (raise, now): (RandomId, Generation),
    ) -> Result<(), ShareError> {
        if !shared.is_readonly {
            self.tell_idle(shared, place, raise).await?;
        }
        let told = |memory: &mut Memory| {
            memory.set_at(now);
            memory.due.take_if(|due| *due == raise);
        };
        shared.memories.change(place, told).await?;
        Ok(())
    }

    /// Has others told of what an earlier process has had expire.
    pub(super) async fn tell_what_is_owed(&self, repo: &Repo) {
        let Some(shared) = self.shared.as_ref().filter(|_| self.tells(repo)) else {
            return;
        };
        let due = shared.memories.due(&place_of(repo)).await;
        if due.is_ok_and(|due| due.is_some()) {
            self.look_shared_soon(&repo.name);
        }
    }

    /// Swaps a head for one that names nothing of what it has named, unless somebody else was faster.
    async fn tell_alone(
        &self,
        shared: &Shared,
        (repo, place): (&Repo, &Place),
        agreed: &Agreed,
    ) -> Result<(), ShareError> {
        let told = (agreed.after, agreed.generation);
        match raise(shared, place, (&agreed.base, told)).await? {
            true => self.note_told(shared, repo, agreed.generation).await,
            false => Ok(()),
        }
    }

    /// Those who are to be told for long of what has expired in mirrors that are there no more, or stay though they are behind, are
    /// told alone: what is in the store may have it, and nobody here knows.
    pub(super) async fn tell_without_mirrors(&self) {
        let Some(shared) = self.shared.as_ref().filter(|shared| !shared.is_readonly) else {
            return;
        };
        for place in shared.memories.owed_for(self.kept()) {
            let Identity { host, path, .. } = &place.identity;
            let repository = format!("{host}/{path}");
            let is_plain = is_plain_path(host) && is_plain_path(path);
            if !is_plain || self.permissions.of_repository(&repository).is_some() {
                continue;
            }
            let mirror = self.catalog.state.mirror_path(host, path);
            // Who is behind shares nothing of what is here.
            if mirror.is_dir() && !shared.is_stuck_behind(&repository, self.kept()) {
                continue;
            }
            if let Err(why) = self.tell_without_mirror(shared, &place).await {
                let why = causes(&why);
                tracing::debug!(repository, "what has expired is not told yet: {why}");
            }
        }
    }

    async fn tell_without_mirror(&self, shared: &Shared, place: &Place) -> Result<(), ShareError> {
        let memories = &shared.memories;
        let remembered = memories.of_place(place).await?;
        let base = Base::read(&shared.objects, place).await?;
        let base = memories.above(&shared.objects, (place, base), remembered);
        let base = base.await;
        let Some(memory) = shared.memories.of_place(place).await? else {
            return Ok(());
        };
        let Some(due) = memory.due else { return Ok(()) };
        let told = Generation {
            number: base.head.generation.max(memory.number) + 1,
            raise: due,
        };
        let now = match base.head.has_raised(due) {
            true => base.head.at(),
            false if raise(shared, place, (&base, (memory.at(), told))).await? => told,
            false => return Ok(()),
        };
        self.end_duty(shared, place, (due, now)).await?;
        let (repository, generation) = (&place.identity.path, now.number);
        tracing::info!(repository, generation, "what has expired is shared no more");
        Ok(())
    }

    /// Tells those who do not look at the head, for nobody uses the repository there.
    async fn tell_idle(
        &self,
        shared: &Shared,
        place: &Place,
        raise: RandomId,
    ) -> Result<(), ShareError> {
        match raised::tell(&shared.objects, (place, raise), &mut SystemRandom).await? {
            true => Ok(()),
            false => Err(ShareError::Busy),
        }
    }
}

/// Swaps a head for one of a later generation that names nothing; whether nobody else was faster.
async fn raise(
    shared: &Shared,
    place: &Place,
    (base, (after, generation)): (&Base, (Generation, Generation)),
) -> Result<bool, ShareError> {
    let change = Change {
        generation,
        after,
        ..Change::default()
    };
    let (listing, contents) = (Listing::default(), Contents::new());
    let stamp = (&mut SystemRandom, unix_ms());
    let mut uploads = Uploads::default();
    let (there, what) = ((base, &listing), (&change, &contents));
    let told = uploads.publish(&shared.objects, place, there, what, stamp);
    let is_done = matches!(told.await?, Published::Done(_));
    if is_done {
        shared.memories.note_unswept(place, true);
    }
    Ok(is_done)
}
