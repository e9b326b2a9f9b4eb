//! Who makes an upstream be asked, and how much of that one client has going on at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::net::client::{Client, client_of};
use crate::mirror::Via;
use crate::telemetry::metrics::Cause;

/// Who it is. By default no client: what the server does by itself, for whoever waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker {
    /// Why.
    pub(super) cause: Cause,
    /// Whose requests count together.
    pub(super) client: Client,
    /// The servers that the request came by way of.
    pub(super) via: Via,
}

impl Asker {
    /// The client at an address.
    pub(super) fn at(address: IpAddr) -> Asker {
        Asker {
            client: client_of(address),
            ..Asker::default()
        }
    }

    /// Nobody, for a reason.
    pub(super) fn of(cause: Cause) -> Asker {
        Asker {
            cause,
            ..Asker::default()
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
