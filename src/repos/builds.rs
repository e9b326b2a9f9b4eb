//! The builds of a repository that run, and those that failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::archive::place::Archive;
use crate::classes::Urgency;
use crate::limits::{BUILD_RETRY_MAX_MS, BUILD_RETRY_MS};

use super::error::StartError;
use crate::telemetry::metrics::Cause;

/// A build's beginning: the archive that grows, or why there is none.
pub(crate) type Started = Result<Arc<Archive>, StartError>;

/// Hears of a build's beginning.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub(crate) started: watch::Receiver<Option<Started>>,
    urgency: Urgency,
}

impl Ticket {
    /// Of the build whose beginning is told there.
    pub(super) fn new(sender: &watch::Sender<Option<Started>>, urgency: &Urgency) -> Ticket {
        Ticket {
            started: sender.subscribe(),
            urgency: urgency.clone(),
        }
    }

    /// A request waits for it: while it waits for its turn itself, it moves up. What then may have a place is to be
    /// given that, not on a core.
    #[must_use]
    pub(crate) fn raise(&self) -> Option<Urgency> {
        let is_raised = self.urgency.note(Cause::Asked);
        is_raised.then(|| self.urgency.clone())
    }

    /// Whether it is of the same build.
    pub(crate) fn same_build(&self, other: &Ticket) -> bool {
        self.started.same_channel(&other.started)
    }
}

/// The builds that run.
#[derive(Debug, Default)]
pub(super) enum Builds {
    #[default]
    None,
    /// The one that everybody follows.
    One(Ticket),
    /// The first is live-only, and its clients are slow: who asked then got another one, and who asks
    /// now follows that.
    Two { slow: Ticket, newer: Ticket },
}

impl Builds {
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Builds::None)
    }

    /// The one that a request can follow; `None` if it may have another one instead.
    pub(super) fn to_follow(&self) -> Option<&Ticket> {
        match self {
            Builds::None => None,
            Builds::One(ticket) => (!is_slow(ticket)).then_some(ticket),
            Builds::Two { newer, .. } => Some(newer),
        }
    }

    /// Whether one will be kept, as far as is known.
    pub(super) fn is_any_kept(&self) -> bool {
        let all = match self {
            Builds::None => return false,
            Builds::One(_) => 1,
            Builds::Two { .. } => 2,
        };
        let started = self.started();
        let live = started.iter().filter(|one| one.fanout.is_live_only());
        live.count() < all
    }

    /// Those that have begun.
    pub(super) fn started(&self) -> Vec<Arc<Archive>> {
        let tickets = match self {
            Builds::None => Vec::new(),
            Builds::One(one) => vec![one],
            Builds::Two { slow, newer } => vec![slow, newer],
        };
        let started = |ticket: &Ticket| ticket.started.borrow().as_ref()?.as_ref().ok().cloned();
        tickets.into_iter().filter_map(started).collect()
    }

    pub(super) fn add(&mut self, ticket: Ticket) {
        *self = match std::mem::take(self) {
            Builds::None => Builds::One(ticket),
            Builds::One(slow) | Builds::Two { slow, .. } => Builds::Two {
                slow,
                newer: ticket,
            },
        };
    }

    pub(super) fn remove(&mut self, ticket: &Ticket) {
        *self = match std::mem::take(self) {
            Builds::One(one) if one.same_build(ticket) => Builds::None,
            Builds::Two { slow, newer } if slow.same_build(ticket) => Builds::One(newer),
            Builds::Two { slow, newer } if newer.same_build(ticket) => Builds::One(slow),
            others => others,
        };
    }
}

/// Whether a build goes on at the pace of slow clients only.
fn is_slow(ticket: &Ticket) -> bool {
    let started = ticket.started.borrow();
    matches!(&*started, Some(Ok(archive)) if archive.fanout.is_slow())
}

/// Builds that failed, one after the other.
#[derive(Debug)]
pub(super) struct NotBuilt {
    pub(super) count: u32,
    /// When the last of them failed, and how.
    pub(super) at: Instant,
    pub(super) why: String,
}

impl NotBuilt {
    /// Whether it is long ago.
    pub(super) fn is_over(&self) -> bool {
        self.at.elapsed() >= Duration::from_millis(2 * BUILD_RETRY_MAX_MS)
    }

    /// How long there is no further build yet: after one failure the next request builds anew.
    pub(super) fn left(&self) -> Duration {
        let doubled = match self.count {
            0 | 1 => 0,
            more => BUILD_RETRY_MS << (more - 2).min(16),
        };
        let all = Duration::from_millis(doubled.min(BUILD_RETRY_MAX_MS));
        all.saturating_sub(self.at.elapsed())
    }
}
