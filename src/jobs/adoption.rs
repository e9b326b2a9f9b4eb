//! Adoption: of servers that show the same, all come to the packs of the one that has shared it, and so to one `ETag`.
//!
//! What a mirror lacks of the packs that the head names is downloaded beside it and compared with its checksums and
//! its names. Then it takes the place of the mirror's own packs (`mirror`'s `others`), and the snapshot is built anew,
//! which takes all frames over. Fetches and maintenance are kept out meanwhile, and what expires above all: nothing of
//! an earlier generation comes into a mirror of a later one.
//!
//! Who has had what the head shows, and has made other packs of it since, shares these: so what one server joins all
//! have. Who has not had it adopts it, and then shares what of its own had to stay.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::download::{Files, Known};
use super::flights::take_duty;
use super::generation::{Agreed, read};
use super::import::known;
use super::left::locks;
use super::maintain::now;
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::limits::{MAINTENANCE_LIMIT_MS, STORE_STALL_MS};
use crate::manifest::parts::part_name;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;
use crate::mirror::{MirrorError, Others, Replaced, exclusive_soon, pack_of};
use crate::repos::repo::Repo;
use crate::store::remote::change::Generation;
use crate::store::remote::head::Snapshot;
use crate::store::remote::key::{Place, hex};
use crate::store::remote::name::wrong_file;
use crate::telemetry::metrics::{AdoptionResult, Cause, Event};

/// What became of an adoption.
enum Adopted {
    /// The mirror has the packs of this archive, and so many of its own.
    Done { id: String, own: usize },
    /// The packs of this one lack too much.
    Refused { id: String },
    /// Something was in the way, or has changed meanwhile.
    PutOff,
}

impl Jobs {
    /// Begins to take over the packs of what a head shows, if that is another archive of what this server shows.
    pub(super) async fn adopt_if_other(
        self: &Rc<Self>,
        shared: &Shared,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        agreed: &Agreed,
    ) {
        let (base, about) = (&agreed.base, shared.about(&archive.want));
        let id = archive.id.as_str();
        if base.is_below() || !repo.mirror.is_dir() || !repo.is_mirrored() {
            return;
        }
        let current = base.head.current(&about);
        if let Some(current) = current.filter(|current| current.id == id) {
            let had = Some(current.id.clone());
            shared.with_seen(&repo.name, |seen| seen.adoption.had = had);
            return self.take_files_if_other(shared, (repo, archive), current);
        }
        let own = (id, &*hex(&archive.shown));
        let Some(current) = base.head.to_adopt(&about, own, agreed.generation) else {
            return;
        };
        let is_had = |had: Option<&str>| had == Some(&current.id);
        if shared.with_seen(&repo.name, |seen| is_had(seen.adoption.had.as_deref())) {
            if lacks_packs(repo, archive).await {
                // It was being built when they came.
                self.retire(repo.set_outdated());
                self.rebuild(repo, Cause::Timer);
            }
            return;
        }
        if repo.asked.is_in_use()
            && shared.with_seen(&repo.name, |seen| seen.adoption.begin(&current.id))
        {
            spawn_local(self.clone().adopt_in_turn(repo.clone()));
        }
    }

    /// Whether this server has had a snapshot and has made an archive of other packs of that.
    pub(super) async fn is_made_of(
        &self,
        shared: &Shared,
        (repo, archive): (&Repo, &Archive),
        snapshot: &Snapshot,
    ) -> bool {
        let is_it = |had: Option<&str>| had == Some(&snapshot.id);
        let has_had = shared.with_seen(&repo.name, |seen| is_it(seen.adoption.had.as_deref()));
        has_had && snapshot.id != archive.id.as_str() && !lacks_packs(repo, archive).await
    }

    async fn adopt_in_turn(self: Rc<Self>, repo: Arc<Repo>) {
        let Some(shared) = &self.shared else { return };
        // The semaphore is never closed, so this only waits.
        let turn = shared.adoptions.acquire().await;
        let (repository, began) = (&*repo.name, Instant::now());
        let mut snapshot = None;
        let adopted = self.adopt_packs(shared, &repo, &mut snapshot).await;
        drop(turn);
        self.mirror_changed(&repo);
        let again = Some(Instant::now() + self.again());
        let result = match &adopted {
            Ok(Adopted::Done { own: 0, .. }) => AdoptionResult::Done,
            Ok(Adopted::Done { .. } | Adopted::Refused { .. }) => AdoptionResult::Kept,
            Ok(Adopted::PutOff) => AdoptionResult::PutOff,
            Err(_) => AdoptionResult::Failed,
        };
        self.meter.add(Event::Adoption(result), 1);
        let note = |had: Option<&String>, refused: Option<&String>, again| {
            shared.with_seen(&repo.name, |seen| {
                let adoption = &mut seen.adoption;
                (adoption.is_running, adoption.again) = (false, again);
                had.inspect(|id| adoption.had = Some((*id).clone()));
                refused.inspect(|id| adoption.refused = Some((*id).clone()));
            });
        };
        match adopted {
            Ok(Adopted::Done { id, own }) => {
                note(Some(&id), None, None);
                let ms = began.elapsed().as_millis() as u64;
                tracing::info!(
                    repository,
                    id,
                    own,
                    ms,
                    "took over the packs that are shared"
                );
                self.note_due(&repo);
                self.retire(repo.set_outdated());
                self.rebuild(&repo, Cause::Timer);
            }
            Ok(Adopted::Refused { id }) => {
                note(None, Some(&id), None);
                tracing::info!(repository, id, "the packs that are shared lack too much");
            }
            Ok(Adopted::PutOff) => note(None, None, again),
            Err(why) => {
                note(None, None, again);
                tracing::warn!(repository, "its packs stay its own: {}", causes(&why));
                self.clone().tell_broken(repo.clone(), snapshot, why).await;
            }
        }
    }

    async fn adopt_packs(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        snapshot: &mut Option<Snapshot>,
    ) -> Result<Adopted, ShareError> {
        let (place, want) = (place_of(repo), Want::default());
        let Some(known) = known(shared, (&repo.name, &place), &want).await? else {
            return Ok(Adopted::PutOff);
        };
        self.check(repo, &want, &known)?;
        *snapshot = Some(known.snapshot.clone());
        let (id, at) = (known.snapshot.id.clone(), known.head.at());
        let is_for = |archive: &Arc<Archive>| {
            let own = (archive.id.as_str(), &*hex(&archive.shown));
            let about = shared.about(&archive.want);
            known.head.to_adopt(&about, own, at).is_some()
        };
        let packs = packs_of(&known)?;
        if !repo.archive_of(&want).as_ref().is_some_and(is_for)
            || exclusive_soon(&repo.locks.packs).await.is_none()
        {
            return Ok(Adopted::PutOff);
        }
        let Some(others) = self.download_packs(shared, repo, (known, packs)).await? else {
            return Ok(Adopted::PutOff);
        };
        // Nobody joins packs, or has something expire, from here on.
        let _maintaining = take_duty(&self.maintaining, &repo.name).await;
        let _keeping_annex = take_duty(&self.keeping_annex, &repo.name).await;
        if !may_take(shared, (repo, &place), at).await? {
            return Ok(Adopted::PutOff);
        }
        let limit = Duration::from_millis(MAINTENANCE_LIMIT_MS);
        let (git, times) = (
            self.git.with_time(limit),
            (self.config.unreachable_expiry, now()),
        );
        let replaced = git.replace_packs(&repo.mirror, locks(repo), others, times);
        Ok(match replaced.await? {
            Replaced::Done { own, .. } => Adopted::Done { id, own },
            Replaced::Refused => Adopted::Refused { id },
            Replaced::Busy => Adopted::PutOff,
        })
    }

    /// Downloads what the mirror lacks of these packs into a directory of it, if there is room.
    async fn download_packs(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        (known, packs): (Known, Vec<Linked>),
    ) -> Result<Option<Others>, ShareError> {
        let (mirror, of) = (repo.mirror.clone(), packs.clone());
        let begun = spawn_blocking(move || begin(&mirror, of)).await?;
        let Some((others, places, bytes)) = begun? else {
            return Ok(None);
        };
        if !self.has_room(bytes).await {
            return Ok(None);
        }
        let files = Files::new(&place_of(repo), &known)?;
        let stall = Duration::from_millis(self.faults.store_stall_ms.unwrap_or(STORE_STALL_MS));
        let came = |bytes| {
            if self.catalog.usage.add(bytes) {
                self.sweep_wanted.notify_one();
            }
        };
        files.download(shared, &places, (stall, came)).await?;
        let checked = spawn_blocking(move || {
            let mut wrong = places.values().map(|path| wrong_file(path));
            wrong.find_map(Result::transpose).transpose()
        });
        let checked = checked.await?;
        let checked = checked.map_err(|e| MirrorError::io("read packs for", &repo.mirror, e))?;
        let Some((name, how)) = checked else {
            return Ok(Some(others));
        };
        let snapshot = &known.snapshot;
        let part = snapshot.parts.iter().find(|key| key.name() == name);
        Err(ShareError::Broken {
            part: part.unwrap_or(&snapshot.manifest).clone(),
            how: how.to_owned(),
        })
    }

    /// Whether so many bytes more make nothing leave, but what would soon.
    pub(super) async fn has_room(&self, bytes: u64) -> bool {
        let marks = self.catalog.usage.marks();
        self.fill().await.is_some_and(|fill| {
            fill.in_use_bytes.saturating_add(bytes) <= fill.limit_bytes
                && fill.free_bytes >= marks.floor_bytes.saturating_add(bytes)
        })
    }
}

/// Whether a mirror takes packs of a head of this generation: nothing has expired here that is not told, or elsewhere
/// that is not removed here.
async fn may_take(
    shared: &Shared,
    (repo, place): (&Repo, &Place),
    at: Generation,
) -> Result<bool, ShareError> {
    let is_behind = shared.with_seen(&repo.name, |seen| seen.behind.is_some());
    let is_due = shared.memories.due(place).await?.is_some();
    Ok(!is_behind && !is_due && repo.is_mirrored() && read(repo).await? == at)
}

/// Whether an archive has packs that the mirror has no more.
async fn lacks_packs(repo: &Repo, archive: &Archive) -> bool {
    let Some(names) = archive.names() else {
        return false;
    };
    let packs = names.linked.iter().filter(|file| file.whole.is_none());
    let paths = packs.map(|file| repo.mirror.join(&file.path));
    let paths = Vec::from_iter(paths);
    let looked = spawn_blocking(move || paths.iter().any(|path| !path.exists()));
    looked.await.unwrap_or(true)
}

/// The files of a snapshot's packs, of which names say what is in them.
fn packs_of(known: &Known) -> Result<Vec<Linked>, ShareError> {
    let packs = known.meta.linked.iter().filter(|file| file.whole.is_none());
    let packs = Vec::from_iter(packs.cloned());
    let is_named = |file: &&Linked| {
        let name = part_name(&file.path);
        pack_of(name).is_some() && file.path == format!("objects/pack/{name}")
    };
    match packs.iter().find(|file| !is_named(file)) {
        None => Ok(packs),
        Some(file) => Err(ShareError::Other {
            key: known.snapshot.manifest.to_string(),
            what: format!("its pack {} has no name of git's", file.path),
        }),
    }
}

fn stem_of(path: &str) -> Option<&str> {
    part_name(path).split_once('.').map(|(stem, _)| stem)
}

/// What is to come, where each file of that is to be, and how much it is.
type Begun = (Others, HashMap<String, PathBuf>, u64);

fn begin(mirror: &Path, packs: Vec<Linked>) -> Result<Option<Begun>, ShareError> {
    let stems = packs.iter().filter_map(|file| stem_of(&file.path));
    let stems: BTreeSet<String> = stems.map(str::to_owned).collect();
    let Some(others) = Others::begin(mirror, stems)? else {
        return Ok(None);
    };
    let (mut places, mut bytes) = (HashMap::new(), 0u64);
    for file in packs {
        if let Some(place) = others.place_of(part_name(&file.path)) {
            bytes = bytes.saturating_add(file.bytes);
            places.insert(file.path, place);
        }
    }
    Ok(Some((others, places, bytes)))
}
