//! From a mirror to an archive.
pub mod batch;
pub mod big;
pub mod budget;
pub mod commit;
pub mod filter;
pub mod gitdir;
pub mod iconv;
pub mod index;
pub mod job;
pub mod line;
pub mod map;
pub mod output;
pub mod pack;
pub mod produce;
pub mod reuse;
pub mod scrub;
pub mod source;
mod survey;
pub mod tar;
pub mod turns;
pub mod verify;
pub mod view;
pub mod walk;
mod work;
pub mod zstd;

#[cfg(test)]
mod tests;
