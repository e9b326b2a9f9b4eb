//! The background plane: one thread on tokio-uring (plain tokio where there is no io_uring)
//! that writes spool files, runs `git` against upstreams, keeps mirrors fresh and the cache
//! within its bounds. Requests wait for it only where there is no mirror yet.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;

use super::archive::{Archive, Files, unix_ms};
use super::builder;
use super::registry::{Permit, Repo, StartError};
use super::shared::Shared;
use crate::cache::evict::{self, Bounds, Candidate};
use crate::cache::store;
use crate::extent::Piece;
use crate::io::disk::DiskFile;
use crate::limits::{CLONES_RUNNING_MAX, IDLE_ENTRY_OPEN_MS, SWEEP_INTERVAL_MS};
use crate::metrics::{CloneResult, Event, FetchResult, SpoolFailure};
use crate::mirror::schedule::{Policy, Schedule};
use crate::mirror::{Freshened, Git, MirrorError, TimeLimits};
use crate::refs::Follow;
use crate::snapshot::fanout::Fanout;

/// What the other planes ask for.
pub enum Command {
    /// Build a snapshot; clone the mirror first if there is none.
    Build(Permit),
    /// Write a build's pieces.
    Spool(SpoolJob),
    /// A build has published its snapshot.
    Published(Arc<Repo>),
    /// Look at the cache's size now.
    Sweep,
}

/// The pieces of one build on their way to its spool file.
pub struct SpoolJob {
    /// The entry's files.
    pub files: Arc<Files>,
    /// The build.
    pub fanout: Arc<Fanout>,
    /// The repository, for the log.
    pub repository: Arc<str>,
    /// Offsets and bytes, in order; the end of it ends the file.
    pub pieces: UnboundedReceiver<(u64, Piece)>,
    /// Whether all pieces were written; set by the plane.
    pub written: bool,
}

impl Drop for SpoolJob {
    /// A job that ends early, whatever the reason, must not leave its build waiting.
    fn drop(&mut self) {
        if !self.written {
            self.fanout.spool_failed("the spool writer has ended");
        }
    }
}

struct Plane {
    shared: Arc<Shared>,
    git: Git,
    uring: bool,
    clones: Semaphore,
    schedule: std::cell::RefCell<Schedule<Arc<str>>>,
    wake: tokio::sync::Notify,
    builders: std::cell::RefCell<Vec<std::thread::JoinHandle<()>>>,
    /// Held by the sweep that runs.
    sweeping: Semaphore,
    /// Held by the next sweep until the one that runs is done.
    sweep_waiting: Semaphore,
}

/// Runs the plane on the calling thread until `stop` says so.
pub fn run(
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
    stop: watch::Receiver<bool>,
    uring: bool,
) -> std::io::Result<()> {
    let plane = Rc::new(Plane::new(shared, uring));
    let work = plane.clone().work(commands, stop);
    if uring {
        tokio_uring::start(work);
    } else {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        tokio::task::LocalSet::new().block_on(&runtime, work);
    }
    plane.shared.stop_builds();
    for builder in plane.builders.borrow_mut().drain(..) {
        // A builder answers for its own panics.
        let _ = builder.join();
    }
    Ok(())
}

impl Plane {
    fn new(shared: Arc<Shared>, uring: bool) -> Plane {
        let config = &shared.config;
        let limits = TimeLimits {
            clone: config.clone_timeout,
            ..TimeLimits::default()
        };
        let follow = Follow::new(&config.follow).unwrap_or_default();
        let policy = Policy {
            interval_ms: config.fetch_interval.as_millis() as u64,
            seed: unix_ms(),
            ..Policy::default()
        };
        Plane {
            git: Git {
                limits,
                follow,
                ..Git::default()
            },
            shared,
            uring,
            clones: Semaphore::new(CLONES_RUNNING_MAX),
            schedule: std::cell::RefCell::new(Schedule::new(policy)),
            wake: tokio::sync::Notify::new(),
            builders: std::cell::RefCell::default(),
            sweeping: Semaphore::new(1),
            sweep_waiting: Semaphore::new(1),
        }
    }

    async fn work(
        self: Rc<Self>,
        mut commands: UnboundedReceiver<Command>,
        mut stop: watch::Receiver<bool>,
    ) {
        spawn_local(self.clone().take_over_mirrors());
        spawn_local(self.clone().keep_fresh());
        let mut sweep = tokio::time::interval(Duration::from_millis(SWEEP_INTERVAL_MS));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Build(permit)) => {
                        spawn_local(self.clone().build(permit));
                    }
                    Some(Command::Spool(job)) => {
                        spawn_local(self.clone().spool(job));
                    }
                    // The mirror may have moved while it was built.
                    Some(Command::Published(repo)) => self.rebuild(&repo),
                    Some(Command::Sweep) => sweep.reset_immediately(),
                },
                // Spools and builds must not wait for a sweep.
                _ = sweep.tick() => drop(spawn_local(self.clone().sweep())),
            }
        }
    }

    // ---- mirrors ----

    /// Mirrors found at start are used as they are; what the server needs of their
    /// configuration is set while requests are served already.
    async fn take_over_mirrors(self: Rc<Self>) {
        for repo in self.shared.registry.all() {
            if !repo.mirror.is_dir() {
                continue;
            }
            let usable = match self.git.is_usable(&repo.mirror).await {
                Ok(()) => self.git.set_up(&repo.mirror, &repo.url).await,
                unusable => unusable,
            };
            match usable {
                Ok(()) => self.keep(&repo, None),
                Err(e) => tracing::error!(repository = &*repo.name, "{e}"),
            }
            if self.has_moved(&repo).await {
                repo.set_moved(unix_ms());
                self.rebuild(&repo);
            }
        }
    }

    /// Whether the mirror's HEAD is not that of the snapshot that is served: the server before
    /// ended between a fetch and the build that should have followed.
    async fn has_moved(&self, repo: &Repo) -> bool {
        let Some(current) = repo.current() else {
            return false;
        };
        let mirror = repo.mirror.clone();
        let follow = self.git.follow.clone();
        let read = move || crate::refs::read(&mirror, &follow);
        let refs = tokio::task::spawn_blocking(read).await;
        let head = |refs: &crate::refs::MirrorRefs| refs.head_id().map(|id| id.to_string());
        matches!(refs, Ok(Ok(refs)) if head(&refs) != current.commit)
    }

    fn keep(&self, repo: &Repo, fresh_unix_ms: Option<u64>) {
        self.schedule
            .borrow_mut()
            .add(repo.name.clone(), fresh_unix_ms);
        self.wake.notify_one();
    }

    async fn build(self: Rc<Self>, permit: Permit) {
        let repo = permit.repo().clone();
        if !repo.mirror.is_dir()
            && let Err(e) = self.clone_mirror(&repo).await
        {
            tracing::warn!(repository = &*repo.name, "no mirror: {e}");
            self.shared.registry.forget(&repo);
            return permit.refuse(start_error(&repo, &e));
        }
        let shared = self.shared.clone();
        let git = self.git.clone();
        let thread = std::thread::Builder::new().name("builder".into());
        let spawned = thread.spawn(move || builder::run(&shared, permit, &git));
        match spawned {
            Ok(builder) => {
                let mut builders = self.builders.borrow_mut();
                builders.retain(|b| !b.is_finished());
                builders.push(builder);
            }
            // The permit was dropped, which told everybody.
            Err(e) => tracing::error!("cannot start a builder thread: {e}"),
        }
    }

    async fn clone_mirror(&self, repo: &Repo) -> Result<(), MirrorError> {
        // The semaphore is never closed, so this only waits.
        let _running = self.clones.acquire().await;
        tracing::info!(repository = &*repo.name, "cloning from {}", repo.url);
        let staging = self.shared.state.tmp_dir();
        let cloned = self
            .git
            .clone_mirror(&repo.url, &repo.mirror, &staging)
            .await;
        let result = match &cloned {
            Ok(()) => CloneResult::Complete,
            Err(MirrorError::NotFound { .. }) => CloneResult::NotFound,
            Err(MirrorError::TimedOut { .. }) => CloneResult::TimedOut,
            Err(_) => CloneResult::Failed,
        };
        self.shared.meter().add(Event::Clone(result), 1);
        cloned?;
        let now = unix_ms();
        repo.set_fresh(now);
        self.keep(repo, Some(now));
        Ok(())
    }

    /// Starts the fetches that are due.
    async fn keep_fresh(self: Rc<Self>) {
        loop {
            let due = self.schedule.borrow_mut().start(unix_ms());
            if let Some(name) = due {
                spawn_local(self.clone().fetch(name));
                continue;
            }
            let wake_at_ms = self.schedule.borrow().wake_at_ms();
            let Some(wake_at_ms) = wake_at_ms else {
                self.wake.notified().await;
                continue;
            };
            let wait = Duration::from_millis(wake_at_ms.saturating_sub(unix_ms()).max(1));
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn fetch(self: Rc<Self>, name: Arc<str>) {
        let Some((host, path)) = name.split_once('/') else {
            return;
        };
        let Some(repo) = self.shared.registry.get(host, path) else {
            self.schedule.borrow_mut().remove(&name);
            return;
        };
        let begun = unix_ms();
        let freshened = self.git.freshen(&repo.mirror, &repo.url, &repo.pins).await;
        let result = match &freshened {
            Ok(Freshened::Unchanged) => FetchResult::Unchanged,
            Ok(Freshened::Moved { .. }) => FetchResult::Changed,
            Err(_) => FetchResult::Failed,
        };
        self.shared.meter().add(Event::Fetch(result), 1);
        self.schedule
            .borrow_mut()
            .finished(&name, freshened.is_ok(), unix_ms());
        self.wake.notify_one();
        match freshened {
            Ok(moved) => {
                repo.set_fresh(begun);
                if moved != Freshened::Unchanged {
                    repo.set_moved(unix_ms());
                }
                // Also when nothing moved: the last try may have failed.
                self.rebuild(&repo);
                if moved != Freshened::Unchanged {
                    self.maintain(&repo).await;
                }
            }
            Err(e) => tracing::warn!(repository = &*repo.name, "cannot fetch: {e}"),
        }
    }

    /// Builds the new snapshot of a repository whose old one is in use, while that is served.
    fn rebuild(self: &Rc<Self>, repo: &Arc<Repo>) {
        if let Some(permit) = repo.rebuild() {
            spawn_local(self.clone().build(permit));
        }
    }

    async fn maintain(&self, repo: &Repo) {
        match self.git.consolidate(&repo.mirror, &repo.pins).await {
            Ok(0) => {}
            Ok(packs) => tracing::info!(repository = &*repo.name, packs, "consolidated packs"),
            Err(e) => tracing::warn!(repository = &*repo.name, "cannot consolidate packs: {e}"),
        }
    }

    // ---- spool ----

    async fn spool(self: Rc<Self>, mut job: SpoolJob) {
        let meter = self.shared.meter();
        if let Err(e) = self.spool_all(&mut job).await {
            let full = matches!(
                e.raw_os_error(),
                Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG)
            );
            let reason = match full {
                true => SpoolFailure::DiskFull,
                false => SpoolFailure::Io,
            };
            meter.add(Event::SpoolFailure(reason), 1);
            tracing::error!(
                repository = &*job.repository,
                reason = reason.name(),
                "cannot spool, going on without the cache: {e}"
            );
            job.fanout.spool_failed(&e.to_string());
            self.shared.tell(Command::Sweep);
        }
    }

    async fn spool_all(&self, job: &mut SpoolJob) -> std::io::Result<()> {
        let file = DiskFile::new(job.files.spool.try_clone()?, self.uring);
        let meter = self.shared.meter();
        while let Some((offset, piece)) = job.pieces.recv().await {
            let bytes = piece.len() as u64;
            if self
                .shared
                .faults
                .spool_bytes_max
                .is_some_and(|max| offset + bytes > max)
            {
                return Err(std::io::Error::from_raw_os_error(libc::ENOSPC));
            }
            file.write_all_at(piece, offset).await?;
            meter.add(Event::SpooledBytes, bytes);
            job.fanout.spooled(offset + bytes);
        }
        job.written = true;
        file.close().await
    }

    // ---- cache ----

    /// Removes superseded entries that nobody reads, and evicts what is over the limit.
    async fn sweep(self: Rc<Self>) {
        // A sweep that was asked for while one runs still happens, after it; more would be idle.
        let Ok(waiting) = self.sweep_waiting.try_acquire() else {
            return;
        };
        // The semaphore is never closed, so this only waits.
        let _sweeping = self.sweeping.acquire().await;
        drop(waiting);
        let shared = self.shared.clone();
        // Walks directories and deletes files: not on this thread.
        let swept = tokio::task::spawn_blocking(move || sweep(&shared)).await;
        if let Err(panic) = swept {
            tracing::error!("the sweep of the cache panicked: {panic}");
        }
    }
}

/// What the client hears when there is no mirror and none can be had.
fn start_error(repo: &Repo, error: &MirrorError) -> StartError {
    let status = match error {
        MirrorError::NotFound { .. } | MirrorError::Denied { .. } => 404,
        MirrorError::Io { .. } | MirrorError::Start { .. } => 500,
        _ => 502,
    };
    StartError {
        status,
        message: format!("{}: {error}", repo.name),
    }
}

fn sweep(shared: &Shared) {
    remove_retired(shared);
    let mut entries: Vec<(Arc<Repo>, Arc<Archive>, u64)> = Vec::new();
    for repo in shared.registry.all() {
        if let Some(archive) = repo.current() {
            let bytes = store::entry_bytes(&archive.dir()).unwrap_or(0);
            entries.push((repo, archive, bytes));
        }
    }
    close_idle(&entries);
    let used: u64 = entries.iter().map(|(_, _, bytes)| bytes).sum();
    let space = match shared.state.space() {
        Ok(space) => space,
        Err(e) => {
            tracing::error!("cannot read the free space: {e}");
            return;
        }
    };
    let plan = evict::plan(
        &candidates(&entries),
        Bounds {
            limit_bytes: shared.config.cache_limit.of(space.total_bytes),
            free_bytes: space.free_bytes,
            floor_bytes: shared.config.cache_free_floor.of(space.total_bytes),
        },
    );
    let mut evicted = (0, 0);
    for (repo, archive, bytes) in &entries {
        if plan.victims.contains(&archive.id) && repo.take_idle(archive) {
            evicted = (evicted.0 + bytes, evicted.1 + 1);
            shared.meter().add(Event::Eviction, 1);
            tracing::info!(repository = &*repo.name, bytes, "evicted");
            remove(shared, archive);
        }
    }
    if !plan.enough {
        tracing::warn!("the disk is fuller than allowed and nothing more can be evicted");
    }
    let left = entries.len() as u64 - evicted.1;
    shared.set_cache(used - evicted.0, left, space.total_bytes);
}

fn candidates(entries: &[(Arc<Repo>, Arc<Archive>, u64)]) -> Vec<Candidate> {
    let now = unix_ms();
    let candidate = |(_, archive, bytes): &(Arc<Repo>, Arc<Archive>, u64)| Candidate {
        id: archive.id,
        bytes: *bytes,
        last_used_unix_ms: archive.last_used_unix_ms(),
        age_ms: now.saturating_sub(archive.created_unix_ms),
        pinned: archive.fanout.readers() > 0,
        current: true,
    };
    entries.iter().map(candidate).collect()
}

fn remove_retired(shared: &Shared) {
    let mut retired = shared
        .retired
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let (idle, read): (Vec<_>, Vec<_>) = retired
        .drain(..)
        .partition(|archive| archive.fanout.readers() == 0);
    *retired = read;
    drop(retired);
    for archive in idle {
        let name = archive.repository.split_once('/');
        let repo = name.and_then(|(host, path)| shared.registry.get(host, path));
        let current = repo.and_then(|repo| repo.current());
        // The same snapshot may have been built anew, in the same place.
        if current.is_none_or(|current| current.id != archive.id) {
            remove(shared, &archive);
        }
    }
}

fn remove(shared: &Shared, archive: &Archive) {
    if let Err(e) = shared.state.remove(&archive.dir()) {
        tracing::error!(
            repository = &*archive.repository,
            "cannot remove an entry: {e}"
        );
    }
}

/// Keeps the number of descriptors bounded: entries that nobody asked for lately are closed.
fn close_idle(entries: &[(Arc<Repo>, Arc<Archive>, u64)]) {
    let now = unix_ms();
    for (_, archive, _) in entries {
        if now.saturating_sub(archive.last_used_unix_ms()) >= IDLE_ENTRY_OPEN_MS {
            archive.close_if_idle();
        }
    }
}
