//! A repository: what can be served of it, what is built, what is known of its mirror and upstream.
//!
//! The critical sections are a few field reads and writes, without allocation on a hit; no lock is
//! held across an await.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gix::bstr::BString;
use tokio::sync::watch;

use super::builds::{NotBuilt, Started, Ticket};
use super::error::StartError;
use super::head::{Mirror, MirrorHead};
use super::locks::MirrorLocks;
use super::marks::{Asked, KnownAside, Notes};
pub(crate) use super::served::RefsEpoch;
use super::served::Snapshot;
use super::upstream::{Compared, Upstream};
use super::wants::{Served, Wants};
use crate::archive::place::Archive;
use crate::limits::WANTS_BUILDING_MAX;
use crate::manifest::want::{Named, Want};

/// A repository.
#[derive(Debug)]
pub(crate) struct Repo {
    /// `host/path`.
    pub name: Arc<str>,
    /// The mirror's directory.
    pub mirror: PathBuf,
    /// Where the mirror is cloned from; also the URL of `origin` in its archives.
    pub url: String,
    pub locks: MirrorLocks,
    /// What lies outside of the mirror's packs and is known not to be needed.
    pub aside: KnownAside,
    /// What else is noted without the lock.
    pub notes: Notes,
    /// When somebody last asked for something of it.
    pub asked: Asked,
    state: Mutex<State>,
}

/// What there is of a repository. Its three parts change independently of each other: a snapshot is
/// served whatever becomes of the mirror, and a mirror that is kept says nothing of its upstream.
#[derive(Debug, Default)]
struct State {
    wants: Wants,
    mirror: Mirror,
    upstream: Upstream,
    /// When the mirror was last fetched by an earlier process, or by somebody else.
    fetched_before_unix_ms: Option<u64>,
    /// Of the mirror's refs, as far as was seen.
    epoch: RefsEpoch,
    /// When something of the mirror was last expired: what was built before may have it.
    expired: RefsEpoch,
    /// When the upstream was last asked whether it leads back to a server that waits.
    way_asked: Option<Instant>,
}

/// What a request finds.
#[derive(Debug)]
pub(crate) enum Found {
    /// An archive that is whole.
    Hit(Arc<Archive>),
    /// A build that others started, and that is not held up by slow clients.
    Following(Ticket),
    /// Nothing; whoever holds the permit is to build.
    Vacant(Permit),
    /// Nothing, and none is built now: this is why. Builds have failed again and again, or too many run.
    Refused(StartError),
}

/// The right, and the duty, to build the snapshot of a want: there is one at a time, or two if the
/// first is not kept and held up by its clients. Dropping it ends the build for everybody.
#[derive(Debug)]
pub(crate) struct Permit {
    repo: Arc<Repo>,
    want: Arc<Want>,
    sender: watch::Sender<Option<Started>>,
}

impl Permit {
    /// The repository.
    pub(crate) fn repo(&self) -> &Arc<Repo> {
        &self.repo
    }

    /// What is to be built.
    pub(crate) fn want(&self) -> &Arc<Want> {
        &self.want
    }

    /// A ticket for a further listener.
    pub(crate) fn ticket(&self) -> Ticket {
        self.sender.subscribe()
    }

    /// Tells everybody what there is to read.
    pub(crate) fn started(&self, started: Started) {
        self.sender.send_replace(Some(started));
    }
}

impl Permit {
    /// Ends the build before it began. Whoever asks after having heard of it finds no build.
    pub(crate) fn refuse(self, why: StartError) {
        self.end();
        self.started(Err(why));
    }

    fn end(&self) {
        let own = self.sender.subscribe();
        let mut state = self.repo.lock();
        state
            .wants
            .change(&self.want, |served| served.builds.remove(&own));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end();
        self.sender.send_if_modified(|started| {
            let unheard = started.is_none();
            if unheard {
                *started = Some(Err(StartError {
                    status: 500,
                    message: "the build ended before it began; try again".into(),
                }));
            }
            unheard
        });
    }
}

impl State {
    /// Whether nothing is served or built.
    fn is_bare(&self) -> bool {
        let is_bare = |one: &Served| one.snapshot.archive().is_none() && one.builds.is_none();
        self.wants.all().all(is_bare)
    }
}

/// Whether what is wanted shows something else by now, and nothing is built for it.
fn is_due(want: &Want, served: &Served, epoch: RefsEpoch) -> bool {
    let is_stale = want.follows() && served.snapshot.is_stale(epoch);
    is_stale && served.builds.is_none() && !served.is_failing()
}

impl Repo {
    /// One of which nothing is known.
    pub(super) fn new(name: Arc<str>, mirror: PathBuf, url: String) -> Repo {
        Repo {
            name,
            mirror,
            url,
            locks: MirrorLocks::default(),
            aside: KnownAside::default(),
            asked: Asked::default(),
            notes: Notes::default(),
            state: Mutex::default(),
        }
    }

    /// Whether a snapshot is built now.
    pub(crate) fn is_building(&self) -> bool {
        self.lock().wants.all().any(|one| !one.builds.is_none())
    }

    /// The state is changed in single assignments, so a panic cannot leave it half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is for a plain request; makes the caller the builder if there is nothing.
    pub(crate) fn find(self: &Arc<Self>) -> Found {
        let mut state = self.lock();
        if let Some(found) = self.found(&state.wants.default) {
            return found;
        }
        Found::Vacant(self.permit(&mut state, &Arc::default()))
    }

    /// The same for any want, which there is in the mirror. An archive of a ref that is older than the mirror
    /// is still there for those who have begun with it, and its successor is built.
    pub(crate) fn find_want(self: &Arc<Self>, want: &Arc<Want>) -> Found {
        if want.is_default() {
            return self.find();
        }
        let mut state = self.lock();
        let epoch = state.epoch;
        if let Some(served) = state.wants.get(want) {
            let is_due = is_due(want, served, epoch);
            if let Some(found) = self.found(served).filter(|_| !is_due) {
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
    pub(crate) fn find_known(&self, named: &Named) -> Option<(Arc<Want>, Found)> {
        let state = self.lock();
        let want = state.wants.meant(named)?;
        let served = state.wants.get(&want)?;
        let is_due = is_due(&want, served, state.epoch);
        let found = self.found(served).filter(|_| !is_due)?;
        Some((Arc::new(want), found))
    }

    fn found(&self, served: &Served) -> Option<Found> {
        if let Some(current) = served.snapshot.hit() {
            return Some(Found::Hit(current.clone()));
        }
        if let Some(build) = served.builds.to_follow() {
            return Some(Found::Following(build.clone()));
        }
        let failed = served.failing.as_ref()?;
        let left = failed.left();
        if left.is_zero() {
            return None;
        }
        Some(match served.snapshot.archive() {
            // What is older is better than nothing.
            Some(old) => Found::Hit(old.clone()),
            None => Found::Refused(self.failing(failed, left)),
        })
    }

    /// Whether whoever asks now for the same would follow the build of `ticket`.
    pub(crate) fn follows(&self, want: &Want, ticket: &Ticket) -> bool {
        let state = self.lock();
        let Some(served) = state.wants.get(want) else {
            return false;
        };
        let build = served.builds.to_follow();
        served.snapshot.hit().is_none() && build.is_some_and(|build| build.same_channel(ticket))
    }

    /// What a short name led to, among the refs of this epoch.
    pub(crate) fn note_name(&self, named: &Named, full: BString, epoch: RefsEpoch) {
        let mut state = self.lock();
        if state.epoch == epoch {
            state.wants.note_name(named, full);
        }
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

    /// The same for the refs that somebody has asked for lately. What nobody has is built when it is.
    pub(crate) fn rebuild_others(self: &Arc<Self>) -> Vec<Permit> {
        let mut state = self.lock();
        let room = WANTS_BUILDING_MAX.saturating_sub(state.wants.building());
        let epoch = state.epoch;
        let others = state.wants.others();
        let due = others.filter(|(want, served)| is_due(want, served, epoch));
        let due = due.filter(|(_, served)| served.is_in_use());
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

    /// The packs of the mirror are others than those of the current snapshots, which keep them on the disk.
    /// Gives those that nobody has wanted lately.
    pub(crate) fn set_outdated(&self) -> Vec<Arc<Archive>> {
        let mut state = self.lock();
        let all = state.wants.all_mut();
        all.for_each(|served| served.snapshot.set_outdated());
        state.wants.take_others(|_, served| !served.is_in_use())
    }

    /// All that is served.
    pub(crate) fn wants(&self) -> Vec<Arc<Want>> {
        let archives = self.archives();
        archives
            .iter()
            .map(|archive| archive.want.clone())
            .collect()
    }

    /// A snapshot of now would show this. If the current one shows something else, refs have moved:
    /// perhaps unseen, as when the server ended before the build that should have followed a
    /// fetch, or when somebody put another mirror there. A build that runs may have begun after
    /// they moved, and no other must follow it. Gives the archive of a ref that is no more.
    pub(crate) fn compare_shown(
        &self,
        want: &Want,
        shown_now: Option<&[u8; 32]>,
    ) -> Option<Arc<Archive>> {
        let mut state = self.lock();
        state.wants.change(want, |served| {
            let shown = served.snapshot.archive().map(|archive| archive.shown);
            match shown_now {
                None => served.snapshot.take(),
                Some(now) => {
                    if shown.is_some_and(|shown| shown != *now) {
                        served.snapshot.set_outdated();
                    }
                    None
                }
            }
        })
    }

    /// Notes of which refs that is.
    pub(crate) fn note_refs(&self, refs: [u8; 32]) {
        self.lock().wants.note_refs(refs);
    }

    fn permit(self: &Arc<Self>, state: &mut State, want: &Arc<Want>) -> Permit {
        let (sender, receiver) = watch::channel(None);
        state.wants.entry(want).builds.add(receiver);
        Permit {
            repo: self.clone(),
            want: want.clone(),
            sender,
        }
    }

    /// The archive that a plain request is answered from.
    pub(crate) fn current(&self) -> Option<Arc<Archive>> {
        self.lock().wants.default.snapshot.archive().cloned()
    }

    /// The archive of a want.
    pub(crate) fn archive_of(&self, want: &Want) -> Option<Arc<Archive>> {
        let state = self.lock();
        state.wants.get(want)?.snapshot.archive().cloned()
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
    /// expired: its own, one of the same commit, the default one, or the last that was made.
    pub(crate) fn base_of(
        &self,
        want: &Want,
        commit: Option<&str>,
    ) -> Option<(Arc<Archive>, bool)> {
        let state = self.lock();
        let rank = |archive: &Archive| {
            let is_same = commit.is_some() && archive.commit.as_deref() == commit;
            let is_default = archive.want.is_default();
            (
                *archive.want == *want,
                is_same,
                is_default,
                archive.created_unix_ms,
            )
        };
        let all = state.wants.all().filter_map(|served| {
            let archive = served.snapshot.archive()?;
            Some((
                rank(archive),
                archive,
                served.snapshot.is_before(state.expired),
            ))
        });
        let best = all.max_by_key(|(rank, ..)| *rank);
        best.map(|(_, archive, is_expired)| (archive.clone(), is_expired))
    }

    /// Makes `archive` the current one of its want, whose build began in epoch `shown`; returns the one
    /// before.
    pub(crate) fn publish(&self, archive: Arc<Archive>, shown: RefsEpoch) -> Option<Arc<Archive>> {
        let mut state = self.lock();
        let served = state.wants.entry(&archive.want.clone());
        served.failing = None;
        let before = served.snapshot.take();
        served.snapshot = Snapshot::Ready {
            archive,
            shown,
            is_outdated: false,
            is_left: false,
        };
        before
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

    /// The mirror was found to be like its upstream, or made so, by a comparison that began at
    /// these two readings of the clock.
    pub(crate) fn set_fresh(&self, unix_ms: u64, began: Instant) {
        self.lock().upstream = Upstream::Same(Compared { unix_ms, began });
    }

    /// Whether a comparison with the upstream that began at `since` or later has succeeded.
    pub(crate) fn is_fresh_since(&self, since: Instant) -> bool {
        let last = self.lock().upstream.last();
        last.is_some_and(|compared| compared.began >= since)
    }

    /// A comparison with the upstream failed just now.
    pub(crate) fn set_failed(&self, why: StartError) {
        let mut state = self.lock();
        state.upstream = Upstream::Failed {
            at: Instant::now(),
            why,
            before: state.upstream.last(),
        };
    }

    /// How the last comparison failed, if that was at `since` or later and none succeeded since.
    pub(crate) fn failed_since(&self, since: Instant) -> Option<StartError> {
        match &self.lock().upstream {
            Upstream::Failed { at, why, .. } if *at >= since => Some(why.clone()),
            _ => None,
        }
    }

    /// Takes the right to ask the upstream whether it leads back to a server that waits: once in so
    /// long, however many wait. Fails with what is left of that time.
    pub(crate) fn may_ask_way(&self, interval: Duration) -> Result<(), Duration> {
        let mut state = self.lock();
        let asked = state.way_asked.map(|at| at.elapsed());
        match asked.and_then(|ago| interval.checked_sub(ago)) {
            Some(left) if !left.is_zero() => Err(left),
            _ => {
                state.way_asked = Some(Instant::now());
                Ok(())
            }
        }
    }

    /// The mirror could not be cloned just now.
    pub(crate) fn set_not_cloned(&self, why: StartError) {
        let at = Instant::now();
        self.lock().mirror = Mirror::NotCloned { at, why };
    }

    /// How the last clone failed, if that was less than `age_ms` ago. Names that are only
    /// remembered for this are bounded like all bare ones (see
    /// [`REPOSITORIES_BARE_MAX`](crate::limits::REPOSITORIES_BARE_MAX)).
    pub(crate) fn not_cloned_lately(&self, age_ms: u64) -> Option<StartError> {
        match &self.lock().mirror {
            Mirror::NotCloned { at, why } if at.elapsed() < Duration::from_millis(age_ms) => {
                Some(why.clone())
            }
            _ => None,
        }
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

    /// The mirror's HEAD, once it is known.
    pub(crate) fn head(&self) -> Option<Arc<MirrorHead>> {
        match &self.lock().mirror {
            Mirror::Kept { head } => head.clone(),
            _ => None,
        }
    }

    /// Notes the HEAD of a mirror that is kept.
    pub(crate) fn set_head(&self, now: Arc<MirrorHead>) {
        if let Mirror::Kept { head } = &mut self.lock().mirror {
            *head = Some(now);
        }
    }

    /// The same unless it is known, for it may have moved since it was read.
    pub(crate) fn set_first_head(&self, now: Arc<MirrorHead>) {
        if let Mirror::Kept { head } = &mut self.lock().mirror {
            head.get_or_insert(now);
        }
    }

    /// There is a mirror that is kept like its upstream: such a repository stays known.
    pub(crate) fn set_kept(&self) {
        let mut state = self.lock();
        if !matches!(state.mirror, Mirror::Kept { .. }) {
            state.mirror = Mirror::Kept { head: None };
        }
    }

    /// There is no such mirror any more. Another one, when there is one, may have another HEAD.
    pub(crate) fn set_not_kept(&self) {
        self.lock().mirror = Mirror::Unknown;
    }

    /// Forgets the mirror, which is to go, and all that is known of its upstream, unless there is a
    /// snapshot or a build. Whether it did.
    pub(crate) fn leave_mirror(&self) -> bool {
        let mut state = self.lock();
        let may_leave = state.is_bare();
        if may_leave {
            state.mirror = Mirror::Unknown;
            state.upstream = Upstream::default();
            state.fetched_before_unix_ms = None;
        }
        may_leave
    }

    /// See [`Repo::set_kept`].
    pub(crate) fn is_mirrored(&self) -> bool {
        matches!(self.lock().mirror, Mirror::Kept { .. })
    }

    /// Whether there is nothing of it but its name.
    pub(super) fn is_bare(&self) -> bool {
        let state = self.lock();
        let is_kept = matches!(state.mirror, Mirror::Kept { .. });
        !is_kept && state.is_bare()
    }

    /// When the mirror was last like its upstream, as far as is known.
    pub(crate) fn fresh_unix_ms(&self) -> Option<u64> {
        let state = self.lock();
        let last = state.upstream.last().map(|compared| compared.unix_ms);
        last.or(state.fetched_before_unix_ms)
    }

    /// Notes when the mirror that was found was last fetched.
    pub(crate) fn set_fetched_before(&self, unix_ms: u64) {
        self.lock().fetched_before_unix_ms = Some(unix_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::handle::ReaderHandle;
    use crate::limits::{BUILD_RETRY_MAX_MS, BUILD_RETRY_MS};
    use crate::manifest::want::{Revision, Shape};
    use crate::repos::testing::{archive, archive_of};

    fn repo() -> Arc<Repo> {
        let (name, url) = (Arc::from("host/path"), String::new());
        Arc::new(Repo::new(name, PathBuf::new(), url))
    }

    #[test]
    fn what_moves_during_a_build_is_built_after_it() {
        let repo = repo();
        repo.set_moved();
        assert!(repo.rebuild().is_none(), "nobody asked for it");
        repo.publish(archive(10), repo.epoch());
        assert!(repo.rebuild().is_none(), "built after it moved");
        repo.set_moved();
        let permit = repo.rebuild().unwrap();
        let shown = repo.epoch();
        repo.set_moved();
        assert!(repo.rebuild().is_none(), "a build runs");
        // Its date is of no account: the clock was set back.
        repo.publish(archive(3), shown);
        drop(permit);
        drop(repo.rebuild().unwrap());
        // A build that failed is tried again.
        assert!(repo.rebuild().is_some());
    }

    #[test]
    fn refs_that_moved_unseen_are_built_once() {
        let repo = repo();
        repo.compare_shown(&Want::default(), Some(&[1; 32]));
        repo.publish(archive(10), repo.epoch());
        assert!(repo.rebuild().is_none(), "there was nothing to compare");
        repo.compare_shown(&Want::default(), Some(&[0; 32]));
        assert!(repo.rebuild().is_none(), "they are the same");
        repo.compare_shown(&Want::default(), Some(&[1; 32]));
        let permit = repo.rebuild().unwrap();
        // The build has seen these already.
        repo.compare_shown(&Want::default(), Some(&[1; 32]));
        repo.publish(archive(11), repo.epoch());
        drop(permit);
        assert!(repo.rebuild().is_none(), "built twice");
        repo.set_moved();
        let permit = repo.rebuild().unwrap();
        repo.publish(archive(12), repo.epoch());
        drop(permit);
        assert!(repo.rebuild().is_none(), "built twice");
    }

    /// One failure keeps nobody from trying again; from the second on all hear why, until the
    /// wait is over, something moved or a build succeeded.
    #[test]
    fn builds_that_fail_again_and_again_wait() {
        let repo = repo();
        repo.set_not_built(&Arc::default(), "torn");
        assert!(matches!(repo.find(), Found::Vacant(_)));
        repo.set_not_built(&Arc::default(), "rotten");
        let Found::Refused(why) = repo.find() else {
            panic!("it is tried at once");
        };
        assert_eq!(why.status, 500);
        assert!(why.message.contains("host/path: rotten; 2 tries"), "{why}");
        repo.set_moved();
        assert!(matches!(repo.find(), Found::Vacant(_)), "another content");
        for _ in 0..2 {
            repo.set_not_built(&Arc::default(), "rotten");
        }
        repo.set_built(&Want::default());
        assert!(matches!(repo.find(), Found::Vacant(_)));
        let failed = |count, ago_ms| NotBuilt {
            count,
            at: Instant::now() - Duration::from_millis(ago_ms),
            why: String::new(),
        };
        assert!(failed(2, BUILD_RETRY_MS).left().is_zero());
        assert!(!failed(3, BUILD_RETRY_MS).left().is_zero());
        assert!(!failed(u32::MAX, BUILD_RETRY_MAX_MS / 2).left().is_zero());
        assert!(failed(u32::MAX, BUILD_RETRY_MAX_MS).left().is_zero());
    }

    /// A live-only archive whose producer waits for a reader that takes nothing, on a thread of its own
    /// that ends with the archive.
    fn held_up() -> (Arc<Archive>, ReaderHandle) {
        let slow = archive(1);
        let reader = slow.fanout.join(0).unwrap();
        slow.fanout.spool_failed("full");
        let fanout = slow.fanout.clone();
        std::thread::spawn(move || while fanout.push_piece(Arc::new(vec![0; 1 << 20])).is_ok() {});
        let began = Instant::now();
        while !slow.fanout.is_slow() {
            assert!(began.elapsed() < Duration::from_secs(30), "it is not slow");
            std::thread::sleep(Duration::from_millis(10));
        }
        (slow, reader)
    }

    /// Whoever asks while slow readers hold up a build gets another one; there are two at most.
    #[test]
    fn a_build_that_readers_hold_up_is_not_the_only_one() {
        let repo = repo();
        let vacant = || match repo.find() {
            Found::Vacant(permit) => permit,
            other => panic!("{other:?}"),
        };
        let is_followed = |permit: &Permit| match repo.find() {
            Found::Following(ticket) => ticket.same_channel(&permit.ticket()),
            other => panic!("{other:?}"),
        };
        let (first, (slow, reader)) = (vacant(), held_up());
        assert!(is_followed(&first), "it has not begun");
        first.started(Ok(slow.clone()));
        assert!(!repo.follows(&Want::default(), &first.ticket()));
        let second = vacant();
        assert!(is_followed(&second));
        second.started(Ok(slow.clone()));
        assert!(is_followed(&second), "a third one");
        assert!(repo.rebuild().is_none());
        drop(first);
        let third = vacant();
        assert!(is_followed(&third));
        drop((second, third));
        drop(vacant());
        slow.fanout.fail("over");
        drop(reader);
    }

    fn side() -> (Named, Arc<Want>) {
        let named = Named::new(Some("side".into()), None).unwrap();
        let full = "refs/heads/side".into();
        let want = named.want(Some(full), Shape::Full).unwrap();
        (named, Arc::new(want))
    }

    fn at(digit: char) -> (Named, Arc<Want>) {
        let id = gix::ObjectId::from_hex(digit.to_string().repeat(40).as_bytes()).unwrap();
        let named = Named::new(None, Some(id)).unwrap();
        let want = named.want(None, Shape::Full).unwrap();
        (named, Arc::new(want))
    }

    /// What a ref leads to is built anew when it is asked for after it moved, once for all, and the old one
    /// stays for those who have begun with it.
    #[test]
    fn a_ref_that_moved_is_built_when_it_is_asked_for() {
        let repo = repo();
        let (named, want) = side();
        assert!(repo.find_known(&named).is_none(), "nobody has looked");
        repo.note_name(&named, "refs/heads/side".into(), repo.epoch());
        assert!(repo.find_known(&named).is_none(), "there is nothing");
        let Found::Vacant(first) = repo.find_want(&want) else {
            panic!("it is there");
        };
        assert!(matches!(repo.find(), Found::Vacant(_)), "it is another one");
        let old = archive_of(&want, 1);
        repo.publish(old.clone(), repo.epoch());
        drop(first);
        let is_hit = |archive: &Arc<Archive>| match repo.find_known(&named) {
            Some((_, Found::Hit(found))) => Arc::ptr_eq(&found, archive),
            _ => false,
        };
        assert!(is_hit(&old));
        repo.set_moved();
        repo.note_name(&named, "refs/heads/side".into(), repo.epoch());
        assert!(repo.find_known(&named).is_none(), "it is old");
        assert!(repo.rebuild_others().is_empty(), "nobody has asked lately");
        let shown = repo.epoch();
        let Found::Vacant(permit) = repo.find_want(&want) else {
            panic!("the old one is served");
        };
        let Some((_, Found::Following(ticket))) = repo.find_known(&named) else {
            panic!("nobody follows");
        };
        assert!(repo.follows(&want, &ticket));
        assert!(repo.archives().iter().any(|one| Arc::ptr_eq(one, &old)));
        drop(permit);
        assert!(repo.find_known(&named).is_none(), "the build failed");
        let new = archive_of(&want, 2);
        assert!(repo.publish(new.clone(), shown).is_some());
        assert!(is_hit(&new));
        new.touch();
        repo.set_moved();
        assert_eq!(repo.rebuild_others().len(), 1, "it is in use");
        // The branch is gone.
        let gone = repo.compare_shown(&want, None).unwrap();
        assert!(Arc::ptr_eq(&gone, &new) && repo.archives().is_empty());
    }

    #[test]
    fn a_commit_is_never_stale_until_something_expires() {
        let repo = repo();
        let (named, want) = at('a');
        let archive = archive_of(&want, 1);
        repo.publish(archive.clone(), repo.epoch());
        repo.set_moved();
        assert!(repo.rebuild_others().is_empty());
        assert!(matches!(repo.find_known(&named), Some((_, Found::Hit(_)))));
        let (_, newer) = at('b');
        let expired = repo.set_expired();
        assert!(expired.len() == 1 && Arc::ptr_eq(&expired[0], &archive));
        assert!(repo.find_known(&named).is_none());
        // What was being built meanwhile goes, too.
        let before = RefsEpoch::default();
        repo.publish(archive_of(&newer, 2), before);
        assert_eq!(repo.take_expired().len(), 1);
        assert!(repo.archives().is_empty() && repo.leave_mirror());
    }

    #[test]
    fn builds_of_refs_and_commits_are_bounded_and_fail_by_themselves() {
        let repo = repo();
        let (named, want) = at('a');
        for count in 1..=2 {
            let Found::Vacant(permit) = repo.find_want(&want) else {
                panic!("{count}");
            };
            repo.set_not_built(&want, "rotten");
            drop(permit);
        }
        assert!(matches!(
            repo.find_known(&named),
            Some((_, Found::Refused(_)))
        ));
        assert!(repo.is_failing() && !repo.is_failing_at(&Want::default()));
        let id = |n: usize| gix::ObjectId::from_hex(format!("{n:040x}").as_bytes()).unwrap();
        let want = |n| Arc::new(Want::new(Revision::Commit(id(n)), Shape::Full).unwrap());
        let permits: Vec<Permit> = (0..WANTS_BUILDING_MAX)
            .map(|n| match repo.find_want(&want(n)) {
                Found::Vacant(permit) => permit,
                other => panic!("{n}: {other:?}"),
            })
            .collect();
        let Found::Refused(why) = repo.find_want(&want(1000)) else {
            panic!("there is no bound");
        };
        assert_eq!(why.status, 503);
        assert!(matches!(repo.find_want(&want(0)), Found::Following(_)));
        assert!(
            matches!(repo.find(), Found::Vacant(_)),
            "it has its own place"
        );
        drop(permits);
        assert!(matches!(repo.find_want(&want(1000)), Found::Vacant(_)));
    }

    /// A build begins with what is most alike.
    #[test]
    fn the_base_is_the_own_one_or_the_nearest() {
        let repo = repo();
        let base = |want: &Want| {
            repo.base_of(want, None)
                .map(|(archive, _)| archive.want.clone())
        };
        let ((_, a), (_, b), (_, side)) = (at('a'), at('b'), side());
        assert_eq!(base(&a), None);
        repo.publish(archive_of(&a, 1), repo.epoch());
        repo.publish(archive_of(&b, 2), repo.epoch());
        assert_eq!(base(&side), Some(b.clone()), "the last one");
        repo.publish(archive(0), repo.epoch());
        assert_eq!(base(&side), Some(Arc::default()));
        assert_eq!(base(&a), Some(a.clone()));
        repo.set_moved();
        assert!(!repo.base_of(&a, None).unwrap().1);
    }

    #[test]
    fn a_permit_ends_its_own_build_and_no_other() {
        let repo = repo();
        let Found::Vacant(first) = repo.find() else {
            panic!("something is there");
        };
        let Found::Following(ticket) = repo.find() else {
            panic!("nothing runs");
        };
        assert!(matches!(repo.find(), Found::Following(_)));
        let refused = StartError {
            status: 404,
            message: "not there".into(),
        };
        first.refuse(refused.clone());
        assert_eq!(
            ticket.borrow().as_ref().unwrap().as_ref().unwrap_err(),
            &refused
        );
        let Found::Vacant(dropped) = repo.find() else {
            panic!("the refused build did not end");
        };
        let ticket = dropped.ticket();
        drop(dropped);
        let heard = ticket.borrow().clone();
        assert_eq!(heard.unwrap().unwrap_err().status, 500);
        let Found::Vacant(second) = repo.find() else {
            panic!("the build did not end");
        };
        let current = archive(1);
        repo.publish(current.clone(), repo.epoch());
        drop(second);
        assert!(matches!(repo.find(), Found::Hit(_)));
        assert!(!repo.forget(&archive(1)), "another one of the same id");
        let reader = current.fanout.join(0).unwrap();
        assert!(!repo.take_idle(&current), "it is read");
        drop(reader);
        assert!(repo.take_idle(&current));
        assert!(!repo.forget(&current));
    }
}
