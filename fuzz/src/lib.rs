//! What the fuzz targets share: reading values from the front of an input, so that a seed file
//! says in order what it means; bytes from a seed; and archives, which tests of the project read as
//! well.

pub mod entries;
mod input;
#[path = "../../tests/support/rng.rs"]
mod rng;

pub use input::Input;
pub use rng::Rng;
