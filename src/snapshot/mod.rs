//! From a mirror to an archive, which is put together from what an earlier one has and what is new.
//!
//! In come a pinned mirror ([`view`]) with what is to be checked out ([`checkout`]) and an earlier entry ([`reuse`]). [`produce`] has the tree surveyed
//! ([`survey`]), the worktree cut into jobs and its frames made or taken over ([`line`], [`job`]), and the
//! index written ([`index`]). Out come extents in a fan-out, and an outline for the next one. A snapshot without
//! history has packs of its own ([`tip_pack`]). What must hold: the same mirror gives the same bytes, whatever is taken
//! over.

pub(crate) mod big;
pub(crate) mod budget;
mod checking;
pub mod checkout;
pub(crate) mod commit;
pub(crate) mod gitdir;
mod index;
pub mod job;
pub(crate) mod lie;
pub(crate) mod line;
pub(crate) mod lookup;
pub(crate) mod output;
pub mod produce;
pub(crate) mod reuse;
pub(crate) mod reverse;
pub mod ring;
pub(crate) mod scrub;
pub(crate) mod source;
mod sum;
mod survey;
pub(crate) mod tip_pack;
mod trees;
pub(crate) mod turns;
pub mod verify;
pub mod view;
mod work;

#[cfg(test)]
pub(crate) mod tests;
