//! What `tarpon admin store` does at once.

use super::remote::{REMOTE_PIECE_BYTES, SUM_PIECE_BYTES};
use crate::extent::RAW_FRAME_BYTES;

/// So many repositories are looked at at once: each has its head in memory.
pub const STORE_REPOSITORIES_AT_ONCE: usize = 4;
/// So many parts are read at once to be verified,
pub const VERIFIED_AT_ONCE: usize = 4;
/// each by so many bytes at a time: one piece is on its way while the one before it is looked at.
pub const VERIFIED_PIECE_BYTES: u64 = REMOTE_PIECE_BYTES;
/// How often is said on standard error how far it is.
pub const STORE_PROGRESS_MS: u64 = 5_000;

// Whole pieces have checksums.
const _: () = assert!(VERIFIED_PIECE_BYTES.is_multiple_of(RAW_FRAME_BYTES));
const _: () = assert!(VERIFIED_PIECE_BYTES.is_multiple_of(SUM_PIECE_BYTES));
const _: () = assert!(2 * VERIFIED_AT_ONCE as u64 * VERIFIED_PIECE_BYTES <= 64 << 20);
/// Longest answer of a bucket about how it is set up.
pub const BUCKET_SETTING_BYTES_MAX: u64 = 256 << 10;
