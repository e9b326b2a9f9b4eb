//! How much of each kind of work runs at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::asker::{Asker, ClientParts};
use super::upload_turns::{UploadBounds, UploadTurns};
use crate::classes::{Class, Refused, Seat, Urgency};
use crate::faults::Faults;
use crate::limits::{
    BUILDS_OF_CLIENT_MAX, BUNDLES_MAKING_MAX, CLONES_OF_CLIENT_MAX, CLONES_RUNNING_MAX,
    CLOSURES_RUNNING_MAX, COMPARISONS_OF_CLIENT_MAX, COMPARISONS_RUNNING_MAX,
    FETCHES_OF_CLIENT_MAX, FETCHES_RUNNING_MAX, LOOKUPS_RUNNING_MAX, WAYS_OF_CLIENT_MAX,
    WAYS_RUNNING_MAX,
};
use crate::mirror::MirrorError;
use crate::mirror::schedule::Key;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::{Meter, WorkClass};

/// How many of each kind may run; none of the semaphores is ever closed. Builds have theirs where they have their
/// turns.
pub(super) struct Semaphores {
    pub(super) clones: Arc<Class>,
    pub(super) comparisons: Arc<Class>,
    pub(super) fetches: Arc<Class>,
    /// What one client begins waits for its own part of the places before anybody else can wait for it.
    pub(super) clones_of_client: ClientParts,
    pub(super) comparisons_of_client: ClientParts,
    pub(super) fetches_of_client: ClientParts,
    /// To ask an upstream whether it leads back to a server that waits.
    pub(super) ways: Semaphore,
    pub(super) ways_of_client: ClientParts,
    pub(super) lookups: Semaphore,
    /// Those that walk over a history.
    pub(super) closures: Semaphore,
    pub(super) builds_of_client: ClientParts,
    pub(super) bundles: Semaphore,
    /// Held by what writes notes of preambles: all that wait are written by the next.
    pub(super) notes: Semaphore,
    pub(super) uploads: UploadTurns,
}

impl Semaphores {
    pub(super) fn new(faults: &Faults, meter: &Meter) -> Semaphores {
        let mut uploads = UploadBounds::default();
        if let Some(ms) = faults.upload_slow_ms {
            uploads.slow = Duration::from_millis(ms);
        }
        let class = |name, places| Class::new(name, places, meter);
        Semaphores {
            clones: class(WorkClass::Clone, CLONES_RUNNING_MAX),
            comparisons: class(WorkClass::Comparison, COMPARISONS_RUNNING_MAX),
            fetches: class(WorkClass::Fetch, FETCHES_RUNNING_MAX),
            clones_of_client: ClientParts::new(CLONES_OF_CLIENT_MAX),
            comparisons_of_client: ClientParts::new(COMPARISONS_OF_CLIENT_MAX),
            fetches_of_client: ClientParts::new(FETCHES_OF_CLIENT_MAX),
            ways: Semaphore::new(WAYS_RUNNING_MAX),
            ways_of_client: ClientParts::new(WAYS_OF_CLIENT_MAX),
            lookups: Semaphore::new(LOOKUPS_RUNNING_MAX),
            closures: Semaphore::new(CLOSURES_RUNNING_MAX),
            builds_of_client: ClientParts::new(BUILDS_OF_CLIENT_MAX),
            bundles: Semaphore::new(BUNDLES_MAKING_MAX),
            notes: Semaphore::new(1),
            uploads: UploadTurns::new(uploads),
        }
    }

    /// Waits for a place to do something of a class for `asker`, unless too much waits.
    pub(super) async fn place(
        class: &Arc<Class>,
        repo: &Repo,
        asker: &Asker,
    ) -> Result<Seat, StartError> {
        let urgency = Urgency::of(asker.cause);
        let seat = class.enter(repo.name.host(), &urgency, asker.arrival());
        let mut seat = seat.map_err(|why| refused(repo, &why))?;
        // The class is not closed while anybody asks.
        let _ = seat.placed().await;
        Ok(seat)
    }

    /// Its host was asked for something of a class, and this came of it.
    pub(super) fn note_try<T>(class: &Class, repo: &Repo, tried: &Result<T, MirrorError>) {
        let is_timeout = tried.as_ref().is_err_and(MirrorError::is_timeout);
        class.note_try(repo.name.host(), is_timeout);
    }
}

/// What a newcomer hears for whom there is no place.
pub(super) fn refused(repo: &Repo, why: &Refused) -> StartError {
    StartError {
        status: 503,
        message: format!("{}: {why}", repo.name),
    }
}
