//! Entries on the disk: their metadata, the sweep, and whether the disk keeps what was written.

use super::units::HOUR_MS;

/// Longest metadata file of an entry, in bytes, and longest outline. An outline holds 4 bytes per file
/// of the worktree, so this is room for tens of millions of files; anything longer was not
/// written by us and is not read into memory.
pub const META_BYTES_MAX: u64 = 256 << 20;
/// Longest manifest, in bytes, before it is compressed: what is longer is neither kept nor read. One has about 20 bytes
/// for each stretch of frames, and 4 for each 4 MiB of packs.
pub const MANIFEST_BYTES_MAX: usize = 56 << 20;
/// The same as it is sent: what cannot be compressed is a little longer then.
pub const MANIFEST_SENT_BYTES_MAX: usize = MANIFEST_BYTES_MAX + (1 << 20);
/// Memory for what a manifest has in it, above all [`EXTENT_HELD_BYTES`] for each stretch: some 1.2 million. Of what needs
/// more there is none, either: whoever writes one counts as whoever reads it does.
pub const MANIFEST_HELD_BYTES_MAX: usize = 48 << 20;
/// What each of its stretches counts for. These are the format's numbers: no less than what they take in memory, whatever
/// that is, and the same for all who write and read.
pub const EXTENT_HELD_BYTES: usize = 40;
/// What a part counts for, without its name.
pub const PART_HELD_BYTES: usize = 64;
/// What a section counts for.
pub const SECTION_HELD_BYTES: usize = 16;
/// Longest text in one: names of parts and refs are shorter by far.
pub const MANIFEST_TEXT_BYTES_MAX: usize = 64 << 10;
/// Of the memory that a decoder of manifests takes, as a power of two.
pub const MANIFEST_WINDOW_LOG_MAX: u32 = 21;
/// So much of a manifest is read and decompressed at a time.
pub const MANIFEST_STEP_BYTES: usize = 128 << 10;
/// Longest name of a part without what its kind puts around it.
pub const PART_STEM_BYTES_MAX: usize = 128;
/// Directories between `mirrors/{host}` and a mirror that are searched at start.
pub const MIRROR_DEPTH_MAX: usize = 32;

const _: () = assert!(
    META_BYTES_MAX <= u32::MAX as u64,
    "fits memory of any machine"
);
/// How long a snapshot that a newer one has replaced can still be read by its tag after its last
/// request: between two requests of a download in parts, a retry with its pause included. It
/// goes at once when the disk is needed.
pub const RETIRED_KEPT_MS: u64 = 60_000;
/// Longest time that a snapshot which was replaced is kept for whoever asks for it by its tag.
pub const RETIRED_MAX_MS: u64 = HOUR_MS;
/// Time between two looks at the cache's size and at superseded entries.
pub const SWEEP_INTERVAL_MS: u64 = 5_000;
/// How long nobody has wanted what leaves for the sake of the free floor: anything else would be back at
/// once, however often it leaves.
pub const FLOOR_IDLE_MS: u64 = 60_000;
/// How many times as long as it takes there is no other look at the whole state directory.
pub const LOOK_REST: u32 = 50;
/// The same while there is more than there may be.
pub const LOOK_REST_OVER: u32 = 4;
/// Time after which a mirror is looked at whole though nothing seems to have changed in it.
pub const LOOK_AGAIN_MS: u64 = HOUR_MS;
/// Files that may have several names of which each is known. What is beyond is counted by its part, and
/// freed by none: 64 MB of memory.
pub const SHARED_FILES_MAX: usize = 1 << 20;
/// With less than this free the disk is full, whatever a git that failed says of its reasons.
pub const FULL_FREE_BYTES: u64 = 256 << 10;
/// What of the bytes in use leaves when somebody finds the disk full: one in so many.
pub const FULL_LEAVES_PART: u64 = 5;
/// Time between two sweeps for somebody who finds the disk full, unless the server itself has used what the
/// first has freed: what others fill again at once must not empty the cache.
pub const FULL_SWEEP_INTERVAL_MS: u64 = 60_000;
/// How long somebody who finds the disk full waits for such a sweep.
pub const FULL_WAIT_MS: u64 = 10_000;
/// How long something that the log has said of the disk must have passed before it says that, and says it anew.
pub const NOTICE_CALM_MS: u64 = 60_000;
/// A mirror that is cloned again so soon after it has left has left for want of room for what is wanted.
pub const LEFT_NOTED_MS: u64 = 10 * 60_000;
/// So many that have left are remembered.
pub const LEFT_NOTED_MAX: usize = 1024;
/// So many of those that stay whatever leaves are named.
pub const STAYS_NAMED_MAX: usize = 3;
/// Snapshots of refs and commits that are kept, of one repository: what a farm asks for within minutes.
pub const WANTS_OF_REPOSITORY_MAX: usize = 64;
/// They alone, of one repository, take at most one part in so many of what may be kept.
pub const WANTS_OF_REPOSITORY_PART: u64 = 4;
/// The same of all repositories: each has a directory, and 2 KB of memory.
pub const WANTS_MAX: usize = 2048;
/// How long a clone waits for what is over the limit to be given up by those who use it.
pub const STUCK_WAIT_MS: u64 = 2_000;
/// How often that is looked at.
pub const STUCK_LOOK_MS: u64 = 200;
/// What making anything again costs, in bytes, whatever its size.
pub const MAKING_COST_BYTES: u64 = 1 << 20;
/// Default time after which an entry or mirror is looked at again: a week.
pub const SCRUB_INTERVAL_DEFAULT_MS: u64 = 7 * 24 * HOUR_MS;
/// Longest such time: a year.
pub const SCRUB_INTERVAL_MAX_MS: u64 = 366 * 24 * HOUR_MS;
/// Bytes that a scrub reads in a second: 5 TB in a day, a tenth of what a disk gives.
pub const SCRUB_BYTES_PER_S: u64 = 64 << 20;
/// Bytes that it reads at a time.
pub const SCRUB_READ_BYTES: usize = 1 << 20;
/// How often a scrub that waits looks whether it is to stop.
pub const SCRUB_STOP_SEEN_MS: u64 = 50;
/// Longest wait before a scrub looks again what there is.
pub const SCRUB_LOOK_MS: u64 = 10_000;
/// Wait after a look that could not be finished, because files could not be read or a mirror not
/// cloned anew.
pub const SCRUB_RETRY_MS: u64 = HOUR_MS;
/// Time between two looks at one entry on a client's word.
pub const DOUBT_INTERVAL_MS: u64 = HOUR_MS;
/// How long a client that doubts an archive waits for the look at it.
pub const DOUBT_WAIT_MS: u64 = 60_000;
/// How much nicer than the network cores a scrub is: as nice as can be.
pub const SCRUB_NICE: i32 = 19;

const _: () = assert!(SCRUB_RETRY_MS < SCRUB_INTERVAL_DEFAULT_MS);
