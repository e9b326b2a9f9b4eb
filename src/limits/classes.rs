//! How much of each class of work runs and waits.

use super::units::{MINUTE_MS, SECOND_MS};

/// Work of a class that waits for a place, before newcomers are refused.
pub const QUEUE_MAX: usize = 256;
/// How long the first of them may have waited.
pub const QUEUE_WAIT_MAX_MS: u64 = MINUTE_MS;
/// Places of a class that only what is asked for has; none where there are fewer than four.
pub const PLACES_OF_ASKED: usize = 1;
/// That newcomers are refused is said so often.
pub const REFUSED_SAID_MS: u64 = MINUTE_MS;
/// A host of which so many tries in a row timed out has one place.
pub const TIMEOUTS_MAX: u32 = 3;
/// First clones that run at the same time.
pub const CLONES_RUNNING_MAX: usize = 16;
/// The same for requests of one client's address: a quarter of all.
pub const CLONES_OF_CLIENT_MAX: usize = CLONES_RUNNING_MAX / 4;
/// Mirrors that are compared with their upstream at the same time, on schedule or for a request.
pub const COMPARISONS_RUNNING_MAX: usize = 32;
/// The same for requests of one client's address: a quarter. The schedule counts for none.
pub const COMPARISONS_OF_CLIENT_MAX: usize = COMPARISONS_RUNNING_MAX / 4;
/// Fetches into mirrors at the same time, after a comparison or of a commit by its id.
pub const FETCHES_RUNNING_MAX: usize = 16;
/// The same of commits by their ids, for requests of one client's address.
pub const FETCHES_OF_CLIENT_MAX: usize = FETCHES_RUNNING_MAX / 4;
/// Small builds at the same time.
pub const SMALL_BUILDS_MAX: usize = 16;
/// Large builds that have a place, for each that produces at the same time: they take turns, and none is
/// to be silent for [`BUILD_SILENT_MAX_MS`] meanwhile. Each may have a window, what waits to be spooled, and a few
/// results in memory; further ones have sent nothing yet.
pub const BUILDS_PER_TURN: usize = 8;
/// Large builds that have a place.
pub const BUILDS_OPEN_MAX: usize = 32;
/// See [`BUILDS_PER_TURN`].
pub const BUILD_SILENT_MAX_MS: u64 = 2 * SECOND_MS;
