//! Bare copies of upstream repositories and their upkeep.
//!
//! ```text
//! schedule (pure) ──due──> upstream::freshen ──> ls_refs, git fetch         no lock held
//!                                └─> packed ──> new refs            refs' lock written, ~2 ms
//!                          repack ──> git pack-objects                      no lock held
//!                          others ──> another server's packs instead        no lock held
//!                                └─> old packs moved away            packs' lock written, ~1 ms
//! builder thread ──packs' lock, then refs' lock, read──> crate::refs::read, packs listed
//! ```
//!
//! Everything except [`schedule`] is async code of the background plane, one
//! thread on tokio. Network and repacking never happen under the locks that requests take, because
//! a request pins under the read locks and must not wait for a fetch. There are two of these: the packs' keeps
//! packs where they are, for hours where a build can only read them there; the refs' keeps refs as they
//! are, for milliseconds. Who needs both takes the packs' first. Who writes the packs' never waits in
//! its queue ([`exclusive`]). A third is read while a fetch is between its objects and
//! its refs, and while the [`annex`] is fetched into or read; it keeps [`expire`] from removing anything meanwhile.
mod annex;
mod annex_fetch;
mod annex_packs;
mod annex_tips;
mod arriving;
pub(crate) mod beside;
mod blocking;
pub(crate) mod bundle;
mod closure;
mod config;
mod configured;
pub(crate) mod error;
mod exclusive;
mod expire;
mod files;
mod generation;
pub(crate) mod git;
mod journal;
mod left;
mod listing;
mod looked;
mod loose;
mod ls_refs;
pub(crate) mod noted;
mod others;
pub(crate) mod own;
pub(crate) mod packed;
mod packs;
mod pause;
mod quiet;
pub(crate) mod recover;
pub(crate) mod removals;
mod repack;
mod same;
pub(crate) mod schedule;
mod seeded;
mod set_up;
mod speaks;
mod tip;
pub(crate) mod upload;
pub(crate) mod upstream;
pub(crate) mod via;

#[cfg(test)]
pub(crate) mod testing;

pub(crate) use annex::{annex, link_packs};
pub(crate) use annex_fetch::{Apart, Brought, Kept};
pub(crate) use annex_packs::{Tidied, count as annex_packs};
pub(crate) use annex_tips::{KeptTip, Tip, Tips};
pub(crate) use arriving::{Arriving, Indexed, are_wrong_packs, missing_of, pack_of};
pub use closure::Closure;
pub(crate) use configured::Configured;
pub use error::MirrorError;
pub(crate) use exclusive::{blocking_exclusive, exclusive_soon};
pub(crate) use expire::next_expiry_unix_ms;
pub use expire::{Expired, Locks};
pub(crate) use generation::Generation;
pub use git::{Git, TimeLimits};
#[doc(hidden)]
pub use listing::{Listing, listed};
pub use loose::Aside;
pub(crate) use others::{Others, Replaced};
pub(crate) use packs::has_many;
pub use quiet::Step;
pub use repack::Joined;
pub(crate) use seeded::{AreShared, Seed};
pub(crate) use speaks::Voice;
pub use tip::{Seen, TipOf};
pub use upload::Upload;
pub use upstream::Freshened;
pub use via::Via;
