//! Whether a store keeps its promises, and lets this server use them: tried with objects of their own, which are removed.

use std::io;
use std::time::Duration;

use super::any::AnyStore;
use super::bucket::Bucket;
use super::objects::{Condition, Content, Found, Listed, ObjectError, Objects, Version};
use super::publish::{Draw, SystemRandom};
use crate::config::SharedStore;
use crate::limits::{PROBE_WAIT_MS, SMALL_OBJECT_BYTES_MAX};

/// What a store does not do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("{permission} is not to be had: {source}")]
    Permission {
        permission: &'static str,
        source: ObjectError,
    },
    #[error(transparent)]
    Open(#[from] ObjectError),
    #[error("cannot start what asks it: {0}")]
    Start(#[source] io::Error),
    #[error("no answer within {PROBE_WAIT_MS} ms")]
    Slow,
    #[error(
        "{what}: it cannot be shared by servers that write; one server alone can with --store-writer, and all others \
         with --store-readonly"
    )]
    Promise { what: &'static str },
}

/// Where probes are, below the prefix.
const DIR: &str = "v1/probe";

/// Opens a store and tries it, for whoever has no other work; see [`probe`]. Gives a line for each thing by which it keeps
/// what is removed.
///
/// # Errors
/// See [`ProbeError`].
pub fn try_out(shared: &SharedStore) -> Result<Vec<&'static str>, ProbeError> {
    let is_readonly = shared.is_readonly;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(ProbeError::Start)?;
    let store = AnyStore::open(shared)?;
    let limit = Duration::from_millis(PROBE_WAIT_MS);
    let tried = runtime.block_on(async {
        let tried = async {
            probe(&store, is_readonly, &mut SystemRandom).await?;
            match &store {
                AnyStore::Bucket(bucket) => kept(bucket, is_readonly).await,
                AnyStore::Files(_) => Ok(Vec::new()),
            }
        };
        tokio::time::timeout(limit, tried).await
    });
    tried.unwrap_or(Err(ProbeError::Slow))
}

/// Tries all that a server does there. One that only reads tries no more than that.
///
/// # Errors
/// The first thing that does not work.
pub async fn probe<O: Objects<Content = Content>>(
    objects: &O,
    is_readonly: bool,
    random: &mut impl Draw,
) -> Result<(), ProbeError> {
    objects.list(DIR).await.map_err(denied(LISTING))?;
    let key = format!("{DIR}/{}", random.draw());
    let nothing = objects.get(&key, SMALL_OBJECT_BYTES_MAX).await;
    if nothing.map_err(denied(READING))?.is_some() {
        let what = "there is what nobody has written";
        return Err(ProbeError::Promise { what });
    }
    if is_readonly {
        return Ok(());
    }
    let tried = try_writes(objects, &key, random).await;
    let removed = objects.delete(&key).await;
    tried?;
    removed.map_err(denied(REMOVING))?;
    let gone = objects.get(&key, SMALL_OBJECT_BYTES_MAX).await;
    match gone.map_err(denied(READING))? {
        None => Ok(()),
        Some(_) => Err(ProbeError::Promise {
            what: "what was removed is still there",
        }),
    }
}

/// Whether it refuses a write where somebody has written, and one where somebody else has: asked by two or three writes of
/// one object, which stays, so that it takes no permission but that.
///
/// # Errors
/// It does not say.
pub async fn refuses(objects: &impl Objects) -> Result<bool, ObjectError> {
    let key = format!("{DIR}/kept");
    let taken = async |condition: &Condition| {
        let content = b"whether a second write is refused".to_vec();
        match objects.swap(&key, content, condition).await {
            Ok(_) => Ok(true),
            Err(ObjectError::Refused { .. }) => Ok(false),
            Err(why) => Err(why),
        }
    };
    // The first one may find that there is none.
    let is_taken = taken(&Condition::Absent).await? && taken(&Condition::Absent).await?;
    let other = Condition::Unchanged(Version(format!("\"{:032x}\"", 0)));
    Ok(!is_taken && !taken(&other).await?)
}

/// Tries what only a bucket has; gives a line for each thing by which it keeps what is removed.
async fn kept(bucket: &Bucket, is_readonly: bool) -> Result<Vec<&'static str>, ProbeError> {
    let mut version = None;
    if !is_readonly {
        let key = format!("{DIR}/{}", SystemRandom.draw());
        let given_up = bucket.give_up_upload(&key).await;
        given_up.map_err(denied("giving up an upload (s3:AbortMultipartUpload)"))?;
        let written = bucket.write_version(&key).await;
        // It is removed whatever became of it.
        let removed = bucket.delete(&key).await;
        version = written.map_err(denied(WRITING))?;
        removed.map_err(denied(REMOVING))?;
    }
    Ok(bucket.keeps(version.as_deref()).await)
}

const LISTING: &str = "listing (s3:ListBucket)";
const READING: &str = "reading (s3:GetObject)";
const WRITING: &str = "writing (s3:PutObject)";
const REMOVING: &str = "removing (s3:DeleteObject)";

fn denied(permission: &'static str) -> impl Fn(ObjectError) -> ProbeError {
    move |source| ProbeError::Permission { permission, source }
}

async fn try_writes<O: Objects<Content = Content>>(
    objects: &O,
    key: &str,
    random: &mut impl Draw,
) -> Result<(), ProbeError> {
    let part = format!("{DIR}/{}", random.draw());
    let content = random.draw().to_string().into_bytes();
    let uploaded = objects
        .upload(&part, &Content::Bytes(content.clone()))
        .await;
    uploaded.map_err(denied(WRITING))?;
    let read = objects.get_range(&part, 1..content.len() as u64).await;
    let listed = objects.list(DIR).await;
    objects.delete(&part).await.map_err(denied(REMOVING))?;
    let broken = |what| Err(ProbeError::Promise { what });
    if read.map_err(denied(READING))? != content[1..] {
        return broken("what is read is not what was written");
    }
    let is_part =
        |listed: &Listed| part.ends_with(&listed.name) && listed.bytes == content.len() as u64;
    if !listed.map_err(denied(LISTING))?.iter().any(is_part) {
        return broken("what was written is not listed");
    }
    let first = race(objects, key, &Condition::Absent, random).await?;
    let Some(first) = first else {
        return broken("of two that create an object both succeed");
    };
    let found = objects.get(key, SMALL_OBJECT_BYTES_MAX).await;
    let found = found.map_err(denied(READING))?;
    if found.is_none_or(|Found { version, .. }| version != first) {
        return broken("what is read is not what was written last");
    }
    match race(objects, key, &Condition::Unchanged(first), random).await? {
        Some(_) => Ok(()),
        None => broken("of two that replace an object both succeed"),
    }
}

/// Has two write at once under the same condition; what the one has written who succeeded, or nothing if both did.
async fn race<O: Objects>(
    objects: &O,
    key: &str,
    condition: &Condition,
    random: &mut impl Draw,
) -> Result<Option<Version>, ProbeError> {
    let [one, other] = [(); 2].map(|()| random.draw().to_string().into_bytes());
    let (one, other) = tokio::join!(
        objects.swap(key, one, condition),
        objects.swap(key, other, condition)
    );
    match (one, other) {
        (Ok(_), Ok(_)) => Ok(None),
        (Ok(version), Err(ObjectError::Refused { .. }))
        | (Err(ObjectError::Refused { .. }), Ok(version)) => Ok(Some(version)),
        (Err(source), _) | (_, Err(source)) => Err(ProbeError::Permission {
            permission: "writing under a condition (s3:PutObject)",
            source,
        }),
    }
}
