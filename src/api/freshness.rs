//! How old an answer may be, and how old it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Asked, Core};
use super::headers::names;
use crate::archive::place::Archive;
use crate::http::wire::cache_control::CacheControl;
use crate::jobs::asker::Asker;
use crate::manifest::want::{Named, Shape};
use crate::repos::error::StartError;
use crate::repos::repo::{Found, Repo};

/// What a request takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Taken {
    /// Anything.
    Any,
    /// What the upstream had at this time or later; where that cannot be had, what is so old, if that is said.
    Since {
        since: Instant,
        or_else: Option<Duration>,
    },
}

impl Taken {
    /// What a request takes that came now. What names a commit is the same at any time, and who goes on with an
    /// archive that he names wants that one, however old it is. `Pragma`, which git always sends, means nothing.
    pub(super) fn by(asked: &Asked<'_, '_>) -> Taken {
        let (head, repo) = (asked.head, &asked.repo);
        let taken = Taken::of(
            CacheControl::read(head.cache_control.iter()),
            Instant::now(),
        );
        let goes_on = head.if_range.is_some() || !head.if_match.is_absent();
        let is_named = |archive: Arc<Archive>| names(head, &archive);
        match taken {
            Taken::Since { .. } if asked.named.commit().is_some() => Taken::Any,
            Taken::Since { .. } if goes_on && repo.current().is_some_and(is_named) => Taken::Any,
            taken => taken,
        }
    }

    fn of(control: CacheControl, now: Instant) -> Taken {
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds));
        let Some((age_s, since)) = control.max_age_s.and_then(|s| Some((s, ago(s)?))) else {
            return Taken::Any;
        };
        let stale_s = control.stale_if_error_s;
        let or_else = stale_s.map(|stale_s| Duration::from_secs(age_s.saturating_add(stale_s)));
        Taken::Since { since, or_else }
    }

    /// The time since when it must have been the upstream's.
    pub(super) fn since(self) -> Option<Instant> {
        match self {
            Taken::Any => None,
            Taken::Since { since, .. } => Some(since),
        }
    }

    /// What is taken instead of what cannot be had, if there is that.
    pub(super) fn stale(self, repo: &Repo, named: &Named) -> Option<Taken> {
        let Taken::Since { or_else, .. } = self else {
            return None;
        };
        let (or_else, archive) = (or_else?, there(repo, named)?);
        let moment = repo.moment_of(&archive)?;
        (moment.began.elapsed() <= or_else).then_some(Taken::Any)
    }
}

/// The archive that there is, of any age, without asking anybody.
fn there(repo: &Repo, named: &Named) -> Option<Arc<Archive>> {
    if named.is_default() {
        return repo.current();
    }
    match repo.find_known(named, None)? {
        (_, Found::Hit(archive)) => Some(archive),
        _ => None,
    }
}

/// The archive that there is, whole and as young as it is taken, without asking anybody.
pub(super) fn ready(asked: &Asked<'_, '_>, taken: Taken) -> Option<Arc<Archive>> {
    let repo = &asked.repo;
    let Some(since) = taken.since() else {
        return there(repo, &asked.named);
    };
    match repo.find_known(&asked.named, Some(since))? {
        (_, Found::Hit(archive)) => Some(archive),
        _ => None,
    }
}

impl Core {
    /// Has the upstream looked at, while nobody waits for that, if the last look is too long ago.
    pub(super) fn look_at_upstream(&self, repo: &Arc<Repo>) {
        let is_due = repo.looked.take_due(self.config.ref_check_interval);
        // Of what nothing is there the upstream is asked anyway.
        if is_due && (repo.is_mirrored() || repo.has_snapshot()) {
            let repo = repo.clone();
            self.plane.spawn(|jobs| jobs.look_soon(repo));
        }
    }

    /// Waits until the mirror is as fresh as is wanted; fails if that cannot be and nothing else is taken.
    pub(super) async fn fresh_enough(
        &self,
        (repo, named): (&Arc<Repo>, &Named),
        taken: Taken,
        asker: &Asker,
    ) -> Result<Taken, StartError> {
        let Some(since) = taken.since().filter(|since| !repo.is_fresh_since(*since)) else {
            return Ok(taken);
        };
        if named.shape() == Shape::Tip && !repo.is_mirrored() {
            // Whoever finds nothing young enough asks the upstream.
            return Ok(taken);
        }
        let (wanted, asker) = (repo.clone(), asker.clone());
        let fresh = self.ask(move |jobs| jobs.fresh_for(wanted, since, asker));
        match fresh.await {
            Ok(()) => Ok(taken),
            Err(why) => taken.stale(repo, named).ok_or(match repo.is_mirrored() {
                true => StartError { status: 504, ..why },
                // It is about the clone.
                false => why,
            }),
        }
    }
}
