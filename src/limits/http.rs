//! HTTP: what a client may send.

use super::repository::NAME_BYTES_MAX;

/// Longest request head: request line, headers and the empty line. Over it: 431. A buffer of
/// exactly this size is enough to get a verdict on any head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Most header lines in one request. Over it: 431.
pub const HEADERS_MAX: usize = 100;
/// Longest request target. Over it: 414.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Longest method name that is read before the request is refused with 501.
pub const METHOD_BYTES_MAX: usize = 32;
/// Empty lines that are tolerated before a request line (RFC 9112 section 2.2 asks for one).
pub const LEADING_EMPTY_LINES_MAX: u8 = 1;
/// Most lines of one list-valued header, such as `If-None-Match`, that are kept. Over it: 400.
pub const FIELD_LINES_MAX: usize = 4;
/// Longest `{host}` of a repository: the longest name of a directory on Linux.
pub const HOST_BYTES_MAX: usize = NAME_BYTES_MAX;
/// Longest part of a repository path, the `.git` that is added to its last part included.
pub const PATH_PART_BYTES_MAX: usize = NAME_BYTES_MAX;
/// Longest repository path, without host and without `.git`.
pub const REPO_PATH_BYTES_MAX: usize = 1024;
/// Largest request body that is taken, decoded from its chunks. Over it: 413. A fetch of 100,000
/// refs sends 5 MB of `want` lines.
pub const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Largest body of a webhook, of which nothing is kept. Over it: 413. The hosts' own limit.
pub const WEBHOOK_BODY_BYTES_MAX: u64 = 25 << 20;
/// Most bytes that are hashed to find out whose webhook it is, the same bytes once for each secret that it may be
/// signed with: where there are more than 5, a body can only be smaller. 0.1 s of a core that has instructions for it.
pub const WEBHOOK_HASHED_BYTES_MAX: u64 = 128 << 20;
/// What a byte that is hashed counts for in a turn, against one that is sent.
pub const HASHED_BYTE_WORK: u64 = 4;
/// Containers that may be open in its JSON.
pub const PAYLOAD_DEPTH_MAX: u32 = 64;
/// Longest key of a form that can be one that counts.
pub const PAYLOAD_KEY_BYTES_MAX: usize = 16;
/// Longest key or value of its JSON that can be one that counts: the name of a ref or repository.
pub const PAYLOAD_VALUE_BYTES_MAX: usize = 1024;
/// Most bytes of chunk extensions in one body, all chunks together. They are read and dropped.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 4 * 1024;
/// Most bytes of trailers behind one body. They are read and dropped. Over it: 431.
pub const TRAILER_BYTES_MAX: u32 = 8 * 1024;

// The longest allowed request line leaves half of the head to the headers.
const _: () = assert!(METHOD_BYTES_MAX + TARGET_BYTES_MAX <= HEAD_BYTES_MAX / 2);

// Any repository fits into a target, with the endpoint and a 64-digit hash behind it.
const _: () = assert!(HOST_BYTES_MAX + REPO_PATH_BYTES_MAX + 256 <= TARGET_BYTES_MAX);
