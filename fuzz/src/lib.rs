//! What the fuzz targets share: reading values from the front of an input, so that a seed file
//! says in order what it means; bytes from a seed; and archives, which tests of the project read as
//! well, with what those look at in a restored directory.

#[path = "../../tests/restore_hostile/archive.rs"]
pub mod archive;
#[path = "../../tests/support/certificates.rs"]
pub mod certificates;
pub mod entries;
#[path = "../../tests/support/git.rs"]
pub mod git;
pub mod gitconfig;
mod input;
#[path = "../../tests/restore_hostile/look.rs"]
pub mod look;
#[path = "../../tests/restore_hostile/made.rs"]
pub mod made;
pub mod names;
pub mod packs;
pub mod place;
#[path = "../../tests/support/rng.rs"]
mod rng;
#[path = "../../tests/restore_hostile/verdict.rs"]
pub mod verdict;

/// By the name that tests have for it.
pub mod support {
    pub use crate::git;
}

pub use input::Input;
pub use rng::Rng;
