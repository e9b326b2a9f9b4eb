//! The layers between the socket and the files, for the fuzz targets.

pub use super::budget::Budget;
pub use super::chunk::Chunk;
pub use super::decode::{Content, Space, Stream, joined_bytes, whole};
pub use super::frames::{Body, Cut, Cutter, Frame, Part};
pub use super::quota::Quota;
pub use super::tar::{Event, Meta, Parser};
