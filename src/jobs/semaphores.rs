//! How much of each kind of work runs at a time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::asker::{ClientPart, ClientParts};
use super::upload_turns::{UploadBounds, UploadTurns};
use crate::faults::Faults;
use crate::http::net::client::Client;
use crate::limits::{
    BUNDLES_MAKING_MAX, CLONES_OF_CLIENT_MAX, CLONES_OF_HOST_MAX, CLONES_RUNNING_MAX,
    FRESHENS_OF_CLIENT_MAX, FRESHENS_OF_HOST_MAX, FRESHENS_RUNNING_MAX, LOOKUPS_RUNNING_MAX,
    TIPS_PACKING_MAX, WANTS_BUILDING_IN_ALL_MAX, WAYS_OF_CLIENT_MAX, WAYS_RUNNING_MAX,
};
use crate::mirror::schedule::Key;

/// How many of each kind may run; none of the semaphores is ever closed.
pub(super) struct Semaphores {
    pub(super) clones: HostSemaphore,
    pub(super) freshens: HostSemaphore,
    /// To ask an upstream whether it leads back to a server that waits.
    pub(super) ways: Semaphore,
    pub(super) ways_of_client: ClientParts,
    pub(super) lookups: Semaphore,
    /// Builds of anything but what a plain request wants.
    pub(super) wants: Semaphore,
    /// Packs of single commits.
    pub(super) tips: Semaphore,
    pub(super) bundles: Semaphore,
    pub(super) uploads: UploadTurns,
}

impl Semaphores {
    pub(super) fn new(faults: &Faults) -> Semaphores {
        let mut uploads = UploadBounds::default();
        if let Some(ms) = faults.upload_slow_ms {
            uploads.slow = Duration::from_millis(ms);
        }
        Semaphores {
            clones: HostSemaphore::new(
                CLONES_RUNNING_MAX,
                CLONES_OF_HOST_MAX,
                CLONES_OF_CLIENT_MAX,
            ),
            freshens: HostSemaphore::new(
                FRESHENS_RUNNING_MAX,
                FRESHENS_OF_HOST_MAX,
                FRESHENS_OF_CLIENT_MAX,
            ),
            ways: Semaphore::new(WAYS_RUNNING_MAX),
            ways_of_client: ClientParts::new(WAYS_OF_CLIENT_MAX),
            lookups: Semaphore::new(LOOKUPS_RUNNING_MAX),
            wants: Semaphore::new(WANTS_BUILDING_IN_ALL_MAX),
            tips: Semaphore::new(TIPS_PACKING_MAX),
            bundles: Semaphore::new(BUNDLES_MAKING_MAX),
            uploads: UploadTurns::new(uploads),
        }
    }
}

/// Semaphores of which one host can have a part: one that does not answer must not keep them all. So can one
/// client: what it begins waits for its own part before anybody else can wait for it.
pub(super) struct HostSemaphore {
    all: Semaphore,
    /// There are as many hosts as upstreams are configured.
    hosts: RefCell<HashMap<String, Arc<Semaphore>>>,
    of_host: usize,
    clients: ClientParts,
}

impl HostSemaphore {
    fn new(all: usize, of_host: usize, of_client: usize) -> HostSemaphore {
        HostSemaphore {
            all: Semaphore::new(all),
            hosts: RefCell::default(),
            of_host,
            clients: ClientParts::new(of_client),
        }
    }

    /// Waits until a client may begin something that takes a turn.
    pub(super) async fn of_client(&self, client: Client) -> ClientPart {
        self.clients.acquire(client).await
    }

    /// Waits for a turn to work on `repository`, first among those of its host.
    pub(super) async fn acquire(&self, repository: &Arc<str>) -> HostPermit<'_> {
        let host = repository.host().to_owned();
        let turns = || Arc::new(Semaphore::new(self.of_host));
        let host = self
            .hosts
            .borrow_mut()
            .entry(host)
            .or_insert_with(turns)
            .clone();
        HostPermit {
            _of_host: host.acquire_owned().await.ok(),
            _of_all: self.all.acquire().await.ok(),
        }
    }
}

/// A permit of a host's part and of all.
pub(super) struct HostPermit<'t> {
    _of_host: Option<OwnedSemaphorePermit>,
    _of_all: Option<SemaphorePermit<'t>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    /// What is there at once.
    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_host_that_does_not_answer_leaves_turns_to_others() {
        let turns = HostSemaphore::new(3, 2, 1);
        let (hung, hung_too) = (Arc::from("hung/a"), Arc::from("hung/b"));
        let (other, third) = (Arc::from("other/a"), Arc::from("third/a"));
        let held = [now(turns.acquire(&hung)), now(turns.acquire(&hung_too))];
        assert!(held.iter().all(Option::is_some));
        assert!(now(turns.acquire(&hung)).is_none(), "more than its part");
        let of_other = now(turns.acquire(&other));
        assert!(of_other.is_some(), "the host that hangs has them all");
        assert!(now(turns.acquire(&third)).is_none(), "more than there are");
        drop(held);
        assert!(now(turns.acquire(&hung)).is_some() && now(turns.acquire(&third)).is_some());
    }

    #[test]
    fn a_client_has_a_part_and_leaves_the_rest_to_others() {
        let turns = HostSemaphore::new(8, 8, 2);
        let of = |last: u8| now(turns.of_client(Some([10, 0, 0, last].into())));
        let held = [of(1), of(1)];
        assert!(held.iter().all(Option::is_some));
        assert!(of(1).is_none() && of(2).is_some());
        let uncounted = [(); 5].map(|()| now(turns.of_client(None)));
        assert!(uncounted.iter().all(Option::is_some));
        drop(held);
        assert!(of(1).is_some());
        drop(of(3));
        assert!(turns.clients.known() <= 1, "who has left is forgotten");
    }
}
