//! What can be served of a repository and what is built, for each want: what a request finds, who has the right
//! to build, and what is published, replaced and given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gix::bstr::BString;

use super::permit::Permit;
use super::{RefsEpoch, Repo, State};
use crate::archive::place::Archive;
use crate::limits::{PREBUILD_ASKED_MS, WANTS_BUILDING_MAX};
use crate::manifest::want::{CommitId, Named, Shape, Want};
use crate::repos::builds::{NotBuilt, Ticket};
use crate::repos::error::StartError;
use crate::repos::served::Snapshot;
use crate::repos::wants::Served;

/// Whether the upstream had what is made of the refs of this epoch, or something younger, at `since` or later.
/// What names a commit is the same at any time.
fn is_young(state: &State, want: &Want, epoch: RefsEpoch, since: Option<Instant>) -> bool {
    let Some(since) = since.filter(|_| want.follows()) else {
        return true;
    };
    let moment = state.moments.of(epoch);
    moment.is_some_and(|moment| moment.began >= since)
}

/// What whoever asks now is answered from, if it is as young.
fn hit<'s>(state: &'s State, want: &Want, since: Option<Instant>) -> Option<&'s Arc<Archive>> {
    let snapshot = &state.wants.get(want)?.snapshot;
    let archive = snapshot.hit()?;
    let shown = snapshot.known_epoch();
    let is_young = |epoch| is_young(state, want, epoch, since);
    let takes_any = since.is_none() || !want.follows();
    // Who is to have what the upstream has now gets nothing that was made before the last expiry.
    let is_expired = since.is_some() && snapshot.is_before(state.expired);
    let is_hit = takes_any || shown.is_some_and(is_young);
    (is_hit && !is_expired).then_some(archive)
}

/// The build that whoever asks now can follow.
fn to_follow<'s>(state: &State, served: &'s Served) -> Option<&'s Ticket> {
    let is_dropped = served.building < state.dropped;
    served.builds.to_follow().filter(|_| !is_dropped)
}

/// What a request finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// An archive that is whole.
    Hit(Arc<Archive>),
    /// A build that others started, and that is not held up by slow clients.
    Following(Ticket),
    /// The same, but what it builds may be older than what is wanted.
    Older(Ticket),
    /// Nothing; whoever holds the permit is to build.
    Vacant(Permit),
    /// Nothing, and none is built now: this is why. Builds have failed again and again, or too many run.
    Refused(StartError),
}

/// Whether what is wanted shows something else by now, and nothing is built for it.
fn is_due(want: &Want, served: &Served, epoch: RefsEpoch) -> bool {
    let is_stale = want.follows() && served.snapshot.is_stale(epoch);
    is_stale && served.builds.is_none() && !served.is_failing()
}

impl Repo {
    /// Whether a snapshot is built now.
    pub(crate) fn is_building(&self) -> bool {
        self.lock().wants.all().any(|one| !one.builds.is_none())
    }

    /// The same, but for what goes straight to clients, at their pace, and is kept nowhere.
    pub(crate) fn is_building_to_keep(&self) -> bool {
        self.lock().wants.all().any(|one| one.builds.is_any_kept())
    }

    /// What there is for a plain request; makes the caller the builder if there is nothing. Who must not have
    /// anything that the upstream had only before `since` says so once a comparison that began at that time or
    /// later has succeeded (see [`is_fresh_since`](Self::is_fresh_since)).
    pub(crate) fn find(self: &Arc<Self>, since: Option<Instant>) -> Found {
        let mut state = self.lock();
        let want = Arc::default();
        if let Some(found) = self.found(&state, &want, since) {
            return found;
        }
        Found::Vacant(self.permit(&mut state, &want))
    }

    /// The same for any want, which there is in the mirror. An archive of a ref that is older than the mirror
    /// is still there for those who have begun with it, and its successor is built.
    pub(crate) fn find_want(self: &Arc<Self>, want: &Arc<Want>, since: Option<Instant>) -> Found {
        if want.is_default() {
            return self.find(since);
        }
        let mut state = self.lock();
        let epoch = state.epoch;
        if let Some(served) = state.wants.get(want) {
            let is_due = is_due(want, served, epoch);
            if let Some(found) = self.found(&state, want, since).filter(|_| !is_due) {
                return found;
            }
        }
        if state.wants.building() >= WANTS_BUILDING_MAX {
            return Found::Refused(self.too_many());
        }
        state.wants.change(want, |served| served.snapshot.leave());
        Found::Vacant(self.permit(&mut state, want))
    }

    /// What there is for a request that names something, as far as that is known without a look at the mirror.
    pub(crate) fn find_known(
        &self,
        named: &Named,
        since: Option<Instant>,
    ) -> Option<(Arc<Want>, Found)> {
        let state = self.lock();
        let want = state.wants.meant(named)?;
        if !self.may_serve(&want) {
            return None;
        }
        let is_due = is_due(&want, state.wants.get(&want)?, state.epoch);
        let found = self.found(&state, &want, since).filter(|_| !is_due)?;
        Some((Arc::new(want), found))
    }

    fn found(&self, state: &State, want: &Want, since: Option<Instant>) -> Option<Found> {
        let served = state.wants.get(want)?;
        if let Some(current) = hit(state, want, since) {
            return Some(Found::Hit(current.clone()));
        }
        if let Some(build) = to_follow(state, served) {
            let is_expired = since.is_some() && served.building < state.expired;
            let is_young = is_young(state, want, served.building, since) && !is_expired;
            return Some(match is_young {
                true => Found::Following(build.clone()),
                false => Found::Older(build.clone()),
            });
        }
        let failed = served.failing.as_ref()?;
        let left = failed.left();
        if left.is_zero() {
            return None;
        }
        Some(match served.snapshot.archive() {
            // What is older is better than nothing.
            Some(old) if since.is_none() => Found::Hit(old.clone()),
            _ => Found::Refused(self.failing(failed, left)),
        })
    }

    /// Whether whoever asks now for the same, as young, would follow the build of `ticket`.
    pub(crate) fn follows(&self, want: &Want, ticket: &Ticket, since: Option<Instant>) -> bool {
        let state = self.lock();
        let Some(served) = state.wants.get(want) else {
            return false;
        };
        let (build, is_hit) = (
            to_follow(&state, served),
            hit(&state, want, since).is_some(),
        );
        !is_hit && build.is_some_and(|build| build.same_build(ticket))
    }

    /// What a short name led to, among the refs of this epoch.
    pub(crate) fn note_name(&self, named: &Named, full: Option<BString>, epoch: RefsEpoch) {
        let mut state = self.lock();
        if state.epoch == epoch {
            state.wants.note_name(named, full);
        }
    }

    /// Nobody has asked for it lately: what names lead to is looked up again.
    pub(crate) fn forget_names(&self) {
        self.lock().wants.forget_names();
    }

    fn failing(&self, failed: &NotBuilt, left: Duration) -> StartError {
        let (name, count, why) = (&self.name, failed.count, &failed.why);
        let left_s = left.as_secs() + 1;
        StartError {
            status: 500,
            message: format!(
                "cannot build a snapshot of {name}: {why}; {count} tries failed, the next one can \
                 begin in {left_s} s"
            ),
        }
    }

    fn too_many(&self) -> StartError {
        StartError {
            status: 503,
            message: format!(
                "{WANTS_BUILDING_MAX} refs and commits of {} are being built; try again",
                self.name
            ),
        }
    }

    /// The right to build a newer snapshot while the current one is served; `None` if the
    /// current one is as new as the mirror, if there is none, if a build runs already, or if
    /// builds fail again and again.
    pub(crate) fn rebuild(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        let served = &state.wants.default;
        let is_due = served.snapshot.is_stale(state.epoch) && served.builds.is_none();
        (is_due && !served.is_failing()).then(|| self.permit(&mut state, &Arc::default()))
    }

    /// The same for the refs that somebody has asked for lately; for those of `pushed` a day is lately. What
    /// nobody has is built when it is.
    pub(crate) fn rebuild_others(self: &Arc<Self>, pushed: &[String]) -> Vec<Permit> {
        let is_pushed = |want: &Want| {
            let name = want.followed();
            name.is_some_and(|name| pushed.iter().any(|pushed| pushed.as_bytes() == &**name))
        };
        let mut state = self.lock();
        let room = WANTS_BUILDING_MAX.saturating_sub(state.wants.building());
        let epoch = state.epoch;
        let others = state.wants.others();
        let due = others.filter(|(want, served)| is_due(want, served, epoch));
        let due = due.filter(|(want, served)| {
            let is_pushed = is_pushed(want) && served.is_used_within(PREBUILD_ASKED_MS);
            is_pushed || served.is_in_use()
        });
        let due: Vec<_> = due.map(|(want, _)| want.clone()).take(room).collect();
        due.iter()
            .map(|want| self.permit(&mut state, want))
            .collect()
    }

    /// The right to build the current snapshot once more, while it is served; `None` if there is none or a
    /// build runs.
    pub(crate) fn build_again(self: &Arc<Self>, want: &Arc<Want>) -> Option<Permit> {
        let mut state = self.lock();
        let served = state.wants.get(want)?;
        let may_build = served.snapshot.archive().is_some() && served.builds.is_none();
        may_build.then(|| self.permit(&mut state, want))
    }

    /// The mirror's refs have moved, just now or during the build that runs.
    pub(crate) fn set_moved(&self) {
        let mut state = self.lock();
        state.epoch.advance();
        // What is there now may be built.
        state
            .wants
            .all_mut()
            .for_each(|served| served.failing = None);
        state.wants.forget_names();
    }

    /// Something that no ref leads to any more is gone from the mirror: what is built from here on has nothing
    /// of it, also not in what it takes over. Gives what is to be replaced when it is asked for again: what is
    /// not the default one may be of what is gone.
    pub(crate) fn set_expired(&self) -> Vec<Arc<Archive>> {
        let mut state = self.lock();
        state.epoch.advance();
        state.expired = state.epoch;
        drop(state);
        self.take_expired()
    }

    /// The same of what was being built meanwhile.
    pub(crate) fn take_expired(&self) -> Vec<Arc<Archive>> {
        let mut state = self.lock();
        let expired = state.expired;
        let is_before = |_: &Want, served: &Served| served.snapshot.is_before(expired);
        state.wants.take_others(is_before)
    }

    /// Whether the current snapshot was built before that.
    pub(crate) fn holds_expired(&self) -> bool {
        let state = self.lock();
        state.wants.default.snapshot.is_before(state.expired)
    }

    /// The epoch of now. A build asks before it looks at the refs.
    pub(crate) fn epoch(&self) -> RefsEpoch {
        self.lock().epoch
    }

    /// What names the refs of now among all that this process has known.
    pub(crate) fn refs_mark(&self) -> [u8; 16] {
        let epoch = self.lock().epoch.number();
        (u128::from(self.serial) << 64 | u128::from(epoch)).to_le_bytes()
    }

    /// The packs of the mirror are others than those of the current snapshots, which keep them on the disk.
    /// Gives those that nobody has wanted lately.
    pub(crate) fn set_outdated(&self) -> Vec<Arc<Archive>> {
        let mut state = self.lock();
        state.wants.set_packs_outdated();
        let has_packs = |want: &Want| want.shape() == Shape::Full;
        state
            .wants
            .take_others(|want, served| has_packs(want) && !served.is_in_use())
    }

    /// All that is served.
    pub(crate) fn wants(&self) -> Vec<Arc<Want>> {
        let archives = self.archives();
        archives
            .iter()
            .map(|archive| archive.want.clone())
            .collect()
    }

    /// Notes of which refs that is.
    pub(crate) fn note_refs(&self, refs: [u8; 32]) {
        self.lock().wants.note_refs(refs);
    }

    fn permit(self: &Arc<Self>, state: &mut State, want: &Arc<Want>) -> Permit {
        let (permit, ticket) = Permit::new(self.clone(), want.clone());
        let epoch = state.epoch;
        let served = state.wants.entry(want);
        served.builds.add(ticket);
        served.building = epoch;
        permit
    }

    /// The archive that a plain request is answered from.
    pub(crate) fn current(&self) -> Option<Arc<Archive>> {
        self.lock().wants.default.snapshot.archive().cloned()
    }

    /// The archive of a want, if whoever must not have anything older than `since` is answered from it.
    pub(crate) fn hit_of(&self, want: &Want, since: Option<Instant>) -> Option<Arc<Archive>> {
        hit(&self.lock(), want, since).cloned()
    }

    /// The archive of a want.
    pub(crate) fn archive_of(&self, want: &Want) -> Option<Arc<Archive>> {
        let state = self.lock();
        state.wants.get(want)?.snapshot.archive().cloned()
    }

    /// Whether there is an archive of anything.
    pub(crate) fn has_snapshot(&self) -> bool {
        let state = self.lock();
        let mut all = state.wants.all();
        all.any(|one| one.snapshot.archive().is_some())
    }

    /// How many archives there are besides that of a plain request.
    pub(crate) fn others(&self) -> usize {
        let state = self.lock();
        let others = state.wants.others();
        others
            .filter(|(_, one)| one.snapshot.archive().is_some())
            .count()
    }

    /// Whether something is built for a want.
    pub(crate) fn is_building_for(&self, want: &Want) -> bool {
        let state = self.lock();
        let served = state.wants.get(want);
        served.is_some_and(|served| !served.builds.is_none())
    }

    /// All archives, that of a plain request first.
    pub(crate) fn archives(&self) -> Vec<Arc<Archive>> {
        let state = self.lock();
        let all = state.wants.all();
        all.filter_map(|served| served.snapshot.archive().cloned())
            .collect()
    }

    /// The archive that a build of `want` best takes over from, and whether it may have something of what was
    /// expired: its own, one of the commit that is near, the default one, or the last that was made.
    pub(crate) fn base_of(
        &self,
        want: &Want,
        near: Option<CommitId>,
    ) -> Option<(Arc<Archive>, bool)> {
        let near = near.map(|id| id.to_string());
        let state = self.lock();
        let rank = |archive: &Archive| {
            let is_near = near.is_some() && archive.commit == near;
            let is_default = archive.want.is_default();
            let made = archive.created_unix_ms;
            (*archive.want == *want, is_near, is_default, made)
        };
        let all = state.wants.all().filter_map(|served| {
            let archive = served.snapshot.archive()?;
            let is_before = served.snapshot.is_before(state.expired);
            Some((rank(archive), archive, is_before))
        });
        let best = all.max_by_key(|(rank, ..)| *rank);
        best.map(|(_, archive, is_expired)| (archive.clone(), is_expired))
    }

    /// Makes `archive` the current one of its want, whose build began in epoch `shown`; returns the one
    /// before, and whether it may have something of what has expired.
    pub(crate) fn publish(
        &self,
        archive: Arc<Archive>,
        shown: RefsEpoch,
    ) -> Option<(Arc<Archive>, bool)> {
        let mut state = self.lock();
        let expired = state.expired;
        let served = state.wants.entry(&archive.want.clone());
        served.failing = None;
        let is_expired = served.snapshot.is_before(expired);
        let before = served.snapshot.take();
        served.snapshot = Snapshot::Ready {
            // No comparison of this server's was one with what another has seen.
            is_outdated: archive.seen_elsewhere_unix_ms().is_some(),
            archive,
            shown,
            is_left: false,
        };
        before.map(|before| (before, is_expired))
    }

    /// Takes the archive away if it is the current one of its want and nobody reads it.
    pub(crate) fn take_idle(&self, archive: &Arc<Archive>) -> bool {
        let mut state = self.lock();
        state.wants.change(&archive.want, |served| {
            // Whoever joins it takes it from here under the same lock.
            let is_idle = served.snapshot.is(archive) && archive.fanout.readers() == 0;
            if is_idle {
                served.snapshot = Snapshot::Vacant;
            }
            is_idle
        })
    }

    /// Forgets `archive` if it is a current one, for it turned out not to be readable.
    /// Whether it was.
    pub(crate) fn forget(&self, archive: &Arc<Archive>) -> bool {
        let mut state = self.lock();
        state.wants.change(&archive.want, |served| {
            let is_current = served.snapshot.is(archive);
            if is_current {
                served.snapshot = Snapshot::Vacant;
            }
            is_current
        })
    }

    /// The same for one that was found damaged. If it was, and nobody builds, the right to build
    /// another one: as long as it is held nothing is published.
    pub(crate) fn condemn(self: &Arc<Self>, archive: &Arc<Archive>) -> Option<Permit> {
        let mut state = self.lock();
        let served = state.wants.get(&archive.want)?;
        if !served.snapshot.is(archive) {
            return None;
        }
        let is_idle = served.builds.is_none();
        let condemn = |served: &mut Served| served.snapshot = Snapshot::Vacant;
        state.wants.change(&archive.want, condemn);
        is_idle.then(|| self.permit(&mut state, &archive.want))
    }

    /// A build has failed just now.
    pub(crate) fn set_not_built(&self, want: &Arc<Want>, why: &str) {
        let mut state = self.lock();
        let served = state.wants.entry(want);
        let before = served.failing.as_ref().map_or(0, |failed| failed.count);
        served.failing = Some(NotBuilt {
            count: before.saturating_add(1),
            at: Instant::now(),
            why: why.to_owned(),
        });
    }

    /// Whether the last build of something failed and nothing has moved since.
    pub(crate) fn is_failing(&self) -> bool {
        self.lock().wants.all().any(|one| one.failing.is_some())
    }

    /// The same of one want.
    pub(crate) fn is_failing_at(&self, want: &Want) -> bool {
        let state = self.lock();
        let served = state.wants.get(want);
        served.is_some_and(|served| served.failing.is_some())
    }

    /// What failed can be tried again.
    pub(crate) fn set_mended(&self) {
        let mut state = self.lock();
        state
            .wants
            .all_mut()
            .for_each(|served| served.failing = None);
    }

    /// A build has succeeded whose archive is not kept; [`Repo::publish`] notes the others.
    pub(crate) fn set_built(&self, want: &Want) {
        let mut state = self.lock();
        state.wants.change(want, |served| served.failing = None);
    }
}
