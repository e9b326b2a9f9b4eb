//! What there is of a snapshot without building one, and what its endpoint does otherwise where the upstream's own
//! permission decides: nothing that is old is sent, and nothing is said before it is known that whoever asks may
//! have it.

use std::sync::Arc;
use std::time::Instant;

use super::core::{Asked, Core};
use super::freshness::{Taken, is_known, ready};
use super::sought::Sought;
use crate::access::verdicts::Known;
use crate::archive::place::Archive;
use crate::refs::Follow;
use crate::repos::error::StartError;
use crate::repos::repo::Found;

impl Core {
    /// The archive that there is of what is asked for.
    pub(super) async fn cached(&self, asked: &Asked<'_, '_>) -> Option<Arc<Archive>> {
        let repo = &asked.repo;
        if asked.shown.is_some() {
            return self.cached_young(asked).await;
        }
        if asked.named.is_default() {
            return repo.current();
        }
        if let Some((_, Found::Hit(archive))) = repo.find_known(&asked.named, None) {
            return Some(archive);
        }
        let (at, named) = (repo.clone(), asked.named.clone());
        let asker = asked.asker();
        let wanted = self
            .ask(move |jobs| jobs.resolve_here(at, named, asker))
            .await;
        repo.archive_of(&wanted.ok()?.want)
    }

    /// The archive that there is of what is asked for, if it may be sent.
    async fn cached_young(&self, asked: &Asked<'_, '_>) -> Option<Arc<Archive>> {
        let (repo, asker) = (&asked.repo, asked.asker());
        let taken = Taken::by(asked, self.permissions.young());
        if !repo.is_mirrored() {
            return None;
        }
        let taken = self
            .fresh_enough((repo, &asked.named), taken, &asker)
            .await
            .ok()?;
        if let Some(archive) = ready(asked, taken, &self.permissions) {
            return Some(archive);
        }
        let (at, named) = (repo.clone(), asked.named.clone());
        let wanted = self
            .ask(move |jobs| jobs.resolve_here(at, named, asker))
            .await
            .ok()?;
        repo.hit_of(&wanted.want, taken.since())
    }

    /// Whether an archive whose first byte was waited for has become too old meanwhile, where the upstream's permission
    /// decides, or the right to its commit has: then what is to be taken when it is looked for again, which has the
    /// upstream asked for the commit; for what refs lead to it was asked here. This was look number `looks`.
    pub(super) async fn aged(
        &self,
        sought: &Sought,
        (taken, looks): (Taken, usize),
        archive: &Arc<Archive>,
    ) -> Result<Option<Taken>, StartError> {
        let (repo, permissions) = (&sought.repo, &self.permissions);
        let Some(shown) = &sought.shown else {
            return Ok(None);
        };
        let known = sought.named.commit().map(|id| {
            let refs = repo.refs_mark();
            permissions.is_shown(shown, id.as_slice(), &refs)
        });
        match known {
            None | Some(Known::Yes) => {}
            // It was asked again, and cannot be.
            Some(Known::Before(_)) if looks > 1 => {}
            Some(_) => return Ok(Some(taken)),
        }
        let later = sought.taken.young(Instant::now(), permissions.young());
        let (Some(_), Some(since)) = (taken.since(), later.since()) else {
            // It is as old as the operator allows.
            return Ok(None);
        };
        let is_young = match archive.want.follows() {
            true => repo
                .moment_of(archive)
                .is_some_and(|moment| moment.began >= since),
            false => repo.is_fresh_since(since),
        };
        if is_young {
            return Ok(None);
        }
        let fresh = self.fresh_enough((repo, &sought.named), later, &sought.asker);
        fresh.await.map(Some)
    }

    /// Whether it is known that whoever asks may have what is named, for a look now and then: of an object that no
    /// ref may lead to, that is asked for meanwhile.
    pub(super) fn showing(&self, asked: &Asked<'_, '_>) -> impl Fn() -> bool + use<> {
        let (repo, named) = (asked.repo.clone(), asked.named.clone());
        let (shown, permissions) = (asked.shown.clone(), self.permissions.clone());
        if let (Some(_), Some(id), false) = (&shown, named.commit(), repo.is_mirrored()) {
            let (repo, asker) = (repo.clone(), asked.asker());
            self.plane
                .spawn(move |jobs| jobs.show_soon(repo, id, asker));
        }
        // A ref that is not followed may lead anywhere.
        let unusual = named.full_name().filter(|_| shown.is_some());
        let is_followed = unusual.is_none_or(|name| {
            let follow = Follow::new(&self.config.follow).unwrap_or_default();
            follow.matches(name)
        });
        let leads = shown.is_none() || is_followed || named.commit().is_some();
        move || leads && is_known(&repo, &named, (&shown, &permissions), Taken::Any)
    }
}
