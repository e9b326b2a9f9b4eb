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
pub const SEAL_ALONE_BYTES: usize = TLS_RECORD_BYTES;
/// Content of one record.
pub const TLS_RECORD_BYTES: usize = 16 << 10;
/// Most records that are sealed with one key by TLS 1.2, for AES-GCM. The end and what a record less than full adds have
/// room above it.
pub const SEALED_RECORDS_MAX: u64 = (1 << 24) - (1 << 16);
/// What a client may send for a request besides its content: heads of records, and messages that are none, such as
/// changes of keys, each of which costs as much as a short request.
pub const SLACK_BYTES: u64 = 64 << 10;
/// How much more each byte of content adds: it may come in a record of its own.
pub const SLACK_BYTES_EACH: u64 = 32;
/// Bytes that a core sends without TLS in a nanosecond: what a turn of so many bytes is in time.
pub const BYTES_IN_NS: u64 = 4;
/// How long a client certificate that was believed is believed on the same connection, unless certificates,
/// revocations or names are read anew before.
pub const CERTIFICATE_BELIEVED_MS: u64 = MINUTE_MS;
/// Largest certificate of a client with those that lead to a root: as long as the connection is there, so are they.
pub const CLIENT_CHAIN_BYTES_MAX: usize = 16 << 10;
/// Largest file of certificates, keys or revocations that is read: a list of 100,000 revocations has 4 MB.
pub const TLS_FILE_MAX_BYTES: u64 = 16 << 20;
/// Most pairs of a certificate and a key.
pub const TLS_PAIRS_MAX: usize = 64;

const _: () = assert!(SEAL_BYTES <= GATHER_BYTES);
