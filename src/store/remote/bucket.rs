//! A bucket of an object store that speaks S3's protocol.
//!
//! Credentials, endpoint, region and the like are found as the tools of such stores find them: in `AWS_…` variables, by
//! web identity, in profile files, or from the machine's role. The library repeats no request by itself: what a refusal means after a
//! repetition nobody could tell.

use std::error::Error;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3ConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    ClientConfigKey, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    PutResult, RetryConfig, UpdateVersion,
};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::account;
use super::asks::Asks;
use super::breaker::{Hears, Outcome};
use super::objects::{Condition, Content, Found, Got, Listed, ObjectError, Objects, Page, Version};
use super::publish::SystemRandom;
use super::sums::{FileError, SummedFile};
use crate::config::StoreHeader;
use crate::limits::{
    PIECE_RETRY_MS, REMOTE_CONNECT_WAIT_MS, REMOTE_EXCHANGE_MS, REMOTE_PIECE_BYTES,
    REMOTE_PIECES_AT_ONCE, REMOTE_SILENCE_MS, REMOTE_TRIES_MAX, STORE_HEAD_BYTES_MAX,
    STORE_LISTED_MAX, STORE_PAGES_MAX,
};

/// See the module's text.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(super) client: Arc<AmazonS3>,
    prefix: Path,
    /// Asks for what the library has no words for.
    pub(super) asks: Asks,
    /// Hears of each piece that is uploaded.
    hears: Option<Hears>,
    /// Held by each write under a condition, where the store may look at none and nobody else writes.
    alone: Option<Arc<tokio::sync::Mutex<()>>>,
    /// Whether uploads end now.
    ends: Arc<watch::Sender<bool>>,
}

type Failure = Box<dyn Error + Send + Sync>;

impl Bucket {
    /// The bucket of this name, and what is below `prefix` there.
    ///
    /// # Errors
    /// What the environment says of it is wrong.
    pub fn open(name: &str, prefix: &str) -> Result<Bucket, ObjectError> {
        Bucket::open_at(name, prefix, (None, &[]))
    }

    /// The same, as it is reached at another endpoint than the environment says, by requests with these headers.
    ///
    /// # Errors
    /// See [`Bucket::open`].
    pub fn open_at(
        name: &str,
        prefix: &str,
        (endpoint, headers): (Option<&str>, &[StoreHeader]),
    ) -> Result<Bucket, ObjectError> {
        let failed = |source: Failure| ObjectError::Failed {
            op: "open",
            key: format!("s3://{name}/{prefix}"),
            source,
        };
        let settings = [
            (ClientConfigKey::Timeout, format!("{REMOTE_EXCHANGE_MS} ms")),
            (
                ClientConfigKey::ConnectTimeout,
                format!("{REMOTE_CONNECT_WAIT_MS} ms"),
            ),
            (
                ClientConfigKey::ReadTimeout,
                format!("{REMOTE_SILENCE_MS} ms"),
            ),
            (ClientConfigKey::Http1Only, true.to_string()),
        ];
        let given = account::from_environment(|name| std::env::var_os(name)).map_err(failed)?;
        let builder = settings.into_iter().fold(given, |builder, (key, value)| {
            builder.with_config(AmazonS3ConfigKey::Client(key), value)
        });
        let none = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let builder = match endpoint {
            Some(endpoint) => builder
                .with_config(AmazonS3ConfigKey::S3Endpoint, endpoint)
                .with_allow_http(endpoint.starts_with("http://")),
            None => builder,
        };
        let asks = Asks::sending(headers);
        let builder = builder.with_http_connector(asks.clone());
        let client = builder.with_bucket_name(name).with_retry(none).build();
        Ok(Bucket {
            asks,
            client: Arc::new(client.map_err(|e| failed(e.into()))?),
            prefix: Path::parse(prefix).map_err(|e| failed(e.into()))?,
            hears: None,
            alone: None,
            ends: Arc::new(watch::Sender::new(false)),
        })
    }

    /// The same of which nobody else writes: what a write's condition is, is looked at here. It is sent all the same: a store
    /// that looks at it refuses what another one would overwrite that writes there against the rule, or arrives late.
    #[must_use]
    pub fn alone(self) -> Bucket {
        Bucket {
            alone: Some(Arc::default()),
            ..self
        }
    }

    /// Whether nobody else writes.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.is_some()
    }

    /// Puts an object under a condition; without, where nobody else writes and the store has none.
    async fn put_under(
        &self,
        key: &str,
        bytes: PutPayload,
        condition: &Condition,
    ) -> object_store::Result<PutResult> {
        let mode = match condition {
            Condition::Absent => PutMode::Create,
            Condition::Unchanged(Version(tag)) => PutMode::Update(UpdateVersion {
                e_tag: Some(tag.clone()),
                version: None,
            }),
        };
        let put = async |mode| {
            let (path, options) = (self.path(key), PutOptions::from(mode));
            self.client.put_opts(&path, bytes.clone(), options).await
        };
        match put(mode).await {
            Err(why) if self.is_alone() && is_not_implemented(&why) => {
                put(PutMode::Overwrite).await
            }
            put => put,
        }
    }

    /// Has somebody hear of each piece of what is uploaded.
    pub fn tell(&mut self, hears: Hears) {
        self.hears = Some(hears);
    }

    /// Uploads that run are given up, and what is there of them is removed; from here on none is begun.
    pub fn end_uploads(&self) {
        self.ends.send_replace(true);
    }

    pub(super) fn path(&self, key: &str) -> Path {
        let below = key.split('/');
        below.fold(self.prefix.clone(), |path, element| path.join(element))
    }

    /// A page of what lies below a directory: the first, or that behind another one.
    ///
    /// # Errors
    /// It cannot be listed.
    pub async fn page(&self, dir: &str, after: Option<String>) -> Result<Page, ObjectError> {
        let prefix = format!("{}/", self.path(dir));
        let options = PaginatedListOptions {
            delimiter: Some("/".into()),
            page_token: after,
            ..PaginatedListOptions::default()
        };
        let page = self.client.list_paginated(Some(&prefix), options).await;
        let page = page.map_err(|e| unanswered("list", dir, e))?;
        let name = |path: &Path| path.filename().map(ToOwned::to_owned);
        let objects = page.result.objects.iter();
        Ok(Page {
            dirs: page
                .result
                .common_prefixes
                .iter()
                .filter_map(name)
                .collect(),
            objects: objects
                .filter_map(|object| {
                    Some(Listed {
                        name: name(&object.location)?,
                        bytes: object.size,
                    })
                })
                .collect(),
            next: page.page_token,
        })
    }

    /// Uploads a file in pieces, a few at once; each is tried more than once, for it is the same whenever it arrives.
    async fn upload_file(&self, path: &Path, file: &SummedFile) -> Result<(), Unmade> {
        let (bytes, summed) = (file.pieces.bytes, file.clone());
        let opened = spawn_blocking(move || summed.open());
        let file = (file.clone(), Arc::new(opened.await??));
        if bytes <= REMOTE_PIECE_BYTES {
            let whole = read_piece(file, 0..bytes).await?;
            self.client.put(path, whole).await?;
            return Ok(());
        }
        let mut ends = self.ends.subscribe();
        if *ends.borrow() {
            return Err(Unmade::Ends);
        }
        let id = self.client.create_multipart(path).await?;
        let pieces = tokio::select! {
            pieces = self.upload_pieces((path, &id), file) => pieces,
            // The sender is there for as long as this is.
            _ = ends.wait_for(|ends| *ends) => Err(Unmade::Ends),
        };
        let uploaded = match pieces {
            Ok(pieces) => {
                let completed = self.client.complete_multipart(path, &id, pieces).await;
                completed.map(drop).map_err(Unmade::from)
            }
            Err(why) => Err(why),
        };
        if uploaded.is_err() {
            // Of one that was completed, and whose answer got lost, this does nothing: its key is never named. What cannot
            // even be given up is left to the bucket's own rule for such.
            let _ = self.client.abort_multipart(path, &id).await;
        }
        uploaded
    }

    async fn upload_pieces(
        &self,
        (path, id): (&Path, &String),
        (file, opened): (SummedFile, Arc<File>),
    ) -> Result<Vec<PartId>, Unmade> {
        let bytes = file.pieces.bytes;
        let count = bytes.div_ceil(REMOTE_PIECE_BYTES);
        let mut pieces = vec![None; usize::try_from(count).unwrap_or(usize::MAX)];
        let (mut running, mut next) = (JoinSet::new(), 0);
        loop {
            while running.len() < REMOTE_PIECES_AT_ONCE && next < count {
                let start = next * REMOTE_PIECE_BYTES;
                let range = start..bytes.min(start + REMOTE_PIECE_BYTES);
                let (client, path, id) = (self.client.clone(), path.clone(), id.clone());
                let (file, number) = ((file.clone(), opened.clone()), next as usize);
                let hears = self.hears.clone();
                let tell = move |outcome| hears.iter().for_each(|hears| hears.tell(outcome));
                running.spawn(async move {
                    let piece = read_piece(file, range).await?;
                    let mut tries = 1;
                    loop {
                        let put = client.put_part(&path, &id, number, piece.clone()).await;
                        tell(match &put {
                            Err(why) if !is_denied(why) => Outcome::Failed,
                            _ => Outcome::Answered,
                        });
                        match put {
                            Err(why) if tries < REMOTE_TRIES_MAX && !is_denied(&why) => {
                                let wait_ms = PIECE_RETRY_MS << tries;
                                let jitter_ms = SystemRandom::below(wait_ms);
                                sleep(Duration::from_millis(wait_ms + jitter_ms)).await;
                                tries += 1;
                            }
                            put => return Ok::<_, Unmade>((number, put?)),
                        }
                    }
                });
                next += 1;
            }
            let Some(piece) = running.join_next().await else {
                break;
            };
            let (number, piece) = piece??;
            pieces[number] = Some(piece);
        }
        Ok(pieces.into_iter().flatten().collect())
    }
}

async fn read_piece(
    (file, opened): (SummedFile, Arc<File>),
    range: Range<u64>,
) -> Result<PutPayload, Unmade> {
    let read = spawn_blocking(move || file.read(&opened, range));
    Ok(PutPayload::from(read.await??))
}

/// Why an object was not uploaded.
#[derive(Debug, thiserror::Error)]
enum Unmade {
    #[error(transparent)]
    Here(#[from] FileError),
    #[error(transparent)]
    There(#[from] object_store::Error),
    #[error(transparent)]
    Thread(#[from] JoinError),
    #[error("the server ends")]
    Ends,
}

fn is_denied(why: &object_store::Error) -> bool {
    use object_store::Error::{PermissionDenied, Unauthenticated};
    matches!(why, PermissionDenied { .. } | Unauthenticated { .. })
}

/// Whether a store says that it has no such thing, which is all that the library has of that: 501, and its code.
fn is_not_implemented(why: &object_store::Error) -> bool {
    let why: &(dyn Error + 'static) = why;
    std::iter::successors(Some(why), |why| (*why).source()).any(|why| {
        let text = why.to_string();
        text.contains("501 Not Implemented") || text.contains("<Code>NotImplemented</Code>")
    })
}

fn refused(op: &'static str, key: &str) -> ObjectError {
    ObjectError::Refused {
        op,
        key: key.to_owned(),
    }
}

/// Why a request was not answered as it should be.
pub(super) fn unanswered(op: &'static str, key: &str, why: object_store::Error) -> ObjectError {
    match is_denied(&why) {
        true => ObjectError::Denied {
            op,
            key: key.to_owned(),
            source: why.into(),
        },
        false => failed(op, key, why),
    }
}

pub(super) fn failed(op: &'static str, key: &str, source: impl Into<Failure>) -> ObjectError {
    ObjectError::Failed {
        op,
        key: key.to_owned(),
        source: source.into(),
    }
}

impl Objects for Bucket {
    type Content = Content;

    async fn swap(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> Result<Version, ObjectError> {
        use object_store::Error::{AlreadyExists, Precondition};
        let op = "write";
        let _alone = match &self.alone {
            Some(alone) => Some(alone.lock().await),
            None => None,
        };
        if self.is_alone() {
            let found = self.get(key, STORE_HEAD_BYTES_MAX).await?;
            if !condition.holds_of(found.as_ref()) {
                return Err(refused(op, key));
            }
        }
        match self.put_under(key, bytes.into(), condition).await {
            Ok(put) => match put.e_tag {
                Some(tag) => Ok(Version(tag)),
                None => Err(failed(op, key, "the store gives no ETag")),
            },
            Err(AlreadyExists { .. } | Precondition { .. }) => Err(refused(op, key)),
            Err(e) => Err(unanswered(op, key, e)),
        }
    }

    async fn upload(&self, key: &str, content: &Content) -> Result<(), ObjectError> {
        let path = self.path(key);
        let uploaded = match content {
            _ if *self.ends.borrow() => Err(Unmade::Ends),
            Content::File(file) => self.upload_file(&path, file).await,
            Content::Bytes(bytes) => {
                let put = self.client.put(&path, bytes.clone().into()).await;
                put.map(drop).map_err(Unmade::from)
            }
        };
        uploaded.map_err(|why| match why {
            Unmade::Here(source) => ObjectError::Local {
                key: key.to_owned(),
                source,
            },
            Unmade::There(why) => unanswered("upload", key, why),
            Unmade::Ends => ObjectError::Ends {
                op: "upload",
                key: key.to_owned(),
            },
            Unmade::Thread(why) => failed("upload", key, why),
        })
    }

    async fn get(&self, key: &str, bytes_max: usize) -> Result<Option<Found>, ObjectError> {
        match self.get_unless(key, bytes_max, None).await? {
            Got::Found(found) => Ok(Some(found)),
            Got::Absent | Got::Same => Ok(None),
        }
    }

    async fn get_unless(
        &self,
        key: &str,
        bytes_max: usize,
        known: Option<&Version>,
    ) -> Result<Got, ObjectError> {
        use object_store::Error::{NotFound, NotModified};
        let op = "read";
        let path = self.path(key);
        let options = GetOptions {
            if_none_match: known.map(|Version(tag)| tag.clone()),
            ..GetOptions::default()
        };
        let got = match self.client.get_opts(&path, options).await {
            Err(NotFound { .. }) => return Ok(Got::Absent),
            Err(NotModified { .. }) => return Ok(Got::Same),
            got => got.map_err(|e| unanswered(op, key, e))?,
        };
        // What it says of its length bounds what is read of it.
        if got.meta.size > bytes_max as u64 {
            let key = key.to_owned();
            return Err(ObjectError::TooLong { op, key, bytes_max });
        }
        let Some(tag) = got.meta.e_tag.clone() else {
            return Err(failed(op, key, "the store gives no ETag"));
        };
        let bytes = got.bytes().await.map_err(|e| failed(op, key, e))?;
        let (bytes, version) = (bytes.into(), Version(tag));
        Ok(Got::of(Some(Found { bytes, version }), known))
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let expected = range.end.saturating_sub(range.start);
        let got = self.client.get_range(&self.path(key), range).await;
        let absent = || ObjectError::Absent {
            op: "read",
            key: key.to_owned(),
        };
        let bytes = match got {
            Err(object_store::Error::NotFound { .. }) => return Err(absent()),
            got => got.map_err(|e| unanswered("read", key, e))?,
        };
        match bytes.len() as u64 == expected {
            true => Ok(bytes.into()),
            false => Err(absent()),
        }
    }

    async fn list(&self, dir: &str) -> Result<Vec<Listed>, ObjectError> {
        let prefix = format!("{}/", self.path(dir));
        let (mut listed, mut page_token) = (Vec::new(), None);
        for _ in 0..STORE_PAGES_MAX {
            let options = PaginatedListOptions {
                delimiter: Some("/".into()),
                page_token,
                ..PaginatedListOptions::default()
            };
            let page = self.client.list_paginated(Some(&prefix), options).await;
            let page = page.map_err(|e| unanswered("list", dir, e))?;
            let objects = page.result.objects.iter();
            listed.extend(objects.filter_map(|object| {
                Some(Listed {
                    name: object.location.filename()?.to_owned(),
                    bytes: object.size,
                })
            }));
            page_token = page.page_token;
            if page_token.is_none() && listed.len() <= STORE_LISTED_MAX {
                return Ok(listed);
            }
            if listed.len() > STORE_LISTED_MAX {
                break;
            }
        }
        let key = dir.to_owned();
        Err(ObjectError::TooMany { op: "list", key })
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self.client.delete(&self.path(key)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            deleted => deleted.map_err(|e| unanswered("remove", key, e)),
        }
    }
}
