//! Who makes an upstream be asked, and how much of that one client has going on at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::permissions::Shown;
use crate::classes::Arrival;
use crate::http::net::client::{Client, client_of};
use crate::limits::COLD_WAIT_MS;
use crate::mirror::Via;
use crate::telemetry::metrics::Cause;

/// Who it is. No client is what the server does by itself, for whoever waits.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    /// Why.
    pub(super) cause: Cause,
    /// Whose requests count together.
    pub(super) client: Client,
    /// The servers that the request came by way of.
    pub(super) via: Via,
    /// Since when.
    pub(super) since: Instant,
    /// What was shown, where the upstream's permission decides.
    pub(super) shown: Option<Shown>,
}

impl Asker {
    /// The client at an address, who asks now.
    pub(crate) fn at(address: IpAddr) -> Asker {
        Asker {
            client: client_of(address),
            ..Asker::of(Cause::Asked)
        }
    }

    /// Nobody, for a reason.
    pub(crate) fn of(cause: Cause) -> Asker {
        Asker {
            cause,
            client: None,
            via: Via::default(),
            since: Instant::now(),
            shown: None,
        }
    }

    /// The same, who has shown this.
    pub(crate) fn showing(self, shown: Option<Shown>) -> Asker {
        Asker { shown, ..self }
    }

    /// The same, by way of these servers.
    pub(crate) fn by_way_of(self, via: Via) -> Asker {
        Asker { via, ..self }
    }

    /// The same, who has asked then.
    pub(crate) fn since(self, since: Instant) -> Asker {
        Asker { since, ..self }
    }

    /// The same client, for what is done behind its answer: nobody waits for that, but it is the client's.
    pub(super) fn behind(&self) -> Asker {
        Asker {
            cause: Cause::Timer,
            since: Instant::now(),
            ..self.clone()
        }
    }

    /// Whether what it has begun can be refused: once an answer may have begun, it is promised.
    pub(super) fn arrival(&self) -> Arrival {
        match self.since.elapsed() < Duration::from_millis(COLD_WAIT_MS) {
            true => Arrival::New,
            false => Arrival::Promised,
        }
    }
}

/// The part of some permits that each client has. Who has all of it waits, and keeps waiting nobody else:
/// what it waits for is not begun.
pub(super) struct ClientParts {
    clients: RefCell<HashMap<IpAddr, Weak<Semaphore>>>,
    of_client: usize,
}

/// A piece of a client's part, for as long as what it began goes on.
pub(crate) struct ClientPart {
    _part: Option<OwnedSemaphorePermit>,
}

impl ClientParts {
    /// So many for each.
    pub(super) fn new(of_client: usize) -> ClientParts {
        ClientParts {
            clients: RefCell::default(),
            of_client,
        }
    }

    /// Waits until the client has fewer of them. Who counts for none never waits.
    pub(super) async fn acquire(&self, client: Client) -> ClientPart {
        let parts = client.map(|client| self.of(client));
        ClientPart {
            _part: match parts {
                Some(parts) => parts.acquire_owned().await.ok(),
                None => None,
            },
        }
    }

    /// How many clients are known.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        self.clients.borrow().len()
    }

    fn of(&self, client: IpAddr) -> Arc<Semaphore> {
        let mut clients = self.clients.borrow_mut();
        if let Some(parts) = clients.get(&client).and_then(Weak::upgrade) {
            return parts;
        }
        // Nobody has or wants any of those.
        clients.retain(|_, parts| parts.strong_count() > 0);
        let parts = Arc::new(Semaphore::new(self.of_client));
        clients.insert(client, Arc::downgrade(&parts));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    /// What is there at once.
    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_client_has_a_part_and_leaves_the_rest_to_others() {
        let parts = ClientParts::new(2);
        let of = |last: u8| now(parts.acquire(Some([10, 0, 0, last].into())));
        let held = [of(1), of(1)];
        assert!(held.iter().all(Option::is_some));
        assert!(of(1).is_none() && of(2).is_some());
        let uncounted = [(); 5].map(|()| now(parts.acquire(None)));
        assert!(uncounted.iter().all(Option::is_some));
        drop(held);
        assert!(of(1).is_some());
        drop(of(3));
        assert!(parts.known() <= 1, "who has left is forgotten");
    }

    #[test]
    fn who_may_have_an_answer_is_not_refused() {
        let asker = Asker::of(Cause::Asked);
        assert_eq!(asker.arrival(), Arrival::New);
        let before = Instant::now() - Duration::from_millis(COLD_WAIT_MS);
        assert_eq!(asker.since(before).arrival(), Arrival::Promised);
    }
}
