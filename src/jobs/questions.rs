//! How many questions go to one upstream: so many at a time, and so many a minute. One client has a part of
//! both, so that whoever makes up credentials keeps nobody else from showing theirs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::asker::{ClientPart, ClientParts};
use super::flights::Flights;
use crate::access::verdicts::About;
use crate::http::net::client::Client;
use crate::limits::{
    QUESTIONS_A_MINUTE_MAX, QUESTIONS_OF_CLIENT_A_MINUTE_MAX, QUESTIONS_OF_CLIENT_MAX,
    QUESTIONS_RUNNING_MAX,
};

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes,
    No,
    /// It is not known now, and nobody is served.
    Unknown,
}

/// Those to all upstreams.
#[derive(Default)]
pub(super) struct Questions {
    /// Those that run.
    pub(super) asking: Flights<About, Verdict>,
    /// By host.
    turns: RefCell<HashMap<String, Rc<Turns>>>,
}

/// Those of one upstream.
pub(super) struct Turns {
    places: Semaphore,
    of_client: ClientParts,
    minute: RefCell<Minute>,
}

/// The right to ask once.
pub(super) struct Turn<'t> {
    _part: ClientPart,
    _place: Option<SemaphorePermit<'t>>,
}

impl Questions {
    /// The turns of one upstream.
    pub(super) fn of(&self, host: &str) -> Rc<Turns> {
        let mut all = self.turns.borrow_mut();
        all.entry(host.to_owned()).or_default().clone()
    }
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            places: Semaphore::new(QUESTIONS_RUNNING_MAX),
            of_client: ClientParts::new(QUESTIONS_OF_CLIENT_MAX),
            minute: RefCell::default(),
        }
    }
}

impl Turns {
    /// Waits for a place; `None` at once where this minute has had its questions, or the client its part of them.
    pub(super) async fn take(&self, client: Client) -> Option<Turn<'_>> {
        if !self.minute.borrow_mut().begin(client, Instant::now()) {
            return None;
        }
        let part = self.of_client.acquire(client).await;
        // It is never closed.
        let place = self.places.acquire().await.ok();
        Some(Turn {
            _part: part,
            _place: place,
        })
    }
}

/// What has begun in a minute.
#[derive(Debug, Default)]
struct Minute {
    since: Option<Instant>,
    of_clients: HashMap<IpAddr, u32>,
    all: u32,
}

impl Minute {
    fn begin(&mut self, client: Client, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= Duration::from_secs(60);
        if self.since.is_none_or(is_over) {
            *self = Minute {
                since: Some(now),
                ..Minute::default()
            };
        }
        let of_client = client.map(|client| self.of_clients.entry(client).or_default());
        let has_part = of_client
            .as_ref()
            .is_none_or(|of| **of < QUESTIONS_OF_CLIENT_A_MINUTE_MAX);
        if !has_part || self.all >= QUESTIONS_A_MINUTE_MAX {
            return false;
        }
        self.all += 1;
        of_client.into_iter().for_each(|of| *of += 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_questions_and_a_client_a_part_of_them() {
        let (mut minute, now) = (Minute::default(), Instant::now());
        let one: Client = Some([10, 0, 0, 1].into());
        let begun = |minute: &mut Minute, client, now, most: u32| {
            (0..most).filter(|_| minute.begin(client, now)).count() as u32
        };
        assert_eq!(
            begun(&mut minute, one, now, 2 * QUESTIONS_A_MINUTE_MAX),
            QUESTIONS_OF_CLIENT_A_MINUTE_MAX
        );
        assert!(
            minute.begin(Some([10, 0, 0, 2].into()), now),
            "others have theirs"
        );
        let left = QUESTIONS_A_MINUTE_MAX - QUESTIONS_OF_CLIENT_A_MINUTE_MAX - 1;
        assert_eq!(begun(&mut minute, None, now, 2 * left), left);
        let later = now + Duration::from_secs(60);
        assert!(minute.begin(one, later));
        assert_eq!((minute.all, minute.of_clients.len()), (1, 1));
    }
}
