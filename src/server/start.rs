//! Before the first connection: the driver, the state directory, and what is in it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::descriptors::Carried;
use super::error::{ServerError, start};
use super::found::{find_entries, find_mirrors};
use super::issuers::find_issuers;
use super::permissions::find_permissions;
use super::reload::InForce;
use super::taken::wait_for;
use crate::access::issuers::Issuers;
use crate::access::permissions::Permissions;
use crate::api::CoreContext;
use crate::archive::open_files::OpenFiles;
use crate::archive::prefetch::Prefetch;
use crate::config::{Config, IoDriver};
use crate::faults::Faults;
use crate::http::net::door::Door;
use crate::jobs::plane::{self, Handle, Queue};
use crate::jobs::state::{Jobs, JobsContext};
use crate::jobs::warmth::Warmth;
use crate::jobs::workshop::Workshop;
use crate::limits::TAKING_SLOW_MS;
use crate::mirror::Via;
use crate::repos::catalog::Catalog;
use crate::snapshot::job::EncoderState;
use crate::snapshot::ring::Ring;
use crate::store::dir::StateDir;
use crate::store::files::StoreError;
use crate::store::remote::any::AnyStore;
use crate::store::remote::objects::ObjectError;
use crate::store::remote::signed::Signs;
use crate::store::usage::Marks;
use crate::telemetry::log::RequestLog;
use crate::telemetry::metrics::{Meter, Metrics};

/// The way to the background plane, and what waits for it.
pub(super) type Plane = (Handle<Jobs>, Queue<Jobs>);

/// All that stands before the first connection.
pub(super) struct Prepared {
    pub(super) config: Arc<Config>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) door: Arc<Door>,
    pub(super) shop: Arc<Workshop>,
    pub(super) prefetch: Arc<Prefetch>,
    pub(super) open_files: Arc<OpenFiles>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) via: Via,
    /// What SIGHUP reads anew.
    pub(super) in_force: InForce,
    pub(super) permissions: Arc<Permissions>,
    pub(super) issuers: Arc<Issuers>,
    /// The object store, if there is one.
    pub(super) store: Option<(AnyStore, Option<Signs>)>,
    pub(super) warmth: Warmth,
    pub(super) faults: Faults,
    pub(super) plane: Plane,
}

impl Prepared {
    /// The counters of everything but the cores, which have a block each before it.
    pub(super) fn meter(&self) -> Meter {
        self.shop.meter.clone()
    }

    /// What the background plane works with.
    pub(super) fn for_jobs(&self) -> JobsContext {
        JobsContext {
            config: self.config.clone(),
            catalog: self.catalog.clone(),
            shop: self.shop.clone(),
            bodies: self.door.bodies.clone(),
            meter: self.meter(),
            via: self.via.clone(),
            own: self.in_force.own.clone(),
            permissions: self.permissions.clone(),
            issuers: self.issuers.clone(),
            store: self.store.clone(),
            warmth: self.warmth.clone(),
            faults: self.faults.clone(),
        }
    }

    /// What the cores share. `closing` turns true when the server stops.
    pub(super) fn for_cores(&self, log: RequestLog, closing: watch::Receiver<bool>) -> CoreContext {
        CoreContext {
            config: self.config.clone(),
            catalog: self.catalog.clone(),
            door: self.door.clone(),
            prefetch: self.prefetch.clone(),
            open_files: self.open_files.clone(),
            plane: self.plane.0.clone(),
            metrics: self.metrics.clone(),
            log,
            closing,
            via: self.via.clone(),
            secrets: self.in_force.secrets.clone(),
            tokens: self.in_force.tokens.clone(),
            permissions: self.permissions.clone(),
            issuers: self.issuers.clone(),
            warmth: self.warmth.clone(),
            faults: self.faults.clone(),
        }
    }
}

/// Opens the state directory, finds what is in it and starts the helper threads.
pub(super) fn prepare(
    config: Config,
    faults: Faults,
    carried: Carried,
) -> Result<Prepared, ServerError> {
    let is_locked = |e: &StoreError| matches!(e, StoreError::Locked { .. });
    let state = wait_for(|| StateDir::open(&config.state), is_locked).map_err(|e| match e {
        StoreError::Io { ref source, .. } if is_elsewhere_better(source) => ServerError::State(e),
        e => ServerError::Store(e),
    })?;
    let ring = Ring::start(config.encoders.get(), EncoderState::default)
        .map_err(start("start encoder threads"))?;
    let prefetch = Prefetch::start().map_err(start("start prefetch threads"))?;
    let cores = config.cores.get();
    let marks = marks(&config, state.space()?.total_bytes)?;
    let catalog = Arc::new(Catalog::new(state, cores, marks));
    let (found, damaged) = find_mirrors(&catalog, &config)?;
    find_entries(&catalog, &config, &damaged)?;
    let plane = plane::queue::<Jobs>();
    plane.0.spawn(|jobs| jobs.take_over_mirrors(found));
    // One block for each core, one for everything else.
    let metrics = Metrics::new(cores + 1);
    let slow_ms = faults.taking_slow_ms.unwrap_or(TAKING_SLOW_MS);
    let door = Door::new(
        carried.connections_max,
        cores,
        Duration::from_millis(slow_ms),
    );
    let (meter, level) = (metrics.meter(cores), config.level);
    let open_files_max = faults.open_files_max.unwrap_or(carried.open_files_max);
    let idle = door.idle.clone();
    let open_files = OpenFiles::new(open_files_max, Box::new(move || idle.end_slow()));
    let open_files = Arc::new(open_files);
    let shop = Workshop::new(
        catalog.clone(),
        open_files.clone(),
        ring,
        level,
        (meter, faults.clone()),
        config.unreachable_expiry,
    );
    let in_force = InForce::read(&config)?;
    let issuers = find_issuers(&config)?;
    let permissions = Arc::new(find_permissions(
        &config,
        &catalog.state.tmp_dir(),
        &issuers,
        faults.young_ms,
    )?);
    let store = open_store(&config)?;
    let warmth = Warmth::new(!is_to_warm(&config, &catalog));
    Ok(Prepared {
        store,
        warmth,
        config: Arc::new(config),
        catalog,
        door: Arc::new(door),
        shop: Arc::new(shop),
        prefetch: Arc::new(prefetch),
        open_files,
        metrics,
        via: Via::random(),
        in_force,
        permissions,
        issuers,
        faults,
        plane,
    })
}

/// Whether something is to be taken from the store before anybody is sent here: a server that has something has what it
/// was asked for.
fn is_to_warm(config: &Config, catalog: &Catalog) -> bool {
    let store = config.store.as_ref();
    store.is_some_and(|store| !store.warm_for.is_zero()) && catalog.registry.all().is_empty()
}

/// Makes the object store ready; whether it answers shows when it is asked.
fn open_store(config: &Config) -> Result<Option<(AnyStore, Option<Signs>)>, ServerError> {
    let Some(shared) = &config.store else {
        return Ok(None);
    };
    let open = || Ok((AnyStore::open(shared)?, Signs::of(shared)?));
    open()
        .map(Some)
        .map_err(|why: ObjectError| ServerError::Shared {
            url: shared.url.clone(),
            source: why.into(),
        })
}

/// How much there may be on a file system of this size.
pub(super) fn marks(config: &Config, total_bytes: u64) -> Result<Marks, ServerError> {
    let marks = Marks::of(config, total_bytes);
    match marks.low_bytes < marks.high_bytes {
        true => Ok(marks),
        false => Err(ServerError::CacheLow {
            low_bytes: marks.low_bytes,
            high_bytes: marks.high_bytes,
        }),
    }
}

/// Whether another directory would help against this error: not against a disk that is full.
fn is_elsewhere_better(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    [
        NotADirectory,
        NotFound,
        PermissionDenied,
        ReadOnlyFilesystem,
    ]
    .contains(&error.kind())
}

/// Whether io_uring is used. Says so once if it was wanted and cannot be had.
pub(super) fn choose_driver(wanted: IoDriver) -> Result<bool, ServerError> {
    if wanted == IoDriver::Epoll {
        return Ok(false);
    }
    match crate::io::probe_uring() {
        Ok(()) => Ok(true),
        Err(e) if wanted == IoDriver::Uring => Err(ServerError::NoUring(e)),
        Err(e) => {
            let cause = match e.raw_os_error() {
                Some(libc::EPERM) => {
                    "a container's seccomp profile or kernel.io_uring_disabled forbids it"
                }
                Some(libc::ENOSYS) => "the kernel or a seccomp profile does not have it",
                Some(libc::ENOMEM) => "the limit of locked memory is too low",
                _ => "the kernel is too old or forbids it",
            };
            tracing::warn!("io_uring cannot be used ({e}; likely {cause}): going on with epoll");
            Ok(false)
        }
    }
}
