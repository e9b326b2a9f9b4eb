//! How many files the process may open, and how many connections that carries.

use std::io;

use super::error::ServerError;
use crate::limits::{
    CONNECTIONS_DESCRIPTORS_PERCENT, DESCRIPTORS_MIN, DESCRIPTORS_OF_CORE, DESCRIPTORS_OWN,
    DESCRIPTORS_READY,
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

/// How many connections are served at a time: accepting must not take the descriptors that are
/// needed to answer. Fails where there are not enough to work with.
pub(super) fn connections_max(
    descriptors: Option<u64>,
    cores: usize,
) -> Result<usize, ServerError> {
    let Some(limit) = descriptors else {
        return Ok(usize::MAX);
    };
    let own = DESCRIPTORS_OWN + DESCRIPTORS_OF_CORE * cores as u64;
    let needed = own + DESCRIPTORS_MIN;
    if limit < needed {
        return Err(ServerError::Descriptors { limit, needed });
    }
    Ok(((limit - own).saturating_mul(CONNECTIONS_DESCRIPTORS_PERCENT) / 100) as usize)
}
