//! The sweep: what nobody reads any more is removed, and what is over the limits evicted.

use std::collections::HashSet;
use std::mem;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::leaving::{Leaver, Leaving, Listed};
use super::room::{Fill, Need, RoomMade};
use super::said::{Found, Gone};
use super::state::Jobs;
use crate::archive::place::Archive;
use crate::config::Config;
use crate::io::clock::unix_ms;
use crate::io::fs::Space;
use crate::limits::{
    FULL_FREE_BYTES, FULL_LEAVES_PART, FULL_WAIT_MS, IDLE_ENTRY_OPEN_MS, LOOK_REST, LOOK_REST_OVER,
    RETIRED_KEPT_MS, STUCK_LOOK_MS, STUCK_WAIT_MS, SWEEP_INTERVAL_MS,
};
use crate::mirror::MirrorError;
use crate::repos::catalog::Catalog;
use crate::repos::repo::Repo;
use crate::store::evict::{self, Bounds, OthersMax, Plan, Why};
use crate::store::files::StoreError;
use crate::store::ledger::{Ledger, Part};
use crate::store::usage::Marks;
use crate::telemetry::metrics::{Event, Evicted, Meter};

/// What a sweep goes by that only the plane knows.
struct Survey {
    repos: Vec<Listed>,
    /// Mirrors in which something has changed.
    changed: HashSet<PathBuf>,
    /// Bytes of files without names.
    nameless_bytes: u64,
    /// What somebody needs room for, who finds the disk full.
    need: Option<Need>,
}

/// What a sweep found.
struct Swept {
    found: Found,
    marks: Marks,
    /// What else is to go, and why: only the plane knows whether somebody is about to use it.
    later: Vec<(Leaver, Why)>,
}

impl Jobs {
    /// Sweeps from time to time, and when somebody wants it.
    pub(super) async fn keep_swept(self: Rc<Self>) {
        // Before that nothing is known of most mirrors.
        let mut taken_over = self.taken_over.subscribe();
        let _ = taken_over.wait_for(|is| *is).await;
        let mut due = tokio::time::interval(Duration::from_millis(SWEEP_INTERVAL_MS));
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = self.sweep_wanted.notified() => due.reset(),
            }
            spawn_local(self.clone().sweep());
        }
    }

    /// Something has changed in a mirror.
    pub(super) fn mirror_changed(&self, repo: &Repo) {
        self.room.changed.borrow_mut().insert(repo.mirror.clone());
        self.sweep_wanted.notify_one();
    }

    async fn sweep(self: Rc<Self>) {
        // A sweep that was asked for while one runs still happens, after it; more would be idle.
        let Ok(waiting) = self.sweep_waiting.try_acquire() else {
            return;
        };
        // The semaphore is never closed, so this only waits.
        let _sweeping = self.sweeping.acquire().await;
        drop(waiting);
        self.sweep_once(None).await;
    }

    /// Removes superseded entries that nobody reads, and evicts what is over the limit, or what makes
    /// room for somebody who is in `need` of it. Whoever calls it holds the semaphore of sweeps.
    pub(super) async fn sweep_once(self: &Rc<Self>, need: Option<Need>) {
        self.bundles.borrow_mut().expire(Instant::now());
        self.cold.trim();
        let usage = &self.catalog.usage;
        let is_room_needed = need.is_some() || usage.all_bytes() > usage.marks().high_bytes;
        self.drop_kept_packs(is_room_needed).await;
        if is_room_needed {
            // Before anything leaves for them that takes longer to be made anew.
            self.bundles.borrow_mut().drop_unread();
        }
        let survey = Survey {
            repos: self.listed(),
            changed: mem::take(&mut *self.room.changed.borrow_mut()),
            nameless_bytes: self.bundles.borrow_mut().made_bytes(),
            need,
        };
        let (catalog, config) = (self.catalog.clone(), self.config.clone());
        let meter = self.meter.clone();
        // Walks directories and deletes files: not on this thread.
        let swept = spawn_blocking(move || sweep(&catalog, &config, &meter, survey));
        match swept.await {
            Ok(Ok(swept)) => {
                self.say(&swept.found, swept.marks);
                if swept.found.over_bytes > 0 {
                    self.shop.open_files.end_slow();
                }
                for (leaver, why) in swept.later {
                    match leaver {
                        Leaver::Mirror(repo) => self.evict_mirror(repo, why, swept.marks).await,
                        Leaver::Tips(repo) => self.evict_tips(&repo, why, swept.marks).await,
                        Leaver::Superseded(_) | Leaver::Snapshot(..) => {}
                    }
                }
            }
            Ok(Err(e)) => tracing::error!("cannot look at the state directory: {e}"),
            Err(panic) => tracing::error!("the sweep of the cache panicked: {panic}"),
        }
    }

    /// Whether more than there may be is in use and stays so for a while, though whoever holds it for too long
    /// is ended.
    pub(super) async fn is_stuck(self: &Rc<Self>) -> bool {
        let began = Instant::now();
        while self.catalog.usage.is_stuck() {
            if began.elapsed() >= Duration::from_millis(STUCK_WAIT_MS) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(STUCK_LOOK_MS)).await;
            // The semaphore is never closed, so this only waits.
            let _sweeping = self.sweeping.acquire().await;
            if self.catalog.usage.is_stuck() {
                self.sweep_once(None).await;
            }
        }
        false
    }

    /// Makes room, for what is done for a repository finds the disk full; once for all who come meanwhile,
    /// and seldom enough that a disk which others fill again does not empty the cache. Its own mirror stays.
    /// Waits for the end of that, but not for long.
    pub(super) async fn make_room(self: &Rc<Self>, repository: &str, need: Need) {
        self.meter.add(Event::DiskFull, 1);
        // Who holds a repository keeps its mirror.
        let _kept = self.named(repository);
        let is_due = self.may_make_room();
        self.say_full(repository, is_due, self.fill().await);
        let (flight, duty) = self.room.making.join(&need);
        if let Some(duty) = duty {
            let jobs = self.clone();
            // A task of its own: whoever asked for it may leave.
            spawn_local(async move {
                let usage = &jobs.catalog.usage;
                let is_due = jobs.may_make_room();
                let sweeping = jobs.sweeping.acquire().await;
                let before = usage.all_bytes();
                jobs.sweep_once(is_due.then_some(need)).await;
                drop(sweeping);
                if is_due {
                    let left = usage.all_bytes();
                    jobs.room.made.set(Some(RoomMade {
                        at: Instant::now(),
                        left_bytes: left,
                        freed_bytes: before.saturating_sub(left),
                    }));
                }
                duty.done(());
            });
        }
        let limit = Duration::from_millis(FULL_WAIT_MS);
        let _ = tokio::time::timeout(limit, flight.end()).await;
    }

    /// Whether room may be made for somebody: it was long ago that it was, or the server has used it up.
    fn may_make_room(&self) -> bool {
        let used_bytes = self.catalog.usage.all_bytes();
        let made = self.room.made.get();
        made.is_none_or(|made| made.is_gone(used_bytes))
    }

    /// How full the disk is, as far as the system says.
    pub(super) async fn fill(&self) -> Option<Fill> {
        let catalog = self.catalog.clone();
        let space = spawn_blocking(move || catalog.state.space()).await;
        let usage = &self.catalog.usage;
        Some(Fill {
            free_bytes: space.ok()?.ok()?.free_bytes,
            in_use_bytes: usage.all_bytes(),
            limit_bytes: usage.marks().high_bytes,
        })
    }

    /// Whether so many bytes more make nothing leave.
    pub(super) async fn has_spare(&self, bytes: u64) -> bool {
        let marks = self.catalog.usage.marks();
        let fill = self.fill().await;
        fill.is_some_and(|fill| {
            fill.in_use_bytes.saturating_add(bytes) <= marks.low_bytes
                && fill.free_bytes >= marks.floor_bytes.saturating_add(bytes)
        })
    }

    /// Whether something failed for want of room on the disk: git does not always say so.
    pub(super) async fn is_for_room(&self, error: &MirrorError) -> bool {
        if error.is_disk_full() {
            return true;
        }
        let catalog = self.catalog.clone();
        let space = spawn_blocking(move || catalog.state.space()).await;
        let is_full = |space: Space| space.free_bytes < FULL_FREE_BYTES;
        matches!(error, MirrorError::Git { .. })
            && space.is_ok_and(|space| space.is_ok_and(is_full))
    }

    fn listed(&self) -> Vec<Listed> {
        let registry = &self.catalog.registry;
        let listed = registry.all().into_iter().map(|repo| Listed {
            is_idle: registry.is_alone(&repo) && !self.is_at_work(&repo.name),
            tips: self.cold.listed(&repo.name),
            repo,
        });
        listed.collect()
    }

    /// Whether something goes on with a mirror.
    fn is_at_work(&self, name: &Arc<str>) -> bool {
        self.cloning.running(name).is_some()
            || self.setting_up.running(name).is_some()
            || self.freshening.running(name).is_some()
            || self.maintaining.running(name).is_some()
    }

    /// Removes a mirror that nobody works with, and all that is known of it: whoever asks next has it
    /// cloned anew.
    pub(super) async fn evict_mirror(self: &Rc<Self>, repo: Arc<Repo>, why: Why, marks: Marks) {
        let registry = &self.catalog.registry;
        let is_idle = registry.is_alone(&repo) && !self.is_at_work(&repo.name);
        // From here to the flight nothing is awaited: who comes later waits for its end.
        if !is_idle || !repo.leave_mirror() {
            return;
        }
        let (_, Some(duty)) = self.leaving.join(&repo.name) else {
            return;
        };
        self.schedule.borrow_mut().remove(&repo.name);
        let (catalog, mirror) = (self.catalog.clone(), repo.mirror.clone());
        let moved = spawn_blocking(move || catalog.state.take_mirror_away(&mirror)).await;
        let away = match moved {
            Ok(Ok(away)) => away,
            Ok(Err(e)) => {
                tracing::error!(repository = &*repo.name, "cannot evict a mirror: {e}");
                self.keep(&repo, None);
                return duty.done(());
            }
            Err(panic) => return tracing::error!("the eviction of a mirror panicked: {panic}"),
        };
        duty.done(());
        let (name, mirror) = (repo.name.clone(), repo.mirror.clone());
        self.room
            .left
            .borrow_mut()
            .note(name.clone(), Instant::now());
        registry.forget(repo);
        let (catalog, meter) = (self.catalog.clone(), self.meter.clone());
        let deleted = spawn_blocking(move || {
            drop(away);
            catalog.state.remove_empty_above(&mirror);
            let mut ledger = catalog.usage.ledger();
            let before = ledger.total_bytes();
            ledger.forget(&mirror);
            let in_use_bytes = ledger.total_bytes();
            let bytes = before - in_use_bytes;
            catalog.usage.mirror_gone(bytes);
            let gone = Gone {
                what: Evicted::Mirror,
                why,
                repository: &name,
                bytes,
                in_use_bytes,
                marks,
            };
            gone.note(&meter);
        });
        if let Err(panic) = deleted.await {
            tracing::error!("the removal of a mirror panicked: {panic}");
        }
    }
}

fn sweep(
    catalog: &Catalog,
    config: &Config,
    meter: &Meter,
    survey: Survey,
) -> Result<Swept, StoreError> {
    remove_retired(catalog, RETIRED_KEPT_MS);
    let space = catalog.state.space()?;
    let marks = Marks::of(config, space.total_bytes);
    catalog.usage.set_marks(marks);
    let mut ledger = catalog.usage.ledger();
    let root = catalog.state.root();
    ledger.look(root, &survey.changed, LOOK_REST)?;
    // Nothing leaves for what is not there any more.
    if survey.need.is_some() {
        ledger.look(root, &survey.changed, 0)?;
    } else if survey.used_bytes(&ledger) > marks.high_bytes {
        ledger.look(root, &survey.changed, LOOK_REST_OVER)?;
    }
    for Listed { repo, .. } in &survey.repos {
        if !repo.asked.is_in_use() {
            repo.forget_names();
        }
        for archive in repo.archives() {
            if !ledger.has(&archive.dir()) && catalog.state.is_gone(&archive.dir()) {
                lose(catalog, repo, archive);
            }
        }
    }
    close_idle(&survey.current());
    catalog.retired.close_idle();
    let mut swept = Swept {
        found: Found::default(),
        marks,
        later: Vec::new(),
    };
    if !survey.is_fine(&ledger, marks, space.free_bytes) {
        let leaving = Leaving::of(catalog, &ledger, &survey.repos);
        let bounds = survey.bounds(&ledger, marks, &leaving, space.free_bytes);
        let plan = evict::plan(&leaving.holdings, &leaving.shared, bounds);
        swept.found = Found::of(&plan, &leaving, &survey.repos, root);
        swept.later = evict_all(catalog, meter, &mut ledger, leaving, &plan);
        // A path may end in `.git` before its end: such a mirror lies inside of another one.
        let inside = |repo: &Repo, other: &Repo| {
            other.mirror != repo.mirror && other.mirror.starts_with(&repo.mirror)
        };
        let holds_none = |leaver: &(Leaver, Why)| match &leaver.0 {
            Leaver::Mirror(repo) => !survey.repos.iter().any(|other| inside(repo, &other.repo)),
            _ => true,
        };
        swept.later.retain(holds_none);
    }
    let snapshots = survey.current();
    let wants = snapshots
        .iter()
        .filter(|one| !one.want.is_default())
        .count();
    let counts = (snapshots.len() as u64, wants as u64);
    let usage = &catalog.usage;
    usage.set_stuck(swept.found.over_bytes);
    usage.note(&ledger, survey.nameless_bytes, counts);
    Ok(swept)
}

/// Evicts snapshots; gives what else is to go.
fn evict_all(
    catalog: &Catalog,
    meter: &Meter,
    ledger: &mut Ledger,
    mut leaving: Leaving,
    plan: &Plan,
) -> Vec<(Leaver, Why)> {
    let mut later = Vec::new();
    for (key, why) in plan.victims.iter().zip(&plan.reasons) {
        let (what, archive) = match leaving.leavers.remove(key) {
            Some(leaver @ (Leaver::Mirror(_) | Leaver::Tips(_))) => {
                later.push((leaver, *why));
                continue;
            }
            Some(Leaver::Snapshot(repo, archive)) if repo.take_idle(&archive) => {
                (Evicted::Snapshot, archive)
            }
            Some(Leaver::Superseded(archive)) if catalog.retired.take_idle(&archive) => {
                (Evicted::Superseded, archive)
            }
            _ => continue,
        };
        let before = ledger.total_bytes();
        remove(catalog, &archive);
        ledger.forget(&archive.dir());
        let gone = Gone {
            what,
            why: *why,
            repository: &archive.repository,
            bytes: before - ledger.total_bytes(),
            in_use_bytes: ledger.total_bytes(),
            marks: catalog.usage.marks(),
        };
        gone.note(meter);
    }
    later
}

impl Survey {
    fn current(&self) -> Vec<Arc<Archive>> {
        let current = self.repos.iter().map(|listed| listed.repo.archives());
        current.flatten().collect()
    }

    /// Whether there may be more refs and commits than there can be.
    fn has_many_others(&self, ledger: &Ledger, marks: Marks) -> bool {
        let counts = self.repos.iter().map(|listed| listed.repo.others());
        let (all, most) = counts.fold((0, 0), |(all, most), one| (all + one, one.max(most)));
        let max = OthersMax::of(marks.high_bytes);
        let is_large = || {
            let parts = ledger.by_part();
            let snapshots = parts.iter().find(|(part, _)| *part == Part::Snapshot);
            snapshots.is_some_and(|(_, bytes)| *bytes > max.of_one_bytes)
        };
        all > max.of_all || most > max.of_one || (most > 0 && is_large())
    }

    fn used_bytes(&self, ledger: &Ledger) -> u64 {
        ledger.total_bytes() + self.nameless_bytes
    }

    /// Whether there is nothing to do.
    fn is_fine(&self, ledger: &Ledger, marks: Marks, free_bytes: u64) -> bool {
        let is_below = self.used_bytes(ledger) <= marks.high_bytes;
        let has_room = free_bytes >= marks.floor_bytes && self.need.is_none();
        is_below && has_room && !self.has_many_others(ledger, marks)
    }

    fn bounds(&self, ledger: &Ledger, marks: Marks, leaving: &Leaving, free_bytes: u64) -> Bounds {
        let fixed_bytes = leaving.fixed_bytes;
        let used_bytes = self.used_bytes(ledger);
        let beside = marks.high_bytes - marks.low_bytes;
        Bounds {
            // What is being made may turn out not to be kept: the largest is no reason for others to leave.
            used_bytes: used_bytes.saturating_sub(leaving.passing_bytes),
            // Where there is more than may be and none of it can leave, there is still something beside it.
            high_bytes: marks.high_bytes.max(fixed_bytes + beside),
            low_bytes: marks.low_bytes.max(fixed_bytes + beside / 2),
            free_bytes,
            floor_bytes: marks.floor_bytes,
            short_bytes: self.need.map_or(0, |_| used_bytes / FULL_LEAVES_PART),
            spares_mirrors: self.need == Some(Need::Keep),
            others: OthersMax::of(marks.high_bytes),
        }
    }
}

/// Somebody has removed the entry from the disk: it is built again when it is asked for.
fn lose(catalog: &Catalog, repo: &Repo, archive: Arc<Archive>) {
    let repository = &*repo.name;
    if repo.forget(&archive) {
        tracing::warn!(
            repository,
            "somebody has removed the snapshot from the disk"
        );
        // Those who read it have it open.
        catalog.retired.add(archive);
    }
}

/// Removes archives that were replaced by newer ones and not read for `kept_ms`.
fn remove_retired(catalog: &Catalog, kept_ms: u64) {
    for archive in catalog.retired.take_over(kept_ms) {
        let repo = catalog.registry.named(&archive.repository);
        let current = repo.and_then(|repo| repo.archive_of(&archive.want));
        // The same snapshot may have been built anew, in the same place.
        if current.is_none_or(|current| current.id != archive.id) {
            remove(catalog, &archive);
        }
    }
}

/// Removes an entry that nobody finds any more.
pub(super) fn remove(catalog: &Catalog, archive: &Archive) {
    let Some(names) = archive.names() else {
        return;
    };
    let removed = catalog.state.remove(&archive.dir(), &names.spool);
    if let Err(e) = removed
        && !e.is_not_found()
    {
        tracing::error!(
            repository = &*archive.repository,
            "cannot remove an entry: {e}"
        );
    }
}

/// Keeps the number of descriptors bounded: entries that nobody asked for lately are closed.
fn close_idle(entries: &[Arc<Archive>]) {
    let now = unix_ms();
    for archive in entries {
        if now.saturating_sub(archive.last_used_unix_ms()) >= IDLE_ENTRY_OPEN_MS {
            archive.close_if_idle();
        }
    }
}
