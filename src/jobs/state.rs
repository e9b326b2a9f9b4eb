//! What the jobs of the background plane share, from the start of the server to its end.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_local;

use super::absent::Absent;
use super::askers::Askers;
use super::bundle_cache::{BundleCache, BundleFile, BundleKey};
use super::flights::Flights;
use super::issuer_keys::IssuerKeys;
use super::loans::Lent;
use super::plane::{self, Handle, Queue};
use super::question_turns::Questions;
use super::room::Room;
use super::semaphores::Semaphores;
use super::shared::Shared;
use super::taking::Takings;
use super::tips::Colds;
use super::unknown::{Given, Places, Sought};
use super::upkeep::Upkeep;
use super::warmth::Warmth;
use super::workshop::Workshop;
use crate::access::issuers::Issuers;
use crate::access::own::OwnTokens;
use crate::access::permissions::Permissions;
use crate::access::redirect::AllRedirects;
use crate::config::Config;
use crate::faults::Faults;
use crate::http::net::bodies::Bodies;
use crate::io::clock::unix_ms;
use crate::manifest::id::EntryId;
use crate::mirror::schedule::{Policy, Schedule};
use crate::mirror::{Git, TimeLimits, Via};
use crate::refs::Follow;
use crate::repos::catalog::Catalog;
use crate::repos::error::StartError;
use crate::store::remote::any::AnyStore;
use crate::store::remote::signed::Signs;
use crate::telemetry::metrics::Meter;

/// What all jobs share. Everything that `git` does runs as tasks of the plane's one thread, which also
/// is what keeps the processes alive (see [`crate::io::child`]).
pub(crate) struct Jobs {
    pub(super) config: Arc<Config>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) shop: Arc<Workshop>,
    /// Memory for request bodies.
    pub(super) bodies: Arc<Bodies>,
    pub(super) meter: Meter,
    /// The upstreams whose own permission decides who may read.
    pub(super) permissions: Arc<Permissions>,
    /// Of CI systems.
    pub(super) issuer_keys: IssuerKeys,
    /// What upstreams are asked.
    pub(super) questions: Questions,
    /// Threads that ask them.
    pub(super) askers: Askers,
    pub(super) faults: Faults,
    /// The object store that servers share.
    pub(super) shared: Option<Shared>,
    pub(super) warmth: Warmth,
    /// For the threads that jobs start.
    pub(super) plane: Handle<Jobs>,
    pub(super) git: Git,
    pub(super) uring: bool,
    pub(super) schedule: std::cell::RefCell<Schedule<Arc<str>>>,
    pub(super) wake: tokio::sync::Notify,
    pub(super) builders: std::cell::RefCell<Vec<std::thread::JoinHandle<()>>>,
    /// Turns true when the plane ends.
    pub(super) stop: watch::Receiver<bool>,
    /// Turns true when the mirrors that were found at the start are taken over.
    pub(super) taken_over: watch::Sender<bool>,
    /// First clones, and checks of mirrors that are there; so that each repository is cloned or
    /// checked by one of those who need it.
    pub(super) cloning: Flights<Arc<str>, Result<(), StartError>>,
    /// Snapshots that are looked for in the store and taken from there.
    pub(super) takings: Takings,
    /// What others have shared, for who has begun with it there.
    pub(super) lent: Lent,
    /// Mirrors that are being configured after their check.
    pub(super) setting_up: Flights<Arc<str>, ()>,
    /// Comparisons with upstreams; `freshen` must not overlap for one mirror.
    pub(super) freshening: Flights<Arc<str>, Result<(), StartError>>,
    /// Repositories whose upstreams are about to be looked at because of webhooks, and the branches that these say were
    /// pushed.
    pub(super) hooked: std::cell::RefCell<HashMap<Arc<str>, Vec<String>>>,
    /// Mirrors that are being evicted: what needs one waits, and has it cloned anew.
    pub(super) leaving: Flights<Arc<str>, ()>,
    /// Of the sweep, from one to the next.
    pub(super) room: Room,
    /// Mirrors whose packs are being joined, or that have their upkeep.
    pub(super) maintaining: Flights<Arc<str>, ()>,
    /// What no followed ref leads to, and is asked for at an upstream.
    pub(super) seeking: Flights<(Arc<str>, Sought), Given>,
    pub(super) unknown: std::cell::RefCell<Places>,
    pub(super) keeping_annex: Flights<Arc<str>, ()>,
    /// Repositories whose annex may have something that no tip leads to.
    pub(super) untidy: std::cell::RefCell<HashSet<Arc<str>>>,
    /// What upkeep is due.
    pub(super) upkeep: std::cell::RefCell<Upkeep<Arc<str>>>,
    /// Held by what joins small packs after fetches: there is one at a time.
    pub(super) joining: Semaphore,
    /// Repositories without a mirror of which single commits are there.
    pub(super) cold: Colds,
    /// Looks at archives on a client's word.
    pub(super) doubting: Flights<EntryId, ()>,
    /// Held by the look at an archive that some client's word has begun: they read as fast as the disk
    /// does, so one is enough at a time.
    pub(super) looking: Semaphore,
    /// What upstreams were asked for in vain.
    pub(super) absent: std::cell::RefCell<Absent>,
    pub(super) bundling: Flights<BundleKey, Result<Arc<BundleFile>, StartError>>,
    pub(super) bundles: std::cell::RefCell<BundleCache>,
    pub(super) semaphores: Semaphores,
    /// Somebody wants a sweep now.
    pub(super) sweep_wanted: tokio::sync::Notify,
    /// Held by the sweep that runs.
    pub(super) sweeping: Semaphore,
    /// Held by the next sweep until the one that runs is done.
    pub(super) sweep_waiting: Semaphore,
}

/// What jobs work with.
pub(crate) struct JobsContext {
    pub config: Arc<Config>,
    pub catalog: Arc<Catalog>,
    pub shop: Arc<Workshop>,
    /// Memory for request bodies.
    pub bodies: Arc<Bodies>,
    pub meter: Meter,
    /// What other servers know this process by.
    pub via: Via,
    /// What the server itself says to upstreams.
    pub own: Arc<ArcSwap<OwnTokens>>,
    /// The upstreams whose own permission decides who may read.
    pub permissions: Arc<Permissions>,
    /// Of CI systems.
    pub issuers: Arc<Issuers>,
    /// The object store that servers share.
    pub store: Option<(AnyStore, Option<Signs>)>,
    /// Whether what others have used lately is here.
    pub warmth: Warmth,
    /// Faults to inject; none outside tests.
    pub faults: Faults,
}

/// Runs the background plane on the calling thread until `stop` says so. Calls `ready` once it works.
pub(crate) fn run(
    context: JobsContext,
    (handle, queue): (Handle<Jobs>, Queue<Jobs>),
    stop: watch::Receiver<bool>,
    uring: bool,
    ready: impl FnOnce(),
) -> std::io::Result<()> {
    let jobs = Rc::new(Jobs::new(context, handle, uring, stop.clone()));
    let begin = jobs.clone();
    plane::run(queue, jobs.clone(), stop, uring, move || {
        spawn_local(begin.clone().check_git());
        spawn_local(begin.clone().keep_fresh());
        spawn_local(begin.clone().keep_issuer_keys());
        spawn_local(begin.clone().keep_maintained());
        spawn_local(begin.clone().keep_shared());
        spawn_local(begin.clone().keep_used());
        spawn_local(begin.clone().warm_up());
        spawn_local(begin.clone().keep_store_small());
        spawn_local(begin.keep_swept());
        ready();
    })?;
    jobs.join_all();
    Ok(())
}

impl Jobs {
    fn new(
        context: JobsContext,
        plane: Handle<Jobs>,
        uring: bool,
        stop: watch::Receiver<bool>,
    ) -> Jobs {
        let JobsContext {
            config,
            catalog,
            shop,
            bodies,
            meter,
            via,
            own,
            permissions,
            issuers,
            store,
            warmth,
            faults,
        } = context;
        let policy = policy_of(&config, &permissions);
        let shared = Shared::of(store, &config, &meter);
        Jobs {
            semaphores: Semaphores::new(&faults, &meter),
            git: git_of(&config, via, own),
            config,
            catalog,
            shop,
            bodies,
            meter,
            permissions,
            issuer_keys: IssuerKeys::of(issuers),
            questions: Questions::default(),
            askers: Askers::default(),
            faults,
            shared,
            warmth,
            plane,
            uring,
            schedule: std::cell::RefCell::new(Schedule::new(policy)),
            wake: tokio::sync::Notify::new(),
            builders: std::cell::RefCell::default(),
            stop,
            taken_over: watch::Sender::new(false),
            cloning: Flights::default(),
            takings: Takings::default(),
            lent: Lent::default(),
            setting_up: Flights::default(),
            freshening: Flights::default(),
            hooked: std::cell::RefCell::default(),
            leaving: Flights::default(),
            room: Room::default(),
            maintaining: Flights::default(),
            seeking: Flights::default(),
            unknown: std::cell::RefCell::default(),
            keeping_annex: Flights::default(),
            untidy: std::cell::RefCell::default(),
            upkeep: std::cell::RefCell::default(),
            joining: Semaphore::new(1),
            cold: Colds::default(),
            doubting: Flights::default(),
            looking: Semaphore::new(1),
            absent: std::cell::RefCell::default(),
            bundling: Flights::default(),
            bundles: std::cell::RefCell::default(),
            sweep_wanted: tokio::sync::Notify::new(),
            sweeping: Semaphore::new(1),
            sweep_waiting: Semaphore::new(1),
        }
    }

    /// Waits for what outlives the tasks of the plane.
    fn join_all(&self) {
        self.shop.stop_builds();
        for builder in self.builders.borrow_mut().drain(..) {
            // A builder answers for its own panics.
            let _ = builder.join();
        }
        // What builds took a commit from is of no use any more.
        self.cold.clear();
        // Clones that ran were given up with the tasks they ran in.
        self.git.removals.wait();
    }
}

/// When mirrors are compared by timer.
fn policy_of(config: &Config, permissions: &Permissions) -> Policy {
    Policy {
        interval_ms: config.fetch_interval.as_millis() as u64,
        in_use_ms: config.ref_check_interval.as_millis() as u64,
        host_rate: config.upstream_rate,
        young_hosts: permissions.hosts().map(str::to_owned).collect(),
        seed: unix_ms(),
        ..Policy::default()
    }
}

/// How git is run.
fn git_of(config: &Config, via: Via, own: Arc<ArcSwap<OwnTokens>>) -> Git {
    let limits = TimeLimits {
        clone: config.clone_timeout,
        ..TimeLimits::default()
    };
    Git {
        limits,
        size_limit: config.clone_size_limit,
        memory_bytes: config.git_memory_limit_bytes,
        schemes: Vec::from_iter(config.upstreams.schemes()).join(":"),
        via,
        own,
        redirects: Arc::new(AllRedirects::of(&config.upstreams, &config.access)),
        follow: Follow::new(&config.follow).unwrap_or_default(),
        ..Git::default()
    }
}
