//! Bare copies of upstream repositories and their upkeep.
//!
//! ```text
//! schedule (pure) ──due──> upstream::freshen ──> git ls-remote, git fetch   no lock held
//!                                └─> packed ──> new refs                    write lock, ~2 ms
//!                          repack ──> git pack-objects                      no lock held
//!                                └─> old files removed                      write lock
//! builder thread ──read lock──> crate::refs::read
//! ```
//!
//! Everything except [`schedule`] is async code of the background plane, one
//! thread on tokio. Network and repacking never happen under a repository's lock, because
//! a request pins under the read lock and must not wait for a fetch.
mod blocking;
pub(crate) mod bundle;
mod config;
pub(crate) mod error;
mod files;
pub(crate) mod git;
mod listing;
mod packed;
pub(crate) mod recover;
mod redirect;
pub(crate) mod removals;
mod repack;
pub(crate) mod schedule;
mod set_up;
pub(crate) mod upload;
pub(crate) mod upstream;
pub(crate) mod via;

#[cfg(test)]
pub(crate) mod testing;

pub use error::MirrorError;
pub use git::{Git, TimeLimits};
#[doc(hidden)]
pub use listing::{Listing, listed};
pub use upload::Upload;
pub use upstream::Freshened;
pub use via::Via;
