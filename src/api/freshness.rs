//! How old an answer may be, and how old it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Asked, Core};
use super::headers::names;
use crate::access::permissions::{Permissions, Shown};
use crate::access::verdicts::Known;
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
    pub(super) fn by(asked: &Asked<'_, '_>, young: (Duration, Duration)) -> Taken {
        let taken = Taken::as_asked(asked);
        match asked.shown {
            Some(_) => taken.young(Instant::now(), young),
            None => taken,
        }
    }

    /// The same where the upstream's permission decides: nothing that it had more than a minute ago, whatever is
    /// asked for; where it cannot be asked, nothing older than that by more than the operator allows.
    pub(super) fn young(self, now: Instant, (young, allowed): (Duration, Duration)) -> Taken {
        let oldest = now.checked_sub(young).unwrap_or(now);
        let allowed = Some(allowed).filter(|allowed| *allowed > young);
        match self {
            Taken::Any => Taken::Since {
                since: oldest,
                or_else: allowed,
            },
            Taken::Since { since, or_else } => Taken::Since {
                since: since.max(oldest),
                or_else: or_else.and_then(|asked| Some(asked.min(allowed?))),
            },
        }
    }

    fn as_asked(asked: &Asked<'_, '_>) -> Taken {
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
        if archive.want.is_default() && repo.holds_expired() {
            // It may have what nobody is to have any more.
            return None;
        }
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
pub(super) fn ready(
    asked: &Asked<'_, '_>,
    taken: Taken,
    permissions: &Permissions,
) -> Option<Arc<Archive>> {
    let repo = &asked.repo;
    if !is_known(repo, &asked.named, (&asked.shown, permissions), taken) {
        return None;
    }
    let Some(since) = taken.since() else {
        return there(repo, &asked.named);
    };
    match repo.find_known(&asked.named, Some(since))? {
        (_, Found::Hit(archive)) => Some(archive),
        _ => None,
    }
}

/// Whether it is known that whoever shows this may have the commit that is named, if one is, and that what is known
/// of that is young enough.
pub(super) fn is_known(
    repo: &Repo,
    named: &Named,
    (shown, permissions): (&Option<Shown>, &Permissions),
    taken: Taken,
) -> bool {
    let (Some(shown), Some(id)) = (shown, named.commit()) else {
        return true;
    };
    let is_young = taken.since().is_none_or(|since| repo.is_fresh_since(since));
    is_young && permissions.is_shown(shown, id.as_slice(), &repo.refs_mark()) == Known::Yes
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
        let is_limited = self.permissions.of_repository(&repo.name).is_some();
        let (wanted, asker) = (repo.clone(), asker.clone());
        let fresh = self.ask(move |jobs| jobs.fresh_for(wanted, since, asker));
        match fresh.await {
            Ok(()) => Ok(taken),
            Err(why) => taken.stale(repo, named).ok_or(
                match repo.is_mirrored() && !is_limited && why.status != 503 {
                    true => StartError { status: 504, ..why },
                    // It is about the clone, or says when to come again.
                    false => why,
                },
            ),
        }
    }
}
