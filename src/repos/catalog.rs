//! What the server has: the repositories by name, the state directory that holds their mirrors and
//! entries, and the archives that were replaced but may still be asked for.

use super::early_notes::EarlyNotes;
use super::registry::Registry;
use super::retired::Retired;
use crate::store::dir::StateDir;
use crate::store::usage::{Marks, Usage};

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
    /// Which answers began before their archives.
    pub early: EarlyNotes,
}

impl Catalog {
    /// No repository yet, for so many cores, on a disk that may be so full.
    pub(crate) fn new(state: StateDir, cores: usize, marks: Marks) -> Catalog {
        Catalog {
            early: EarlyNotes::open(state.root()),
            registry: Registry::new(cores),
            retired: Retired::default(),
            state,
            usage: Usage::new(marks),
        }
    }
}
