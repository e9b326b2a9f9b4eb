//! The log and the counters.

use super::units::SECOND_MS;

/// Most repositories that `/metrics` names one by one; further mirrors are left out, so that the
/// page stays small and a metrics store is not flooded with series.
pub const METRICS_REPOSITORIES_MAX: usize = 1000;
/// The same of those that the status of the server names.
pub const STATUS_REPOSITORIES_MAX: usize = 1000;
/// Request records that may wait for the log thread; more are dropped and counted. About 0.5 MB.
pub const LOG_QUEUE_RECORDS: usize = 4096;
/// Most of a path that the log shows of a request which is refused and names no repository. With it the
/// records that wait take 1 MB more at most.
pub const LOGGED_PATH_BYTES_MAX: usize = 256;
/// Lines of the log that may wait for standard error; a thread that has more to do than to wait drops
/// further ones.
pub const LOG_QUEUE_LINES: usize = 4096;
/// Longest that the end of the process waits for the log thread to write what is left: 5 s.
pub const LOG_FINISH_MAX_MS: u64 = 5 * SECOND_MS;
