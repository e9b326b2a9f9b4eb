//! A snapshot that another server has shared is served here, where there is no mirror yet: head, metadata and parts are
//! read, and no git runs. It is produced as a build produces one: whoever asks meanwhile follows it, each byte is read
//! once, and its frontier moves over what was compared with its checksum, and over nothing else.

use std::collections::BTreeSet;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking, spawn_local};

use super::download::{Download, Files, Known};
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use super::taking::Taking;
use crate::archive::place::Archive;
use crate::limits::{REMOTE_TRIES_MAX, STORE_BEGIN_WAIT_MS, STORE_FIRST_WAIT_MS, SUM_PIECE_BYTES};
use crate::manifest::meta::Meta;
use crate::manifest::outline::OUTLINE_NAME;
use crate::manifest::parts::{MANIFEST_NAME, Manifest};
use crate::manifest::want::Want;
use crate::repos::repo::{RefsEpoch, Repo};
use crate::store::remote::broken::mark_broken;
use crate::store::remote::change::Generation;
use crate::store::remote::head::{Head, Snapshot};
use crate::store::remote::key::{
    META, OUTLINE, PartKey, Place, SUMS, manifest_name, meta_name, outline_name, sums_name,
};
use crate::store::remote::listing::Listing;
use crate::store::remote::objects::{ObjectError, Objects};
use crate::store::remote::publish::SystemRandom;
use crate::store::remote::sums::Sums;
use crate::telemetry::metrics::{Event, ImportResult};

/// A snapshot that is downloaded, of which something can be served.
pub(super) struct Import {
    download: Download,
    known: Known,
    place: Place,
    /// In which it counts as built, and as outdated until this server has compared it.
    epoch: RefsEpoch,
    began: Instant,
}

impl Import {
    /// A mirror waits for its packs.
    pub(super) fn set_for_mirror(&mut self) {
        self.download.set_for_mirror();
    }

    /// What is served of it.
    pub(super) fn archive(&self) -> Arc<Archive> {
        self.download.archive()
    }
}

impl Jobs {
    /// Begins to take the snapshot of a plain request from the store, if it is there and this server may serve it
    /// unasked: what is an upstream's to permit, or is named, is the mirror's.
    pub(super) async fn begin_import(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        want: &Want,
    ) -> Option<Import> {
        let shared = self.shared.as_ref()?;
        let is_asked = self.permissions.of_repository(&repo.name).is_some();
        if !want.is_default() || is_asked || repo.mirror.is_dir() || shared.objects.rests() {
            return None;
        }
        // What is served here is compared with the upstream, and not with what others have.
        if repo.archive_of(want).is_some() || repo.notes.take_broken_off() {
            return None;
        }
        match self.begin_import_now(shared, repo, want).await {
            Ok(Some(import)) => Some(import),
            Ok(None) => {
                self.meter.add(Event::Import(ImportResult::Absent), 1);
                None
            }
            Err(why) => {
                self.note_not_imported(repo, &why);
                // Whoever asks does not wait for that.
                spawn_local(self.clone().tell_broken(repo.clone(), None, why));
                None
            }
        }
    }

    async fn begin_import_now(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        want: &Want,
    ) -> Result<Option<Import>, ShareError> {
        let (place, began) = (place_of(repo), Instant::now());
        let wait_ms = STORE_FIRST_WAIT_MS;
        let known = known_with_first(shared, (&repo.name, &place), want);
        let known = tokio::time::timeout(Duration::from_millis(wait_ms), known).await;
        let Some((known, first)) = known.map_err(|_| ShareError::Slow { wait_ms })?? else {
            return Ok(None);
        };
        self.check(repo, want, &known)?;
        repo.set_moved();
        let epoch = repo.epoch();
        let (catalog, name) = (self.catalog.clone(), repo.name.clone());
        let open_files = self.shop.open_files.clone();
        let staging = spawn_blocking(move || catalog.state.staging()).await??;
        let at = place.clone();
        let made = spawn_blocking(move || {
            let made = Files::new(&at, &known)?.make(name, staging, &open_files)?;
            Ok::<_, ShareError>((made, known))
        });
        let (made, known) = made.await??;
        let mut download = Download::new(made, shared);
        let archive = download.archive();
        archive.set_seen_elsewhere(known.snapshot.compared_unix_ms.max(1));
        archive.set_offered(true);
        self.shop.add_running(&archive.fanout);
        let wait_ms = STORE_BEGIN_WAIT_MS;
        let begins = async {
            if let Ok(Some(first)) = first.await {
                download.take_first(self, first).await?;
            }
            download.run_until(self, repo, Download::has_begun).await
        };
        let begun = tokio::time::timeout(Duration::from_millis(wait_ms), begins).await;
        begun.map_err(|_| ShareError::Slow { wait_ms })??;
        Ok(Some(Import {
            download,
            known,
            place,
            epoch,
            began,
        }))
    }

    /// Waits until half of what was begun is here.
    pub(super) async fn half_of(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        mut import: Import,
    ) -> Option<Import> {
        let is_half = |download: &Download| download.is_half();
        match import.download.run_until(self, repo, is_half).await {
            Ok(()) => Some(import),
            Err(why) => {
                self.note_not_imported(repo, &why);
                let snapshot = Some(import.known.snapshot);
                spawn_local(self.clone().tell_broken(repo.clone(), snapshot, why));
                None
            }
        }
    }

    /// Whether it is what was asked for, and can be kept.
    pub(super) fn check(&self, repo: &Repo, want: &Want, known: &Known) -> Result<(), ShareError> {
        let meta = &known.meta;
        if meta.want != *want || meta.id.as_str() != known.snapshot.id {
            return Err(ShareError::Broken {
                part: known.snapshot.manifest.clone(),
                how: format!("its metadata are of {} {}", meta.id, meta.want),
            });
        }
        let other = |what: String| {
            let key = known.snapshot.manifest.to_string();
            Err(ShareError::Other { key, what })
        };
        // Others may know it by another name.
        if self.config.upstreams.name_of(&meta.repository).as_deref() != Some(&*repo.name) {
            return other(format!("it is that of {}", meta.repository));
        }
        let files = meta.linked.iter().map(|linked| linked.bytes);
        let bytes = files
            .chain([meta.spool_bytes()])
            .fold(0, u64::saturating_add);
        match bytes > self.catalog.usage.marks().high_bytes {
            true => other(format!("it has {bytes} bytes, more than may be kept")),
            false => Ok(()),
        }
    }

    /// Downloads the rest, while it is served; gives it once it is an entry as any other.
    pub(super) async fn finish_import(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        import: Import,
        taking: Option<&Taking>,
    ) -> Option<(Arc<Archive>, RefsEpoch)> {
        let shared = self.shared.as_ref()?;
        let (archive, epoch, began) = (import.archive(), import.epoch, import.began);
        let (snapshot, at) = (import.known.snapshot.clone(), import.known.head.at());
        match self.finish_import_now(shared, (repo, import), taking).await {
            Ok(()) if self.has_expired_since(shared, repo, (&snapshot, at)).await => {
                tracing::info!(
                    repository = &*repo.name,
                    "not taken from the store: something has expired meanwhile, or may have"
                );
                self.meter.add(Event::Import(ImportResult::Absent), 1);
                // Once the permit is given back: nobody follows it from there on.
                let jobs = self.clone();
                spawn_local(async move { jobs.refuse(archive).await });
                None
            }
            Ok(()) => {
                self.meter.add(Event::Import(ImportResult::Done), 1);
                let (id, ms) = (archive.id.as_str(), began.elapsed().as_millis() as u64);
                tracing::info!(repository = &*repo.name, id, ms, "taken from the store");
                Some((archive, epoch))
            }
            Err(why) => {
                archive.fanout.fail(&causes(&why));
                // What is shared may be broken for good.
                repo.notes.set_broken_off();
                self.note_not_imported(repo, &why);
                spawn_local(self.clone().tell_broken(repo.clone(), Some(snapshot), why));
                None
            }
        }
    }

    async fn finish_import_now(
        self: &Rc<Self>,
        shared: &Shared,
        (repo, import): (&Arc<Repo>, Import),
        taking: Option<&Taking>,
    ) -> Result<(), ShareError> {
        let (mut download, known) = (import.download, import.known);
        if let Some(taking) = taking {
            download.run_until(self, repo, Download::has_packs).await?;
            taking.has_packs(download.archive());
        }
        let pieces = download.run_until(self, repo, |_| false);
        let (pieces, aside) = tokio::join!(pieces, aside(shared, &import.place, &known));
        pieces?;
        let (archive, staging) = download.finish()?;
        let aside = aside?;
        let mut staging = staging.take().ok_or(ShareError::Short)?;
        let published = spawn_blocking(move || {
            for (name, bytes) in aside {
                staging.write_aside(name, &bytes)?;
            }
            Ok::<_, ShareError>(staging.publish(known.meta.id, &known.meta_bytes)?)
        });
        archive.moved_to(published.await??);
        Ok(())
    }

    /// Whether a snapshot is not what there was when it was begun to be taken, and may have something that has gone since.
    /// Where the store does not say, it may.
    async fn has_expired_since(
        &self,
        shared: &Shared,
        repo: &Repo,
        (snapshot, at): (&Snapshot, Generation),
    ) -> bool {
        self.look_shared_soon(&repo.name);
        for round in 0..REMOTE_TRIES_MAX {
            if round > 0 {
                shared.objects.before_again(round).await;
            }
            match shared.base(&repo.name, &place_of(repo)).await {
                Ok(now) if now.head.at() == at => return false,
                Ok(now) => return !now.head.is_of_now(&snapshot.about, &snapshot.id),
                Err(why) => {
                    let (repository, why) = (&*repo.name, causes(&why));
                    tracing::debug!(repository, "whether it has expired is not known: {why}");
                }
            }
        }
        true
    }

    fn note_not_imported(&self, repo: &Repo, why: &ShareError) {
        self.meter.add(Event::Import(ImportResult::Failed), 1);
        if let (ShareError::Slow { .. }, Some(shared)) = (why, &self.shared) {
            shared.objects.trip();
        }
        let (repository, why) = (&*repo.name, causes(why));
        tracing::warn!(repository, "not taken from the store: {why}");
    }
}

impl Jobs {
    /// Says in the head what was found broken of a snapshot, so that others do without it and who has it uploads it again.
    pub(super) async fn tell_broken(
        self: Rc<Self>,
        repo: Arc<Repo>,
        snapshot: Option<Snapshot>,
        why: ShareError,
    ) {
        let Some(shared) = self.shared.as_ref().filter(|shared| !shared.is_readonly) else {
            return;
        };
        let place = place_of(&repo);
        let mut broken = BTreeSet::new();
        match why {
            ShareError::Broken { part, .. } => drop(broken.insert(part)),
            // A store says in its own words that a part is shorter than it was.
            ShareError::Object(ObjectError::Failed { .. }) => {}
            _ => return,
        }
        let told = async {
            if let Some(snapshot) = snapshot {
                let base = shared.base(&repo.name, &place).await?;
                let listing = Listing::read(&shared.objects, &place).await?;
                let lost = base.head.lost(&snapshot, &listing);
                broken.extend(lost.into_iter().cloned());
            }
            let random = &mut SystemRandom;
            let seen = shared.memories.of_place(&place).await?;
            let at = (&place, seen.as_ref());
            let told = mark_broken(&shared.objects, at, &broken, random).await?;
            Ok::<_, ShareError>(told)
        };
        match told.await {
            Ok(true) => {}
            Ok(false) => tracing::debug!(repository = &*repo.name, "what is broken is not told"),
            Err(why) => {
                let (repository, why) = (&*repo.name, causes(&why));
                tracing::warn!(repository, "others are not told what is broken: {why}");
            }
        }
    }
}

/// What its archive most likely begins with, which comes beside what is known of it.
type First = JoinHandle<Option<Vec<u8>>>;

/// What is known of a snapshot; that is waited for, and what comes beside it is not.
async fn known_with_first(
    shared: &Shared,
    (name, place): (&Arc<str>, &Place),
    want: &Want,
) -> Result<Option<(Known, First)>, ShareError> {
    let Some((head, snapshot)) = valid(shared, (name, place), want).await? else {
        return Ok(None);
    };
    let first = first_of(&head, &snapshot).map(|(key, bytes)| (place.part(key), bytes));
    let objects = shared.objects.clone();
    let first = spawn_local(async move {
        let (key, bytes) = first?;
        objects.get_range(&key, 0..bytes).await.ok()
    });
    let known = read_known(shared, place, (head, snapshot)).await?;
    Ok(Some((known, first)))
}

/// The spool file of a snapshot, which stands before its metadata, and how long the first piece of it is.
fn first_of<'s>(head: &Head, snapshot: &'s Snapshot) -> Option<(&'s PartKey, u64)> {
    let is_meta = |key: &PartKey| key.name().starts_with(META);
    let at = snapshot.parts.iter().position(is_meta)?;
    let key = snapshot.parts.get(at.checked_sub(1)?)?;
    let bytes = head.stored(key)?.bytes.min(SUM_PIECE_BYTES);
    (bytes > 0).then_some((key, bytes))
}

/// Reads what is known of a snapshot; nothing if there is none.
pub(super) async fn known(
    shared: &Shared,
    (name, place): (&Arc<str>, &Place),
    want: &Want,
) -> Result<Option<Known>, ShareError> {
    match valid(shared, (name, place), want).await? {
        Some(found) => read_known(shared, place, found).await.map(Some),
        None => Ok(None),
    }
}

/// The snapshot that a head shows, if it may be served.
async fn valid(
    shared: &Shared,
    (name, place): (&Arc<str>, &Place),
    want: &Want,
) -> Result<Option<(Head, Snapshot)>, ShareError> {
    let base = shared.base(name, place).await?;
    // What is there may have what has expired since, or here.
    if base.is_below() || shared.memories.due(place).await?.is_some() {
        return Ok(None);
    }
    let head = base.head;
    let current = head.current(&shared.about(want));
    let snapshot = current.filter(|it| head.is_valid(it)).cloned();
    Ok(snapshot.map(|snapshot| (head, snapshot)))
}

/// The same of one of its snapshots.
pub(super) async fn read_known(
    shared: &Shared,
    place: &Place,
    (head, snapshot): (Head, Snapshot),
) -> Result<Known, ShareError> {
    let part = |kind: &'static str| {
        let mut parts = snapshot.parts.iter();
        let part = parts.find(|key| key.name().starts_with(kind));
        part.ok_or_else(|| ShareError::Broken {
            part: snapshot.manifest.clone(),
            how: format!("it has no part {kind}"),
        })
    };
    let (meta, sums) = tokio::join!(
        shared.small(place, part(META)?, meta_name),
        shared.small(place, part(SUMS)?, sums_name)
    );
    let (meta_bytes, sums) = (meta?, sums?);
    let (meta_part, sums_part) = (part(META)?.clone(), part(SUMS)?.clone());
    let broken = |part: PartKey, why: &dyn Error| ShareError::Broken {
        part,
        how: why.to_string(),
    };
    // They may be long.
    let decoded = spawn_blocking(move || {
        Ok::<_, ShareError>(Known {
            head,
            snapshot,
            meta: Meta::decode(&meta_bytes).map_err(|why| broken(meta_part, &why))?,
            sums: Sums::decode(&sums).map_err(|why| broken(sums_part, &why))?,
            meta_bytes,
        })
    });
    decoded.await?
}

/// The files beside the metadata. What clients are told must be of this snapshot.
pub(super) async fn aside(
    shared: &Shared,
    place: &Place,
    known: &Known,
) -> Result<Vec<(&'static str, Vec<u8>)>, ShareError> {
    let key = &known.snapshot.manifest;
    let manifest = shared.small(place, key, manifest_name).await?;
    let id = known.meta.id;
    let unpacked = spawn_blocking(move || {
        let is_of_it = Manifest::unpack(&manifest).is_ok_and(|manifest| manifest.id == id);
        (manifest, is_of_it)
    });
    let (manifest, is_of_it) = unpacked.await?;
    if !is_of_it {
        return Err(ShareError::Broken {
            part: key.clone(),
            how: "it is no manifest of that snapshot".into(),
        });
    }
    let mut aside = vec![(MANIFEST_NAME, manifest)];
    let outline = known
        .snapshot
        .parts
        .iter()
        .find(|key| key.name().starts_with(OUTLINE));
    if let Some(key) = outline {
        aside.push((OUTLINE_NAME, shared.small(place, key, outline_name).await?));
    }
    Ok(aside)
}
