//! Whether all that a head names is there, and is what it was: each part has the content that its name says, and the
//! pieces of a snapshot's files have the checksums that were made when it was built.
//!
//! Servers go on meanwhile. So what is missing or wrong is said only if the head names it still, once that is known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::json;
use tokio::task::{JoinSet, spawn_blocking};

use super::look::{AdminError, Look};
use super::repository::{Headed, Repository, State};
use crate::limits::{REMOTE_META_BYTES_MAX, VERIFIED_AT_ONCE, VERIFIED_PIECE_BYTES};
use crate::manifest::meta::Meta;
use crate::manifest::parts::{Manifest, part_name};
use crate::store::remote::head::{Head, Snapshot};
use crate::store::remote::key::{META, PartKey, SUMS};
use crate::store::remote::name::NameCheck;
use crate::store::remote::objects::{ObjectError, Objects};
use crate::store::remote::pages::Pages;
use crate::store::remote::sums::{Pieces, Sums, pieces_of};

/// What is found of a repository, before it is looked at once more.
#[derive(Default)]
struct Found {
    /// What is there and as long as its head says.
    there: HashSet<PartKey>,
    /// What is not.
    missing: BTreeSet<PartKey>,
    /// What is something else, and why.
    wrong: BTreeMap<PartKey, String>,
    /// Of which all was read.
    done: HashSet<PartKey>,
    /// So many parts lie there besides.
    superfluous: u64,
}

impl Found {
    fn is_wrong(&mut self, key: &PartKey, why: impl Into<String>) {
        self.wrong.entry(key.clone()).or_insert_with(|| why.into());
    }
}

/// Verifies what a head names.
pub(super) async fn verify(look: &Rc<Look>, repository: &Repository) -> Result<(), AdminError> {
    let mut found = list(look, repository).await?;
    let Some(head) = repository.sound() else {
        return expect_none(look, repository, &found).await;
    };
    for key in &head.broken {
        let why = "a server has found it broken: who has it uploads it again";
        found.is_wrong(key, why);
    }
    let mut pieces = BTreeMap::new();
    for snapshot in &head.snapshots {
        snapshot_pieces(
            look,
            (repository, head),
            snapshot,
            (&mut found, &mut pieces),
        )
        .await?;
    }
    contents(look, (repository, head), &mut found, &pieces).await?;
    look.told.count("parts", found.done.len() as u64);
    tell(look, repository, found).await
}

/// Says that a head is missing where something lies beside it, and nobody has written one meanwhile.
async fn expect_none(
    look: &Look,
    repository: &Repository,
    found: &Found,
) -> Result<(), AdminError> {
    let is_absent = async || {
        let now = look.repository(repository.dir_name()).await?;
        Ok::<_, AdminError>(matches!(now.head, Headed::Absent))
    };
    if found.superfluous == 0 || !is_absent().await? {
        return Ok(());
    }
    look.told.count("missing", 1);
    look.told.tell(&[
        ("repository", json!(repository.name())),
        ("found", json!("missing")),
        ("key", json!(repository.head_key())),
        ("why", json!("parts lie there that are uploaded for the first time just now, or their head was lost")),
    ])?;
    Ok(())
}

/// What is there of what is named; what is there besides is said at once.
async fn list(look: &Look, repository: &Repository) -> Result<Found, AdminError> {
    let (states, mut found) = (repository.states(), Found::default());
    let mut pages = Pages::of(&look.objects, repository.parts());
    while let Some(page) = look.again(async || pages.next().await).await? {
        for object in page.objects {
            match states.state(&object) {
                (State::Shared { bytes }, Some(key)) if bytes == object.bytes => {
                    found.there.insert(key);
                }
                (State::Shared { bytes }, Some(key)) => {
                    let why = format!("it has {} bytes, and should have {bytes}", object.bytes);
                    found.is_wrong(&key, why);
                }
                (state, _) => {
                    found.superfluous += 1;
                    look.told.count("superfluous", 1);
                    look.told.tell(&[
                        ("repository", json!(repository.name())),
                        ("found", json!("superfluous")),
                        ("key", json!(object.name)),
                        ("why", json!(state.name())),
                        ("bytes", json!(object.bytes)),
                    ])?;
                }
            }
        }
    }
    let named = repository.sound().into_iter().flat_map(|head| &head.parts);
    let named = named.map(|part| &part.key);
    let missing =
        named.filter(|key| !found.there.contains(*key) && !found.wrong.contains_key(*key));
    found.missing = missing.cloned().collect();
    Ok(found)
}

/// What the pieces of a snapshot's files have to be, as far as its metadata say it.
async fn snapshot_pieces(
    look: &Look,
    (repository, head): (&Repository, &Head),
    snapshot: &Snapshot,
    (found, pieces): (&mut Found, &mut BTreeMap<PartKey, Arc<Pieces>>),
) -> Result<(), AdminError> {
    let part = |kind| snapshot.parts.iter().find(|it| it.name().starts_with(kind));
    let (Some(meta), Some(sums)) = (part(META), part(SUMS)) else {
        found.is_wrong(
            &snapshot.manifest,
            "its snapshot has no metadata, or no checksums",
        );
        return Ok(());
    };
    let manifest = small(look, repository, &snapshot.manifest, found).await?;
    let meta_bytes = small(look, repository, meta, found).await?;
    let sums_bytes = small(look, repository, sums, found).await?;
    let (Some(manifest), Some(meta_bytes), Some(sums_bytes)) = (manifest, meta_bytes, sums_bytes)
    else {
        return Ok(());
    };
    // They may be long.
    let decoded = spawn_blocking(move || {
        let manifest = Manifest::unpack(&manifest).ok().map(|it| it.id);
        let meta = Meta::decode(&meta_bytes).ok();
        (manifest, meta, Sums::decode(&sums_bytes).ok())
    });
    let (manifest, decoded, decoded_sums) = decoded.await?;
    // Each is what its name says, so one that this program cannot read is another version's.
    if manifest.is_some_and(|id| id.as_str() != snapshot.id) {
        found.is_wrong(&snapshot.manifest, "it is that of another snapshot");
    }
    let (Some(decoded), Some(decoded_sums)) = (decoded, decoded_sums) else {
        return Ok(());
    };
    if decoded.id.as_str() != snapshot.id || decoded.want.to_string() != snapshot.about.want {
        found.is_wrong(meta, "it is that of another snapshot");
        return Ok(());
    }
    let of_files = match pieces_of(&decoded, &decoded_sums) {
        Ok(of_files) => of_files,
        Err(why) => {
            found.is_wrong(sums, why.to_string());
            return Ok(());
        }
    };
    let paths = decoded.linked.iter().map(|linked| &linked.path);
    for (path, of_file) in paths.chain([&decoded.spool]).zip(of_files) {
        let name = part_name(path);
        let key = snapshot.parts.iter().find(|key| key.name() == name);
        let stored = key.and_then(|key| head.stored(key));
        match stored.filter(|stored| stored.bytes == of_file.bytes) {
            Some(stored) => {
                let of_file = Arc::new(of_file);
                pieces.entry(stored.key.clone()).or_insert(of_file);
            }
            None => {
                let why = format!("the head has no part {name} of {} bytes", of_file.bytes);
                found.is_wrong(meta, why);
            }
        }
    }
    Ok(())
}

/// A small part, if it is there and what its name says.
async fn small(
    look: &Look,
    repository: &Repository,
    key: &PartKey,
    found: &mut Found,
) -> Result<Option<Vec<u8>>, AdminError> {
    if !found.there.contains(key) {
        return Ok(None);
    }
    let part = repository.part(key);
    let _turn = look.turn().await;
    let read = look.again(async || look.objects.get(&part, REMOTE_META_BYTES_MAX).await);
    let bytes = match read.await {
        Ok(Some(object)) => object.bytes,
        Ok(None) => {
            found.missing.insert(key.clone());
            return Ok(None);
        }
        Err(why @ ObjectError::TooLong { .. }) => {
            found.is_wrong(key, why.to_string());
            return Ok(None);
        }
        Err(why) => return Err(why.into()),
    };
    look.told.has_read(bytes.len() as u64);
    let mut check = NameCheck::of(key.name(), bytes.len() as u64);
    let checked = spawn_blocking(move || {
        check.take(&bytes);
        (check.wrong(), bytes)
    });
    let (wrong, bytes) = checked.await?;
    found.done.insert(key.clone());
    match wrong {
        None => Ok(Some(bytes)),
        Some(why) => {
            found.is_wrong(key, why);
            Ok(None)
        }
    }
}

/// Reads all else that is there, a few parts at once.
async fn contents(
    look: &Rc<Look>,
    (repository, head): (&Repository, &Head),
    found: &mut Found,
    pieces: &BTreeMap<PartKey, Arc<Pieces>>,
) -> Result<(), AdminError> {
    let is_left = |key: &PartKey| found.there.contains(key) && !found.done.contains(key);
    let left = head.parts.iter().filter(|part| is_left(&part.key));
    let left = Vec::from_iter(left.map(|part| (part.key.clone(), part.bytes)));
    let (mut left, mut running) = (left.into_iter(), JoinSet::new());
    loop {
        while running.len() < VERIFIED_AT_ONCE
            && let Some((key, bytes)) = left.next()
        {
            let part = Part {
                object: repository.part(&key),
                pieces: pieces.get(&key).cloned(),
                check: NameCheck::of(key.name(), bytes),
                bytes,
            };
            let look = look.clone();
            running.spawn_local(async move { (key, part.read(&look).await) });
        }
        let Some(read) = running.join_next().await else {
            return Ok(());
        };
        let (key, read) = read?;
        match read? {
            Read::Right => {}
            Read::Unknown => look.told.count("unchecked", 1),
            Read::Wrong(why) => found.is_wrong(&key, why),
            Read::Gone => drop(found.missing.insert(key.clone())),
        }
        found.done.insert(key);
    }
}

/// A part that is read from its begin to its end.
struct Part {
    object: String,
    bytes: u64,
    check: NameCheck,
    pieces: Option<Arc<Pieces>>,
}

/// What became of that.
enum Read {
    Right,
    /// Neither its name nor anything else says what it should be.
    Unknown,
    Wrong(String),
    Gone,
}

impl Part {
    /// One piece is on its way while the one before it is looked at.
    async fn read(mut self, look: &Look) -> Result<Read, AdminError> {
        let _turn = look.turn().await;
        let is_unknown = self.pieces.is_none() && self.check.says_nothing();
        let object = self.object.clone();
        let piece = async |at: u64| {
            let range = at..self.bytes.min(at + VERIFIED_PIECE_BYTES);
            look.again(async || look.objects.get_range(&object, range.clone()).await)
                .await
        };
        let (mut at, mut next) = (0, None);
        while at < self.bytes {
            let bytes = match next.take() {
                Some(bytes) => bytes,
                None => piece(at).await,
            };
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(ObjectError::Absent { .. }) => return Ok(Read::Gone),
                Err(why) => return Err(why.into()),
            };
            let (start, end) = (at, at + bytes.len() as u64);
            look.told.has_read(bytes.len() as u64);
            let (pieces, mut check) = (self.pieces.clone(), self.check);
            let checked = spawn_blocking(move || {
                check.take(&bytes);
                let checked = pieces.map_or(Ok(()), |pieces| pieces.check(&bytes, start));
                (check, checked)
            });
            let checked = match end < self.bytes {
                true => {
                    let (checked, piece) = tokio::join!(checked, piece(end));
                    next = Some(piece);
                    checked
                }
                false => checked.await,
            };
            let (check, checked) = checked?;
            self.check = check;
            if let Err(at) = checked {
                return Ok(Read::Wrong(format!("it is damaged at {at}")));
            }
            at = end;
        }
        Ok(match self.check.wrong() {
            Some(why) => Read::Wrong(why.to_owned()),
            None if is_unknown => Read::Unknown,
            None => Read::Right,
        })
    }
}

/// Says what is missing or wrong, if it is named still.
async fn tell(look: &Look, repository: &Repository, found: Found) -> Result<(), AdminError> {
    if found.missing.is_empty() && found.wrong.is_empty() {
        return Ok(());
    }
    let now = look.repository(repository.dir_name()).await?;
    let is_named = |key: &PartKey| match &now.head {
        Headed::Sound(head) => head.stored(key).is_some(),
        Headed::Absent | Headed::Broken(_) => true,
    };
    let missing = found.missing.iter().filter(|key| is_named(key));
    let missing = missing.map(|key| ("missing", key, "it is named, and is not there"));
    let wrong = found.wrong.iter().filter(|(key, _)| is_named(key));
    let wrong = wrong.map(|(key, why)| ("wrong", key, &**why));
    for (what, key, why) in missing.chain(wrong) {
        look.told.count(what, 1);
        look.told.tell(&[
            ("repository", json!(repository.name())),
            ("found", json!(what)),
            ("key", json!(key.to_string())),
            ("why", json!(why)),
        ])?;
    }
    Ok(())
}
