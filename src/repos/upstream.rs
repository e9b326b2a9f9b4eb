//! What is known of a repository's upstream.

use std::collections::VecDeque;
use std::time::Instant;

use super::error::StartError;
use super::served::RefsEpoch;
use crate::limits::MOMENTS_MAX;

/// A comparison of the mirror with its upstream that succeeded: when it began, by two clocks. What the
/// upstream had then, or something younger, is what the mirror had at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) unix_ms: u64,
    pub(crate) began: Instant,
}

/// What a repository is in, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateName {
    /// There is a snapshot.
    Ready,
    /// One is built, beside another or not.
    Building,
    /// There is nothing, and the first clone runs or waits for its turn.
    Cloning,
    /// There is a mirror, and no snapshot.
    Vacant,
    /// The same, and the last build failed.
    Failing,
    /// The last clone failed.
    NotCloned,
    /// There is nothing, or it is not looked at yet.
    Unknown,
}

/// What the last comparisons with the upstream have shown.
#[derive(Debug, Default)]
pub(super) enum Upstream {
    #[default]
    Unasked,
    /// The mirror is like it.
    Same(Compared),
    /// It could not be asked, after it was the same or at the first attempt.
    Failed {
        at: Instant,
        why: StartError,
        before: Option<Compared>,
    },
}

impl Upstream {
    /// The last comparison that succeeded.
    pub(super) fn last(&self) -> Option<Compared> {
        match self {
            Upstream::Unasked => None,
            Upstream::Same(compared) => Some(*compared),
            Upstream::Failed { before, .. } => *before,
        }
    }
}

/// For each of the last epochs of a mirror's refs the last moment at which they were the upstream's: how
/// old is what was made of them.
#[derive(Debug, Default)]
pub(super) struct Moments(VecDeque<(RefsEpoch, Compared)>);

impl Moments {
    /// The refs of `epoch` were the upstream's.
    pub(super) fn note(&mut self, epoch: RefsEpoch, compared: Compared) {
        match self.0.back_mut() {
            Some((last, moment)) if *last == epoch => *moment = compared,
            _ => self.0.push_back((epoch, compared)),
        }
        if self.0.len() > MOMENTS_MAX {
            self.0.pop_front();
        }
    }

    /// The upstream had what was made of the refs of `epoch`, or something younger than that has, at this
    /// moment.
    pub(super) fn of(&self, epoch: RefsEpoch) -> Option<Compared> {
        let mut moments = self.0.iter().rev();
        moments
            .find(|(known, _)| *known <= epoch)
            .map(|(_, moment)| *moment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_made_of_older_refs_is_as_old_as_they_are() {
        let (mut moments, now) = (Moments::default(), Instant::now());
        let at = |unix_ms| Compared {
            unix_ms,
            began: now + Duration::from_millis(unix_ms),
        };
        let epochs: Vec<RefsEpoch> = std::iter::successors(Some(RefsEpoch::default()), |epoch| {
            let mut next = *epoch;
            next.advance();
            Some(next)
        })
        .take(MOMENTS_MAX + 2)
        .collect();
        assert_eq!(moments.of(epochs[3]), None);
        moments.note(epochs[0], at(1));
        moments.note(epochs[0], at(2));
        moments.note(epochs[2], at(3));
        assert_eq!(moments.of(epochs[0]), Some(at(2)));
        assert_eq!(
            moments.of(epochs[1]),
            Some(at(2)),
            "not seen, so no younger"
        );
        assert_eq!(moments.of(epochs[3]), Some(at(3)));
        for (unix_ms, epoch) in (4..).zip(&epochs[2..]) {
            moments.note(*epoch, at(unix_ms));
        }
        assert_eq!(
            (moments.0.len(), moments.of(epochs[0])),
            (MOMENTS_MAX, None)
        );
    }
}
