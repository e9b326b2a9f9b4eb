//! What the server has: the repositories by name, the state directory that holds their mirrors and
//! entries, and the archives that were replaced but may still be asked for.

use super::registry::Registry;
use super::retired::Retired;
use crate::store::dir::StateDir;
use crate::store::usage::Usage;

/// See the module's text.
pub(crate) struct Catalog {
    /// All repositories.
    pub registry: Registry,
    /// Archives that a newer one has replaced.
    pub retired: Retired,
    /// The state directory, locked.
    pub state: StateDir,
    /// How full it is.
    pub usage: Usage,
}

impl Catalog {
    /// No repository yet, for so many cores.
    pub(crate) fn new(state: StateDir, cores: usize) -> Catalog {
        let disk_bytes = state.space().map_or(0, |space| space.total_bytes);
        Catalog {
            registry: Registry::new(cores),
            retired: Retired::default(),
            state,
            usage: Usage::new(disk_bytes),
        }
    }
}
