//! Every bound in the program, in one room: a file for each room or reason, named after it. They
//! are related to each other at compile time, within a file there, across files here. Units end the
//! names. A bound that an operator may change is only a default here.

mod access;
mod annex;
mod archive;
mod classes;
mod config;
mod git;
mod http;
mod jobs;
mod mirror;
mod net;
mod oidc;
mod process;
mod remote;
mod repository;
mod restore;
mod server;
mod snapshot;
mod store;
mod store_admin;
mod store_redirect;
mod telemetry;
mod tls;
mod units;

pub use access::*;
pub use annex::*;
pub use archive::*;
pub use classes::*;
pub use config::*;
pub use git::*;
pub use http::*;
pub use jobs::*;
pub use mirror::*;
pub use net::*;
pub use oidc::*;
pub use process::*;
pub use remote::*;
pub use repository::*;
pub use restore::*;
pub use server::*;
pub use snapshot::*;
pub use store::*;
pub use store_admin::*;
pub use store_redirect::*;
pub use telemetry::*;
pub use tls::*;

use repository::KERNEL_PATH_BYTES_MAX;

// Any mirror fits into a path, with 1 KiB each for the state directory and the files inside.
const _: () = assert!(HOST_BYTES_MAX + REPO_PATH_BYTES_MAX + 2048 <= KERNEL_PATH_BYTES_MAX);
const _: () = assert!(LISTING_MEMORY_BYTES != GIT_MEMORY_DEFAULT_BYTES);
const _: () = assert!(
    FETCH_RETRY_MS <= FETCH_INTERVAL_DEFAULT_MS && FETCH_INTERVAL_DEFAULT_MS <= FETCH_RETRY_MAX_MS
);
const _: () = assert!(
    COMPARISONS_RUNNING_MAX / 2 > FETCHES_MAX,
    "the schedule leaves room for requests"
);
const _: () = assert!(INFO_REFS_WAIT_MS < FRESHEN_WAIT_MS && FRESHEN_WAIT_MS < GIT_LIST_LIMIT_MS);
const _: () = assert!(BODY_BYTES_MAX <= GIT_REQUEST_BYTES_MAX as u64);
// A credential leaves room for the rest of a head.
const _: () = assert!(CREDENTIAL_BYTES_MAX <= HEAD_BYTES_MAX / 2);
// So is the longest token of a CI system, as a password.
const _: () = assert!(OIDC_TOKEN_BYTES_MAX.div_ceil(3) * 4 < CREDENTIAL_BYTES_MAX);
const _: () = assert!(ENSURE_BODY_BYTES_MAX <= BODY_BYTES_MAX);
const _: () = assert!(
    BODY_BYTES_MAX + GIT_REQUEST_BYTES_MAX as u64 <= BODY_TIERS[3].1,
    "the largest request has room, as it was sent and decoded"
);
const _: () = assert!(
    BODY_BYTES_MAX + BODIES_OF_CLIENT_BYTES_MAX <= BODY_TIERS[3].1,
    "the largest request that is not compressed has room beside another client's"
);
// One entry is handed on at a time at least, beside the file that the archive is inside of.
const _: () = assert!(ENTRY_BYTES + 2 * PATH_BYTES_MAX <= ENTRIES_AT_ONCE_BYTES);
const _: () =
    assert!(ENTRIES_AT_ONCE_BYTES + 2 * (PART_FILE_BYTES + PATH_BYTES_MAX) <= ENTRIES_BYTES_MAX);
