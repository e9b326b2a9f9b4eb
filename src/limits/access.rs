//! Who may: credentials and tokens.

/// Longest credential that is read, as it stands in its header: the signed tokens of CI systems, with what
/// they say of a job, have some thousand bytes.
pub const CREDENTIAL_BYTES_MAX: usize = 16 * 1024;
/// So many letters and digits behind what tokens begin with may be one, or most of one. A user may well be
/// called `tarpon_builder`.
pub const TOKEN_LIKE_BYTES_MIN: usize = 16;
/// Random bytes of a token.
pub const TOKEN_BYTES: usize = 32;
/// Longest name of a token.
pub const TOKEN_NAME_BYTES_MAX: usize = 64;
/// Most tokens of a server.
pub const TOKENS_MAX: usize = 100_000;
/// Largest file of them that is read: each may have a long name, and a line of comment.
pub const TOKENS_FILE_BYTES_MAX: u64 = 32 << 20;

const _: () = assert!(2 * TOKEN_BYTES >= TOKEN_LIKE_BYTES_MIN);
