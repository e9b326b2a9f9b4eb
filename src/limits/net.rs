//! Sockets: what a core sends at a time, the memory of bodies, and how long it waits for a client.

use super::http::HEAD_BYTES_MAX;
use super::jobs::{GIT_REQUEST_BYTES_MAX, UPLOAD_SLOW_BYTES, UPLOAD_SLOW_MS};
use super::units::{MINUTE_MS, SECOND_MS};
use crate::extent::RAW_BLOCK_BYTES;

/// Bytes in one chunk of a response whose length is not known yet.
pub const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// Bytes that one connection sends before its core looks at the others.
pub const TURN_BYTES: u64 = 2 << 20;
/// Bytes that all connections of a core together send before the core asks the kernel for what
/// else happened: wakes of other threads and timers wait so long, 2 ms at 4 GB/s.
pub const POLL_BYTES: u64 = 8 << 20;
/// Room of a core's pipe: the most that every user may have (`/proc/sys/fs/pipe-max-size`).
pub const GATHER_PIPE_BYTES: usize = 1 << 20;
/// Bytes gathered in a core's pipe before they are sent. A pipe of 1 MiB has 256 places, one for
/// each page and each run of framing bytes: seven blocks of 32 pages, whose ends may take one more.
pub const GATHER_BYTES: usize = 7 * RAW_BLOCK_BYTES as usize;
/// A longer range of a file is not gathered with others: alone it is as cheap a byte.
pub const GATHERED_RANGE_BYTES_MAX: u64 = GATHER_BYTES as u64 / 2;
/// What a core puts into its pipe for a socket whatever room that says it has: the kernel takes a
/// whole buffer of about this size as long as any room is left.
pub const ROOM_BYTES_MIN: u64 = 64 << 10;

const _: () = assert!(TURN_BYTES <= POLL_BYTES);

const _: () = assert!(GATHER_BYTES as u64 / RAW_BLOCK_BYTES * (RAW_BLOCK_BYTES / 4096 + 2) <= 256);
/// Time between two looks whether a client that has sent more, or has ended its sending side, is gone.
pub const PEER_LOOK_MS: u64 = 250;
/// A client that takes less than this of a response in [`TAKING_SLOW_MS`] may lose its place to others
/// when places are short.
pub const TAKING_SLOW_BYTES: u64 = UPLOAD_SLOW_BYTES;
/// See [`TAKING_SLOW_BYTES`]. Only time counts in which something is there for the client to take.
pub const TAKING_SLOW_MS: u64 = UPLOAD_SLOW_MS;
/// How long a closing connection waits for a client to take a refusal.
pub const LINGER_MS: u64 = 2_000;
/// What a request counts for in a turn, whatever its response.
pub const REQUEST_TURN_BYTES: u64 = TURN_BYTES / 64;
/// What a head may take before it counts as a body does.
pub const HEAD_FREE_BYTES: usize = 4 << 10;
/// Most that a head takes before there is a verdict on it, with what may follow it.
pub const HEAD_ROOM_BYTES_MAX: usize = HEAD_BYTES_MAX + HEAD_FREE_BYTES;
/// What a connection keeps of each of its two buffers between two requests: of a head that is in no
/// budget, all, so that the next one like it takes no allocation.
pub const BUFFER_KEPT_BYTES: usize = HEAD_FREE_BYTES;
/// Memory for the bodies of all requests together, as they were sent and decoded, and for long heads.
const BODIES_BYTES_MAX: u64 = 28 << 20;
/// The part of it that one client's address has. One of its requests at a time may have more, if as much
/// stays free for others as they may have.
pub const BODIES_OF_CLIENT_BYTES_MAX: u64 = BODIES_BYTES_MAX / 4;
/// How much of it may be used once a body of at most so many bytes has its part: size and bound.
/// Small bodies, as nearly all are, find room whatever large ones do.
pub const BODY_TIERS: [(u64, u64); 4] = [
    (1 << 10, BODIES_BYTES_MAX),
    (4 << 10, BODIES_BYTES_MAX - (1 << 20)),
    (64 << 10, BODIES_BYTES_MAX - (2 << 20)),
    (GIT_REQUEST_BYTES_MAX as u64, BODIES_BYTES_MAX - (4 << 20)),
];
/// A body that brings less than this in [`BODY_SLOW_MS`] loses its place while others wait for one.
pub const BODY_SLOW_BYTES: u64 = 16 << 10;
/// See [`BODY_SLOW_BYTES`].
pub const BODY_SLOW_MS: u64 = SECOND_MS;
/// Time between two looks for slow bodies while somebody waits.
pub const BODY_LOOK_MS: u64 = 100;
/// How long a body waits for room before its request is answered with 503.
pub const BODY_WAIT_MS: u64 = 5 * SECOND_MS;
/// First room for a body that announces more.
pub const BODY_FIRST_BYTES: u64 = 4 << 10;
/// How many times its room a body gets with each next piece.
pub const BODY_GROWTH: u64 = 4;
/// Largest piece.
pub const BODY_PIECE_BYTES: u64 = 64 << 10;
/// How long a client may take to send a request's body without sending a byte.
pub const BODY_PAUSE_MAX_MS: u64 = 60_000;
/// How long it may take to send all of it.
pub const BODY_TIME_MAX_MS: u64 = 10 * MINUTE_MS;
/// Time between two beats of a core's pulse.
pub const PULSE_MS: u64 = 100;
/// A beat that has not come for so long is late: time limits no longer hold.
pub const PULSE_LATE_MS: u64 = 3 * PULSE_MS;
/// Largest body that is read and thrown away where none is expected.
pub const UNUSED_BODY_BYTES_MAX: u64 = 64 * 1024;
