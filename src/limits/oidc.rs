//! Tokens of CI systems, and the keys of who issues them.

/// Rules of issuers that a server has.
pub const OIDC_ISSUERS_MAX: usize = 64;
/// Longest of them.
pub const OIDC_RULE_BYTES_MAX: usize = 4096;
/// Claims that one requires.
pub const OIDC_CLAIMS_REQUIRED_MAX: usize = 16;
/// Longest URL of an issuer, and of its keys.
pub const OIDC_URL_BYTES_MAX: usize = 2048;
/// Longest token that is decoded: those of CI systems have some 2,000 bytes.
pub const OIDC_TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest name of a key.
pub const OIDC_KID_BYTES_MAX: usize = 256;
/// How far clocks may be apart.
pub const OIDC_SKEW_S: u64 = 60;
/// How much of who is named in a token is told in the log.
pub const OIDC_NAME_CHARS_MAX: usize = 200;

/// What an issuer says of itself has no more bytes than this.
pub const OIDC_DISCOVERY_BYTES_MAX: u64 = 64 * 1024;
/// Its keys have no more.
pub const OIDC_KEYS_BYTES_MAX: u64 = 256 * 1024;
/// Longest head of either.
pub const OIDC_HEAD_BYTES_MAX: usize = 32 * 1024;
/// Keys that an issuer has.
pub const OIDC_KEYS_MAX: usize = 64;
/// How long it may take for both.
pub const OIDC_FETCH_MS: u64 = 10_000;
/// It is asked at most once in so long, whoever names what key.
pub const OIDC_FETCH_APART_MS: u64 = 60_000;
/// Keys that are older are asked for again, though they still count.
pub const OIDC_KEYS_YOUNG_MS: u64 = 3_600_000;
/// For how long they count where their issuer does not answer.
pub const OIDC_KEYS_LAST_MS: u64 = 24 * 3_600_000;
/// Bytes of an RSA modulus, from and to: a longer one keeps a core for too long.
pub const OIDC_RSA_BYTES: (usize, usize) = (256, 512);
/// Bytes of its exponent.
pub const OIDC_RSA_EXPONENT_BYTES_MAX: usize = 4;

/// Tokens that were proven and are remembered until they expire.
pub const OIDC_PROVEN_MAX: usize = 16_384;
/// Bytes that they have in all, as their claims were sent.
pub const OIDC_PROVEN_BYTES_MAX: usize = 32 << 20;
/// Parts that they are kept in, each with a lock of its own.
pub const OIDC_PROVEN_SHARDS: usize = 16;

const _: () = assert!(OIDC_FETCH_MS < OIDC_FETCH_APART_MS);
const _: () = assert!(OIDC_FETCH_APART_MS < OIDC_KEYS_YOUNG_MS);
const _: () = assert!(OIDC_KEYS_YOUNG_MS < OIDC_KEYS_LAST_MS);
// The largest has room in its part.
const _: () = assert!(OIDC_TOKEN_BYTES_MAX <= OIDC_PROVEN_BYTES_MAX / OIDC_PROVEN_SHARDS);
