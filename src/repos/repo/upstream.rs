//! What a repository knows of its upstream: how fresh what there is of it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Compared, Mirror, Repo, StartError, StateName, Upstream};
use crate::archive::place::Archive;

impl Repo {
    /// When the upstream had what `archive` has, as far as is known; `archive` is the current one of its want or
    /// the one that is built.
    pub(crate) fn moment_of(&self, archive: &Arc<Archive>) -> Option<Compared> {
        let state = self.lock();
        let served = state.wants.get(&archive.want)?;
        let epoch = match served.snapshot.archive() {
            Some(own) if Arc::ptr_eq(own, archive) => served.snapshot.known_epoch()?,
            _ if served.builds.is_none() => return None,
            _ => served.building,
        };
        state.moments.of(epoch)
    }

    /// The mirror was found to be like its upstream, or made so, by a comparison that began at
    /// these two readings of the clock.
    pub(crate) fn set_fresh(&self, unix_ms: u64, began: Instant) {
        let compared = Compared { unix_ms, began };
        let mut state = self.lock();
        state.upstream = Upstream::Same(compared);
        let epoch = state.epoch;
        state.moments.note(epoch, compared);
    }

    /// What was fetched of a repository that has no mirror was the upstream's, as seen by a look that began at
    /// these two readings of the clock.
    pub(crate) fn set_seen(&self, unix_ms: u64, began: Instant) {
        let mut state = self.lock();
        let epoch = state.epoch;
        state.moments.note(epoch, Compared { unix_ms, began });
    }

    /// The last comparison with the upstream that succeeded, of this process.
    pub(crate) fn compared(&self) -> Option<Compared> {
        self.lock().upstream.last()
    }

    /// What it is in for a plain request, in a word.
    pub(crate) fn state(&self) -> StateName {
        let arrives = self.arrived.bytes().is_some();
        let state = self.lock();
        let plain = &state.wants.default;
        let is_made = arrives || !plain.builds.is_none();
        match &state.mirror {
            Mirror::Unknown | Mirror::NotCloned { .. }
                if is_made && plain.snapshot.archive().is_none() =>
            {
                StateName::Cloning
            }
            _ if !plain.builds.is_none() => StateName::Building,
            _ if plain.snapshot.archive().is_some() => StateName::Ready,
            _ if plain.failing.is_some() => StateName::Failing,
            Mirror::Kept { .. } => StateName::Vacant,
            Mirror::NotCloned { .. } => StateName::NotCloned,
            Mirror::Unknown => StateName::Unknown,
        }
    }

    /// How the last comparison with the upstream failed and how long ago, if none has succeeded since.
    pub(crate) fn failure(&self) -> Option<(StartError, Duration)> {
        match &self.lock().upstream {
            Upstream::Failed { at, why, .. } => Some((why.clone(), at.elapsed())),
            _ => None,
        }
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

    /// Notes when the mirror that was found was last fetched.
    pub(crate) fn set_fetched_before(&self, unix_ms: u64) {
        self.looked.note(unix_ms);
        self.lock().fetched_before_unix_ms = Some(unix_ms);
    }

    /// When the mirror was last like its upstream, as far as is known.
    pub(crate) fn fresh_unix_ms(&self) -> Option<u64> {
        let state = self.lock();
        let last = state.upstream.last().map(|compared| compared.unix_ms);
        last.or(state.fetched_before_unix_ms)
    }
}
