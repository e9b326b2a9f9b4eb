//! The keys of the issuers of CI systems: who is being asked for them, and when each was asked last.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::askers::Askers;
use super::flights::Flights;
use crate::access::issuers::{IssuerAt, Issuers};

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// What the issuer has is known, as it was after somebody began to wait.
    Now,
    /// It did not answer, or not as it should.
    InVain,
    /// It was asked a moment ago, before somebody began to wait.
    TooSoon,
}

/// How issuers are asked.
pub(super) struct IssuerKeys {
    pub(super) issuers: Arc<Issuers>,
    pub(super) asking: Flights<IssuerAt, Asked>,
    last: RefCell<HashMap<IssuerAt, Instant>>,
    /// Threads of their own: there are as many as issuers that hang, and they take no place of those that ask upstreams.
    pub(super) askers: Askers,
}

impl IssuerKeys {
    pub(super) fn of(issuers: Arc<Issuers>) -> IssuerKeys {
        IssuerKeys {
            issuers,
            asking: Flights::default(),
            last: RefCell::default(),
            askers: Askers::default(),
        }
    }

    /// When it is asked, which is now unless it was asked a moment ago.
    pub(super) fn is_due(&self, at: IssuerAt, apart: Duration) -> Option<Instant> {
        let (mut last, now) = (self.last.borrow_mut(), Instant::now());
        let is_soon = |last: &Instant| now.saturating_duration_since(*last) < apart;
        if last.get(&at).is_some_and(is_soon) {
            return None;
        }
        last.insert(at, now);
        Some(now)
    }
}
