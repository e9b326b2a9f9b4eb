//! A commit's trees and what a worktree is made of: what server and client both need.
//!
//! In come objects: the packs and loose files of a repository, and trees by their ids. Out come the
//! entries of a worktree in the order of git's index ([`walk`]), cut into jobs ([`batch`]), their content
//! ([`decoder`]) as a checkout has it ([`filter`], by the [`rules`] of attributes), their dates in an archive ([`dates`]), and the forms
//! that they are sent and kept in: tar ([`tar`]), frames ([`frames`]), the index ([`index`]). What must
//! hold: the same objects give the same bytes, wherever they are read, and what is no sound tree, or has a name that is not safe, is
//! refused before anything is made of it.
//!
//! What is written here has formats in common with what the client reads from a network; those
//! stand here once ([`index`], [`tar`], [`order`], [`pack`], [`sum`]). The readers are the client's own: they believe
//! nothing, take pieces of any size, and have the memory that a restore gives them.

pub(crate) mod bases;
pub(crate) mod batch;
pub(crate) mod dates;
pub mod decoder;
pub(crate) mod delta;
pub(crate) mod filter;
pub mod frames;
pub(crate) mod frontier;
pub(crate) mod iconv;
pub(crate) mod index;
pub(crate) mod map;
pub(crate) mod order;
pub(crate) mod pack;
pub(crate) mod packed;
pub(crate) mod rules;
pub(crate) mod stored;
pub(crate) mod sum;
pub mod tar;
pub(crate) mod walk;
