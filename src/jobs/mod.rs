//! What runs beside requests, on the background plane and on threads that it starts: clones and
//! comparisons of mirrors, builds, bundles, git's own protocol, the sweep, and what is done about rot.
//!
//! A job is spawned on the [`plane`] by whoever needs it, and knows nothing of them: it answers by what
//! it returns, or by a channel that it was given.

mod absent;
mod admin;
mod annex;
mod archive_id;
pub(crate) mod asker;
mod askers;
mod build;
mod builder;
pub(crate) mod bundle;
pub(crate) mod bundle_cache;
pub(crate) mod clone;
mod cold;
mod cold_clone;
mod cold_fetch;
mod download;
mod early;
mod end;
pub(crate) mod ensure_refs;
mod entry;
mod flights;
mod freshen;
mod generation;
mod guarded;
pub(crate) mod heal;
mod hidden;
mod hooks;
mod import;
mod leaving;
mod left;
pub(crate) mod look;
mod maintain;
pub(crate) mod news;
mod offer;
mod packing;
pub(crate) mod permission;
mod pinned;
pub(crate) mod plane;
mod planted;
pub(crate) mod question_turns;
pub(crate) mod questions;
mod refs;
mod refused_by_git;
mod resolve;
mod room;
mod said;
pub(crate) mod scrub;
mod seek;
mod semaphores;
mod shared;
pub(crate) mod state;
mod store_look;
mod sweep;
mod taken;
mod telling;
mod timers;
mod tip;
mod tips;
mod unknown;
mod upkeep;
pub(crate) mod upload;
mod upload_request;
mod upload_turns;
pub(crate) mod workshop;
