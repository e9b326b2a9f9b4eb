//! Where a client gets an object from a bucket by itself: a URL that is good for a while, for that object and for reading.

use std::time::Duration;

use ::http::Method;
use object_store::signer::Signer;

use super::bucket::{Bucket, unanswered};
use super::objects::ObjectError;
use crate::config::{SharedStore, StoreUrl};
use crate::limits::STORE_URL_LIFE_MS;

/// A bucket as clients reach it.
#[derive(Debug, Clone)]
pub struct Signs(Bucket);

impl Signs {
    /// Where the settings send clients, if they do.
    ///
    /// # Errors
    /// What the environment says of the bucket is wrong.
    pub fn of(shared: &SharedStore) -> Result<Option<Signs>, ObjectError> {
        let (Some(endpoint), StoreUrl::Bucket { name, prefix }) = (&shared.redirect, &shared.url)
        else {
            return Ok(None);
        };
        let bucket = Bucket::open_at(name, prefix, (Some(endpoint), &[]))?;
        Ok(Some(Signs(bucket)))
    }

    /// The URL by which an object is read. The store is not asked for it.
    ///
    /// # Errors
    /// There are no credentials to sign it with.
    pub async fn url(&self, key: &str) -> Result<String, ObjectError> {
        let (path, life) = (self.0.path(key), Duration::from_millis(STORE_URL_LIFE_MS));
        let url = self.0.client.signed_url(Method::GET, &path, life).await;
        let url = url.map_err(|e| unanswered("sign a URL for", key, e))?;
        Ok(url.to_string())
    }
}
