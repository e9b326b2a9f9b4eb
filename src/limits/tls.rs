//! TLS: handshakes, what is sealed at a time, and the files that it needs.

use super::net::{GATHER_BYTES, HEAD_FREE_BYTES};
use super::units::{MINUTE_MS, SECOND_MS};

/// How long a handshake may take as a whole.
pub const HANDSHAKE_MAX_MS: u64 = 10 * SECOND_MS;
/// What a client may send for it before that counts as a body does. The hello of a browser is 2 KB.
pub const HANDSHAKE_FREE_BYTES: u64 = HEAD_FREE_BYTES as u64;
/// Most that a client may send for it: its certificates, and those that lead to a root.
pub const HANDSHAKE_BYTES_MAX: u64 = 64 << 10;
/// Bytes that are sealed and sent at a time, in eight records. So much waits in memory for a client that takes
/// nothing, besides what the kernel has.
pub const SEAL_BYTES: usize = 128 << 10;
/// What is shorter is not sent alone where other bytes follow at once: it is less than a record.
pub const SEAL_ALONE_BYTES: usize = 16 << 10;
/// Bytes that a core sends without TLS in a nanosecond: what a turn of so many bytes is in time.
pub const BYTES_IN_NS: u64 = 4;
/// How long a client certificate that was believed is believed on the same connection, unless certificates,
/// revocations or names are read anew before.
pub const CERTIFICATE_BELIEVED_MS: u64 = MINUTE_MS;
/// Largest file of certificates, keys or revocations that is read: a list of 100,000 revocations has 4 MB.
pub const TLS_FILE_MAX_BYTES: u64 = 16 << 20;
/// Most pairs of a certificate and a key.
pub const TLS_PAIRS_MAX: usize = 64;

const _: () = assert!(SEAL_BYTES <= GATHER_BYTES);
