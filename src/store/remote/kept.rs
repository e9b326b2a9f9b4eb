//! By what a bucket keeps what is removed, as far as it says so.
//!
//! Each such thing needs versions, which the answer to any write tells. How it is set up may be asked by who may; most
//! servers may not, and need not.

use std::time::Duration;

use ::http::Method;
use object_store::ObjectStoreExt;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};

use super::bucket::{Bucket, unanswered};
use super::objects::ObjectError;
use crate::limits::PROBE_WAIT_MS;

const VERSIONS: &str = "the bucket keeps versions of what is removed: what has expired stays there. Switch versioning \
                        off, or have versions that are not current expire";
const SUSPENDED: &str = "the bucket has had versions, and keeps those of that time: what has expired since may be there";
const LOCKED: &str =
    "the bucket has object lock: what is removed, or has expired, stays there for its time";
const REPLICATED: &str = "the bucket is replicated: what has expired stays in its copies, unless removals are replicated";

impl Bucket {
    /// By what a bucket keeps what is removed, as far as it says so: a line each. `version` is what a write was given.
    pub async fn keeps(&self, version: Option<&str>) -> Vec<&'static str> {
        let (versions, lock, replication) = tokio::join!(
            self.setting("versioning"),
            self.setting("object-lock"),
            self.setting("replication")
        );
        let says = |setting: &Option<String>, text: &str| {
            setting.as_ref().is_some_and(|xml| xml.contains(text))
        };
        let has_versions = version.is_some_and(|version| version != "null")
            || says(&versions, "<Status>Enabled</Status>");
        let had_versions = version == Some("null") || says(&versions, "<Status>Suspended</Status>");
        let all = [
            (has_versions, VERSIONS),
            (!has_versions && had_versions, SUSPENDED),
            (
                says(&lock, "<ObjectLockEnabled>Enabled</ObjectLockEnabled>"),
                LOCKED,
            ),
            (says(&replication, "<Status>Enabled</Status>"), REPLICATED),
        ];
        let kept = all.into_iter().filter(|(is_so, _)| *is_so);
        kept.map(|(_, line)| line).collect()
    }

    /// How it is set up in one thing, if it says so.
    async fn setting(&self, name: &str) -> Option<String> {
        let options = SignedUrlOptions::default().with_query([(name, "")]);
        let limit = Duration::from_millis(PROBE_WAIT_MS);
        let bucket = Path::default();
        let url = self
            .client
            .signed_url_opts(Method::GET, &bucket, limit, &options)
            .await
            .ok()?;
        self.asks.get(url.as_str()).await
    }

    /// Writes an object, and gives the version that it was given.
    ///
    /// # Errors
    /// It may not be written.
    pub async fn write_version(&self, key: &str) -> Result<Option<String>, ObjectError> {
        let (path, content) = (self.path(key), key.to_owned());
        let put = self.client.put(&path, content.into());
        let put = put.await.map_err(|e| unanswered("write", key, e))?;
        Ok(put.version)
    }

    /// Begins an upload in pieces, and gives it up.
    ///
    /// # Errors
    /// One of both may not be done.
    pub async fn give_up_upload(&self, key: &str) -> Result<(), ObjectError> {
        let path = self.path(key);
        let begun = self.client.create_multipart(&path).await;
        let id = begun.map_err(|e| unanswered("begin an upload of", key, e))?;
        let given_up = self.client.abort_multipart(&path, &id).await;
        given_up.map_err(|e| unanswered("give up the upload of", key, e))
    }
}
