//! From a mirror to an archive.
pub mod filter;
pub mod iconv;
pub mod index;
pub mod tar;
pub mod walk;
