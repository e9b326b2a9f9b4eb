//! Extents: what an archive consists of, and where each byte of the wire comes from.
//!
//! An archive is never one file. It is a list of extents, of three kinds: bytes of the entry's
//! spool file; *stored frames*, which an earlier entry of the repository has written and whose file this
//! one links; and *raw runs*: ranges of an immutable linked file (a pack) that are put on the
//! wire inside raw (stored) zstd blocks. A raw run is framed while it is sent, so nothing of it
//! is ever copied into the cache, and every offset on the wire is arithmetic.
//!
//! - [`layout`]: the list of extents.
//! - [`raw`]: how raw runs are framed.
//! - [`segment`]: where the bytes at an offset of the wire come from.
//! - [`source`]: what whoever sends an archive reads it from.

pub(crate) mod layout;
pub(crate) mod raw;
pub(crate) mod segment;
pub(crate) mod source;

pub use layout::{Extent, Layout, LayoutError};
pub use raw::{
    FRAME_MAGIC, INLINE_BYTES_MAX, Inline, RAW_BLOCK_BYTES, RAW_FRAME_BYTES, content_checksum,
    low_checksum, raw_frames, raw_wire_bytes,
};
pub use segment::Segment;
pub use source::{Next, Piece, Source};
