//! The packs and refs of a repository that servers of another version have shared: their snapshots are of no use here, but a
//! mirror begins with what these are made of.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::archive_id::follows_as;
use super::guarded::Guarded;
use super::shared::{ShareError, Shared, place_of};
use super::state::Jobs;
use crate::io::unkept::Unkept;
use crate::limits::{DOWNLOAD_PIECE_BYTES, DOWNLOADS_AT_ONCE, REMOTE_TRIES_MAX, STORE_STALL_MS};
use crate::manifest::want::Want;
use crate::mirror::{MirrorError, Seed, pack_of};
use crate::repos::repo::Repo;
use crate::store::remote::entry::Incoming;
use crate::store::remote::head::{Head, Snapshot, Stored};
use crate::store::remote::key::{PartKey, refs_name};
use crate::store::remote::name::wrong_file;
use crate::store::remote::objects::Objects;
use crate::store::staging::Staging;

/// A file of a pack that comes: its object, and where it is to be.
type Comes = (Stored, PathBuf, Arc<Incoming>);

impl Jobs {
    /// What a mirror can begin with by these, and the directory in which its packs lie.
    pub(super) async fn planted_of_others(
        &self,
        shared: &Shared,
        repo: &Arc<Repo>,
    ) -> Result<Option<(Seed, Unkept<Staging>)>, ShareError> {
        let place = place_of(repo);
        let base = shared.base(&repo.name, &place).await?;
        let is_due = shared.memories.due(&place).await?.is_some();
        let own = shared.about(&Want::default());
        let snapshot = of_same_refs(&base.head, &own.kind).cloned();
        let Some(snapshot) = snapshot.filter(|_| base.is_there() && !base.is_below() && !is_due)
        else {
            return Ok(None);
        };
        let packs = packs_of(&base.head, &snapshot)?;
        let bytes = packs
            .iter()
            .map(|part| part.bytes)
            .fold(0, u64::saturating_add);
        // A clone has room made for it.
        if packs.is_empty() || !self.has_room(bytes).await {
            return Ok(None);
        }
        let refs = match &base.head.refs {
            Some(key) => shared.small(&place, key, refs_name).await?,
            None => return Ok(None),
        };
        let catalog = self.catalog.clone();
        let begun = spawn_blocking(move || begin(catalog.state.staging()?, packs)).await?;
        let (staging, files) = begun?;
        let home = staging.dir().to_owned();
        let staging = Unkept::new(staging);
        let names = files
            .iter()
            .map(|(part, ..)| format!("objects/pack/{}", part.key.name()));
        let names = Vec::from_iter(names);
        let stall = Duration::from_millis(self.faults.store_stall_ms.unwrap_or(STORE_STALL_MS));
        let mut running = JoinSet::new();
        let at = &place;
        let mut ranges = files.iter().flat_map(|(part, _, file)| {
            let firsts = (0..part.bytes).step_by(DOWNLOAD_PIECE_BYTES as usize);
            firsts.map(move |first| (at.part(&part.key), first, part.bytes, file.clone()))
        });
        loop {
            while running.len() < DOWNLOADS_AT_ONCE
                && let Some((object, at, bytes, file)) = ranges.next()
            {
                let range = at..bytes.min(at + DOWNLOAD_PIECE_BYTES);
                let by = (shared.objects.clone(), shared.downloads.clone());
                running.spawn_local(fetch(by, object, range, file));
            }
            let next = tokio::time::timeout(stall, running.join_next()).await;
            let wait_ms = stall.as_millis() as u64;
            let Some(fetched) = next.map_err(|_| ShareError::Slow { wait_ms })? else {
                break;
            };
            if self.catalog.usage.add(fetched??) {
                self.sweep_wanted.notify_one();
            }
        }
        drop(ranges);
        let checked = spawn_blocking(move || wrong_of(&files)).await?;
        let checked = checked.map_err(|e| MirrorError::io("read packs for", &repo.mirror, e))?;
        if let Some((part, how)) = checked {
            return Err(ShareError::Broken { part, how });
        }
        let seed = Seed::of_refs(home, names, refs).map(|seed| (seed, staging));
        Ok(seed)
    }
}

/// A snapshot of a plain request by servers that follow the same refs; what these do not is in no pack of it.
fn of_same_refs<'h>(head: &'h Head, own: &str) -> Option<&'h Snapshot> {
    let want = Want::default().to_string();
    let mut all = head.snapshots.iter();
    all.find(|it| {
        let is_current = it.replaced_unix_ms.is_none() && it.about.want == want;
        is_current && follows_as(&it.about.kind, own) && head.is_valid(it)
    })
}

/// The files of its packs, where they are those of the head's mirror; then the head's refs are of them.
fn packs_of(head: &Head, snapshot: &Snapshot) -> Result<Vec<Stored>, ShareError> {
    let is_pack = |key: &&PartKey| pack_of(key.name()).is_some();
    let own = Vec::from_iter(snapshot.parts.iter().filter(is_pack));
    let are_same = own.len() == head.packs.len() && own.iter().all(|key| head.packs.contains(key));
    if !are_same {
        return Ok(Vec::new());
    }
    let stored = own.into_iter().map(|key| {
        let stored = head.stored(key).cloned();
        stored.ok_or_else(|| ShareError::Broken {
            part: key.clone(),
            how: "its head does not say how long it is".into(),
        })
    });
    stored.collect()
}

fn begin(mut staging: Staging, packs: Vec<Stored>) -> Result<(Staging, Vec<Comes>), ShareError> {
    let made = packs.into_iter().map(|part| {
        let path = staging.own(&format!("objects/pack/{}", part.key.name()))?;
        let file = Incoming::make(path.clone(), part.bytes)?;
        Ok::<_, ShareError>((part, path, Arc::new(file)))
    });
    let made = made.collect::<Result<Vec<_>, _>>()?;
    Ok((staging, made))
}

async fn fetch(
    (objects, turns): (Guarded, Arc<Semaphore>),
    object: String,
    range: std::ops::Range<u64>,
    file: Arc<Incoming>,
) -> Result<u64, ShareError> {
    // The semaphore is never closed, so this only waits.
    let _turn = turns.acquire_owned().await;
    let mut tries = 1;
    let bytes = loop {
        match objects.get_range(&object, range.clone()).await {
            Err(_) if tries < REMOTE_TRIES_MAX => {
                objects.before_again(tries).await;
                tries += 1;
            }
            got => break got?,
        }
    };
    let length = range.end - range.start;
    spawn_blocking(move || file.put(&bytes, range.start)).await??;
    Ok(length)
}

/// The first file that is not what its name says. Reads them all.
fn wrong_of(files: &[Comes]) -> std::io::Result<Option<(PartKey, String)>> {
    for (part, path, _) in files {
        if let Some((_, how)) = wrong_file(path)? {
            return Ok(Some((part.key.clone(), how.to_owned())));
        }
    }
    Ok(None)
}
