//! tarpon serves whole git repositories as one compressed archive, `snapshot.tar.zst` (worktree
//! and `.git`), to build farms. Unpacking it is the same as a fresh `git clone`. The first byte
//! leaves within milliseconds whatever the size, and a snapshot is produced at most once.
//!
//! # Where a byte goes
//!
//! ```text
//! request ─ http::net::conn ─ http::wire::head ─ http::wire::route   a network core (monoio)
//!              │
//!           api::service ─ api::snapshot ─ api::sought ─ repos::repo: Hit │ Following │ Vacant
//!              │           └ api::preamble: what is said while the first byte is waited for
//!              │                                                          │
//!              │            jobs::import: what another server has shared ◄┘   background plane
//!              │            jobs::clone: a mirror, if there is none
//!              │            jobs::resolve: what a ref or commit leads to
//!              │                        │
//!              │            jobs::build, jobs::builder: one thread a build
//!              │               snapshot::reuse    what the snapshot before has, looked at once
//!              │               snapshot::view     pin: refs read, packs listed, under a lock
//!              │               snapshot::checkout which HEAD and branches git would leave
//!              │               snapshot::gitdir   first frame: leaves at once; refs in frames of their own
//!              │               jobs::entry        entry made, packs and frames hard-linked; unlock
//!              │               snapshot::produce  packs, worktree, index, in this order
//!              │                  ├─ snapshot::survey: which directories are large, which are known
//!              │                  ├─ snapshot::turns: large builds go on in turn
//!              │                  └─ snapshot::ring: encoder threads (job), tree: decoder, filter, tar
//!              │                        │
//!              │            archive::fanout: extents so far, window, readers
//!              │                        ├─► archive::spool: spool file ─► jobs::build ─► store
//!              ▼                        ▼
//!           http::net::socket ◄── archive::reader: walks the extents, waits at the frontier
//! ```
//!
//! The first client, one that follows and a hit run the same code: [`extent::Source`] over one
//! [`archive::fanout::Fanout`]. An archive is a list of [`extent::Extent`]s, never one file:
//! bytes of a spool file, frames in linked files that earlier entries have written, and raw runs of
//! linked packs that are framed while they are sent.
//!
//! `tarpon restore` is the client of all this; [`restore`] shows its own way of a byte.
//!
//! # Planes
//!
//! * **Cores**: one monoio runtime for each CPU with its own listener. They never block: sockets
//!   are non-blocking, files are sent with `sendfile` or `splice` only after `cachestat` says that
//!   they are in memory; otherwise a prefetch thread reads them first. Over TLS they are copied into a buffer of
//!   the core, sealed and sent, eight records at a time; the rest of the way is the same (`http::net`'s `socket`).
//!   That copy takes only what is in memory, where the file system can tell (`RWF_NOWAIT`).
//! * **Encoders**: OS threads of lower priority with zstd, gix and mapped packs; a few of them for
//!   small builds only, which wait for no large one.
//! * **Builders**: one thread for each running build, which puts results in order, and one that
//!   checks its packs ahead of what leaves: a tag promises the sound pack, so no byte of it is sent unseen.
//! * **Scrub**: one idle thread that reads what lies on the disk and has replaced what has rotted.
//! * **Background**: one thread on tokio-uring (or tokio): spool writes, `git`, schedule, eviction.
//!
//! # Where the code differs from the first plan
//!
//! * Sockets are written with `sendfile` and `send` after readiness, on io_uring and epoll alike,
//!   not with `writev` from mappings: no copy, no page fault on a core, nothing to cancel. The
//!   short ranges of a raw run are gathered in the core's pipe ([`io::pipe`]).
//! * What `git upload-pack` writes leaves its pipe on the core that answers, by `splice`; the plane looks at the
//!   first bytes of it only (`http::net::made`).
//! * Packs are mapped only where objects are read; what sums and checks them reads them through a
//!   small buffer: a thread that is nice must not hold the lock of the address space for long.
//! * Whether bytes are in memory is remembered for a moment, for all readers of an archive.
//! * Children are started by way of tarpon's own binary, never by fork(2) ([`io::child`]).
//! * Repositories are found through locks sharded by name and held for a few field accesses,
//!   not through messages to a home core: a wake-up of another core costs more.
//! * `git fetch` never runs under a lock that a request takes: objects come first, without refs; then refs
//!   move in one rename under the write lock. So a request never waits for the network of a fetch.
//! * A range of an archive that still grows is answered with 206 only to a client that names the
//!   archive (`If-Range`, `If-Match`), after the range is there; others get all of it.
//! * The id of an archive is a hash of everything that decides its bytes, so a build that is
//!   repeated after a crash resumes broken downloads, too. Git makes another pack each time, for a single commit or
//!   of what an annex has: the id of such an archive is another then, and a range of the one before is answered
//!   with all of it.
//!
//! # Wants
//!
//! A request names a [`manifest::want`]: HEAD, a ref, a commit, or a branch at a commit. Each want of a
//! repository has a state of its own (`repos`' `wants`), a single flight, an entry and an `ETag`; all share the
//! mirror's packs and each other's frames.
//!
//! * What a short name leads to is looked up on the background plane and remembered until refs move: a hit on a
//!   core reads no file. A want has the full name, so that it means the same whatever refs come later.
//! * A build takes over from its own archive, else from that of the nearest commit, as far as a few steps in the
//!   history tell (`snapshot`'s `lookup`), else from that of a plain request: a commit near HEAD costs what differs.
//! * What follows a ref is built anew when something moves: at once if somebody has asked for it within
//!   minutes, else when somebody asks; until then it is not served. What names a commit is never stale. It
//!   leaves when something expires, for it may be of that, and is looked for again when it is asked for.
//! * Refs lead to all that is below them; of what they have left something may be gone. So a commit that no
//!   few steps lead to from a tip is looked for by git, and is there if all of it is (`mirror`'s `closure`).
//! * What no followed ref leads to (a commit of a fork, a pull request's merge) is fetched by its id, or by the ref
//!   that was named, into the mirror's annex ([`mirror`]'s `annex`), a repository that borrows the mirror's
//!   objects. A build of it is made of the mirror's packs and one more, which has exactly what they lack (`jobs`'
//!   `pinned`): nobody else's archive grows. Each tip of an annex has the moment at which the upstream last gave it;
//!   a core that finds it too long ago serves nothing of it, and the upstream is asked again (`jobs`' `seek`). What
//!   it refuses goes with its snapshots. What is packed for such a build can be another pack the next time:
//!   so its id is, and a download that a crash has broken begins anew. Once a followed ref leads to what an annex
//!   has, its packs are linked into the mirror (`mirror::annex`) and nothing of it is fetched again; where the
//!   upstream's permission decides, the journal names it before that.
//! * A ref that is not followed leads to a commit when it is asked for; what is built is the snapshot of that commit.
//!   Comparisons bring word of those that somebody uses (`mirror::beside`).
//! * A want without history has packs of its own, made of what the mirror's store (`snapshot::tip_pack`; by git what
//!   cannot be read so) beside the build (`jobs::tip`), behind the worktree, whose frames it shares with all others.
//!   Where nothing can be kept the mirror's own packs are sent.
//! * Of a repository without a mirror the one commit is fetched into a repository of its own (`jobs::cold`), from
//!   which nothing else is served; the clone follows.
//! * A plain request has no part in all this: what it takes is that it looks at a field.
//!
//! # Freshness
//!
//! A mirror is as fresh as the moment at which the last comparison with its upstream that succeeded *began*
//! ([`mirror`], `jobs::freshen`); an archive is as fresh as the refs that it was made of, for which the last such
//! moment is remembered. Nothing else is asked about freshness: `Age` is the time since an archive's moment,
//! `Cache-Control: max-age` a bound for it, git's `info/refs` waits for a moment behind its own, and whoever
//! finds the last one too long ago has `jobs::timers` bring another. One comparison of a mirror runs at a time;
//! who comes before it begins shares it. Timers, plain requests and webhooks never make anybody wait.
//!
//! # Who may
//!
//! Every route is a row of [`http::wire::table`], which says what it reads, who may have it and who may keep it on
//! the way; there is no other way to one. `api::gate` is asked by that row before anything is looked up or begun, so
//! that no refusal can depend on what there is, and once more when the answer stands. Every head is begun with
//! what caches may do with it ([`http::wire`]'s `caching`), and none of an error may be kept. What lies in files of
//! secrets is in force as a whole, or stays as it was (`server::reload`).
//!
//! A token of a CI system is judged by a core, by keys that the background plane has fetched from its issuer, and is
//! remembered by a hash until it runs out ([`access::issuers`], `jobs`' `issuer_asks`). A core waits for an issuer only
//! where a token names a key that is not there, and one is asked at most once a minute, whatever tokens name.
//!
//! # The upstream's own permission
//!
//! Where an upstream decides who may read, nothing of a repository is looked up, cloned or said before it has
//! (`access`' `question`, `jobs`' `permission`). Its answer counts for a minute, for that credential alone, and cores
//! find it by one hash ([`access`]' `verdicts`).
//!
//! * A credential goes from the request to the question and into the environment of the gits that are run for it
//!   (`mirror`'s `speaks`), and nowhere else; of the server's own nothing goes along.
//! * What is served was compared within that minute, too, for names are given up and taken by others: a mirror that
//!   has nothing in common with what its upstream has now is dropped (`mirror`'s `same`).
//! * An archive sends packs whole, so what refs have left is gone from a mirror before the comparison that saw it counts
//!   (`jobs`' `left`); what was built before is not begun again.
//! * The mirror's refs say what all may have who may read. What they do not lead to is shown by each who asks for it,
//!   by a fetch of that id: `jobs`' `shown` is asked wherever a request names an object, and what it does not name is as
//!   if it were not there.
//!
//! # Parts
//!
//! What an archive is made of does not depend on what was there before: a frame
//! is a pure function of its key, dates are made from contents, packs are brought into one form first. So a
//! snapshot can be put together from parts of others, byte for byte what a build from nothing makes:
//!
//! * A job's key holds all that decides its frames: format, level, library, and path, mode, id and
//!   conversions of each entry ([`tree`]'s `batch`). Jobs follow directories: none crosses the border of a
//!   large one, so that an equal subtree gives equal jobs.
//! * An entry's own bytes lie in a file of frames with a random name for good. Later entries link that file
//!   by the same path, and their layouts have stretches of it ([`extent`]). The link count is the reference
//!   count. Names are random so that whoever opens an entry by its id, in whose place the same archive was
//!   published again in other files, gets an error and never other bytes.
//! * The [`manifest::outline`] beside the metadata says which jobs and frames of the index belong to which
//!   large directory. One that is the same (path, tree, attribute files above it) is neither walked nor looked
//!   at: its run of jobs and its run of the index are taken over.
//! * The index is cut into frames at the borders of large directories, too; only its head, the lines
//!   between and the sum at its end are made anew, the sum from the frames' content.
//! * Where there would be too many files of frames, or more bytes of no use than of use, a build copies what
//!   is of use of some into its own (`snapshot::reuse`). This is all there is of compaction: in the background it is
//!   a build of the same snapshot, whose id is the same, so that downloads go on with either: at once where much
//!   is of no use, and of all frames, in the archive's order, once one that lies in many stretches is not replaced
//!   for a minute.
//!
//! # A snapshot by its parts
//!
//! Files never change, so whoever has some of a snapshot's can fetch the others by themselves. The
//! [`manifest::parts`] says what they are, written into the entry when it is published. What it costs is a file of
//! a few KB and its sync; what an entry has that older builds have made, without one, is sent whole.
//!
//! * A part is a linked file, or the entry's own file of frames. Packs come as git has them, to be put in place by a
//!   rename, and their checksums are those of the frames in which an archive has them, so that each 4 MiB can be
//!   looked at as it comes; a file of frames has one for all of it. They are XXH64, made for the archive anyway: they
//!   show what a disk or a network has broken, not what somebody has forged.
//! * A name gives no right: `api::parts` looks for it in the snapshots of what the request asks for, current ones and
//!   replaced ones that may still be resumed, and nowhere else.
//! * Sections say where `.git`'s small files, refs, packs, worktree and index begin, so that who makes a worktree
//!   from packs need not fetch its frames.
//! * Whoever restores may keep them for the next time, in a seed that any number of restores share (`restore`'s
//!   `seed`).
//! * A snapshot that is built once more, to put its frames in order, takes the place of the one before, whose id it has:
//!   its own frames have other names then, and who comes for the old ones is to take a new manifest.
//!
//! # A store that servers share
//!
//! With `--store` the cache has a tier below it, which other servers have, too ([`store::remote`] says by what protocol).
//! Without it no path of a request changes.
//!
//! * What was published is uploaded afterwards (`jobs::offer`): its parts, its manifest and metadata, then one swap of
//!   the repository's head. The upstream is compared between the reading of the head and its swap, so that nothing
//!   older takes the place of what another server has seen.
//! * A build that would begin with a clone looks there first (`jobs::import`). What it finds is one more archive that
//!   grows: its files are downloaded by pieces, what it begins with first (`jobs::download`), and its frontier moves over
//!   pieces that were compared with their checksums, whoever reads it. Once whole it is an entry as any other.
//! * A mirror begins with the packs of that entry and the refs of the head (`jobs::planted`): so servers that began with one of them
//!   go on with its packs, and what they build has one `ETag`. Where only the mirror is wanted, the packs come first. Of what
//!   another version has shared it begins with the packs alone (`jobs::planted_others`).
//! * What somebody has begun with at one server any other one lends (`jobs::lent`, [`archive`]'s `lending`): files that come as
//!   they are read, and are no entry.
//! * Of servers that show one archive in files of their own all but the one that has the lease come to the files that are shared
//!   (`jobs::same_files`): so what each of them shares next is what is new.
//! * Of servers that began by themselves and show the same all come to the packs that the head names (`jobs::adoption`, `mirror`'s
//!   `others`): an own pack goes once what is reached of it is elsewhere, and what they build has one `ETag`, too.
//!   What was downloaded for that is kept from one try to the next (`jobs::adopting`).
//!   Whatever comes into a mirror that is there is hashed by git before it is put there ([`mirror`]'s `arriving`).
//! * Of servers that are asked for one repository one compares it by timer, and has its lease (`jobs::leases`); nothing right
//!   rests on that. Who is asked for what he lacks reads the head beside the upstream, and takes from the store what
//!   another has fetched (`jobs::brought`, `mirror`'s `arriving`).
//! * What was shared is looked at now and then (`jobs::store_look`): what was lost is uploaded again, and what has expired at
//!   one server goes at all (`jobs::generation`).
//! * What was seen of heads, and what others are still to be told, is remembered beside the mirrors (`jobs::memories`): a mirror
//!   may leave the disk at any time.
//! * A store that answers nothing is left alone for a while (`jobs::guarded`): nobody waits for it.
//! * A client that says it can is sent there for parts (`jobs::straight`), after the gate and what finds them; one that is
//!   refused there, or gets something else, has the part from here (`restore`'s `straight`).
//! * What is asked for is told there by name and hour (`jobs::used`), and is the first that a server with an empty disk takes
//!   (`jobs::warm`): until then it takes requests and does not say that it is ready.
//! * What nobody uses leaves it, whole repositories at a time (`jobs::store_expiry`): a head says on which
//!   day somebody last used its repository, and who uses it says so once a day (`jobs::store_uses`). Heads stay: others count from them.
//! * What lies there is told by who reads it and nothing else ([`store::admin`]).
//! * The store is asked by the background plane alone. It is not believed: names and lengths are checked as they are
//!   read, and contents by the sums that entries have anyway. Who can write there decides what is served all the same.
//! * A server that is behind does not import what others have, as was planned: it removes all from its mirror that no ref leads
//!   to, which needs no knowledge of what has expired.
//! * The object format of a repository is not part of what its objects are found by: an empty server does not know it.
//!
//! # Rooms
//!
//! | room | what is in it |
//! |---|---|
//! | [`server`] | the process: listeners, cores, the life of threads, the start |
//! | `api` | one file for each endpoint: what is asked, what is answered |
//! | `jobs` | what runs beside requests, on a plane that knows none of its users |
//! | `repos` | repositories, and what there is of each |
//! | [`snapshot`] | from a pinned mirror to extents |
//! | [`store`] | entries on the disk, how much of it is used, and what leaves |
//! | [`mirror`] | from an upstream to a bare mirror, and its upkeep |
//! | [`restore`] | the client |
//! | [`archive`] | an archive that grows or is whole, and who reads it |
//! | [`http`] | the protocol, pure, and the sockets that speak it |
//! | `git` | running git, for the server's mirrors and the client alike |
//! | [`tree`] | what server and client both need of trees: walk, cut, decoder, filter, tar, index, frames |
//! | [`manifest`] | what a snapshot is, and its codec |
//! | the rest | [`access`], `classes`, [`config`], [`telemetry`], [`refs`], [`extent`], [`io`], [`faults`], [`limits`] |
//!
//! Imports go downwards only: [`server`], `api`, `jobs`, `repos`; then [`snapshot`], [`store`],
//! [`mirror`] and [`restore`]; then [`archive`], `git`, [`http`] and [`tree`]; then [`manifest`]; then
//! the rest. Rooms side by side never import each other, but for the rest, which has no circles
//! only; and of what is below it, the client takes nothing of [`archive`] and [`http`]. No two files
//! import each other, by whatever way. `tests/tidy` sees to all that.
//!
//! What only the crate uses is `pub(crate)`, so that the compiler sees what nobody uses. Rooms and
//! modules that are `pub` are what the program, tests, benchmarks and fuzz targets name.
//!
//! No lock that a nice thread can hold is on the way of a hit: a builder's thread and the scrub have
//! the plane publish, condemn and list for them.
//!
//! # Unsafe code
//!
//! Denied, but for ten files that each wrap one thing of the system that has no safe form:
//! `io/child.rs` and `io/signal.rs` (signal masks), `io/disk.rs` (buffers of tokio-uring),
//! `io/net.rs`, `io/pipe.rs`, `io/residency.rs` and `io/sched.rs` (system calls), `io/heap.rs` (the
//! allocator's settings), `tree/iconv.rs` (the C library's interface) and `tree/map.rs` (mapped
//! files). `tests/tidy` has the same list.

#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(unreachable_pub))]

pub mod access;
pub(crate) mod api;
pub mod archive;
pub(crate) mod classes;
pub mod config;
pub mod extent;
pub mod faults;
pub(crate) mod git;
pub mod http;
pub mod io;
pub(crate) mod jobs;
pub mod limits;
pub mod manifest;
pub mod mirror;
pub mod refs;
pub(crate) mod repos;
pub mod restore;
pub mod server;
pub mod snapshot;
pub mod store;
pub mod telemetry;
pub mod tree;
