//! The object store that servers share, as jobs use it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::{Arc, Weak};

use tokio::sync::Semaphore;

use super::archive_id::kind;
use super::guarded::Guarded;
use crate::archive::growth::Abandoned;
use crate::archive::open_files::OpenError;
use crate::archive::place::Archive;
use crate::config::Config;
use crate::io::say::without_logins;
use crate::io::shortage::is_disk_full;
use crate::limits::{DOWNLOADS_MAX, OFFERS_AT_ONCE, REMOTE_META_BYTES_MAX};
use crate::manifest::meta::MetaError;
use crate::manifest::want::Want;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::store::files::StoreError;
use crate::store::remote::any::AnyStore;
use crate::store::remote::change::About;
use crate::store::remote::entry::EntryError;
use crate::store::remote::key::{Identity, PartKey, Place};
use crate::store::remote::objects::{ObjectError, Objects};
use crate::store::remote::plan::Unchecked;
use crate::store::remote::publish::RemoteError;
use crate::store::remote::sums::{BadSums, KnownSums};
use crate::telemetry::metrics::Meter;

/// See the module's text.
pub(super) struct Shared {
    pub(super) objects: Guarded,
    /// Whether nothing is written there.
    pub(super) is_readonly: bool,
    /// Of what this server makes.
    kind: String,
    /// What is to be uploaded, of each repository that somebody is at: the newest of each want.
    pub(super) offers: RefCell<HashMap<Arc<str>, Vec<Weak<Archive>>>>,
    /// Those of which nothing is uploaded for a while, for that has failed.
    pub(super) put_off: RefCell<HashSet<Arc<str>>>,
    /// Held by what uploads.
    pub(super) turns: Semaphore,
    /// Held by each request that downloads.
    pub(super) downloads: Arc<Semaphore>,
    /// Of files that were uploaded.
    pub(super) sums: Arc<KnownSums>,
}

/// Why a snapshot was not shared, or not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShareError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Entry(#[from] StoreError),
    #[error(transparent)]
    Parts(#[from] EntryError),
    #[error("the metadata of a snapshot are not sound: {0}")]
    Meta(#[from] MetaError),
    #[error("{key} is not what its name or its head says: {what}")]
    Other { key: String, what: String },
    #[error("{key} is damaged at {at}")]
    Damaged { key: String, at: u64 },
    #[error("the checksums of its pieces are not sound: {0}")]
    Sums(#[from] BadSums),
    #[error(transparent)]
    Unchecked(#[from] Unchecked),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    #[error("not all of the archive came")]
    Short,
    #[error("the store does not answer within {wait_ms} ms")]
    Slow { wait_ms: u64 },
    #[error("the upstream cannot be compared: {0}")]
    Upstream(String),
    #[error("others write all the time")]
    Busy,
    #[error("a thread has ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl From<StartError> for ShareError {
    fn from(why: StartError) -> ShareError {
        ShareError::Upstream(why.message)
    }
}

impl ShareError {
    /// Whether there was no room on the disk for it.
    pub(super) fn is_disk_full(&self) -> bool {
        is_disk_full(self)
    }
}

impl Shared {
    /// What the settings name, if they name one.
    pub(super) fn of(objects: Option<AnyStore>, config: &Config, meter: &Meter) -> Option<Shared> {
        Some(Shared {
            objects: Guarded::new(objects?, meter.clone()),
            is_readonly: config.store.as_ref()?.is_readonly,
            kind: kind(config.level),
            offers: RefCell::default(),
            put_off: RefCell::default(),
            turns: Semaphore::new(OFFERS_AT_ONCE),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            sums: Arc::default(),
        })
    }

    /// Under what a snapshot stands in a head.
    pub(super) fn about(&self, want: &Want) -> About {
        About {
            want: want.to_string(),
            kind: self.kind.clone(),
        }
    }

    /// Whether something is to be uploaded that can be, as far as is known.
    pub(super) fn is_offering(&self) -> bool {
        let put_off = self.put_off.borrow();
        let is_offered = |name| !put_off.contains(name);
        self.offers.borrow().keys().any(is_offered)
    }

    /// Reads a small part, whose name says what is in it.
    pub(super) async fn small(
        &self,
        place: &Place,
        key: &PartKey,
        name: fn(&[u8]) -> String,
    ) -> Result<Vec<u8>, ShareError> {
        let part = place.part(key);
        let found = self.objects.get(&part, REMOTE_META_BYTES_MAX).await?;
        let other = |what: &str| ShareError::Other {
            key: key.to_string(),
            what: what.into(),
        };
        let bytes = found.ok_or_else(|| other("it is not there"))?.bytes;
        match name(&bytes) == key.name() {
            true => Ok(bytes),
            false => Err(other("its content has another name")),
        }
    }
}

/// Where the objects of a repository are.
pub(super) fn place_of(repo: &Repo) -> Place {
    let (host, path) = repo.name.split_once('/').unwrap_or((&*repo.name, ""));
    Place::of(Identity {
        host: host.to_owned(),
        path: path.to_owned(),
        url: without_logins(&repo.url),
    })
}

/// A cause and what caused it, in one line.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}
