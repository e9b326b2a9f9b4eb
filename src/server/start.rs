//! Before the first connection: the driver, the state directory, and what is in it.

use std::io;
use std::sync::Arc;

use super::error::{ServerError, start};
use super::taken::wait_for;
use crate::archive::place::Archive;
use crate::archive::prefetch::Prefetch;
use crate::config::{Config, IoDriver};
use crate::faults::Faults;
use crate::jobs::plane::{self, Handle, Queue};
use crate::jobs::shared::{Parts, Shared};
use crate::jobs::state::Jobs;
use crate::metrics::Metrics;
use crate::mirror::recover::recover;
use crate::repos::repo::Repo;
use crate::snapshot::job::EncoderState;
use crate::snapshot::zstd::ring::Ring;
use crate::store::dir::StateDir;
use crate::store::files::StoreError;

/// The way to the background plane, and what waits for it.
pub(super) type Plane = (Handle<Jobs>, Queue<Jobs>);

/// Opens the state directory, finds what is in it and starts the helper threads.
pub(super) fn prepare(
    config: Config,
    faults: Faults,
    connections_max: usize,
) -> Result<(Arc<Shared>, Plane), ServerError> {
    let is_locked = |e: &StoreError| matches!(e, StoreError::Locked { .. });
    let state = wait_for(|| StateDir::open(&config.state), is_locked).map_err(|e| match e {
        StoreError::Io { ref source, .. } if is_elsewhere_better(source) => ServerError::State(e),
        e => ServerError::Store(e),
    })?;
    let ring = Ring::start(config.encoders.get(), EncoderState::default)
        .map_err(start("start encoder threads"))?;
    let prefetch = Prefetch::start().map_err(start("start prefetch threads"))?;
    let (plane, queue) = plane::queue::<Jobs>();
    // One block for each core, one for everything else.
    let metrics = Metrics::new(config.cores.get() + 1);
    let shared = Shared::new(Parts {
        config,
        state,
        ring,
        prefetch,
        metrics,
        faults,
        connections_max,
    });
    let found = find_mirrors(&shared)?;
    find_entries(&shared)?;
    plane.spawn(|jobs| jobs.take_over_mirrors(found));
    Ok((Arc::new(shared), (plane, queue)))
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

/// Makes the mirrors known. They are not used before they were checked.
fn find_mirrors(shared: &Shared) -> Result<Vec<Arc<Repo>>, ServerError> {
    let mut found = Vec::new();
    for (host, path) in shared.state.mirrors()? {
        let Some(url) = shared.config.upstreams.url_for(&host, &path) else {
            tracing::warn!("mirror {host}/{path} belongs to no upstream and is not used");
            continue;
        };
        let mirror = shared.state.mirror_path(&host, &path);
        if let Err(source) = recover(&mirror) {
            return Err(ServerError::Mirror {
                path: mirror,
                source,
            });
        }
        let registry = &shared.registry;
        found.push(registry.get_or_add(&host, &path, || mirror, || url));
    }
    Ok(found)
}

/// The newest entry of each repository is served; older ones go.
fn find_entries(shared: &Shared) -> Result<(), ServerError> {
    let (found, rejected) = shared.state.scan()?;
    for rejected in rejected {
        tracing::warn!(removed = rejected.removed, "entry not used: {rejected:?}");
    }
    for entry in found {
        let repository = &entry.meta.repository;
        let known = repository.split_once('/').and_then(|(host, path)| {
            let url = shared.config.upstreams.url_for(host, path)?;
            Some((host, path, url))
        });
        let Some((host, path, url)) = known else {
            // Nobody could ask for it, and what is not known is never evicted.
            tracing::warn!(repository, "entry removed: it belongs to no upstream");
            if let Err(e) = shared.state.remove(&entry.dir) {
                tracing::error!(repository, "an entry of no upstream stays: {e}");
            }
            continue;
        };
        let mirror = || shared.state.mirror_path(host, path);
        let repo = shared.registry.get_or_add(host, path, mirror, || url);
        if repo.current().is_some() {
            // It is not served; the next start tries again.
            if let Err(e) = shared.state.remove(&entry.dir) {
                tracing::error!(repository = &*repo.name, "a superseded entry stays: {e}");
            }
            continue;
        }
        // The first sweep counts again.
        shared.add_to_cache(shared.state.entry_bytes(&entry.dir).unwrap_or(0));
        let archive = Arc::new(Archive::found(entry.dir, entry.meta));
        repo.publish(archive, repo.moves());
    }
    Ok(())
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
