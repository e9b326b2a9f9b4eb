//! The client.

use super::config::{CLONE_TIMEOUT_DEFAULT_MS, GIT_MEMORY_DEFAULT_BYTES};
use super::git::GIT_UPLOAD_LIMIT_MS;
use super::jobs::UPLOAD_PACK_WAIT_MS;
use super::repository::PATH_BYTES_MAX;
use super::store::{EXTENT_HELD_BYTES, MANIFEST_HELD_BYTES_MAX};
use super::units::{HOUR_MS, MINUTE_MS, SECOND_MS};

/// Bytes of one ranged request of a download: large enough that its round trip is little, small
/// enough that a few of them in memory are.
pub const SEGMENT_BYTES: u64 = 1 << 20;
/// Segments per connection that are asked for before the first of them is needed.
pub const SEGMENTS_AHEAD: u64 = 2;
/// Bytes handed on at a time from an archive that still grows.
pub const STREAM_READ_BYTES: usize = 1 << 20;
/// Bytes of a part that are received, summed and written at a time: what fits into the cache of a core.
pub const PART_READ_BYTES: usize = 256 << 10;
/// Default number of connections, and the most that may be asked for.
pub const CONNECTIONS_DEFAULT: usize = 4;
/// See [`CONNECTIONS_DEFAULT`].
pub const CONNECTIONS_MAX: usize = 16;
/// Largest frame that is decoded in one piece, and so in parallel with others, before and after
/// decompression; a server makes frames of 1 and 4 MiB. Larger ones, and those that do not say how
/// large they are, are decoded as a stream, one after the other.
pub const RESTORE_FRAME_BYTES_MAX: usize = 16 << 20;
/// Largest window of a frame (RFC 8878 section 3.1.1.1.2) that is decoded as a stream.
pub const RESTORE_WINDOW_LOG_MAX: u32 = 23;
/// Frames that are being decoded or wait for the ones before them.
pub const FRAMES_AHEAD: usize = 6;
/// Memory that the archive is received into, until what is in it is decoded or written. Nothing is
/// received without a part of it.
pub const RECEIVED_BYTES_MAX: usize = 64 << 20;
/// Memory of content that waits to be written, and of frames that are put together to be decoded.
pub const CONTENT_BYTES_MAX: usize = 48 << 20;
/// Memory of entries that wait to be written: their names, where links lead, open files.
pub const ENTRIES_BYTES_MAX: usize = 8 << 20;
/// The part of it that one worker gets at a time.
pub const ENTRIES_AT_ONCE_BYTES: usize = 256 << 10;
/// What an entry takes of it besides its name and target.
pub const ENTRY_BYTES: usize = 256;
/// What a file takes of it that is written in parts, so that few enough are open for any limit of
/// descriptors.
pub const PART_FILE_BYTES: usize = 32 << 10;
/// What a frame that is written from where it arrived takes of it: for what is known about it.
pub const STORED_ROOM_BYTES: usize = 64 << 10;
/// Buffers are of whole multiples of this, so that they fit again.
pub const BUFFER_STEP_BYTES: usize = 256 << 10;
/// Memory that a piece of the archive which is handed on before its buffer is full takes besides
/// its bytes.
pub const SMALL_CHUNK_BYTES: usize = 512;
/// How long bytes that came wait for more to fill their buffer, before they are handed on.
pub const CHUNK_WAIT_MS: u64 = 500;
/// Pieces that a frame which is decoded in one piece may arrive in.
pub const FRAME_SLICES_MAX: usize = 16 << 10;
/// Content that a stream of frames is decoded into at a time.
pub const STREAM_CONTENT_BYTES: usize = 1 << 20;
/// Bytes of a frame in a row that may bring no content: those of a block, several times.
pub const BARREN_BYTES_MAX: usize = 1 << 20;
/// Largest skippable frame of an archive, with its head.
pub const SKIPPABLE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of all of them together.
pub const SKIPPABLES_BYTES_MAX: u64 = 16 << 20;
/// Frames without content in a row, within [`EMPTY_FRAMES_MS`], that end the restore: a server shows
/// that it lives by one every few seconds, for as long as it clones.
pub const EMPTY_FRAMES_MAX: usize = 1000;
/// See [`EMPTY_FRAMES_MAX`].
pub const EMPTY_FRAMES_MS: u64 = 10 * MINUTE_MS;
/// Bytes that may stand behind the archive's end: frames without content, and those of zeros.
pub const BEHIND_END_BYTES_MAX: u64 = 1 << 20;
/// Slices of memory that a stored frame is written from. A frame of more is decoded like any other,
/// so that small blocks do not take more memory than they hold.
pub const STORED_SLICES_MAX: usize = 1024;
/// Directories that a thread keeps open: enough for the way to a file of most repositories, few
/// enough for any limit of descriptors.
pub const OPEN_DIRECTORIES_MAX: usize = 16;
/// Entries of an archive.
pub const RESTORED_ENTRIES_MAX: u64 = 64 << 20;
/// Headers in a row that only describe the entry behind them: long names, PAX.
pub const DESCRIBING_HEADERS_MAX: usize = 8;
/// Bytes of a PAX header.
pub const PAX_BYTES_MAX: u64 = 256 << 10;
/// Zeros behind the end of a tar archive: tar fills its last record.
pub const TAR_RECORD_BYTES: u64 = 10_240;
/// Share of the file system that a restore leaves free unless it is told otherwise.
pub const RESTORE_FREE_FLOOR_DEFAULT_PERCENT: u8 = 5;
/// Space that is reserved for a file ahead of the data that has come for it.
pub const RESERVED_AHEAD_BYTES: u64 = 64 << 20;
/// Most bytes that one system call writes to a restored file.
pub const WRITE_BYTES: usize = 128 << 10;
/// A connection that brings less of a body than this within so many times the time without a byte
/// after which it is dead, is dead as well: 270 bytes/s unless that time is given. The slowest link
/// brings more, also when all connections share it. A try that brings less counts as one that
/// brings nothing.
pub const PACE_BYTES: usize = 16 << 10;
/// See [`PACE_BYTES`].
pub const PACE_STALLS: u32 = 2;
/// Tries in a row that bring next to nothing before a download is given up, and the wait before the second
/// one; doubled with each further one.
pub const DOWNLOAD_TRIES_MAX: u32 = 6;
/// How often a server is asked that is busy and does not say when to come again.
pub const BUSY_TRIES_MAX: u32 = 3;
/// Tries to fetch a piece of a part that bring what is not right before it is given up.
pub const CORRUPT_TRIES_MAX: u32 = 2;
/// Frames of an archive that are fetched of a pack at a time, by one connection.
pub const PIECE_FRAMES: usize = 1;
/// Parts of a snapshot that are fetched one by one: all are open meanwhile, and the same is done for each of them and each
/// other one. A snapshot of more comes as one archive.
pub const PARTS_MAX: usize = 256;
/// Share of its file system that a seed may have unless it is told otherwise.
pub const SEED_LIMIT_DEFAULT_PERCENT: u8 = 10;
/// Share of its file system that a seed leaves free unless it is told otherwise.
pub const SEED_FREE_FLOOR_DEFAULT_PERCENT: u8 = 10;
/// How long a part of a seed is believed after it was read, unless it is told otherwise.
pub const SEED_CHECK_INTERVAL_DEFAULT_MS: u64 = 24 * HOUR_MS;
/// The longest that may be asked for, but for always.
pub const SEED_CHECK_INTERVAL_MAX_MS: u64 = 365 * 24 * HOUR_MS;
/// How long it is believed how much there is in a seed, which others fill as well.
pub const SEED_LOOK_MS: u64 = SECOND_MS;
/// Parts of a seed that may be about to leave at a time: what is known of one takes 150 bytes.
pub const SEED_VICTIMS_MAX: usize = 16 << 10;
/// How long ago nothing happened to what nobody has any more, where locks do not tell.
pub const SEED_IDLE_MS: u64 = 24 * HOUR_MS;
/// What is fetched so that files of frames stay in a seed is at most one byte for so many of the snapshot.
pub const SEED_SPARE_SHARE: u64 = 8;
/// So much is fetched for that in any case.
pub const SEED_SPARE_BYTES_MIN: u64 = 1 << 20;
/// Bytes that are copied at a time where the kernel cannot do that by itself.
pub const SEED_COPY_BYTES: usize = 1 << 20;
/// See [`DOWNLOAD_TRIES_MAX`].
pub const DOWNLOAD_RETRY_MS: u64 = 100;
/// Longest that a busy server may have a restore wait before it asks again.
pub const COME_AGAIN_MAX_MS: u64 = MINUTE_MS;
/// How long a busy server is asked again for a bundle, in whose place git can fetch.
pub const BUNDLE_BUSY_MS: u64 = MINUTE_MS;
/// Times that a restore begins anew because the server has another snapshot than before.
pub const RESTARTS_MAX: u32 = 2;
/// How long a connection may take to be made, whatever number of addresses the server has.
pub const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// Times that a server may send a request to another place of its own.
pub const RESTORE_REDIRECTS_MAX: u32 = 5;
/// Bytes of TLS that are taken from a connection at a time.
pub const TLS_READ_BYTES: usize = 64 << 10;
/// Largest file of certificates or of a key: a system's roots take 220 KB.
pub const PEM_BYTES_MAX: u64 = 4 << 20;
/// Largest `.netrc` that is read.
pub const NETRC_BYTES_MAX: u64 = 1 << 20;
/// Most that helpers of git's may say of a credential, and how long they may take: some ask elsewhere.
pub const LOGIN_BYTES_MAX: u64 = 64 << 10;
/// See [`LOGIN_BYTES_MAX`].
pub const LOGIN_LIMIT_MS: u64 = MINUTE_MS;
/// How long a server may bring nothing of an archive unless it is told otherwise: it may have to clone
/// first, and by default gives that as long.
pub const WAIT_DEFAULT_MS: u64 = CLONE_TIMEOUT_DEFAULT_MS;
/// The same of a server that has not even answered, where a clone can take the archive's place: most
/// repositories are cloned by then, and of one that is not, the next restore has something.
pub const WAIT_BEFORE_CLONE_MS: u64 = 5 * MINUTE_MS;
/// The same of one that says that its upstream does not tell who may read, unless it is told otherwise: an upstream that
/// is started anew or passed on is there again by then, and of one that is down a farm hears better soon than from jobs
/// that all wait an hour.
pub const UNSAID_DEFAULT_MS: u64 = 5 * MINUTE_MS;
/// The same where a clone can take the archive's place: whether that upstream is there at all it finds out by itself,
/// and as soon.
pub const UNSAID_BEFORE_CLONE_MS: u64 = 10 * SECOND_MS;
/// Most that is read of what a busy server says, to be shown meanwhile.
pub const BUSY_WORDS_BYTES_MAX: usize = 4 << 10;
/// How long a peer may not say that it has got what was sent, or that it is still there: its machine
/// or the way to it is gone.
pub const PEER_DEAD_MS: u64 = 45 * SECOND_MS;
/// Times within that it is asked whether it is still there.
pub const PEER_ASKED: u32 = 3;
/// Default time without a byte after which a connection counts as dead.
pub const RESTORE_STALL_DEFAULT_MS: u64 = 30 * SECOND_MS;
/// The same for what `git` fetches: a server may have it wait before it says the first word.
pub const RESTORE_GIT_STALL_DEFAULT_MS: u64 = UPLOAD_PACK_WAIT_MS + RESTORE_STALL_DEFAULT_MS;
/// Most bytes of a small answer (an error's text, `ensure-refs`) that are read.
pub const SMALL_ANSWER_BYTES_MAX: usize = 1 << 20;
/// Times that a staging directory is made before somebody else's sweep of left-over ones leaves it.
pub const STAGING_TRIES_MAX: u32 = 16;
/// Most bytes of the list of all refs that a server sends.
pub const MOMENT_BYTES_MAX: usize = 64 << 20;
/// Times that a list of refs is asked for whose HEAD is of another moment than its branch, or whose
/// objects are gone before they are fetched.
pub const MOMENT_TRIES_MAX: u32 = 4;
/// Longest header of a bundle, a line of which may be as long: it names the commits that the bundle
/// builds upon, thousands after large merges, each with its subject.
pub const BUNDLE_HEADER_BYTES_MAX: u64 = 16 << 20;
/// Objects that are fetched at a time: their ids are arguments of one command.
pub const FETCH_IDS_MAX: usize = 1000;
/// Branches of a repository to be replaced that are looked at one by one, for their names, and how
/// many are named.
pub const LOCAL_TRIED_MAX: usize = 64;
/// See [`LOCAL_TRIED_MAX`].
pub const LOCAL_NAMED_MAX: usize = 8;
/// Largest list of shallow commits of such a repository.
pub const SHALLOW_BYTES_MAX: u64 = 64 << 20;
/// Largest log of its stashes that is read to count them.
pub const STASH_LOG_BYTES_MAX: u64 = 1 << 20;
/// How long the date of an index may be waited for: the second after a file's own.
pub const INDEX_DATE_WAIT_MAX_MS: u64 = 2 * SECOND_MS;
/// Most that a `git` of a restore may say, on either output: the paths of a large repository.
pub const RESTORE_GIT_OUTPUT_BYTES_MAX: u64 = 128 << 20;
/// Most memory of each process of a `git` of a restore that takes objects, writes files or walks
/// through history: as much as a server gives its own.
pub const RESTORE_GIT_MEMORY_BYTES: u64 = GIT_MEMORY_DEFAULT_BYTES;
/// The same of one that looks at settings, at refs (a million of them) or at a few objects.
pub const RESTORE_LOOK_MEMORY_BYTES: u64 = 1 << 30;
/// How long all the `git` of a restore may take that bring objects: a server gives one of them as
/// long.
pub const RESTORE_GIT_LIMIT_MS: u64 = GIT_UPLOAD_LIMIT_MS;
/// Largest `.git/config` of an archive.
pub const RESTORED_CONFIG_BYTES_MAX: usize = 1 << 20;
/// How long the walks may take through the history of a repository that is overwritten, and of those
/// of its submodules: a million commits take seconds.
pub const OLD_WALK_LIMIT_MS: u64 = 10 * MINUTE_MS;
/// Largest index of a repository that is overwritten, which is never held: some eight million files.
pub const OLD_INDEX_BYTES_MAX: u64 = 1 << 30;
/// Largest `packed-refs` of one, which is never held: some three million refs.
pub const OLD_PACKED_REFS_BYTES_MAX: u64 = 256 << 20;
/// Most of its loose refs, which are: about 200,000.
pub const OLD_LOOSE_REFS_BYTES_MAX: u64 = 16 << 20;
/// Largest list of what was last fetched into a submodule's repository.
pub const FETCHED_BYTES_MAX: u64 = 4 << 20;
/// Largest `.git` of a submodule, which is a file that says where its repository is.
pub const GIT_FILE_BYTES_MAX: u64 = 2 * PATH_BYTES_MAX as u64;
/// Repositories of submodules inside of one that is overwritten that are looked at, entries of the
/// directories that lead to them, and how deep those are.
pub const SUBMODULES_MAX: usize = 1024;
/// See [`SUBMODULES_MAX`].
pub const SUBMODULES_ENTRIES_MAX: usize = 64 * 1024;
/// See [`SUBMODULES_MAX`].
pub const SUBMODULES_DEPTH_MAX: usize = 64;
/// What a `.gitmodules` may say, as git lists it.
pub const SUBMODULES_SAID_BYTES_MAX: usize = 1 << 20;
/// Submodules that are restored in all, and how deep they are nested.
pub const SUBMODULES_RESTORED_MAX: usize = 1_000;
/// See [`SUBMODULES_RESTORED_MAX`].
pub const SUBMODULES_NESTED_MAX: usize = 16;
/// Those that are restored at a time: each has the memory of a restore, and all together what one may have.
pub const SUBMODULES_AT_ONCE: usize = 2;
/// Paths that are arguments of one command.
pub const LISTED_PATHS_MAX: usize = 100;
/// Paths that are looked for in an index at a time, with what each costs besides.
pub const DOUBTS_BYTES_MAX: usize = 16 << 20;
/// See [`DOUBTS_BYTES_MAX`].
pub const DOUBT_BYTES: usize = 64;
/// Names that are tried for what cannot go back to its place, for something else has come there.
pub const BESIDE_TRIES_MAX: u32 = 100;
/// What was done to a target that is noted in memory; the rest is in a file.
pub const MOVES_BYTES: usize = 1 << 20;
/// Largest index of a repository that takes its place: about four million files.
pub const TRACKED_INDEX_BYTES_MAX: u64 = 512 << 20;
/// Largest index of a working copy that is brought to another commit, which is held: some 1.5 million files. Those of its
/// submodules that are held at the same time have as much together with it.
pub const RENEWED_INDEX_BYTES_MAX: u64 = 160 << 20;
/// Of so many directories an index can say what they are, which is held beside it: 120 bytes for each. One that says more
/// says nothing, and the trees are read.
pub const INDEX_TREES_MAX: usize = 400_000;
/// How many files are held that go though they are not as the index says.
pub const MAKES_ROOM_MAX: usize = 1_800_000;
/// So many bytes of paths git is asked about at once which of them it ignores.
pub const IGNORED_ASKED_BYTES: usize = 1 << 20;
/// So long git may take for an answer to that.
pub const IGNORED_ASKED_MS: u64 = 10 * 60 * 1000;
/// What is held of commits that runs which were killed were on their way to, but for the one that is wanted again.
pub const LEFT_CHANGES_BYTES_MAX: usize = 64 << 20;
/// Largest blob of its files that is held to be written; larger ones git writes.
pub const RENEWED_BLOB_BYTES_MAX: u64 = 16 << 20;
/// Files that one thread makes at least, so that another one is worth its start.
pub const RENEWED_FILES_PER_THREAD: usize = 64;
/// Largest note of a restore: a commit, a name and an origin.
pub const RESTORE_NOTE_BYTES_MAX: u64 = 64 << 10;
/// Largest note of the commits that runs which were killed were on their way to, each of which has less than 70 bytes, and
/// of the repositories that were to go.
pub const UPDATE_NOTE_BYTES_MAX: u64 = 64 << 10;
/// How many of them are noted.
pub const UPDATE_NOTED_MAX: usize = 32;
/// How often the refs of a working copy are looked at that move meanwhile.
pub const REFS_LOOKED_MAX: u32 = 3;
/// How often a lock is tried that a run which was killed has left.
pub const LOCK_TRIES_MAX: usize = 3;
/// Locks that are names of one file: file systems have a limit.
pub const LOCK_NAMES_MAX: u32 = 1000;
/// Bytes of an archive's `.git` that are looked at in memory, names and what each file costs
/// included: refs above all, about a million of them. Over it the archive is refused.
pub const CAPTURED_BYTES_MAX: usize = 96 << 20;
/// Commits and tags of which a restore looks whether what they name is there: so many from HEAD on,
/// and so many from all refs on: some tenths of a second, beside what has to be done anyway. A whole
/// history may take ten seconds.
pub const HISTORY_READ_MAX: usize = 4 << 10;
/// Trees that a second thread is asked to look for at a time, while the first one reads commits.
pub const HISTORY_TREES_AT_ONCE: usize = 64;
/// Refs that may come in any order: of more a list is taken only as git makes it, sorted.
pub const UNSORTED_REFS_MAX: usize = 64 << 10;
/// What a file costs there besides its name and content.
pub const CAPTURED_FILE_BYTES: usize = 128;
/// Largest object that is inflated to find what HEAD's trees hold, with all between it and its base,
/// and most of all those that lead to a place.
pub const RESTORED_TREE_BYTES_MAX: usize = 64 << 20;
/// Largest blob that a worker holds, with all between it and its base, where there are as many workers as there can be:
/// each holds four times such a blob at most. What is larger goes past in pieces, or lies in files.
pub const HELD_BLOB_BYTES: u64 = 2 << 20;
/// The same where there are few of them.
pub const HELD_BLOB_BYTES_MAX: u64 = 16 << 20;
/// What all workers together keep of what deltas are made of.
pub const BASES_BYTES: usize = 64 << 20;
/// Largest blob that is converted in memory, which takes a dozen times as much.
pub const HELD_CONVERTED_BYTES: usize = 256 << 10;
/// Memory that attribute files may take in all workers that make a worktree.
pub const RESTORED_ATTRIBUTES_BYTES: usize = 96 << 20;
/// Workers that make a worktree from packs.
pub const WORKTREE_WORKERS_MAX: usize = 16;
/// Entries of a worktree that a worker takes at a time: neighbours, which have directories in common.
pub const WORKTREE_ENTRIES_AT_ONCE: usize = 64;
/// Files of attributes up to which entries are made before all of those are known.
pub const EARLY_ATTRIBUTE_FILES_MAX: usize = 64;
/// How long who makes files waits for the next blob before it looks whether another one has come.
pub const COMING_LOOK_MS: u64 = 10;
/// Entries that were found and that nobody makes yet, from which on no more are looked for.
pub const WORKTREE_ENTRIES_WAITING_MAX: usize = 100_000;
/// Bytes that came before it is decided what a worktree is made of.
pub const CHOICE_BYTES: u64 = 16 << 20;
/// How long it is looked at how much comes before that is decided again.
pub const CHOICE_AGAIN_MS: u64 = 1_000;
/// Frames whose files a core decodes and writes in a second.
pub const FRAMES_PER_CORE_BYTES_S: u64 = 70 << 20;
/// The same of files that it makes from packs.
pub const PACKS_PER_CORE_BYTES_S: u64 = 50 << 20;
/// Deltas between a tree and what is whole: git makes 50, and 250 when told to be aggressive.
pub const DELTA_STEPS_MAX: u64 = 512;
/// Bytes that are inflated, copied or summed for an object between two looks for the end of the
/// restore.
pub const WORK_PIECE_BYTES: usize = 1 << 20;
/// Bytes that are inflated and copied for the trees of a restore, whatever its packs have: two
/// seconds of it.
pub const TREE_WORK_BYTES_MIN: u64 = 4 << 30;
/// The same for each byte of its packs.
pub const TREE_WORK_PER_PACK_BYTE: u64 = 64;
/// Trees without a file that HEAD may have: git makes none.
pub const EMPTY_TREES_MAX: u64 = 1024;
/// Objects of a pack whose reverse index is checked and kept: four bytes each while it is. Git does
/// without one.
pub const REVERSE_INDEX_OBJECTS_MAX: u32 = 16 << 20;

/// What a restore takes of memory for each stretch of a manifest that it plays, besides what that is itself: where it lies
/// and where it ends, and for a moment which bytes of a part it has.
pub const PLAYED_STRETCH_BYTES: usize = 32 + 16;

// What is received, content, entries, the window of the stream, and a manifest of which all is played: within 300 MB with
// the rest. Of two extractions one inside of the other the outer one has got all by then, and keeps no memory for more.
const _: () = assert!(
    RECEIVED_BYTES_MAX
        + CONTENT_BYTES_MAX
        + ENTRIES_BYTES_MAX
        + (1 << RESTORE_WINDOW_LOG_MAX)
        + MANIFEST_HELD_BYTES_MAX
        + MANIFEST_HELD_BYTES_MAX / EXTENT_HELD_BYTES * PLAYED_STRETCH_BYTES
        <= 240 << 20
);

// A frame that is put together fits beside its content.
const _: () = assert!(
    CONTENT_BYTES_MAX
        >= 2 * (RESTORE_FRAME_BYTES_MAX + RESTORE_FRAME_BYTES_MAX / 256 + BUFFER_STEP_BYTES)
);

// One that is not yet whole fits, in however small pieces, beside the buffers of all connections.
const _: () = assert!(
    RECEIVED_BYTES_MAX
        >= RESTORE_FRAME_BYTES_MAX
            + FRAME_SLICES_MAX * SMALL_CHUNK_BYTES
            + (CONNECTIONS_MAX + 4) * STREAM_READ_BYTES
);

const _: () = assert!(SEGMENT_BYTES as usize == STREAM_READ_BYTES);
