//! A repository: what can be served of it, what is built, what is known of its mirror and upstream.
//!
//! The critical sections are a few field reads and writes, without allocation on a hit; no lock is
//! held across an await.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::annexed::Annexed;
use super::error::StartError;
use super::head::{Mirror, MirrorHead};
use super::locks::MirrorLocks;
use super::marks::{Asked, KnownAside, Looked, Notes};
pub(crate) use super::served::RefsEpoch;
pub(crate) use super::upstream::{Compared, StateName};
use super::upstream::{Moments, Upstream};
use super::wants::Wants;
use crate::archive::place::Archive;
use crate::git::Arrived;

mod annex;
mod permit;
mod serving;
mod showing;
mod upstream;

pub(crate) use permit::{BuiltOn, Permit};
pub(crate) use serving::Found;

/// A repository.
#[derive(Debug)]
pub(crate) struct Repo {
    /// Its key as `host/path` ([`RepoKey`](crate::config::RepoKey)).
    pub name: Arc<str>,
    /// The same as it was spelled first.
    pub spelled: String,
    /// The mirror's directory.
    pub mirror: PathBuf,
    /// Where the mirror is cloned from; also the URL of `origin` in its archives. Spelled in the same way.
    pub url: String,
    pub locks: MirrorLocks,
    /// What lies outside of the mirror's packs and is known not to be needed.
    pub aside: KnownAside,
    /// What the mirror's annex has.
    pub annex: Annexed,
    /// What else is noted without the lock.
    pub notes: Notes,
    /// What comes of it at the time.
    pub arrived: Arc<Arrived>,
    /// When somebody last asked for something of it.
    pub asked: Asked,
    /// When its upstream was last looked at.
    pub looked: Looked,
    /// Another one of each that this process has known.
    serial: u64,
    state: Mutex<State>,
}

/// What a repository is made known with: how its name is spelled, and what follows from that.
#[derive(Debug, Default)]
pub(crate) struct First {
    /// See [`Repo::spelled`].
    pub spelled: String,
    /// See [`Repo::mirror`].
    pub mirror: PathBuf,
    /// See [`Repo::url`].
    pub url: String,
}

/// What there is of a repository. Its three parts change independently of each other: a snapshot is
/// served whatever becomes of the mirror, and a mirror that is kept says nothing of its upstream.
#[derive(Debug, Default)]
struct State {
    wants: Wants,
    mirror: Mirror,
    upstream: Upstream,
    moments: Moments,
    /// When the mirror was last fetched by an earlier process, or by somebody else.
    fetched_before_unix_ms: Option<u64>,
    /// Of the mirror's refs, as far as was seen.
    epoch: RefsEpoch,
    /// When something of the mirror was last expired: what was built before may have it.
    expired: RefsEpoch,
    /// When all that there was of it was last dropped: what was begun before is nobody's who asks.
    dropped: RefsEpoch,
    /// When the upstream was last asked whether it leads back to a server that waits.
    way_asked: Option<Instant>,
}

impl Repo {
    /// One of which nothing is known.
    pub(super) fn new(name: Arc<str>, first: First) -> Repo {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let First {
            spelled,
            mirror,
            url,
        } = first;
        Repo {
            name,
            spelled,
            mirror,
            url,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            locks: MirrorLocks::default(),
            aside: KnownAside::default(),
            annex: Annexed::default(),
            arrived: Arc::default(),
            asked: Asked::default(),
            looked: Looked::default(),
            notes: Notes::default(),
            state: Mutex::default(),
        }
    }

    /// The state is changed in single assignments, so a panic cannot leave it half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mirror could not be cloned just now, which is not tried again for a while.
    pub(crate) fn set_not_cloned(&self, why: StartError, kept: Duration) {
        let at = Instant::now();
        let until = at + kept;
        self.lock().mirror = Mirror::NotCloned { at, until, why };
    }

    /// What there is of it is another repository's, which had the name before, or is not wanted any more: nothing of
    /// it is served from here on, and its mirror is to go. Gives the archives that there were. What is being built
    /// goes to those who follow it already, and is not published ([`Repo::is_dropped`]).
    pub(crate) fn drop_all(&self) -> Vec<Arc<Archive>> {
        let mut state = self.lock();
        state.epoch.advance();
        state.expired = state.epoch;
        state.dropped = state.epoch;
        state.mirror = Mirror::Unknown;
        state.upstream = Upstream::default();
        state.moments = Moments::default();
        state.fetched_before_unix_ms = None;
        state.wants.forget_names();
        let mut all = state.wants.take_others(|_, _| true);
        all.extend(state.wants.default.snapshot.take());
        all
    }

    /// Whether what was made of the refs of this epoch has been dropped.
    pub(crate) fn is_dropped(&self, shown: RefsEpoch) -> bool {
        shown < self.lock().dropped
    }

    /// Somebody wants a mirror, whether he waits for it or not: a clone that runs, or the next one, goes on
    /// whoever leaves.
    pub(crate) fn want_clone(&self) {
        if !self.is_mirrored() {
            self.notes.want_clone(u64::MAX);
        }
    }

    /// How the last clone failed, if that was not long ago. Names that are only
    /// remembered for this are bounded like all bare ones (see
    /// [`REPOSITORIES_BARE_MAX`](crate::limits::REPOSITORIES_BARE_MAX)).
    pub(crate) fn not_cloned_lately(&self) -> Option<StartError> {
        match &self.lock().mirror {
            Mirror::NotCloned { until, why, .. } if Instant::now() < *until => Some(why.clone()),
            _ => None,
        }
    }

    /// Why there is no mirror, if the last clone failed: how long ago that was, and how long none is tried again.
    pub(crate) fn not_cloned(&self) -> Option<(StartError, Duration, Duration)> {
        let now = Instant::now();
        match &self.lock().mirror {
            Mirror::NotCloned { at, until, why } => Some((
                why.clone(),
                now.saturating_duration_since(*at),
                until.saturating_duration_since(now),
            )),
            _ => None,
        }
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

    /// The same archive lies in other files from here on, if it is the current one still.
    pub(crate) fn replace_files(&self, archive: &Arc<Archive>, now: Arc<Archive>) -> bool {
        debug_assert_eq!(archive.id, now.id);
        let mut state = self.lock();
        state.wants.change(&archive.want, |served| {
            served.snapshot.replace_files(archive, now)
        })
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
        let may_leave = state.wants.are_idle();
        if may_leave {
            state.mirror = Mirror::Unknown;
            state.upstream = Upstream::default();
            state.moments = Moments::default();
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
        !is_kept && state.wants.are_idle()
    }
}

#[cfg(test)]
mod tests;
