//! An archive that grows or is whole: its window, who reads it at which pace, what is in memory.

use super::units::HOUR_MS;

/// Spooled bytes of a running build that stay in memory for the clients that follow closely.
pub const WINDOW_BYTES: u64 = 8 << 20;
/// Bytes of a running build that wait to be written to its spool file; at the limit the
/// producer waits for the disk.
pub const SPOOL_LAG_BYTES: u64 = 8 << 20;
/// Bytes that are appended to an archive before those who wait for them are called, unless its producer
/// waits for something itself.
pub const TELL_BYTES: u64 = 256 << 10;
/// How long a producer waits for an encoder before what it appended is told.
pub const TELL_AFTER_US: u64 = 1_000;
/// How long bytes that were in memory are taken to be there still, without a look.
pub const RESIDENT_TRUST_MS: u64 = 250;
/// Stretches of an archive of which is remembered that they were in memory.
pub const RESIDENT_STRETCHES: usize = 1024;

const _: () = assert!(LIVE_ONLY_STEP_MS < LIVE_ONLY_WAIT_MS);
/// Bytes read ahead of a socket from files that are not in memory.
pub const READ_AHEAD_BYTES: u64 = 8 << 20;
/// Ranges of a file that are so near to each other are asked about together, with what is between them.
pub const SPAN_GAP_BYTES: u64 = 256 << 10;
/// Threads that read files ahead of the sockets.
pub const PREFETCH_THREADS: usize = 4;
/// A build that is not kept goes on at the pace of its slowest client that takes
/// [`LIVE_ONLY_STEP_BYTES`] in this time.
pub const LIVE_ONLY_STEP_MS: u64 = 10_000;
/// See [`LIVE_ONLY_STEP_MS`].
pub const LIVE_ONLY_STEP_BYTES: u64 = 1 << 20;
/// Steps that a client can be ahead by: a socket's buffer takes several at once.
pub const LIVE_ONLY_STEPS_AHEAD_MAX: u64 = 2;
/// Whoever asks while such a build goes on at less than this gets another one.
pub const LIVE_ONLY_SLOW_BYTES_S: u64 = 8_000_000;
/// How long a client's pace is looked at before it counts.
pub const LIVE_ONLY_LOOK_MS: u64 = 1_000;
/// How long a request waits for the end of one of two such builds that it cannot follow any more: less
/// than the minute after which a proxy in front gives up.
pub const LIVE_ONLY_WAIT_MS: u64 = 45_000;
/// How long such a build goes on waiting without clients: some may be about to come.
pub const LIVE_ONLY_ALONE_MS: u64 = 1_000;
/// How long an entry's files stay open after its last request.
pub const IDLE_ENTRY_OPEN_MS: u64 = 10_000;
/// Downloads that take too little and are ended at a time, where more files of archives are wanted than may
/// be open.
pub const SLOW_ENDED_MAX: usize = 16;
/// How long a request waits for its archive's first byte before its response begins with a preamble.
pub const COLD_WAIT_MS: u64 = 3_000;
/// How long whoever asks for a manifest waits until one stands.
pub const MANIFEST_WAIT_MS: u64 = 2_000;
/// Time between two looks whether it does.
pub const MANIFEST_LOOK_MS: u64 = 10;
/// An archive of less than this is sent instead of its manifest to whoever takes it.
pub const SMALL_ARCHIVE_BYTES: u64 = 1 << 20;

const _: () = assert!(
    MANIFEST_WAIT_MS < COLD_WAIT_MS,
    "what is sent instead begins in time"
);
/// Time between two frames of a preamble.
pub const PREAMBLE_EVERY_MS: u64 = 5_000;
/// How long after a preamble a range from within an archive is answered whole, unless it names the archive.
pub const EARLY_KEPT_MS: u64 = HOUR_MS;
/// Refs and commits of a repository of which it is remembered that they had one; of more, for all of it.
pub const EARLY_NAMES_MAX: usize = 1024;
/// It is noted on the disk, for the next process, unless it was so long ago or less.
pub const EARLY_STEP_MS: u64 = 60_000;
/// How long an answer waits for that before it begins.
pub const EARLY_NOTE_WAIT_MS: u64 = 1_000;
/// Largest file of these notes; of more it is noted that it may be any of a repository, or of all.
pub const EARLY_FILE_BYTES_MAX: u64 = 1 << 20;
/// Longest line of it.
pub const EARLY_LINE_BYTES: usize = 88;
/// Longest line in a preamble that is read.
pub const PREAMBLE_LINE_BYTES_MAX: usize = 64 << 10;
/// Longest message in a preamble, in bytes.
pub const PREAMBLE_MESSAGE_BYTES_MAX: usize = 4096;
