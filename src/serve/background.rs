//! The background plane: one thread on tokio-uring (plain tokio where there is no io_uring)
//! that writes spool files, runs `git` against upstreams, keeps mirrors fresh and the cache
//! within its bounds. Requests wait for it only where there is no mirror yet.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::task::spawn_local;

use super::archive::{Archive, Files, unix_ms};
use super::builder;
use super::bundle::BundleRequest;
use super::bundle_cache::{BundleCache, BundleFile, BundleKey};
use super::ensure_refs::EnsureRequest;
use super::flights::Flights;
use super::git_protocol::GitRequest;
use super::heal::{Damaged, Doubt};
use super::registry::{Permit, Repo, StartError};
use super::shared::Shared;
use super::spool::{Spooler, not_kept};
use super::upload_turns::{UploadBounds, UploadTurns};
use crate::cache::evict::{self, Bounds, Candidate};
use crate::faults::Faults;
use crate::io::disk::DiskFile;
use crate::limits::{
    BUNDLES_MAKING_MAX, CLONES_OF_HOST_MAX, CLONES_RUNNING_MAX, FRESHENS_OF_HOST_MAX,
    FRESHENS_RUNNING_MAX, IDLE_ENTRY_OPEN_MS, LOOKUPS_RUNNING_MAX, RETIRED_KEPT_MS,
    SWEEP_INTERVAL_MS, WAYS_RUNNING_MAX,
};
use crate::manifest::id::EntryId;
use crate::metrics::Event;
use crate::mirror::schedule::{Key, Policy, Schedule};
use crate::mirror::{Git, TimeLimits};
use crate::refs::Follow;

/// What the other planes ask for.
pub enum Command {
    /// Take over the mirrors that were found, the first command of all.
    TakeOver(Vec<Arc<Repo>>),
    /// Build a snapshot; clone the mirror first if there is none.
    Build(Permit),
    /// Write a build's pieces.
    Spool(SpoolJob),
    /// A build has published its snapshot.
    Published(Arc<Repo>),
    /// Look at the cache's size now.
    Sweep,
    /// Find or make a bundle.
    Bundle(BundleRequest),
    /// Look for refs and commits, at the upstream if need be.
    EnsureRefs(EnsureRequest),
    /// Run `git upload-pack`.
    Git(GitRequest),
    /// Something on the disk has rotted.
    Damaged(Damaged),
    /// A client says that something has.
    Doubt(Doubt),
}

/// A build's spool file and what is to be written to it.
pub struct SpoolJob {
    /// The entry's files.
    pub files: Arc<Files>,
    /// The pieces.
    pub spooler: Spooler,
    /// The repository, for the log.
    pub repository: Arc<str>,
}

/// The plane's state. Everything that `git` does runs as tasks of this one thread, which also
/// is what keeps the processes alive (see [`crate::io::child`]).
pub(super) struct Plane {
    pub(super) shared: Arc<Shared>,
    pub(super) git: Git,
    uring: bool,
    pub(super) schedule: std::cell::RefCell<Schedule<Arc<str>>>,
    pub(super) wake: tokio::sync::Notify,
    builders: std::cell::RefCell<Vec<std::thread::JoinHandle<()>>>,
    /// Turns true when the plane ends.
    stop: watch::Receiver<bool>,
    /// First clones, and checks of mirrors that are there; so that each repository is cloned or
    /// checked by one of those who need it.
    pub(super) cloning: Flights<Arc<str>, Result<(), StartError>>,
    /// Mirrors that are being configured after their check.
    pub(super) setting_up: Flights<Arc<str>, ()>,
    /// Comparisons with upstreams; `freshen` must not overlap for one mirror.
    pub(super) freshening: Flights<Arc<str>, Result<(), StartError>>,
    /// Mirrors whose packs are being joined.
    pub(super) maintaining: Flights<Arc<str>, ()>,
    /// Looks at archives on a client's word.
    pub(super) doubting: Flights<EntryId, ()>,
    /// Held by the look at an archive that some client's word has begun: they read as fast as the disk
    /// does, so one is enough at a time.
    pub(super) looking: Semaphore,
    pub(super) bundling: Flights<BundleKey, Result<Arc<BundleFile>, StartError>>,
    pub(super) bundles: std::cell::RefCell<BundleCache>,
    pub(super) turns: Turns,
    /// Held by the sweep that runs.
    sweeping: Semaphore,
    /// Held by the next sweep until the one that runs is done.
    sweep_waiting: Semaphore,
}

/// How many of each kind may run; none of the semaphores is ever closed.
pub(super) struct Turns {
    pub(super) clones: HostTurns,
    pub(super) freshens: HostTurns,
    /// To ask an upstream whether it leads back to a server that waits.
    pub(super) ways: Semaphore,
    pub(super) lookups: Semaphore,
    pub(super) bundles: Semaphore,
    pub(super) uploads: UploadTurns,
}

impl Turns {
    fn new(faults: &Faults) -> Turns {
        let mut uploads = UploadBounds::default();
        if let Some(ms) = faults.upload_slow_ms {
            uploads.slow = Duration::from_millis(ms);
        }
        Turns {
            clones: HostTurns::new(CLONES_RUNNING_MAX, CLONES_OF_HOST_MAX),
            freshens: HostTurns::new(FRESHENS_RUNNING_MAX, FRESHENS_OF_HOST_MAX),
            ways: Semaphore::new(WAYS_RUNNING_MAX),
            lookups: Semaphore::new(LOOKUPS_RUNNING_MAX),
            bundles: Semaphore::new(BUNDLES_MAKING_MAX),
            uploads: UploadTurns::new(uploads),
        }
    }
}

/// Turns of which one host can have a part: one that does not answer must not keep them all.
pub(super) struct HostTurns {
    all: Semaphore,
    /// There are as many hosts as upstreams are configured.
    hosts: RefCell<HashMap<String, Arc<Semaphore>>>,
    of_host: usize,
}

impl HostTurns {
    fn new(all: usize, of_host: usize) -> HostTurns {
        HostTurns {
            all: Semaphore::new(all),
            hosts: RefCell::default(),
            of_host,
        }
    }

    /// Waits for a turn to work on `repository`, first among those of its host.
    pub(super) async fn acquire(&self, repository: &Arc<str>) -> HostTurn<'_> {
        let host = repository.host().to_owned();
        let turns = || Arc::new(Semaphore::new(self.of_host));
        let host = self
            .hosts
            .borrow_mut()
            .entry(host)
            .or_insert_with(turns)
            .clone();
        HostTurn {
            _of_host: host.acquire_owned().await.ok(),
            _of_all: self.all.acquire().await.ok(),
        }
    }
}

/// A turn among those of a host and among all.
pub(super) struct HostTurn<'t> {
    _of_host: Option<OwnedSemaphorePermit>,
    _of_all: Option<SemaphorePermit<'t>>,
}

/// Runs the plane on the calling thread until `stop` says so. Calls `ready` once it works.
pub fn run(
    shared: Arc<Shared>,
    commands: UnboundedReceiver<Command>,
    stop: watch::Receiver<bool>,
    uring: bool,
    ready: impl FnOnce(),
) -> std::io::Result<()> {
    let plane = Rc::new(Plane::new(shared, uring, stop.clone()));
    let work = plane.clone().work(commands, stop);
    let work = async move {
        ready();
        work.await;
    };
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
    // Clones that ran were given up with the tasks they ran in.
    plane.git.removals.wait();
    Ok(())
}

impl Plane {
    fn new(shared: Arc<Shared>, uring: bool, stop: watch::Receiver<bool>) -> Plane {
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
        let turns = Turns::new(&shared.faults);
        Plane {
            git: Git {
                limits,
                size_limit: config.clone_size_limit,
                memory_bytes: config.git_memory_limit_bytes,
                schemes: Vec::from_iter(config.upstreams.schemes()).join(":"),
                via: shared.via.clone(),
                follow,
                ..Git::default()
            },
            shared,
            uring,
            schedule: std::cell::RefCell::new(Schedule::new(policy)),
            wake: tokio::sync::Notify::new(),
            builders: std::cell::RefCell::default(),
            stop,
            cloning: Flights::default(),
            setting_up: Flights::default(),
            freshening: Flights::default(),
            maintaining: Flights::default(),
            doubting: Flights::default(),
            looking: Semaphore::new(1),
            bundling: Flights::default(),
            bundles: std::cell::RefCell::default(),
            turns,
            sweeping: Semaphore::new(1),
            sweep_waiting: Semaphore::new(1),
        }
    }

    async fn work(
        self: Rc<Self>,
        mut commands: UnboundedReceiver<Command>,
        mut stop: watch::Receiver<bool>,
    ) {
        spawn_local(self.clone().check_git());
        spawn_local(self.clone().keep_fresh());
        let mut sweep = tokio::time::interval(Duration::from_millis(SWEEP_INTERVAL_MS));
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::TakeOver(found)) => {
                        spawn_local(self.clone().take_over_mirrors(found));
                    }
                    Some(Command::Build(permit)) => {
                        spawn_local(self.clone().build(permit));
                    }
                    Some(Command::Spool(job)) => {
                        spawn_local(self.clone().spool(job));
                    }
                    // The mirror may have moved while it was built.
                    Some(Command::Published(repo)) => self.rebuild(&repo),
                    Some(Command::Sweep) => sweep.reset_immediately(),
                    Some(Command::Bundle(request)) => {
                        spawn_local(self.clone().bundle(request));
                    }
                    Some(Command::EnsureRefs(request)) => {
                        spawn_local(self.clone().ensure_refs(request));
                    }
                    Some(Command::Git(request)) => {
                        spawn_local(self.clone().git_protocol(request));
                    }
                    Some(Command::Damaged(damaged)) => {
                        spawn_local(self.clone().heal(damaged));
                    }
                    Some(Command::Doubt(doubt)) => {
                        spawn_local(self.clone().doubt(doubt));
                    }
                },
                // Spools and builds must not wait for a sweep.
                _ = sweep.tick() => drop(spawn_local(self.clone().sweep())),
            }
        }
    }

    pub(super) async fn build(self: Rc<Self>, permit: Permit) {
        let repo = permit.repo().clone();
        if let Err(e) = self.ensure_mirror(&repo).await {
            return permit.refuse(e);
        }
        let shared = self.shared.clone();
        let (git, stop) = (self.git.clone(), self.stop.clone());
        let thread = std::thread::Builder::new().name("builder".into());
        let spawned = thread.spawn(move || builder::run(&shared, permit, &git, stop));
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

    // ---- spool ----

    async fn spool(self: Rc<Self>, job: SpoolJob) {
        let meter = self.shared.meter();
        let mut spooler = job.spooler;
        spooler.full_at(self.shared.faults.spool_bytes_max);
        // A file that cannot be opened again drops the spooler, which tells its build.
        let spooled = match job.files.spool.try_clone() {
            Ok(file) => {
                let each = |bytes| meter.add(Event::SpooledBytes, bytes);
                spooler.run(DiskFile::new(file, self.uring), each).await
            }
            Err(e) => Err(e),
        };
        if let Err(e) = spooled {
            not_kept(&meter, &job.repository, &e);
            self.shared.tell(Command::Sweep);
        }
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
        self.bundles.borrow_mut().expire(Instant::now());
        let shared = self.shared.clone();
        // Walks directories and deletes files: not on this thread.
        let swept = tokio::task::spawn_blocking(move || sweep(&shared)).await;
        if let Err(panic) = swept {
            tracing::error!("the sweep of the cache panicked: {panic}");
        }
    }
}

fn sweep(shared: &Shared) {
    remove_retired(shared, RETIRED_KEPT_MS);
    let mut entries: Vec<(Arc<Repo>, Arc<Archive>, u64)> = Vec::new();
    for repo in shared.registry.all() {
        if let Some(archive) = repo.current() {
            if shared.state.is_gone(&archive.dir()) {
                lose(shared, &repo, archive);
                continue;
            }
            let bytes = shared.state.entry_bytes(&archive.dir()).unwrap_or(0);
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
    if !plan.victims.is_empty() || !plan.enough {
        // What was replaced is worth less than what is current.
        remove_retired(shared, 0);
    }
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

/// Somebody has removed the entry from the disk: it is built again when it is asked for.
fn lose(shared: &Shared, repo: &Repo, archive: Arc<Archive>) {
    let repository = &*repo.name;
    if repo.forget(&archive) {
        tracing::warn!(
            repository,
            "somebody has removed the snapshot from the disk"
        );
        // Those who read it have it open.
        shared.retire(archive);
    }
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

/// Removes archives that were replaced by newer ones and not read for `kept_ms`.
fn remove_retired(shared: &Shared, kept_ms: u64) {
    for archive in shared.take_retired(kept_ms) {
        let name = archive.repository.split_once('/');
        let repo = name.and_then(|(host, path)| shared.registry.get(host, path));
        let current = repo.and_then(|repo| repo.current());
        // The same snapshot may have been built anew, in the same place.
        if current.is_none_or(|current| current.id != archive.id) {
            remove(shared, &archive);
        }
    }
}

/// Removes an entry that nobody finds any more.
pub(super) fn remove(shared: &Shared, archive: &Archive) {
    let removed = shared.state.remove(&archive.dir());
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
fn close_idle(entries: &[(Arc<Repo>, Arc<Archive>, u64)]) {
    let now = unix_ms();
    for (_, archive, _) in entries {
        if now.saturating_sub(archive.last_used_unix_ms()) >= IDLE_ENTRY_OPEN_MS {
            archive.close_if_idle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    /// What is there at once.
    fn now<F: Future>(future: F) -> Option<F::Output> {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(future).poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn a_host_that_does_not_answer_leaves_turns_to_others() {
        let turns = HostTurns::new(3, 2);
        let (hung, hung_too) = (Arc::from("hung/a"), Arc::from("hung/b"));
        let (other, third) = (Arc::from("other/a"), Arc::from("third/a"));
        let held = [now(turns.acquire(&hung)), now(turns.acquire(&hung_too))];
        assert!(held.iter().all(Option::is_some));
        assert!(now(turns.acquire(&hung)).is_none(), "more than its part");
        let of_other = now(turns.acquire(&other));
        assert!(of_other.is_some(), "the host that hangs has them all");
        assert!(now(turns.acquire(&third)).is_none(), "more than there are");
        drop(held);
        assert!(now(turns.acquire(&hung)).is_some() && now(turns.acquire(&third)).is_some());
    }
}
