//! Servers that show one archive, and have each built it, have its frames in files of their own: whoever shares the next one would
//! upload all of them that the store lacks. So who does not keep the repository for all of them takes over the files that are
//! shared: of these it downloads what it lacks, which is what has changed since it had them last.
//!
//! The bytes of the archive, and its id, are the same before and after.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::Asker;
use super::download::{Files, Known};
use super::import::{aside, known};
use super::shared::{ShareError, Shared, causes, place_of};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::io::unkept::Unkept;
use crate::limits::STORE_STALL_MS;
use crate::manifest::meta::Meta;
use crate::manifest::parts::part_name;
use crate::manifest::want::Want;
use crate::repos::repo::Repo;
use crate::store::remote::entry::EntryError;
use crate::store::remote::head::Snapshot;
use crate::store::staging::Staging;
use crate::telemetry::metrics::{AdoptionResult, Cause, Event};

/// An entry in the making, and the paths of those of its files that are to come.
struct Begun {
    staging: Unkept<Staging>,
    places: HashMap<String, PathBuf>,
}

impl Jobs {
    /// Begins to, where what is shared is the archive that is here in other files.
    pub(super) fn take_files_if_other(
        self: &Rc<Self>,
        shared: &Shared,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        current: &Snapshot,
    ) {
        // What the one who keeps it has joined the others take from there.
        let takes = self.is_kept_by_others(repo) || shared.is_readonly;
        if !takes || !repo.asked.is_in_use() || has_files_of(archive, current) {
            return;
        }
        if let Some(at_it) = shared.with_seen(&repo.name, |seen| seen.adoption.begin_files()) {
            let taking = self.clone().take_files(repo.clone(), archive.clone());
            spawn_local(async move {
                taking.await;
                drop(at_it);
            });
        }
    }

    /// Whether another server keeps a repository in order for all that share it.
    pub(super) fn is_kept_by_others(&self, repo: &Repo) -> bool {
        let Some(shared) = self.shared.as_ref().filter(|_| self.is_shared(repo)) else {
            return false;
        };
        let kind = shared.about(&Want::default()).kind;
        let lease = shared.leases.get(&repo.name);
        lease.is_some_and(|one| one.is_others() && one.says(&kind))
    }

    async fn take_files(self: Rc<Self>, repo: Arc<Repo>, archive: Arc<Archive>) {
        let Some(shared) = &self.shared else { return };
        // The semaphore is never closed, so this only waits.
        let turn = shared.adoptions.acquire().await;
        let (repository, began) = (&*repo.name, Instant::now());
        let taken = self.take_files_now(shared, &repo, &archive).await;
        drop(turn);
        let again = Instant::now() + self.again();
        shared.with_seen(&repo.name, |seen| {
            let failed = !matches!(taken, Ok(Some(_)));
            seen.adoption.end_files(failed.then_some(again));
        });
        match taken {
            Ok(Some(bytes)) => {
                self.meter.add(Event::Adoption(AdoptionResult::Done), 1);
                let (id, ms) = (archive.id.as_str(), began.elapsed().as_millis() as u64);
                tracing::info!(
                    repository,
                    id,
                    bytes,
                    ms,
                    "took over the files that are shared"
                );
            }
            Ok(None) => self.meter.add(Event::Adoption(AdoptionResult::PutOff), 1),
            Err(why) => {
                self.meter.add(Event::Adoption(AdoptionResult::Failed), 1);
                tracing::warn!(repository, "its files stay its own: {}", causes(&why));
                self.clone().tell_broken(repo.clone(), None, why).await;
            }
        }
    }

    /// How many bytes have come; nothing if it is not to be, or not now.
    async fn take_files_now(
        self: &Rc<Self>,
        shared: &Shared,
        repo: &Arc<Repo>,
        archive: &Arc<Archive>,
    ) -> Result<Option<u64>, ShareError> {
        let (place, want) = (place_of(repo), Want::default());
        let Some(known) = known(shared, (&repo.name, &place), &want).await? else {
            return Ok(None);
        };
        self.check(repo, &want, &known)?;
        if known.snapshot.id != archive.id.as_str() {
            return Ok(None);
        }
        let (catalog, of, meta) = (self.catalog.clone(), archive.clone(), known.meta.clone());
        let begun = spawn_blocking(move || begin(catalog.state.staging()?, &of, &meta)).await?;
        let Begun { staging, places } = begun?;
        let bytes = lacking_bytes(&known, &places);
        if !self.has_room(bytes).await {
            return Ok(None);
        }
        let stall = Duration::from_millis(self.faults.store_stall_ms.unwrap_or(STORE_STALL_MS));
        let came = |bytes| {
            if self.catalog.usage.add(bytes) {
                self.sweep_wanted.notify_one();
            }
        };
        let downloaded = Files::new(&place, &known)?.download_into(shared, &places, (stall, came));
        let both = async { tokio::join!(downloaded, aside(shared, &place, &known)) };
        // Others have their turn.
        let Ok((downloaded, aside)) = tokio::time::timeout(self.adoption_turn(), both).await else {
            return Ok(None);
        };
        downloaded?;
        let aside = aside?;
        // Or publishing would wait for the disk while nobody may build.
        spawn_blocking(move || places.values().try_for_each(|path| sync(path))).await??;
        // Nobody builds on the files that go from here on.
        let Some(permit) = repo.build_again(&archive.want) else {
            return Ok(None);
        };
        let put = self.put_files((repo, archive), known, (staging, aside));
        let put = put.await;
        // Whoever has asked for something newer meanwhile waits for it.
        if !permit.end_unless_wanted() {
            let building = self.clone();
            let building = building.build_here(permit, Asker::of(Cause::Asked), None);
            spawn_local(building);
        }
        Ok(put?.then_some(bytes))
    }

    /// Has the files in the place of those that are there; `false` if these are not served any more.
    async fn put_files(
        &self,
        (repo, archive): (&Arc<Repo>, &Arc<Archive>),
        known: Known,
        (staging, aside): (Unkept<Staging>, Vec<(&'static str, Vec<u8>)>),
    ) -> Result<bool, ShareError> {
        let current = repo.archive_of(&archive.want);
        if !current.is_some_and(|current| Arc::ptr_eq(&current, archive)) {
            return Ok(false);
        }
        let (id, name) = (archive.id, repo.name.clone());
        let published = spawn_blocking(move || {
            let mut staging = staging.take().ok_or(ShareError::Short)?;
            for (name, bytes) in aside {
                staging.write_aside(name, &bytes)?;
            }
            let dir = staging.publish(id, &known.meta_bytes)?;
            Ok::<_, ShareError>(Archive::found(name, dir, known.meta))
        });
        let taken = Arc::new(published.await??);
        taken.set_offered(true);
        if let Some(unix_ms) = archive.seen_elsewhere_unix_ms() {
            taken.set_seen_elsewhere(unix_ms);
        }
        taken.touch();
        self.catalog.retired.replaced_by(&taken);
        repo.replace_files(archive, taken);
        Ok(true)
    }
}

/// Whether an archive's files are those of a snapshot.
fn has_files_of(archive: &Archive, snapshot: &Snapshot) -> bool {
    let Some(names) = archive.names() else {
        // It grows still.
        return true;
    };
    let parts: BTreeSet<&str> = snapshot.parts.iter().map(|key| key.name()).collect();
    let mut own = names.files().map(|file| &file.path).chain([&names.spool]);
    own.all(|path| parts.contains(part_name(path)))
}

/// Links what is here already, and makes places for the rest. Waits for the disk.
fn begin(staging: Staging, archive: &Archive, meta: &Meta) -> Result<Begun, ShareError> {
    let (mut staging, dir) = (staging, archive.dir());
    let names = archive.names();
    let own = names.iter().flat_map(|names| {
        let files = names.files().map(|file| (file.path.clone(), file.bytes));
        files.chain([(names.spool.clone(), archive.fanout.layout_spool_bytes())])
    });
    let own: HashMap<String, u64> = own.collect();
    let linked = meta.linked.iter();
    let linked = linked.map(|file| (&file.path, file.bytes));
    let mut places = HashMap::new();
    for (path, bytes) in linked.chain([(&meta.spool, meta.spool_bytes())]) {
        match own.get(path) == Some(&bytes) {
            true => staging.link(&dir.join(path), path)?,
            false => drop(places.insert(path.clone(), staging.own(path)?)),
        }
    }
    let staging = Unkept::new(staging);
    Ok(Begun { staging, places })
}

fn sync(path: &Path) -> Result<(), EntryError> {
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.map_err(EntryError::of("sync", path))
}

fn lacking_bytes(known: &Known, places: &HashMap<String, PathBuf>) -> u64 {
    let meta = &known.meta;
    let linked = meta.linked.iter();
    let files = linked.map(|file| (&file.path, file.bytes));
    let files = files.chain([(&meta.spool, meta.spool_bytes())]);
    let lacking = files.filter(|(path, _)| places.contains_key(*path));
    lacking.map(|(_, bytes)| bytes).fold(0, u64::saturating_add)
}
