//! What runs beside requests, on the background plane and on threads that it starts: clones and
//! comparisons of mirrors, builds, bundles, git's own protocol, the sweep, and what is done about rot.
//!
//! A job is spawned on the [`plane`] by whoever needs it, and knows nothing of them: it answers by what
//! it returns, or by a channel that it was given.

mod absent;
mod asker;
mod build;
mod builder;
pub mod bundle;
pub mod bundle_cache;
pub mod clone;
mod end;
pub mod ensure_refs;
mod flights;
mod freshen;
pub mod heal;
pub mod pipe;
pub mod plane;
mod refs;
pub mod scrub;
pub mod state;
mod sweep;
mod turns;
pub mod upload;
mod upload_request;
mod upload_turns;
pub mod workshop;
