//! From a mirror to an archive.
pub(crate) mod big;
pub(crate) mod budget;
pub(crate) mod commit;
pub(crate) mod gitdir;
pub mod job;
pub(crate) mod line;
pub(crate) mod output;
pub mod produce;
pub(crate) mod reuse;
pub mod ring;
pub(crate) mod scrub;
pub(crate) mod source;
mod sum;
mod survey;
pub(crate) mod turns;
pub mod verify;
pub mod view;
mod work;

#[cfg(test)]
pub(crate) mod tests;
