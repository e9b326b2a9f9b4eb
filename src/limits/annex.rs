//! What no followed ref leads to, and somebody asks for by its id.

use super::units::{HOUR_MS, SECOND_MS};

/// Objects that the annex of a mirror keeps for those who ask for them by id; of more those that were used
/// longest ago go.
pub const ANNEX_TIPS_MAX: usize = 256;
/// Bytes of an annex, as one part in so many of `--cache-limit`; of more those that were used longest ago go.
pub const ANNEX_PART: u64 = 8;
/// What is read of the file of an annex's tips. A line has 50 to 130 bytes.
pub const ANNEX_TIPS_BYTES_MAX: u64 = 1 << 20;
/// Packs of an annex, beyond which they become one.
pub const ANNEX_PACKS_MAX: usize = 12;
/// What nobody has wanted for so long leaves the annex, or earlier where `--unreachable-expiry` is shorter.
pub const ANNEX_UNUSED_MS: u64 = 24 * HOUR_MS;
/// Commits that are offered to an upstream which is asked for something beside its refs.
pub const HAVES_MAX: usize = 64;
/// Refs of a repository that are not followed of which is remembered what they led to a moment ago.
pub const UNFOLLOWED_REFS_MAX: usize = 256;
/// So many of them, the last that were used, a comparison brings word of.
pub const UNFOLLOWED_COMPARED_MAX: usize = 64;
/// Objects of a repository that its upstream is asked for at the same time, of which nothing is known.
pub const UNKNOWN_ASKED_MAX: usize = 4;
/// After this time an upstream that lacks something is asked once more: of its replicas one may be late.
pub const UNKNOWN_AGAIN_MS: u64 = SECOND_MS;

const _: () = assert!(ANNEX_TIPS_MAX as u64 * 2 * 130 <= ANNEX_TIPS_BYTES_MAX);
