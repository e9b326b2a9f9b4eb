//! A store that is looked at: what asks it, and what is said.

use std::io;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinError;

use super::repository::Repository;
use super::told::Told;
use crate::limits::{REMOTE_TRIES_MAX, VERIFIED_AT_ONCE};
use crate::store::remote::any::AnyStore;
use crate::store::remote::objects::{ObjectError, Objects};

/// Why not all of it was looked at.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error("cannot start what asks the store: {0}")]
    Start(#[source] io::Error),
    #[error("a thread has ended: {0}")]
    Thread(#[from] JoinError),
    #[error("cannot write what was found: {0}")]
    Write(#[from] io::Error),
}

/// See the module's text.
pub(super) struct Look {
    pub(super) objects: AnyStore,
    pub(super) told: Told,
    turns: Semaphore,
}

impl Look {
    /// Nothing is asked yet.
    pub(super) fn new(objects: AnyStore, told: Told) -> Look {
        Look {
            objects,
            told,
            turns: Semaphore::new(VERIFIED_AT_ONCE),
        }
    }

    /// Held by what has pieces of a part in memory.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed.
        self.turns.acquire().await.ok()
    }

    /// Asks, and asks again where that may help.
    pub(super) async fn again<T>(
        &self,
        mut ask: impl AsyncFnMut() -> Result<T, ObjectError>,
    ) -> Result<T, ObjectError> {
        let mut tries = 1;
        loop {
            match ask().await {
                Err(ObjectError::Failed { .. }) if tries < REMOTE_TRIES_MAX => {
                    self.objects.before_again(tries).await;
                    tries += 1;
                }
                asked => return asked,
            }
        }
    }

    /// The repository in a directory, as it is now.
    pub(super) async fn repository(&self, name: &str) -> Result<Repository, ObjectError> {
        self.again(async || Repository::read(&self.objects, name).await)
            .await
    }
}
