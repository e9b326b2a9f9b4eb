//! An archive that grows or is whole, and whoever reads it.
//!
//! A producer appends to the fan-out; a spooler writes what it appends to the entry's spool file; any
//! number of readers walk the extents from any offset. The first client, one that follows and a hit
//! run the same code. A reader never sees bytes beyond the frontier, and every archive ends complete or
//! failed.
//!
//! - [`fanout`]: what everybody reads and the producer appends to. While it grows, [`growth`] has the
//!   extents so far, the window, the readers, and [`pace`] tells who is too slow for an archive that is
//!   kept nowhere; [`handle`] is a reader's side of it; [`whole`] is one that is complete, which is read without a lock;
//!   [`appended`] is how what lies in files already is added.
//! - [`place`]: an archive and where its bytes are; [`open_files`]: those that are open, each once.
//! - [`spool`]: writes the pieces of a build to its file.
//! - [`lending`]: files that lie somewhere else, and come as they are read.
//! - [`reader`]: reads for a socket, [`part`] one file of it, both with [`ahead`]; [`resident`] remembers what is in memory, [`prefetch`] reads in
//!   what is not.

pub(crate) mod ahead;
mod appended;
pub mod fanout;
pub mod growth;
pub mod handle;
pub(crate) mod lending;
pub(crate) mod open_files;
mod pace;
pub(crate) mod part;
pub(crate) mod place;
pub(crate) mod prefetch;
pub(crate) mod reader;
mod resident;
pub mod spool;
mod whole;
