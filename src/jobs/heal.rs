//! What is done about bytes that have rotted on the disk. A damaged entry is dropped, whoever reads
//! it gets an error, and another is built. A damaged mirror is cloned anew beside the old one, and
//! takes its place in one step; until then what is sound in the cache is served, builds fail by the
//! check of their packs, and git's endpoint by git's own: nothing that is known to be damaged is
//! sent.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::clone::clone_error;
use super::flights::take_duty;
use super::permission::unsaid;
use super::room::Need;
use super::state::Jobs;
use super::sweep::remove;
use super::workshop::Workshop;
use crate::archive::place::Archive;
use crate::classes::Arrival;
use crate::io::clock::unix_ms;
use crate::io::fs::{Fs, Os, remove_tree};
use crate::io::uncached::Pace;
use crate::mirror::blocking_exclusive;
use crate::mirror::schedule::Key;
use crate::repos::error::StartError;
use crate::repos::repo::{Permit, Repo};
use crate::snapshot::scrub::{MirrorFault, check_mirror};
use crate::store::check::{Fault, check_entry, is_rot};
use crate::telemetry::metrics::{Cause, CloneResult, Event, ScrubResult};

/// What was found.
#[derive(Debug)]
pub(crate) enum Damaged {
    /// A snapshot.
    Entry {
        repo: Arc<Repo>,
        archive: Arc<Archive>,
        fault: Fault,
        /// Dropped once no byte of it is sent any more.
        condemned: mpsc::Sender<()>,
    },
    /// A mirror.
    Mirror { repo: Arc<Repo>, fault: MirrorFault },
}

/// A client says that an archive is damaged.
#[derive(Debug)]
pub(crate) struct Doubt {
    pub repo: Arc<Repo>,
    pub archive: Arc<Archive>,
    /// Hears when the archive was looked at, or will not be.
    pub looked: oneshot::Sender<()>,
}

/// From here on no byte of the archive is sent. The right to build another, if nobody builds.
fn condemn(
    shop: &Workshop,
    repo: &Arc<Repo>,
    archive: &Arc<Archive>,
    fault: &Fault,
) -> Option<Permit> {
    let (repository, id) = (&*repo.name, archive.id);
    tracing::error!(repository, %id, "the snapshot has rotted and is built anew: {fault}");
    let permit = repo.condemn(archive);
    shop.catalog.retired.take(archive);
    archive
        .fanout
        .condemn("the snapshot is damaged on the server's disk; ask again");
    // A build must not trust what was read before.
    shop.verified.clear();
    permit
}

/// Stops a look when the task that waits for it goes.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Jobs {
    /// Looks at an archive on a client's word, at most once in a while.
    pub(crate) async fn doubt(self: Rc<Self>, doubt: Doubt) {
        let Doubt {
            repo,
            archive,
            looked,
        } = doubt;
        let (flight, duty) = self.doubting.join(&archive.id);
        let Some(duty) = duty else {
            flight.end().await;
            let _ = looked.send(());
            return;
        };
        if !archive.may_be_doubted() {
            duty.done(());
            let _ = looked.send(());
            return;
        }
        let repository = &*repo.name;
        tracing::warn!(repository, id = %archive.id, "a client says that the snapshot is damaged");
        // The semaphore is never closed, so this only waits.
        let turn = self.looking.acquire().await;
        let condemned = self.look_at_entry(&repo, &archive).await;
        drop(turn);
        // What the client is answered with now is another archive, or this one is sound.
        duty.done(());
        let _ = looked.send(());
        if let Some((permit, fault)) = condemned {
            self.replace_entry(&repo, &archive, permit, &fault).await;
        }
    }

    /// Does something about it.
    pub(super) async fn heal(self: Rc<Self>, damaged: Damaged) {
        match damaged {
            Damaged::Entry {
                repo,
                archive,
                fault,
                condemned,
            } => {
                let permit = condemn(&self.shop, &repo, &archive, &fault);
                drop(condemned);
                self.replace_entry(&repo, &archive, permit, &fault).await;
            }
            Damaged::Mirror { repo, fault } => {
                let repository = &*repo.name;
                tracing::error!(repository, "the mirror has rotted: {fault}");
                // Its snapshots share its packs.
                let mut permits = Vec::new();
                for archive in repo.archives() {
                    if let Some((permit, _)) = self.look_at_entry(&repo, &archive).await {
                        self.remove_entry(&archive).await;
                        permits.extend(permit);
                    }
                }
                self.replace_mirror(&repo).await;
                for permit in permits {
                    self.clone()
                        .build(permit, Asker::of(Cause::Timer), None)
                        .await;
                }
            }
        }
    }

    /// Reads an entry from the disk at once; if it is damaged, nothing of it is sent any more.
    async fn look_at_entry(
        &self,
        repo: &Arc<Repo>,
        archive: &Arc<Archive>,
    ) -> Option<(Option<Permit>, Fault)> {
        let stop = StopOnDrop(Arc::default());
        let (dir, id, pace) = (archive.dir(), archive.id, Pace::new(None, stop.0.clone()));
        let looked = spawn_blocking(move || {
            let found = check_entry(&dir, id, &pace);
            (found, pace.take_bytes())
        });
        let (found, bytes) = looked.await.ok()?;
        let meter = &self.meter;
        meter.add(Event::ScrubbedBytes, bytes);
        let result = match &found {
            Ok(()) => ScrubResult::EntrySound,
            Err(Fault::Damaged { .. }) => ScrubResult::EntryDamaged,
            Err(Fault::Unreadable { .. }) => ScrubResult::Unreadable,
            Err(Fault::Gone | Fault::Stopped) => return None,
        };
        meter.add(Event::Scrub(result), 1);
        let fault = found.err()?;
        let is_damaged = result == ScrubResult::EntryDamaged;
        is_damaged.then(|| (condemn(&self.shop, repo, archive, &fault), fault))
    }

    /// Looks at the snapshot that a build could not be built on, and has it built anew.
    pub(super) async fn replace_base(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        base: Option<Arc<Archive>>,
    ) {
        let Some(archive) = base else {
            return;
        };
        match self.look_at_entry(repo, &archive).await {
            Some((permit, fault)) => {
                let replaced = self.replace_entry(repo, &archive, permit, &fault);
                // It builds, and a build may end here again.
                Box::pin(replaced).await;
            }
            None => self.rebuild(repo, Cause::Timer),
        }
    }

    async fn remove_entry(&self, archive: &Arc<Archive>) {
        let (catalog, archive) = (self.catalog.clone(), archive.clone());
        let removed = spawn_blocking(move || remove(&catalog, &archive));
        if let Err(panic) = removed.await {
            tracing::error!("the removal of an entry panicked: {panic}");
        }
    }

    async fn replace_entry(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        archive: &Arc<Archive>,
        permit: Option<Permit>,
        fault: &Fault,
    ) {
        // Whoever builds meanwhile does not keep what it links of this one.
        self.remove_entry(archive).await;
        self.look_at_others(repo, archive).await;
        let is_linked = matches!(fault, Fault::Damaged { is_linked, .. } if *is_linked);
        if is_linked && self.has_rotted(repo).await {
            self.replace_mirror(repo).await;
        }
        if let Some(permit) = permit {
            self.clone()
                .build(permit, Asker::of(Cause::Timer), None)
                .await;
        }
    }

    /// The snapshots that are others than the one which has rotted: they can link the same files.
    async fn look_at_others(self: &Rc<Self>, repo: &Arc<Repo>, rotten: &Arc<Archive>) {
        for other in repo.archives() {
            if Arc::ptr_eq(&other, rotten) {
                continue;
            }
            if let Some((permit, _)) = self.look_at_entry(repo, &other).await {
                self.remove_entry(&other).await;
                if let Some(permit) = permit {
                    self.clone()
                        .build(permit, Asker::of(Cause::Timer), None)
                        .await;
                }
            }
        }
    }

    async fn has_rotted(&self, repo: &Arc<Repo>) -> bool {
        let stop = StopOnDrop(Arc::default());
        let (mirror, pace) = (repo.mirror.clone(), Pace::new(None, stop.0.clone()));
        let looked = spawn_blocking(move || {
            let found = check_mirror(&mirror, &pace, is_rot);
            (found, pace.take_bytes())
        });
        let Ok((found, bytes)) = looked.await else {
            return false;
        };
        let meter = &self.meter;
        meter.add(Event::ScrubbedBytes, bytes);
        let result = match found {
            Ok(()) => ScrubResult::MirrorSound,
            Err(MirrorFault::Damaged { .. }) => ScrubResult::MirrorDamaged,
            // It is looked at again when it is due.
            Err(_) => return false,
        };
        meter.add(Event::Scrub(result), 1);
        result == ScrubResult::MirrorDamaged
    }

    /// Clones the mirror anew and puts the clone in its place. Nobody compares or packs it meanwhile;
    /// if the upstream cannot be cloned, all stays as it is.
    pub(super) async fn replace_mirror(self: &Rc<Self>, repo: &Arc<Repo>) {
        let comparing = take_duty(&self.freshening, &repo.name).await;
        let _maintaining = take_duty(&self.maintaining, &repo.name).await;
        let _keeping_annex = take_duty(&self.keeping_annex, &repo.name).await;
        if let Some(setting_up) = self.setting_up.running(&repo.name) {
            setting_up.end().await;
        }
        let (host, clones) = (repo.name.host(), &self.semaphores.clones);
        let mut seat = clones.enter(host, comparing.urgency(), Arrival::Promised);
        if let Ok(seat) = &mut seat {
            // The class is not closed while this runs.
            let _ = seat.placed().await;
        }
        // Files that were sound before are read again.
        self.shop.verified.clear();
        if !self.compares_by_itself(repo) {
            // It can be cloned for whoever asks next.
            self.drop_all(repo).await;
            return comparing.done(Err(unsaid()));
        }
        let (unix_began_ms, began) = (unix_ms(), comparing.begin());
        match self.clone_beside(repo).await {
            Ok(()) => {
                tracing::warn!(repository = &*repo.name, "the mirror was cloned anew");
                // What failed on the old one can be tried on this.
                repo.set_mended();
                // It has left with the old one.
                self.take_over_annex(repo).await;
                self.look_at_head(repo).await;
                repo.set_fresh(unix_began_ms, began);
                repo.notes.set_clonable();
                self.mirror_changed(repo);
                comparing.done(Ok(()));
                self.rebuild(repo, Cause::Timer);
            }
            Err(why) => {
                tracing::error!(repository = &*repo.name, "a damaged mirror stays: {why}");
                comparing.done(Err(why));
            }
        }
    }

    async fn clone_beside(self: &Rc<Self>, repo: &Arc<Repo>) -> Result<(), StartError> {
        // Serial numbers: the directory is emptied at each start.
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let staging = self.catalog.state.tmp_dir();
        let number = SERIAL.fetch_add(1, Ordering::Relaxed);
        let place = staging.join(format!("renewed-{number}.git"));
        let git = match self.permissions.of_repository(&repo.name) {
            Some(_) => self.git.by_permission_of(None),
            None => self.git.clone(),
        };
        let mut cloned = git.clone_mirror(&repo.url, &place, &staging).await;
        if let Err(e) = &cloned
            && self.is_for_room(e).await
        {
            self.make_room(&repo.name, Need::Must).await;
            cloned = git.clone_mirror(&repo.url, &place, &staging).await;
        }
        let result = match &cloned {
            Ok(()) => CloneResult::Complete,
            Err(_) => CloneResult::Failed,
        };
        self.meter.add(Event::Clone(result), 1);
        cloned.map_err(|e| clone_error(repo, &e))?;
        let swapped = repo.clone();
        let swapped = spawn_blocking(move || swap(&swapped, &place)).await;
        let failed = |why: &dyn std::fmt::Display| StartError {
            status: 500,
            message: format!("{}: cannot exchange the mirror: {why}", repo.name),
        };
        swapped
            .map_err(|panic| failed(&panic))?
            .map_err(|e| failed(&e))
    }
}

fn busy() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ResourceBusy, "it is being read")
}

/// Gives the clone the mirror's place, and removes the mirror.
fn swap(repo: &Repo, place: &Path) -> std::io::Result<()> {
    let old: PathBuf = {
        let _packing = repo.locks.packing.blocking_lock();
        // Nobody compares the mirror, but its annex may be fetched into.
        let Some(_arrivals) = blocking_exclusive(&repo.locks.arrivals) else {
            return Err(busy());
        };
        let Some(_packs) = blocking_exclusive(&repo.locks.packs) else {
            return Err(busy());
        };
        let _refs = repo.locks.refs.blocking_write();
        match Os.exchange(place, &repo.mirror) {
            Ok(()) => place.to_owned(),
            // Not every file system can.
            Err(_) => {
                let old = place.with_extension("old");
                std::fs::rename(&repo.mirror, &old)?;
                std::fs::rename(place, &repo.mirror)?;
                old
            }
        }
    };
    if let Some(parent) = repo.mirror.parent() {
        Os.sync(parent)?;
    }
    // Entries have links to what they need. What stays goes at the next start.
    if let Err(e) = remove_tree(&old) {
        tracing::warn!("cannot remove {}: {e}", old.display());
    }
    Ok(())
}
