//! The object store that the settings name.

use std::ops::Range;

use super::breaker::Hears;
use super::bucket::Bucket;
use super::files::FileStore;
use super::objects::{Condition, Content, Found, Got, Listed, ObjectError, Objects, Page, Version};
use crate::config::{SharedStore, StoreHeader, StoreUrl};

/// One of those that are known.
#[derive(Debug, Clone)]
pub enum AnyStore {
    /// A bucket.
    Bucket(Bucket),
    /// A directory.
    Files(FileStore),
}

impl AnyStore {
    /// Makes ready what is asked there; nobody is asked yet.
    ///
    /// # Errors
    /// What the environment says of it is wrong.
    pub fn open(shared: &SharedStore) -> Result<AnyStore, ObjectError> {
        Ok(match &shared.url {
            StoreUrl::Bucket { name, prefix } => {
                let bucket = Bucket::open_at(name, prefix, (None, &shared.headers))?;
                AnyStore::Bucket(match shared.is_writer {
                    true => bucket.alone(),
                    false => bucket,
                })
            }
            StoreUrl::Dir(dir) => AnyStore::Files(FileStore::open(dir)),
        })
    }
}

impl AnyStore {
    /// The same for who changes nothing there.
    ///
    /// # Errors
    /// See [`AnyStore::open`].
    pub fn open_to_look(url: &StoreUrl, headers: &[StoreHeader]) -> Result<AnyStore, ObjectError> {
        Ok(match url {
            StoreUrl::Dir(dir) => AnyStore::Files(FileStore::at(dir)),
            StoreUrl::Bucket { name, prefix } => {
                AnyStore::Bucket(Bucket::open_at(name, prefix, (None, headers))?)
            }
        })
    }

    /// A page of what lies below a directory: the first, or that behind another one.
    ///
    /// # Errors
    /// It cannot be listed.
    pub async fn page(&self, dir: &str, after: Option<String>) -> Result<Page, ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.page(dir, after).await,
            AnyStore::Files(store) => store.page(dir).await,
        }
    }

    /// Whether it is for the store to refuse a write, and nobody has seen yet that it does.
    #[must_use]
    pub fn is_to_refuse(&self) -> bool {
        match self {
            AnyStore::Bucket(bucket) => !bucket.is_alone(),
            AnyStore::Files(_) => false,
        }
    }

    /// Has somebody hear of each piece of what is uploaded.
    pub fn tell(&mut self, hears: Hears) {
        if let AnyStore::Bucket(bucket) = self {
            bucket.tell(hears);
        }
    }

    /// The process is about to end: uploads that run are given up, and what is there of them is removed.
    pub fn end_uploads(&self) {
        if let AnyStore::Bucket(bucket) = self {
            bucket.end_uploads();
        }
    }
}

impl Objects for AnyStore {
    type Content = Content;

    async fn swap(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> Result<Version, ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.swap(key, bytes, condition).await,
            AnyStore::Files(store) => store.swap(key, bytes, condition).await,
        }
    }

    async fn upload(&self, key: &str, content: &Content) -> Result<(), ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.upload(key, content).await,
            AnyStore::Files(store) => store.upload(key, content).await,
        }
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Found>, ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.get(key, bytes_max).await,
            AnyStore::Files(store) => store.get(key, bytes_max).await,
        }
    }

    async fn get_unless(
        &self,
        key: &str,
        bytes_max: usize,
        known: Option<&Version>,
    ) -> Result<Got, ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.get_unless(key, bytes_max, known).await,
            AnyStore::Files(store) => store.get_unless(key, bytes_max, known).await,
        }
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.get_range(key, range).await,
            AnyStore::Files(store) => store.get_range(key, range).await,
        }
    }

    async fn list(&self, dir: &str) -> Result<Vec<Listed>, ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.list(dir).await,
            AnyStore::Files(store) => store.list(dir).await,
        }
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self {
            AnyStore::Bucket(store) => store.delete(key).await,
            AnyStore::Files(store) => store.delete(key).await,
        }
    }
}
