//! The upkeep of mirrors: small packs are joined right after a fetch, all else waits for a quiet time.
//!
//! One mirror at a time, and one more where something was cut off before; git's memory, threads and time are bounded. No request waits for it: what it makes
//! is beside what is there, and takes its place within milliseconds.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{spawn_blocking, spawn_local};

use super::flights::{Duty, take_duty};
use super::state::Jobs;
use super::upkeep::{Ended, Try, Use};
use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::limits::{JOIN_WAIT_MS, MAINTENANCE_LIMIT_MS, MAINTENANCE_LOOK_MS};
use crate::manifest::record::Linked;
use crate::manifest::want::Shape;
use crate::mirror::{
    Aside, Expired, Git, Joined, MirrorError, Step, exclusive_soon, has_many, next_expiry_unix_ms,
};
use crate::repos::repo::Repo;
use crate::snapshot::reuse::Base;
use crate::telemetry::metrics::{Cause, Event, MaintenanceResult};

/// What came of a step, if it had something to do.
type Stepped = Result<Option<MaintenanceResult>, MirrorError>;

fn joined(joined: Joined) -> Option<MaintenanceResult> {
    match joined {
        Joined::Nothing => None,
        Joined::Packs(_) => Some(MaintenanceResult::Joined),
        Joined::Busy => Some(MaintenanceResult::Busy),
    }
}

/// The time by the clock that dates what is noted: it does not go back.
pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms())
}

impl Jobs {
    /// The mirror has something new in it.
    pub(super) fn note_due(&self, repo: &Repo) {
        self.upkeep.borrow_mut().add(repo.name.clone(), unix_ms());
    }

    /// Joins the small packs of a mirror that something was fetched into. While others are joined there the
    /// next fetch sees to it.
    pub(super) async fn join_small(self: Rc<Self>, repo: Arc<Repo>) {
        if let (_, Some(duty)) = self.maintaining.join(&repo.name) {
            self.join_in_turn(&repo, duty).await;
        }
    }

    async fn join_in_turn(&self, repo: &Repo, duty: Duty<Arc<str>, ()>) {
        // Not behind the upkeep of others, which takes minutes. The semaphore is never closed, so this only
        // waits.
        let _turn = self.joining.acquire().await;
        let limit = Duration::from_millis(MAINTENANCE_LIMIT_MS);
        let git = self.git.with_time(limit);
        let made = git.join_small(&repo.mirror, &repo.locks.packs).await;
        self.note(repo, "small packs joined", made.map(joined));
        duty.done(());
    }

    /// Sees to it that there is room for one more pack, before one is fetched: whoever fetches faster than packs
    /// are joined waits for that, so that however busy the machine is no archive has too many. Who
    /// reads packs where they are is not waited for.
    pub(super) async fn room_for_pack(self: &Rc<Self>, repo: &Arc<Repo>) {
        let mirror = repo.mirror.clone();
        let has_many = spawn_blocking(move || has_many(&mirror).unwrap_or(false)).await;
        if !has_many.unwrap_or(false) || exclusive_soon(&repo.locks.packs).await.is_none() {
            return;
        }
        let wait = Duration::from_millis(JOIN_WAIT_MS);
        // A task of its own: one that is given up goes on.
        let joined = spawn_local(self.clone().join_after_others(repo.clone()));
        if tokio::time::timeout(wait, joined).await.is_err() {
            tracing::warn!(
                repository = &*repo.name,
                "there are many packs, and joining them takes long"
            );
        }
    }

    async fn join_after_others(self: Rc<Self>, repo: Arc<Repo>) {
        let duty = take_duty(&self.maintaining, &repo.name).await;
        self.join_in_turn(&repo, duty).await;
    }

    /// Gives mirrors their upkeep at quiet times.
    pub(super) async fn keep_maintained(self: Rc<Self>) {
        let idle = self.config.maintenance_idle;
        let look = Duration::from_millis(MAINTENANCE_LOOK_MS).min(idle / 2);
        loop {
            tokio::time::sleep(look).await;
            let idle_ms = idle.as_millis() as u64;
            self.upkeep.borrow_mut().pass(unix_ms());
            let of = |name: &Arc<str>| self.use_of(name);
            let mut upkeep = self.upkeep.borrow_mut();
            let next = std::iter::from_fn(|| upkeep.begin(unix_ms(), idle_ms, of));
            for (name, this) in Vec::from_iter(next) {
                spawn_local(self.clone().maintain(name, this));
            }
        }
    }

    /// A repository that is known.
    pub(super) fn named(&self, name: &str) -> Option<Arc<Repo>> {
        self.catalog.registry.named(name)
    }

    fn use_of(&self, name: &str) -> Use {
        match self.named(name) {
            Some(repo) => Use {
                asked_ms: repo.asked.unix_ms(),
                is_building: repo.is_building_to_keep(),
            },
            // It is forgotten when its turn comes.
            None => Use {
                asked_ms: 0,
                is_building: false,
            },
        }
    }

    async fn maintain(self: Rc<Self>, name: Arc<str>, this: Try) {
        let ended = self.try_upkeep(&name, this).await;
        let mut upkeep = self.upkeep.borrow_mut();
        upkeep.ended(name, this, ended, unix_ms());
    }

    async fn try_upkeep(self: &Rc<Self>, name: &Arc<str>, this: Try) -> Ended {
        let Some(repo) = self.named(name).filter(|repo| repo.mirror.is_dir()) else {
            return Ended::Done;
        };
        let ended = match self.maintaining.join(name) {
            (_, Some(duty)) => {
                let git = self.git.with_time(Duration::from_millis(this.limit_ms));
                let ended = self.keep_up(&repo, &git).await;
                duty.done(());
                ended
            }
            (_, None) => Ended::PutOff,
        };
        let (mirror, expiry) = (repo.mirror.clone(), self.config.unreachable_expiry);
        let next = spawn_blocking(move || next_expiry_unix_ms(&mirror, expiry, now())).await;
        let next = next.unwrap_or_default().into_iter();
        if let Some(at_ms) = next.chain(self.annex_due_unix_ms(&repo)).min() {
            let mut upkeep = self.upkeep.borrow_mut();
            upkeep.add_later(name.clone(), at_ms, unix_ms());
        }
        ended
    }

    /// All that a mirror needs, step by step; each is whole by itself.
    async fn keep_up(self: &Rc<Self>, repo: &Arc<Repo>, git: &Git) -> Ended {
        self.keep_annex(repo).await;
        match self.expire(repo, git).await {
            Some(MaintenanceResult::Busy) => return Ended::PutOff,
            Some(MaintenanceResult::CutOff) => return Ended::CutOff,
            _ => {}
        }
        // What changes no pack everybody makes for himself.
        if self.is_joined_by_others(repo) {
            tracing::info!(
                repository = &*repo.name,
                "its packs are joined by the server that has the lease"
            );
            self.note_due(repo);
        } else {
            let made = git.join_to_geometry(&repo.mirror, &repo.locks.packs).await;
            match self.note(repo, "packs joined", made.map(joined)) {
                Some(MaintenanceResult::Joined) => self.retire(repo.set_outdated()),
                Some(MaintenanceResult::Busy) => return Ended::PutOff,
                Some(MaintenanceResult::CutOff) => return Ended::CutOff,
                _ => {}
            }
        }
        self.ease_lookups(repo, git).await
    }

    /// Makes what git finds objects and commits faster by, where it is missing. Whoever calls it has the duty of the mirror.
    pub(super) async fn ease_lookups(&self, repo: &Repo, git: &Git) -> Ended {
        let step = |result| move |step| (step == Step::Done).then_some(result);
        let made = git.write_bitmap(&repo.mirror).await;
        let bitmap = made.map(step(MaintenanceResult::Bitmap));
        let bitmap = self.note(repo, "bitmap made", bitmap);
        let made = git.write_commit_graph(&repo.mirror).await;
        let graph = made.map(step(MaintenanceResult::CommitGraph));
        let graph = self.note(repo, "commit-graph made", graph);
        match [bitmap, graph].contains(&Some(MaintenanceResult::CutOff)) {
            true => Ended::CutOff,
            false => Ended::Done,
        }
    }

    /// Removes what no ref has led to for long, from the mirror and from what is served.
    async fn expire(self: &Rc<Self>, repo: &Arc<Repo>, git: &Git) -> Option<MaintenanceResult> {
        // Its packs do not go meanwhile.
        let _keeping_annex = take_duty(&self.keeping_annex, &repo.name).await;
        let made = self.expire_mirror(repo, git).await;
        if let Ok(Expired::AnnexBroken) = &made {
            tracing::error!(
                repository = &*repo.name,
                "its annex lacks something, and is given up"
            );
            self.give_up_annex(repo).await;
        }
        let made = made.map(|expired| match expired {
            Expired::Nothing => None,
            Expired::Objects(objects) => {
                tracing::info!(
                    repository = &*repo.name,
                    objects,
                    "removing unreachable objects"
                );
                Some(MaintenanceResult::Expired)
            }
            Expired::Busy | Expired::AnnexBroken => Some(MaintenanceResult::Busy),
        });
        let result = self.note(repo, "unreachable objects removed", made);
        if result == Some(MaintenanceResult::Expired) {
            repo.aside.set(Aside::default());
            self.set_expired(repo);
        }
        if !repo.holds_expired() && self.keeps_old(repo).await {
            // A server that ended before it could build anew.
            self.set_expired(repo);
        }
        if repo.holds_expired() {
            self.rebuild(repo, Cause::Timer);
        }
        result
    }

    /// Something has expired: what may have it is replaced as it is asked for, and what was replaced before is resumed
    /// by nobody.
    fn set_expired(&self, repo: &Repo) {
        let expired = repo.set_expired();
        self.catalog.retired.refuse(&repo.name);
        self.end_expired(expired);
    }

    /// What is not served any more, and who has begun with it may go on with.
    pub(super) fn retire(&self, archives: Vec<Arc<Archive>>) {
        for archive in archives {
            archive.close_if_idle();
            self.catalog.retired.add(archive);
        }
    }

    /// What may have something of what has expired: nobody begins with it again.
    pub(super) fn end_expired(&self, archives: Vec<Arc<Archive>>) {
        for archive in archives {
            archive.close_if_idle();
            self.catalog.retired.add_refused(archive);
        }
    }

    /// Whether a snapshot was made before the expiry began and has packs that the mirror has no more, or has
    /// frames of no use in files that are as old.
    async fn keeps_old(&self, repo: &Repo) -> bool {
        let expiry_ms = self.config.unreachable_expiry.as_millis() as u64;
        let is_old =
            |archive: &Arc<Archive>| unix_ms().saturating_sub(archive.created_unix_ms) >= expiry_ms;
        let (all, before) = (repo.archives(), self.shop.dead_before());
        let mut old = all.clone();
        // What the annex has is as old as its upstream says; what has a pack of its own has none of the mirror's.
        let is_apart = |archive: &Arc<Archive>| {
            let commit = archive.want.commit();
            let is_annexed = commit.is_some_and(|commit| repo.annex.is_kept(&commit));
            is_annexed || archive.want.shape() == Shape::Tip
        };
        old.retain(|archive| is_old(archive) && !is_apart(archive));
        let mirror = repo.mirror.clone();
        let looked = spawn_blocking(move || {
            let has_dead = |archive: &Arc<Archive>| {
                Base::open(&archive.dir()).is_some_and(|base| base.has_dead_before(before))
            };
            if all.iter().any(has_dead) {
                return true;
            }
            let names = |archive: &Arc<Archive>| {
                archive
                    .names()
                    .map_or(Vec::new(), |names| names.linked.clone())
            };
            let is_pack = |path: &Linked| path.path.ends_with(".pack");
            let mut packs = old.iter().flat_map(names).filter(is_pack);
            packs.any(|pack| !mirror.join(&pack.path).exists())
        });
        looked.await.unwrap_or(false)
    }

    /// Counts and logs what came of a step.
    fn note(&self, repo: &Repo, what: &str, made: Stepped) -> Option<MaintenanceResult> {
        let repository = &*repo.name;
        let result = match made {
            Ok(result) => result?,
            Err(e @ MirrorError::TimedOut { .. }) => {
                tracing::warn!(
                    repository,
                    "not {what}, it is tried again with more time: {e}"
                );
                MaintenanceResult::CutOff
            }
            Err(e) => {
                tracing::warn!(repository, "not {what}: {e}");
                MaintenanceResult::Failed
            }
        };
        match result {
            MaintenanceResult::Busy => {
                tracing::info!(
                    repository,
                    "not {what}: the packs are being read where they are"
                );
            }
            MaintenanceResult::CutOff | MaintenanceResult::Failed => {}
            _ => {
                self.mirror_changed(repo);
                tracing::info!(repository, "{what}");
            }
        }
        self.meter.add(Event::Maintenance(result), 1);
        Some(result)
    }
}
