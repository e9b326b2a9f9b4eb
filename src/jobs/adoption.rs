//! Adoption: of servers that show the same, all come to the packs of the one that has shared it, and so to one `ETag`.
//!
//! What a mirror lacks of the packs that the head names is downloaded and compared with its checksums and its names, for
//! a bounded time in a turn; what has come is kept for the next one ([`adopting`](super::adopting)). Then it takes the place
//! of the mirror's own packs (`mirror`'s `others`), and the snapshot is built anew, which takes all frames over. Fetches and
//! maintenance are kept out meanwhile, and what expires above all: nothing of an earlier generation comes into a mirror of a
//! later one.
//!
//! Who has had what the head shows, and has made other packs of it since, shares these: so what one server joins all
//! have. Who has not had it adopts it, and then shares what of its own had to stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::adopting::KeptPacks;
use super::download::{Files, Known};
use super::flights::take_duty;
use super::generation::{Agreed, read};
use super::import::known;
use super::left::locks;
use super::maintain::now;
use super::shared::{Seen, ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::limits::{ADOPTION_TURN_MS, MAINTENANCE_LIMIT_MS, STORE_STALL_MS};
use crate::manifest::parts::part_name;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;
use crate::mirror::{MirrorError, Others, Replaced, are_wrong_packs, exclusive_soon, pack_of};
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

/// A try.
struct Attempt {
    /// From then on it is others' turn to download.
    ends: Instant,
    /// What has come, by now and before.
    kept: Option<KeptPacks>,
    /// What is taken over.
    snapshot: Option<Snapshot>,
}

/// What became of a download.
enum Coming {
    All(Others),
    /// The packs lack too much, as their indices say.
    Refused,
    /// There is no room, no time, or something in the way.
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
        if !repo.asked.is_in_use() {
            return;
        }
        let begin = |seen: &mut Seen| seen.adoption.begin(&current.id, self.again());
        if let Some(at_it) = shared.with_seen(&repo.name, begin) {
            spawn_local(self.clone().adopt_in_turn(repo.clone(), at_it));
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

    /// Takes them over once it has its turn. Nobody else does while `at_it` is there.
    async fn adopt_in_turn(self: Rc<Self>, repo: Arc<Repo>, at_it: Rc<()>) {
        let Some(shared) = &self.shared else { return };
        // The semaphore is never closed, so this only waits.
        let turn = shared.adoptions.acquire().await;
        let (repository, began) = (&*repo.name, Instant::now());
        let mut attempt = Attempt {
            ends: began + self.adoption_turn(),
            kept: shared.with_seen(&repo.name, |seen| seen.adoption.take_kept()),
            snapshot: None,
        };
        let adopted = self.adopt_packs(shared, &repo, &mut attempt).await;
        self.mirror_changed(&repo);
        self.note_adoption(shared, &repo, (&adopted, attempt.kept));
        match adopted {
            Ok(Adopted::Done { id, own }) => {
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
                // What its own packs had of that has left with them, and quiet times are far where it is asked for.
                self.ease_lookups_soon(&repo).await;
            }
            Ok(Adopted::Refused { id }) => {
                tracing::info!(repository, id, "the packs that are shared lack too much");
            }
            Ok(Adopted::PutOff) => {}
            Err(why) => {
                tracing::warn!(repository, "its packs stay its own: {}", causes(&why));
                let snapshot = attempt.snapshot;
                self.clone().tell_broken(repo.clone(), snapshot, why).await;
            }
        }
        drop((turn, at_it));
    }

    pub(super) fn adoption_turn(&self) -> Duration {
        Duration::from_millis(self.faults.store_turn_ms.unwrap_or(ADOPTION_TURN_MS))
    }

    /// Counts what became of one, and remembers what follows of that.
    fn note_adoption(
        &self,
        shared: &Shared,
        repo: &Repo,
        (adopted, kept): (&Result<Adopted, ShareError>, Option<KeptPacks>),
    ) {
        let result = match adopted {
            Ok(Adopted::Done { own: 0, .. }) => AdoptionResult::Done,
            Ok(Adopted::Done { .. } | Adopted::Refused { .. }) => AdoptionResult::Kept,
            Ok(Adopted::PutOff) => AdoptionResult::PutOff,
            Err(_) => AdoptionResult::Failed,
        };
        self.meter.add(Event::Adoption(result), 1);
        // A full disk has room for nothing that is tried again later.
        let is_full = adopted.as_ref().is_err_and(ShareError::is_disk_full);
        shared.with_seen(&repo.name, |seen| match adopted {
            Ok(Adopted::Done { id, .. }) => seen.adoption.done(id.clone()),
            Ok(Adopted::Refused { id }) => seen.adoption.refused(id.clone()),
            Ok(Adopted::PutOff) | Err(_) => seen.adoption.in_vain(kept.filter(|_| !is_full)),
        });
    }

    async fn ease_lookups_soon(&self, repo: &Repo) {
        let _maintaining = take_duty(&self.maintaining, &repo.name).await;
        let limit = Duration::from_millis(MAINTENANCE_LIMIT_MS);
        // What takes longer is made at a quiet time.
        self.ease_lookups(repo, &self.git.with_time(limit)).await;
    }

    async fn adopt_packs(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        attempt: &mut Attempt,
    ) -> Result<Adopted, ShareError> {
        let (place, want) = (place_of(repo), Want::default());
        let Some(known) = known(shared, (&repo.name, &place), &want).await? else {
            return Ok(Adopted::PutOff);
        };
        self.check(repo, &want, &known)?;
        attempt.snapshot = Some(known.snapshot.clone());
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
        let ends = attempt.ends.into();
        let others = match self
            .download_packs(shared, repo, (known, packs), attempt)
            .await?
        {
            Coming::All(others) => others,
            Coming::Refused => return Ok(Adopted::Refused { id }),
            Coming::PutOff => return Ok(Adopted::PutOff),
        };
        // Nobody joins packs, or has something expire, from here on.
        let alone = async {
            let maintaining = take_duty(&self.maintaining, &repo.name).await;
            (
                maintaining,
                take_duty(&self.keeping_annex, &repo.name).await,
            )
        };
        let Ok(_alone) = tokio::time::timeout_at(ends, alone).await else {
            return Ok(Adopted::PutOff);
        };
        if !may_take(shared, (repo, &place), at).await? {
            return Ok(Adopted::PutOff);
        }
        let limit = Duration::from_millis(MAINTENANCE_LIMIT_MS);
        let (git, times) = (
            self.git.with_time(limit),
            (self.config.unreachable_expiry, now()),
        );
        let replaced = git.replace_packs(&repo.mirror, locks(repo), others, times);
        let replaced = replaced.await;
        if let (Err(why), Some(kept)) = (&replaced, &mut attempt.kept)
            && are_wrong_packs(why)
        {
            // What they are to be may be there the next time.
            kept.forget_all();
        }
        Ok(match replaced? {
            Replaced::Done { own, .. } => Adopted::Done { id, own },
            Replaced::Refused => Adopted::Refused { id },
            Replaced::Busy => Adopted::PutOff,
        })
    }

    /// Downloads what the mirror lacks of these packs and earlier tries have not brought, if there is room: their indices
    /// first, which are small, and the rest only if they do not say already that it is in vain.
    async fn download_packs(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        (known, packs): (Known, Vec<Linked>),
        attempt: &mut Attempt,
    ) -> Result<Coming, ShareError> {
        let mirror = repo.mirror.clone();
        let begun = spawn_blocking(move || begin(&mirror, packs)).await?;
        let Some((mut others, wanted)) = begun? else {
            return Ok(Coming::PutOff);
        };
        let ends = attempt.ends.into();
        let kept = self.kept_of(repo, &wanted, attempt).await?;
        if !self.has_room(kept.missing_bytes(&wanted)).await {
            return Ok(Coming::PutOff);
        }
        let mut files = Files::new(&place_of(repo), &known)?;
        let is_index = |(name, _): &(String, u64)| name.ends_with(".idx");
        let (indices, rest): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(is_index);
        for (wanted, are_indices) in [(indices, true), (rest, false)] {
            let download = self.download_some(shared, &mut files, (&mut *kept, &wanted));
            match tokio::time::timeout_at(ends, download).await {
                Ok(downloaded) => downloaded?,
                // What has come is kept, and others have their turn.
                Err(_) => return Ok(Coming::PutOff),
            }
            check(&repo.mirror, &known, (&mut *kept, &wanted)).await?;
            let links = wanted.keys().map(|name| (kept.path(name), name.clone()));
            let (links, mirror) = (Vec::from_iter(links), repo.mirror.clone());
            let linked = spawn_blocking(move || {
                link_kept(&others, links)?;
                let why_not = are_indices.then(|| others.why_not(&mirror));
                Ok::<_, MirrorError>((why_not.transpose()?.flatten(), others))
            });
            let why_not;
            (why_not, others) = linked.await??;
            match why_not {
                None => {}
                Some(Replaced::Refused) => return Ok(Coming::Refused),
                Some(_) => return Ok(Coming::PutOff),
            }
        }
        Ok(Coming::All(others))
    }

    /// What earlier tries have brought of these files; of all else nothing is kept.
    async fn kept_of<'a>(
        &self,
        repo: &Repo,
        wanted: &BTreeMap<String, u64>,
        attempt: &'a mut Attempt,
    ) -> Result<&'a mut KeptPacks, ShareError> {
        let mut kept = match attempt.kept.take() {
            Some(kept) => kept,
            None => {
                let tmp = self.catalog.state.tmp_dir();
                let begun = spawn_blocking(move || KeptPacks::make_in(&tmp)).await?;
                begun.map_err(|e| MirrorError::io("keep packs for", &repo.mirror, e))?
            }
        };
        let others = kept.retain(wanted);
        let kept = attempt.kept.insert(kept);
        spawn_blocking(move || {
            // What stays takes room until the directory goes.
            others.iter().for_each(|path| drop(fs::remove_file(path)));
        })
        .await?;
        Ok(kept)
    }

    async fn download_some(
        &self,
        shared: &Shared,
        files: &mut Files,
        (kept, wanted): (&mut KeptPacks, &BTreeMap<String, u64>),
    ) -> Result<(), ShareError> {
        let stall = Duration::from_millis(self.faults.store_stall_ms.unwrap_or(STORE_STALL_MS));
        let came = |bytes| {
            if self.catalog.usage.add(bytes) {
                self.sweep_wanted.notify_one();
            }
        };
        files.download(shared, (kept, wanted), (stall, &came)).await
    }

    /// What was downloaded for mirrors leaves once it is old, or before anything else where there is no room.
    pub(super) async fn drop_kept_packs(&self, is_room_needed: bool) {
        let Some(shared) = &self.shared else { return };
        let leave = |seen: &mut Seen| seen.adoption.leave_kept(is_room_needed);
        let gone = Vec::from_iter(shared.seen.borrow_mut().values_mut().filter_map(leave));
        if !gone.is_empty() {
            // It cannot fail but by a panic.
            let _ = spawn_blocking(move || gone.into_iter().for_each(KeptPacks::remove)).await;
        }
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

/// Compares those of these files with their names that have come since this was last done.
async fn check(
    mirror: &Path,
    known: &Known,
    (kept, wanted): (&mut KeptPacks, &BTreeMap<String, u64>),
) -> Result<(), ShareError> {
    let unchecked = kept.unchecked(wanted);
    let checked = spawn_blocking(move || {
        let mut wrong = unchecked.iter().map(|path| wrong_file(path));
        wrong.find_map(Result::transpose).transpose()
    });
    let checked = checked.await?;
    let wrong = checked.map_err(|e| MirrorError::io("read packs for", mirror, e))?;
    let Some((name, how)) = wrong else {
        kept.note_checked(wanted);
        return Ok(());
    };
    kept.forget(&name);
    let snapshot = &known.snapshot;
    let part = snapshot.parts.iter().find(|key| key.name() == name);
    Err(ShareError::Broken {
        part: part.unwrap_or(&snapshot.manifest).clone(),
        how: how.to_owned(),
    })
}

/// Has files that are kept among those that are to come into a mirror, too. Waits for the disk.
fn link_kept(others: &Others, links: Vec<(PathBuf, String)>) -> Result<(), MirrorError> {
    for (from, name) in links {
        if let Some(to) = others.place_of(&name) {
            let linked = fs::hard_link(&from, to);
            linked.map_err(|source| MirrorError::io("link", &from, source))?;
        }
    }
    Ok(())
}

/// What is to come, and the names and lengths of its files that the mirror lacks.
type Begun = (Others, BTreeMap<String, u64>);

/// Waits for the disk.
fn begin(mirror: &Path, packs: Vec<Linked>) -> Result<Option<Begun>, ShareError> {
    let stems = packs.iter().filter_map(|file| stem_of(&file.path));
    let stems: BTreeSet<String> = stems.map(str::to_owned).collect();
    let Some(others) = Others::begin(mirror, stems)? else {
        return Ok(None);
    };
    let files = packs.iter().map(|file| (part_name(&file.path), file.bytes));
    let wanted = files.filter(|(name, _)| others.place_of(name).is_some());
    let wanted = wanted
        .map(|(name, bytes)| (name.to_owned(), bytes))
        .collect();
    Ok(Some((others, wanted)))
}
