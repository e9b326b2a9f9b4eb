//! Clients that are sent to the store.

use super::remote::{REMOTE_KEPT_MS, STORE_LOOK_IN_USE_MS};
use super::units::SECOND_MS;

/// How long a URL is good for by which a client reads a part from the store.
pub const STORE_URL_LIFE_MS: u64 = 60 * SECOND_MS;
/// A shorter part is sent by the server: the way to the store and back takes longer.
pub const REDIRECTED_BYTES_MIN: u64 = 256 << 10;
/// How long a head is believed to name parts that are there.
pub const REDIRECT_HEAD_MS: u64 = 10 * 60 * SECOND_MS;
/// A head that names not what is asked for is read again after so long.
pub const REDIRECT_HEAD_AGAIN_MS: u64 = STORE_LOOK_IN_USE_MS;
/// Longest wait for a head: a part is sent by the server then.
pub const REDIRECT_WAIT_MS: u64 = SECOND_MS;
/// What so many repositories name is remembered.
pub const REDIRECT_HEADS_MAX: usize = 256;

// What it named then is there for as long as a client may read it.
const _: () = assert!(REDIRECT_HEAD_MS + STORE_URL_LIFE_MS < REMOTE_KEPT_MS / 2);
const _: () = assert!(REDIRECT_HEAD_AGAIN_MS < REDIRECT_HEAD_MS);
