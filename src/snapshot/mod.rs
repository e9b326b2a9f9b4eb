//! From a mirror to an archive.
pub mod big;
pub mod budget;
pub mod commit;
pub mod gitdir;
pub mod job;
pub mod line;
pub mod output;
pub mod produce;
pub mod reuse;
pub mod ring;
pub mod scrub;
pub mod source;
mod survey;
pub mod turns;
pub mod verify;
pub mod view;
mod work;

#[cfg(test)]
pub(crate) mod tests;
