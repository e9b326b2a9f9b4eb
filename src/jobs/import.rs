//! A snapshot that another server has shared becomes this one's, where there is no mirror yet: head, metadata and parts
//! are read, and no git runs. All of it is compared with its checksums before anybody gets a byte of it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, spawn_blocking};

use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::io::uncached::Pace;
use crate::limits::{
    DOWNLOAD_PIECE_BYTES, DOWNLOADS_AT_ONCE, PIECE_RETRY_MS, REMOTE_META_BYTES_MAX,
    REMOTE_TRIES_MAX, STORE_FIRST_WAIT_MS,
};
use crate::manifest::meta::Meta;
use crate::manifest::outline::OUTLINE_NAME;
use crate::manifest::parts::{MANIFEST_NAME, Manifest, part_name};
use crate::manifest::want::Want;
use crate::repos::repo::{RefsEpoch, Repo};
use crate::store::check::check_files;
use crate::store::remote::entry::Incoming;
use crate::store::remote::head::{Head, Snapshot};
use crate::store::remote::key::{
    META, OUTLINE, PartKey, Place, manifest_name, meta_name, outline_name,
};
use crate::store::remote::objects::Objects;
use crate::store::remote::publish::{Base, SystemRandom};
use crate::store::staging::Staging;
use crate::telemetry::metrics::{Event, ImportResult};

/// What a head says of a snapshot, and its metadata.
struct Known {
    head: Head,
    snapshot: Snapshot,
    meta: Meta,
    meta_bytes: Vec<u8>,
}

/// A file that is downloaded.
struct Wanted {
    key: PartKey,
    bytes: u64,
    path: PathBuf,
}

/// Ends a check when the task that waits for it goes.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Jobs {
    /// Takes the snapshot of a plain request from the store, if it is there and this server may serve it unasked: what
    /// is an upstream's to permit, or is named, is the mirror's. Gives the epoch in which it counts as built: one of
    /// which no comparison is known, for it may be older than what this server has seen.
    pub(super) async fn import(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        want: &Want,
    ) -> Option<(Arc<Archive>, RefsEpoch)> {
        let shared = self.shared.as_ref()?;
        let is_asked = self.permissions.of_repository(&repo.name).is_some();
        if !want.is_default() || is_asked || repo.mirror.is_dir() || shared.rests() {
            return None;
        }
        repo.set_moved();
        let (epoch, began) = (repo.epoch(), Instant::now());
        let imported = self.import_now(shared, repo, want).await;
        let result = match &imported {
            Ok(Some(_)) => ImportResult::Done,
            Ok(None) => ImportResult::Absent,
            Err(_) => ImportResult::Failed,
        };
        self.meter.add(Event::Import(result), 1);
        let repository = &*repo.name;
        match imported {
            Ok(Some(archive)) => {
                let (id, ms) = (archive.id.as_str(), began.elapsed().as_millis() as u64);
                tracing::info!(repository, id, ms, "taken from the store");
                Some((archive, epoch))
            }
            Ok(None) => None,
            Err(why) => {
                if why.is_of_store() {
                    shared.rest();
                }
                let why = causes(&why);
                tracing::warn!(repository, "not taken from the store: {why}");
                None
            }
        }
    }

    async fn import_now(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        want: &Want,
    ) -> Result<Option<Arc<Archive>>, ShareError> {
        let place = place_of(repo);
        let wait_ms = STORE_FIRST_WAIT_MS;
        let known = known(shared, &place, want);
        let known = tokio::time::timeout(Duration::from_millis(wait_ms), known).await;
        let Some(known) = known.map_err(|_| ShareError::Slow { wait_ms })?? else {
            return Ok(None);
        };
        let meta = &known.meta;
        let key = known.snapshot.manifest.to_string();
        let is_repository =
            self.config.upstreams.name_of(&meta.repository).as_deref() == Some(&*repo.name);
        if meta.want != *want || meta.id.as_str() != known.snapshot.id || !is_repository {
            let what = format!("it is that of {} {}", meta.repository, meta.want);
            return Err(ShareError::Other { key, what });
        }
        let files = meta.linked.iter().map(|linked| linked.bytes);
        let bytes: u64 = files.chain([meta.spool_bytes()]).sum();
        if bytes > self.catalog.usage.marks().high_bytes {
            let what = format!("it has {bytes} bytes, more than may be kept");
            return Err(ShareError::Other { key, what });
        }
        let catalog = self.catalog.clone();
        let mut staging = spawn_blocking(move || catalog.state.staging()).await??;
        let wanted = wanted(&mut staging, &known)?;
        download(shared, &place, wanted).await?;
        if self.catalog.usage.add(bytes) {
            self.sweep_wanted.notify_one();
        }
        let aside = aside(shared, &place, &known).await?;
        let stop = StopOnDrop(Arc::default());
        let stopped = stop.0.clone();
        let name = repo.name.clone();
        let compared_unix_ms = known.snapshot.compared_unix_ms;
        let archive = spawn_blocking(move || {
            let pace = Pace::new(None, stopped);
            check_files(staging.dir(), &known.meta, &pace)?;
            for (name, bytes) in aside {
                staging.write_aside(name, &bytes)?;
            }
            let dir = staging.publish(known.meta.id, &known.meta_bytes)?;
            Ok::<_, ShareError>(Archive::found(name, dir, known.meta))
        });
        let archive = archive.await??;
        drop(stop);
        repo.set_fetched_before(compared_unix_ms);
        Ok(Some(Arc::new(archive)))
    }
}

/// Reads what is known of a snapshot; nothing if there is none.
async fn known(shared: &Shared, place: &Place, want: &Want) -> Result<Option<Known>, ShareError> {
    let head = Base::read(&shared.objects, place).await?.head;
    let Some(snapshot) = head.current(&shared.about(want)).cloned() else {
        return Ok(None);
    };
    let key = snapshot
        .parts
        .iter()
        .find(|key| key.name().starts_with(META));
    let Some(key) = key.cloned() else {
        return Err(ShareError::Other {
            key: snapshot.manifest.to_string(),
            what: "no part has its metadata".into(),
        });
    };
    let meta_bytes = small(shared, place, &key, meta_name).await?;
    let meta = Meta::decode(&meta_bytes)?;
    Ok(Some(Known {
        head,
        snapshot,
        meta,
        meta_bytes,
    }))
}

/// A small part, whose name says what is in it.
async fn small(
    shared: &Shared,
    place: &Place,
    key: &PartKey,
    name: fn(&[u8]) -> String,
) -> Result<Vec<u8>, ShareError> {
    let found = shared
        .objects
        .get(&place.part(key), REMOTE_META_BYTES_MAX)
        .await?;
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

/// The files beside the metadata. What clients are told must be of this snapshot.
async fn aside(
    shared: &Shared,
    place: &Place,
    known: &Known,
) -> Result<Vec<(&'static str, Vec<u8>)>, ShareError> {
    let key = &known.snapshot.manifest;
    let manifest = small(shared, place, key, manifest_name).await?;
    let is_of_it = Manifest::unpack(&manifest).is_ok_and(|manifest| manifest.id == known.meta.id);
    if !is_of_it {
        return Err(ShareError::Other {
            key: key.to_string(),
            what: "it is no manifest of that snapshot".into(),
        });
    }
    let mut aside = vec![(MANIFEST_NAME, manifest)];
    let outline = known
        .snapshot
        .parts
        .iter()
        .find(|key| key.name().starts_with(OUTLINE));
    if let Some(key) = outline {
        aside.push((OUTLINE_NAME, small(shared, place, key, outline_name).await?));
    }
    Ok(aside)
}

/// Where each file of the snapshot is, and where it goes.
fn wanted(staging: &mut Staging, known: &Known) -> Result<Vec<Wanted>, ShareError> {
    let meta = &known.meta;
    let linked = meta
        .linked
        .iter()
        .map(|linked| (&linked.path, linked.bytes));
    let files = linked.chain([(&meta.spool, meta.spool_bytes())]);
    files
        .map(|(path, bytes)| {
            let name = part_name(path);
            let keys = known.snapshot.parts.iter();
            let key = keys.clone().find(|key| key.name() == name);
            let stored = key.and_then(|key| known.head.stored(key));
            let stored = stored.filter(|stored| stored.bytes == bytes);
            let stored = stored.ok_or_else(|| ShareError::Other {
                key: name.to_owned(),
                what: format!("the head has no such part of {bytes} bytes"),
            })?;
            Ok(Wanted {
                key: stored.key.clone(),
                bytes,
                path: staging.own(path)?,
            })
        })
        .collect()
}

/// Downloads files, a few pieces at once.
async fn download(shared: &Shared, place: &Place, wanted: Vec<Wanted>) -> Result<(), ShareError> {
    let mut running = JoinSet::new();
    for file in wanted {
        let made = spawn_blocking(move || Incoming::make(file.path, file.bytes));
        let made = Arc::new(made.await??);
        let mut at = 0;
        while at < file.bytes {
            let end = file.bytes.min(at + DOWNLOAD_PIECE_BYTES);
            if running.len() >= DOWNLOADS_AT_ONCE
                && let Some(piece) = running.join_next().await
            {
                let piece: Result<(), ShareError> = piece?;
                piece?;
            }
            let (objects, key) = (shared.objects.clone(), place.part(&file.key));
            let made = made.clone();
            running.spawn_local(async move {
                let bytes = piece(&objects, &key, at..end).await?;
                Ok(spawn_blocking(move || made.put(&bytes, at)).await??)
            });
            at = end;
        }
    }
    while let Some(piece) = running.join_next().await {
        piece??;
    }
    Ok(())
}

async fn piece(
    objects: &impl Objects,
    key: &str,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, ShareError> {
    let mut tries = 1;
    loop {
        match objects.get_range(key, range.clone()).await {
            Err(_) if tries < REMOTE_TRIES_MAX => {
                let wait_ms = PIECE_RETRY_MS << tries;
                let jitter_ms = SystemRandom::below(wait_ms);
                tokio::time::sleep(Duration::from_millis(wait_ms + jitter_ms)).await;
                tries += 1;
            }
            got => return Ok(got?),
        }
    }
}
