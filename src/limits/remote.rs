//! The object store.

use super::mirror::HOOKED_INTERVAL_MAX_MS;
use super::store::MANIFEST_SENT_BYTES_MAX;
use super::units::{HOUR_MS, SECOND_MS};
use crate::extent::RAW_FRAME_BYTES;

/// Longest head of a repository, in bytes: of 64 wants with 40 parts each it has 300 KB.
pub const STORE_HEAD_BYTES_MAX: usize = 4 << 20;
/// Longest other small object that is swapped: a lease, or what was used lately.
pub const SMALL_OBJECT_BYTES_MAX: usize = 256 << 10;
/// So many parts a head may name, so many snapshots, and so many keys that are to go.
pub const STORE_HEAD_ITEMS_MAX: usize = 1 << 14;
/// Highest count in a head, as no program takes for another number: nobody gets there by counting, and whoever counts on
/// from there comes to no end of numbers.
pub const STORE_HEAD_COUNT_MAX: u64 = 1 << 53;
/// So many parts it says are to be removed; others wait.
pub const STORE_CONDEMNED_MAX: usize = 1 << 12;
/// So many parts of a repository are listed; where there are more nothing is done with them.
pub const STORE_LISTED_MAX: usize = 1 << 18;
/// In so many pages: most have 1,000.
pub const STORE_PAGES_MAX: usize = 1 << 12;
/// So many are removed at once.
pub const REMOVALS_AT_ONCE: usize = 8;
/// So many writes a head remembers: who has seen one that is no further behind knows whether its own was among them.
pub const STORE_HEAD_WRITES_KEPT: usize = 32;
/// So many raises of its generation: who was away for more of them tells all once more what they have told.
pub const STORE_HEAD_RAISES_KEPT: usize = 256;
/// Longest path of a repository, URL or name of a want in a head.
pub const STORE_HEAD_TEXT_BYTES_MAX: usize = 8 << 10;
/// How long a snapshot that was replaced stays in a head, and a part that nothing names any more stays in the store:
/// who has read the head before that may be downloading.
pub const REMOTE_KEPT_MS: u64 = HOUR_MS;
/// How often something is uploaded or swapped before it is given up.
pub const REMOTE_TRIES_MAX: usize = 4;
/// Wait before it is tried again; it doubles with each try.
pub const SWAP_RETRY_MS: u64 = 50;
/// A lease that has not been renewed for so long, as its observer's clock has it, is nobody's.
pub const LEASE_MS: u64 = 60_000;
/// Who has one has compared its repository within so long, or within two of the intervals that are set.
pub const LEASE_COMPARED_MS: u64 = 2 * HOOKED_INTERVAL_MAX_MS;
/// How long the end of the server waits for leases to be given back.
pub const LEASES_END_MS: u64 = 1_000;

const _: () = assert!(STORE_HEAD_WRITES_KEPT < STORE_HEAD_ITEMS_MAX);
const _: () = assert!(STORE_HEAD_RAISES_KEPT < STORE_HEAD_ITEMS_MAX);
/// Longest wait for a connection to an object store.
pub const REMOTE_CONNECT_WAIT_MS: u64 = 5_000;
/// Longest wait for the first byte of its answer, and between two.
pub const REMOTE_SILENCE_MS: u64 = 20_000;
/// Longest time for one piece there or back.
pub const REMOTE_EXCHANGE_MS: u64 = 5 * 60_000;
/// What is longer is uploaded in pieces of so many bytes. 10,000 pieces, which is the most, are 80 GB.
pub const REMOTE_PIECE_BYTES: u64 = 8 << 20;
/// So many pieces of one part are in memory.
pub const REMOTE_PIECES_AT_ONCE: usize = 4;
/// Longest metadata, manifest or outline that is shared.
pub const REMOTE_META_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(
    MANIFEST_SENT_BYTES_MAX <= REMOTE_META_BYTES_MAX,
    "what one server shares the others take"
);
/// Longest probe of a store by `tarpon check`.
pub const PROBE_WAIT_MS: u64 = 30_000;
/// A profile file with more bytes is nobody's.
pub const PROFILE_FILE_BYTES_MAX: u64 = 1 << 20;
/// A file of authorities with more bytes is nobody's.
pub const STORE_AUTHORITIES_BYTES_MAX: u64 = 4 << 20;
/// The keys of a profile are read again this often: whoever changes them has the old ones valid for longer.
pub const PROFILE_READ_AGAIN_MS: u64 = 60 * SECOND_MS;
/// So many repositories have something uploaded at once: each takes `REMOTE_PIECES_AT_ONCE` pieces of memory.
pub const OFFERS_AT_ONCE: usize = 2;
/// How often a snapshot is offered anew to a head that others write all the time.
pub const OFFER_ROUNDS_MAX: usize = 8;
/// Wait before what could not be shared is tried again; it doubles with each failure.
pub const OFFER_RETRY_MS: u64 = 1_000;
/// The longest such wait.
pub const OFFER_RETRY_MAX_MS: u64 = 5 * 60_000;
/// How long the end of the server waits for uploads that it has given up to be removed.
pub const UPLOADS_END_MS: u64 = 2_000;
/// How often is looked, at the end of the server, whether all is uploaded.
pub const OFFERED_LOOK_MS: u64 = 20;
/// Each so many bytes of a file of frames have a checksum: nobody gets a byte before all of these are there.
pub const SUM_PIECE_BYTES: u64 = 256 << 10;
/// So many such checksums are remembered of files that were uploaded: 8 MB.
pub const SUMS_KEPT_MAX: usize = 1 << 20;
/// So many snapshots of the store are lent at once to those who have begun with them at other servers,
pub const LENT_MAX: usize = 16;
/// each for so long after its last reader,
pub const LENT_KEPT_MS: u64 = 60_000;
/// and as far ahead of each reader, more and more as long as he goes on:
pub const LENT_AHEAD_BYTES_MIN: u64 = 1 << 20;
/// no more than this.
pub const LENT_AHEAD_BYTES_MAX: u64 = 32 << 20;
/// Whether nobody reads is looked at so often.
pub const LENT_TIDY_MS: u64 = 1_000;
/// What may be lent a head says that was read so long ago at most,
pub const LENT_LOOK_MS: u64 = 10_000;
/// and so many are remembered.
pub const LENT_HEADS_MAX: usize = 64;

/// Most bytes that one request downloads,
pub const DOWNLOAD_PIECE_BYTES: u64 = 4 << 20;
/// so many at once for one snapshot,
pub const DOWNLOADS_AT_ONCE: usize = 8;
/// and for all for whom somebody waits.
pub const DOWNLOADS_MAX: usize = 12;
/// What nobody waits for has places of its own.
pub const DOWNLOADS_BEHIND_MAX: usize = 4;
/// So many mirrors take over the packs of others at once.
pub const ADOPTIONS_AT_ONCE: usize = 1;
/// How long one of them downloads before others have their turn.
pub const ADOPTION_TURN_MS: u64 = 10 * 60 * SECOND_MS;
/// The wait after one that was in vain doubles with each that has brought nothing, so many times.
pub const ADOPTION_WAIT_DOUBLED_MAX: u32 = 4;
/// How long what was downloaded for a mirror is kept for the next try, since it was begun.
pub const ADOPTION_KEPT_MS: u64 = 24 * HOUR_MS;
/// Packs that were downloaded for a mirror are compared with their names in such steps.
pub const PACK_CHECK_BYTES: usize = 1 << 20;
/// A mirror that has more objects than that which the packs of others lack keeps its own.
pub const ADOPTED_LACKING_MAX: usize = 1_000_000;
/// Wait before a piece is asked for again; it doubles with each try.
pub const PIECE_RETRY_MS: u64 = 50;
/// How long a request without a snapshot waits for what the store knows of one.
pub const STORE_FIRST_WAIT_MS: u64 = 3_000;
/// The same for the first byte of it that can be served.
pub const STORE_BEGIN_WAIT_MS: u64 = 10_000;
/// The same for each further one: what comes more slowly is left, and the repository is cloned. Of the most that is asked for
/// at once that is half a MB/s.
pub const STORE_STALL_MS: u64 = 60 * SECOND_MS;
/// A store of which no request was answered for so long,
pub const STORE_FAILING_MS: u64 = 3_000;
/// and at least so many have failed in a row, is left alone.
pub const STORE_FAILURES_MIN: u32 = 5;
/// How long; it doubles with each try that fails.
pub const STORE_REST_MS: u64 = 2_000;
/// The longest such time.
pub const STORE_REST_MAX_MS: u64 = 60_000;

/// So many branches HEAD may be one of, where a mirror is made of what is shared and its upstream does not answer.
pub const SHARED_HEADS_TRIED_MAX: usize = 64;

/// What others have fetched is taken from the store if it is no more than so many packs,
pub const BROUGHT_PACKS_MAX: usize = 16;
/// and so many bytes: what is more comes from the upstream, of which only what is new is asked for,
pub const BROUGHT_BYTES_MAX: u64 = 16 << 20;
/// and if it comes within so long.
pub const BROUGHT_WAIT_MS: u64 = 1_000;

/// How often is seen whose head is to be looked at: what is said there, and whether what was shared is there,
pub const STORE_LOOK_TICK_MS: u64 = SECOND_MS;
/// of a repository in use after so long,
pub const STORE_LOOK_IN_USE_MS: u64 = 10 * SECOND_MS;
/// and not at all of others, but where something has expired: which these are is looked at after so long.
pub const STORE_RAISED_LOOK_MS: u64 = 10 * 60 * SECOND_MS;
/// So many of them are told of, the last ones: 110 bytes each.
pub const RAISES_TOLD_MAX: usize = 1000;
/// Where nobody can tell, all are looked at within so long.
pub const STORE_LOOK_ALL_MS: u64 = HOUR_MS / 2;
/// Whether all is there that a head names is looked at when somebody has written it, and once more after so long.
pub const STORE_LIST_MS: u64 = HOUR_MS;
/// What a server remembers of a repository in the store: a file of so many bytes at most,
pub const MEMORY_BYTES_MAX: u64 = 64 << 10;
/// and of so many repositories, besides those in whose store something is left to be done.
pub const MEMORIES_KEPT: usize = 20_000;
/// Time between the two listings of an upstream without which nothing is removed that has expired elsewhere.
pub const LISTED_TWICE_MS: u64 = 10 * SECOND_MS;
/// So many heads are looked at at once.
pub const STORE_LOOKS_AT_ONCE: usize = 4;
/// What others may have left without a head that says so is looked for after so long.
pub const STORE_SWEEP_MS: u64 = 24 * HOUR_MS;

// A piece that is uploaded is compared with whole checksums.
const _: () = assert!(REMOTE_PIECE_BYTES.is_multiple_of(RAW_FRAME_BYTES));
const _: () = assert!(REMOTE_PIECE_BYTES.is_multiple_of(SUM_PIECE_BYTES));
const _: () = assert!(
    (DOWNLOADS_MAX + DOWNLOADS_BEHIND_MAX) as u64 * DOWNLOAD_PIECE_BYTES <= 64 << 20,
    "what is in memory of all of them"
);
const _: () = assert!(
    (OFFER_RETRY_MAX_MS << ADOPTION_WAIT_DOUBLED_MAX) + ADOPTION_TURN_MS < ADOPTION_KEPT_MS,
    "it is there for the next try"
);
const _: () = assert!(DOWNLOADS_AT_ONCE <= DOWNLOADS_MAX);
const _: () = assert!(SUM_PIECE_BYTES <= DOWNLOAD_PIECE_BYTES);
const _: () = assert!(RAISES_TOLD_MAX * 200 <= SMALL_OBJECT_BYTES_MAX);

/// So many repositories are told of as used lately,
pub const USED_NAMES_MAX: usize = 1000;
/// of which no name is longer: a host, a path, and what is between them;
pub const USED_NAME_BYTES_MAX: usize = 255 + 1 + 1024;
/// and all together are no longer.
pub const USED_NAMES_BYTES_MAX: usize = 160 << 10;
/// To so much of an hour they are told when;
pub const USED_STEP_MS: u64 = HOUR_MS;
/// how often others are told what is used here,
pub const USED_TOLD_MS: u64 = HOUR_MS;
/// and after the start of the server: who is there for less than an hour tells it as well.
pub const USED_FIRST_MS: u64 = 60 * SECOND_MS;

// Beside a name stand its hour and what makes it JSON.
const _: () = assert!(USED_NAMES_BYTES_MAX + USED_NAMES_MAX * 60 + 1024 <= SMALL_OBJECT_BYTES_MAX);

/// So many repositories that were used lately are taken at once by a server that starts.
pub const WARMED_AT_ONCE: usize = 4;

/// The day of a use, and how much of one a head says.
pub const USED_DAY_MS: u64 = 24 * HOUR_MS;
/// How often a server looks whether all heads are to be looked at, which somebody does each `STORE_SWEEP_MS`, and each
/// hour for as long as something is on its way out.
pub const STORE_EXPIRY_LOOK_MS: u64 = HOUR_MS / 2;
/// A next look that is said to be later than in so many hours was said by a clock that is wrong.
pub const STORE_LOOK_AHEAD_HOURS_MAX: u64 = 48;
/// Two looks that are so many days apart are counted as following each other.
pub const STORE_LOOK_GAP_DAYS_MAX: u64 = 7;
/// So many of the repositories that were used least lately are known at once: 100 bytes each.
pub const STORE_LEAST_USED_MAX: usize = 1 << 14;
