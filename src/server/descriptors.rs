//! How many files the process may open, and how many connections and files of archives that carries.

use std::io;

use super::error::ServerError;
use crate::config::Config;
use crate::limits::{
    CONNECTIONS_DESCRIPTORS_PERCENT, DESCRIPTORS_MIN, DESCRIPTORS_OF_CORE, DESCRIPTORS_OWN,
    DESCRIPTORS_READY, OPEN_FILES_DESCRIPTORS_PERCENT, OPEN_FILES_MAX,
};

/// Each connection and each open entry needs descriptors: takes as many as are allowed. Gives
/// their number; `None` if it is not limited.
pub(super) fn raise_descriptor_limit() -> Option<u64> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(e) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
    let limit = getrlimit(Resource::Nofile).current;
    // The kernel's table of them grows with a wait for all processors (tens of milliseconds on a
    // busy machine) in whichever thread opens one too many. It grows now, and stays.
    let ready = limit.map_or(DESCRIPTORS_READY, |limit| limit.min(DESCRIPTORS_READY));
    let highest = ready.saturating_sub(1);
    // Not fatal: it grows later then.
    drop(rustix::io::fcntl_dupfd_cloexec(
        io::stderr(),
        highest as i32,
    ));
    limit
}

/// What the descriptors carry.
pub(super) struct Carried {
    /// Connections that are served at a time: accepting must not take the descriptors that are needed
    /// to answer.
    pub(super) connections_max: usize,
    /// Files of archives that are open at a time.
    pub(super) open_files_max: usize,
}

/// Divides the descriptors. Fails where there are not enough to work with.
pub(super) fn carried(descriptors: Option<u64>, config: &Config) -> Result<Carried, ServerError> {
    let Some(limit) = descriptors else {
        return Ok(Carried {
            connections_max: usize::MAX,
            open_files_max: OPEN_FILES_MAX,
        });
    };
    let listeners = config.listeners.listen.len() + usize::from(config.listeners.admin.is_some());
    let of_core = DESCRIPTORS_OF_CORE + listeners as u64;
    let own = DESCRIPTORS_OWN + of_core * config.cores.get() as u64;
    let needed = own + DESCRIPTORS_MIN;
    if limit < needed {
        return Err(ServerError::Descriptors { limit, needed });
    }
    let part = |percent| ((limit - own).saturating_mul(percent) / 100) as usize;
    Ok(Carried {
        connections_max: part(CONNECTIONS_DESCRIPTORS_PERCENT),
        open_files_max: part(OPEN_FILES_DESCRIPTORS_PERCENT).min(OPEN_FILES_MAX),
    })
}
