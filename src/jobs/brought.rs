//! What another server has fetched and shared is not fetched once more: who lacks something, or is told to be fresh, asks the
//! head beside the upstream, and takes the packs from the store that the mirror has not, if they are small.
//!
//! That they are there says nothing of what there is: what refs lead to the upstream has said, and git looks whether all
//! of it is there before it fetches the rest. Nothing comes so from another generation than the mirror's, or while something
//! is to expire: what has expired would come back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, spawn_blocking, spawn_local};

use super::generation::read;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::limits::{BROUGHT_BYTES_MAX, BROUGHT_PACKS_MAX, BROUGHT_WAIT_MS, DOWNLOAD_PIECE_BYTES};
use crate::manifest::want::{AnyId, Want};
use crate::mirror::{Arriving, Closure, Indexed, MirrorError, missing_of, pack_of};
use crate::repos::repo::Repo;
use crate::store::remote::change::About;
use crate::store::remote::head::{Head, Stored};
use crate::store::remote::key::Place;
use crate::store::remote::name::NameCheck;
use crate::store::remote::objects::Objects;
use crate::store::remote::publish::Base;

/// A head that is read while the upstream is asked.
pub(super) type Reading = JoinHandle<Option<Base>>;

impl Jobs {
    /// Reads the head of a repository, if it is shared.
    pub(super) fn read_beside(self: &Rc<Self>, repo: &Arc<Repo>) -> Option<Reading> {
        self.brings(repo)?;
        let (jobs, repo) = (self.clone(), repo.clone());
        Some(spawn_local(async move {
            let place = place_of(&repo);
            jobs.brings(&repo)?.base(&repo.name, &place).await.ok()
        }))
    }

    /// Takes what the mirror lacks of the packs that the head names. Whoever calls it holds the lock of what arrives.
    pub(super) async fn bring(&self, repo: &Repo, reading: Option<Reading>) {
        let Some(shared) = self.brings(repo) else {
            return;
        };
        let (repository, wait) = (&*repo.name, Duration::from_millis(BROUGHT_WAIT_MS));
        let bringing = shared.with_seen(&repo.name, |seen| seen.bringing.clone());
        let came = async {
            let alone = bringing.lock().await;
            let came = self.bring_now(shared, repo, reading).await;
            came.map(|came| came.map(|came| (came, alone)))
        };
        let put = match tokio::time::timeout(wait, came).await {
            // What has come has its place while whoever calls this holds the lock: that is not cut off.
            Ok(Ok(Some((came, _alone)))) => {
                let packs = came.count();
                let put = came.put(&repo.mirror).await;
                put.map(|()| packs).map_err(ShareError::from)
            }
            Ok(other) => other.map(|_| 0),
            Err(_) => {
                return tracing::debug!(repository, "not taken from the store in time");
            }
        };
        match put {
            Ok(0) => {}
            Ok(packs) => {
                tracing::info!(
                    repository,
                    packs,
                    "taken from the store, where it was shared"
                );
                self.mirror_changed(repo);
                self.note_due(repo);
            }
            // It is fetched.
            Err(why) => {
                tracing::debug!(repository, "not taken from the store: {}", causes(&why));
            }
        }
    }

    /// The same for an object that the mirror lacks; whether all of it is there then.
    pub(super) async fn is_brought(self: &Rc<Self>, repo: &Arc<Repo>, id: AnyId) -> bool {
        if self.brings(repo).is_none() {
            return false;
        }
        // What it leads to must not go meanwhile.
        let _arriving = repo.locks.arrivals.read().await;
        self.bring(repo, None).await;
        let kinds = self.git.kinds(&repo.mirror, &[id.to_string()]).await;
        if !matches!(kinds.as_deref(), Ok([Some(_)])) {
            return false;
        }
        let closure = self.git.closure(&repo.mirror, id).await;
        matches!(closure, Ok(Closure::Reached | Closure::Left))
    }

    /// The store, if something of a repository may come from there into its mirror.
    fn brings(&self, repo: &Repo) -> Option<&Shared> {
        let shared = self.shared.as_ref()?;
        (self.is_shared(repo) && repo.is_mirrored() && !shared.objects.rests()).then_some(shared)
    }

    async fn bring_now(
        &self,
        shared: &Shared,
        repo: &Repo,
        reading: Option<Reading>,
    ) -> Result<Option<Indexed>, ShareError> {
        let place = place_of(repo);
        let base = match reading {
            Some(reading) => reading.await?,
            None => Some(shared.base(&repo.name, &place).await?),
        };
        let Some(base) = base.filter(|base| base.is_there() && !base.is_below()) else {
            return Ok(None);
        };
        let is_due = shared.memories.due(&place).await?.is_some();
        if is_due || read(repo).await? != base.head.at() {
            return Ok(None);
        }
        let (mirror, about) = (repo.mirror.clone(), shared.about(&Want::default()));
        let lacking = spawn_blocking(move || lacking(&base.head, &about, &mirror)).await??;
        let files = lacking.values().flatten();
        let bytes = files.map(|file| file.bytes).fold(0, u64::saturating_add);
        if lacking.is_empty() || lacking.len() > BROUGHT_PACKS_MAX || bytes > BROUGHT_BYTES_MAX {
            return Ok(None);
        }
        let tmp = self.catalog.state.tmp_dir();
        let home = spawn_blocking(move || Arriving::begin(&tmp)).await?;
        let failed = |source| MirrorError::io("put packs into", &repo.mirror, source);
        let mut home = home.map_err(failed)?;
        for file in lacking.values().flatten() {
            home = self.bring_file(shared, (&place, file), home).await?;
        }
        let stems = lacking.into_keys().collect();
        Ok(Some(self.git.index(&repo.mirror, home, stems).await?))
    }

    /// Downloads a file, which has to be what its name says.
    async fn bring_file(
        &self,
        shared: &Shared,
        (place, file): (&Place, &Stored),
        home: Arriving,
    ) -> Result<Arriving, ShareError> {
        let (name, key) = (file.key.name().to_owned(), place.part(&file.key));
        let failed = |source| MirrorError::io("write", Path::new(file.key.name()), source);
        let mut check = NameCheck::of(&name, file.bytes);
        let path = home.place_of(&name);
        let begun = spawn_blocking(move || (File::create_new(path), home)).await?;
        let (mut out, home) = (begun.0.map_err(failed)?, begun.1);
        let mut from = 0;
        while from < file.bytes {
            let to = file.bytes.min(from + DOWNLOAD_PIECE_BYTES);
            // The semaphore is never closed, so this only waits.
            let turn = shared.downloads.acquire().await;
            let piece = shared.objects.get_range(&key, from..to).await?;
            let written = spawn_blocking(move || {
                check.take(&piece);
                let written = out.write_all(&piece);
                (check, out, written)
            });
            let written = written.await?;
            drop(turn);
            (check, out) = (written.0, written.1);
            written.2.map_err(failed)?;
            from = to;
        }
        if let Some(how) = check.wrong() {
            let (part, how) = (file.key.clone(), how.to_owned());
            return Err(ShareError::Broken { part, how });
        }
        Ok(home)
    }
}

/// The packs of what a head shows of this kind, which the mirror lacks, by their names without an end; those alone that are
/// whole. What servers of another kind follow is no part of this one.
fn lacking(
    head: &Head,
    about: &About,
    mirror: &Path,
) -> Result<BTreeMap<String, Vec<Stored>>, MirrorError> {
    let current = head.current(about).filter(|it| head.is_valid(it));
    let shown: BTreeSet<_> = current.iter().flat_map(|it| &it.parts).collect();
    let broken: BTreeSet<_> = head.broken.iter().collect();
    let packs = head.packs.iter().filter(|key| shown.contains(key));
    let packs: BTreeSet<_> = packs.filter(|key| !broken.contains(key)).collect();
    let mut lacking: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
    for file in head.parts.iter().filter(|part| packs.contains(&part.key)) {
        if let Some(stem) = pack_of(file.key.name()) {
            let files = lacking.entry(stem.to_owned()).or_default();
            files.push(file.clone());
        }
    }
    lacking.retain(|stem, files| {
        let has = |end: &str| {
            let mut names = files.iter().map(|file| file.key.name());
            names.any(|name| name.split_once('.') == Some((stem, end)))
        };
        has("pack") && has("idx")
    });
    let missing = missing_of(mirror, lacking.keys())?;
    lacking.retain(|stem, _| missing.contains(stem));
    Ok(lacking)
}
