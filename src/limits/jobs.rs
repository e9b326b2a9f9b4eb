//! What runs beside requests: clones, comparisons, git's protocol, bundles, `ensure-refs`.

use super::units::{HOUR_MS, MINUTE_MS, SECOND_MS};

/// How long a first clone waits for its turn before the log says so.
pub const TURN_WAIT_LOGGED_MS: u64 = 5_000;
/// How long a bundle is waited for, and git's endpoint for a mirror that is not there, before the answer is 503. What
/// was begun goes on.
pub const MIRROR_WAIT_MS: u64 = MINUTE_MS;
/// How long a first clone goes on for somebody who was told to come again.
pub const COME_AGAIN_MS: u64 = 5 * MINUTE_MS;
/// Time between two looks whether somebody waits for a first clone, or for what is built behind it.
pub const WANTED_LOOK_MS: u64 = SECOND_MS;
/// How long a failed clone is remembered: requests for the same name are answered alike
/// meanwhile, without asking the upstream again.
pub const CLONE_FAILURE_KEPT_MS: u64 = 10_000;
/// The same where the repository turned out to be larger than a mirror may be: trying it again costs room on the
/// disk, for which others leave.
pub const CLONE_TOO_LARGE_KEPT_MS: u64 = HOUR_MS;
/// Wait after the second build of a repository that failed in a row; doubled with every further
/// one. The first is followed by another at once.
pub const BUILD_RETRY_MS: u64 = 1_000;
/// Longest wait after builds that failed: whoever has mended a mirror should not wait longer.
pub const BUILD_RETRY_MAX_MS: u64 = 30_000;
/// Refs and commits of a repository that are being built at the same time, each by a thread that waits for
/// its turn of the encoders. Over it: 503.
pub const WANTS_BUILDING_MAX: usize = 64;
/// The same for requests of one client's address, of all repositories.
pub const BUILDS_OF_CLIENT_MAX: usize = WANTS_BUILDING_MAX / 4;
/// Commits that are packed for a build at the same time: if git does it, about a second of one core for each
/// 15 MB.
pub const TIPS_PACKING_MAX: usize = 4;
/// Packs that are made of one commit at the same time, at most; each is a thread's, or a git's.
pub const TIP_PACKS_MAX: usize = 4;
/// Objects beside each other that go into the same of these packs: a commit with fewer has one.
pub const TIP_RUN_OBJECTS: usize = 512;
/// Fetches of single commits into one repository of a repository without a mirror: the next has another one, and of
/// what came before only builds keep what they have begun with.
pub const COLD_FETCHES_MAX: usize = 256;
/// The same in bytes, as one part in so many of `--cache-limit`.
pub const COLD_PART: u64 = 8;
/// Repositories without a mirror that are cloned behind single commits, or wait for that. Of more the commits are
/// served, and no clone follows.
pub const COLD_CLONES_MAX: usize = 1024;
/// Memory for what the upstreams of those have, that nobody is about to use.
pub const COLD_LISTINGS_BYTES_MAX: u64 = 16 << 20;
/// A repository whose commit was fetched before it was cloned is cloned after this time at the latest, however long
/// the build takes.
pub const COLD_CLONE_WAIT_MS: u64 = MINUTE_MS;
/// A repository whose commit was served before it was cloned, and whose clone has failed, is cloned again after
/// this time; doubled with every further failure.
pub const COLD_RETRY_MS: u64 = MINUTE_MS;
/// Longest time between two of these.
pub const COLD_RETRY_MAX_MS: u64 = 24 * HOUR_MS;
/// A repository that nobody has asked for within this time is not cloned again by itself.
pub const COLD_UNUSED_MS: u64 = 24 * HOUR_MS;
/// A ref that somebody has asked for within this time is built anew as soon as it moves; others when they are
/// asked for.
pub const WANT_IN_USE_MS: u64 = 5 * MINUTE_MS;
/// Refs and commits of a repository of which something is remembered, before it is forgotten which of them could
/// not be built.
pub const WANTS_KNOWN_MAX: usize = 1024;
/// Short names of a repository's refs of which is remembered what they lead to while it is in use: 75 KB.
pub const WANT_NAMES_MAX: usize = 1024;
/// Names of repositories of which nothing else is known, in a shard of the registry, before they
/// are dropped. About 0.5 KB each.
pub const REPOSITORIES_BARE_MAX: usize = 256;
/// How long an upstream's answer is believed by those who ask for what is not known: that it has not got
/// it, or that it cannot be asked. Bounds how often clients can make the server ask in vain.
pub const UPSTREAM_ANSWER_KEPT_MS: u64 = 10_000;
/// How long a request waits for a comparison before it is told that there is none, or is answered from
/// what is there.
pub const FRESHEN_WAIT_MS: u64 = 30_000;
/// The same of git's own `info/refs`, which is answered in any case.
pub const INFO_REFS_WAIT_MS: u64 = 2_000;
/// Moments at which a mirror was like its upstream that are remembered, each of other refs.
pub const MOMENTS_MAX: usize = 8;
/// Between two comparisons of a repository that webhooks cause.
pub const HOOK_INTERVAL_MS: u64 = SECOND_MS;
/// Branches that were pushed and are remembered until that comparison.
pub const HOOK_BRANCHES_MAX: usize = 64;
/// A webhook has what somebody asked for within this time built before it is asked for again.
pub const PREBUILD_ASKED_MS: u64 = 24 * HOUR_MS;
/// A repository that somebody asked for this long ago or less is in use.
pub const IN_USE_MS: u64 = 5 * MINUTE_MS;
/// Upstreams that are asked at the same time whether they lead back to a server that waits.
pub const WAYS_RUNNING_MAX: usize = 16;
/// The same for requests of one client's address.
pub const WAYS_OF_CLIENT_MAX: usize = WAYS_RUNNING_MAX / 4;
/// Requests that look for refs and objects in mirrors at the same time.
pub const LOOKUPS_RUNNING_MAX: usize = 16;
/// The same that walk over a history, each with a git.
pub const CLOSURES_RUNNING_MAX: usize = 8;
/// `git upload-pack` processes at the same time.
pub const UPLOAD_PACKS_MAX: usize = 64;
/// The same for one client's address: a quarter.
pub const UPLOAD_PACKS_OF_CLIENT_MAX: usize = UPLOAD_PACKS_MAX / 4;
/// A client that takes less than this of a response in [`UPLOAD_SLOW_MS`] loses its turn while others
/// wait for one.
pub const UPLOAD_SLOW_BYTES: u64 = 1 << 20;
/// See [`UPLOAD_SLOW_BYTES`]. Only time counts in which something is there for the client to take.
pub const UPLOAD_SLOW_MS: u64 = MINUTE_MS;
/// Time between two looks for such clients while somebody waits.
pub const UPLOAD_LOOK_MS: u64 = SECOND_MS;
/// How long a request waits to be one of them: longer than it takes to be found too slow.
pub const UPLOAD_PACK_WAIT_MS: u64 = 75_000;
/// Most bytes that are looked at before a response that git produces is begun.
pub const STREAM_FIRST_BYTES: usize = 128 * 1024;
/// What the pipe holds through which git gives it: each time that one side waits for the other costs more
/// than the bytes. They are all that waits for the client; then git waits.
pub const STREAM_PIPE_BYTES: usize = 512 * 1024;
/// Of a response that has become longer than this, what git writes in a moment is sent together.
pub const STREAM_GATHER_FROM_BYTES: u64 = 1 << 20;
/// How long that is ...
pub const STREAM_GATHER_MS: u64 = 1;
/// ... unless there is so much.
pub const STREAM_GATHER_BYTES: u64 = STREAM_PIPE_BYTES as u64 / 2;
/// Largest request of git's protocol after its decompression: the `want` lines of 300,000 refs.
/// Over it: 413.
pub const GIT_REQUEST_BYTES_MAX: usize = 16 << 20;
/// Longest packet line of git's protocol, its length included (gitprotocol-common(5)).
pub const PKT_LINE_BYTES_MAX: usize = 65_520;
/// Longest `Git-Protocol` that is passed on; a longer one is ignored.
pub const GIT_PROTOCOL_BYTES_MAX: usize = 256;
/// Bundles that are kept.
pub const BUNDLES_MAX: usize = 64;
/// Bytes of bundles that are kept.
pub const BUNDLES_BYTES_MAX: u64 = 1 << 30;
/// Bytes of bundles, kept or only being sent, from which on no other is made.
pub const BUNDLES_MADE_BYTES_MAX: u64 = 4 << 30;
/// The part of `--cache-limit` that they may have in all, as one in so many.
pub const BUNDLES_PART: u64 = 8;
/// How long a bundle is kept.
pub const BUNDLE_AGE_MAX_MS: u64 = HOUR_MS;
/// Bundles that are made at the same time.
pub const BUNDLES_MAKING_MAX: usize = 2;
/// Largest body of an `ensure-refs` request: small enough to be parsed on a core. Over it: 413.
pub const ENSURE_BODY_BYTES_MAX: u64 = 256 * 1024;
/// Most refs and most commits in one `ensure-refs` request. Over it: 400.
pub const ENSURE_ITEMS_MAX: usize = 1000;
/// Most of those commits that an upstream is asked for by their ids, one by one, because no ref of it
/// leads to them.
pub const ENSURE_BY_ID_MAX: usize = 8;
/// Ids of which is remembered for [`UPSTREAM_ANSWER_KEPT_MS`] that an upstream did not give them: half a MB.
pub const ABSENT_IDS_MAX: usize = 2048;

const _: () = assert!(UPLOAD_SLOW_MS + 2 * UPLOAD_LOOK_MS < UPLOAD_PACK_WAIT_MS);
/// How often it is tried to remove what refs have left, while somebody reads the packs where they are, before the
/// comparison that saw it has failed.
pub const LEFT_TRIES_MAX: u32 = 3;
