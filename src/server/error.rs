//! Why the server could not start, or not stop as it should.

use std::io;
use std::path::PathBuf;

use crate::access::discovery::FetchError;
use crate::config::{At, MISUSED_CODE, StoreUrl};
use crate::http::net::tls::files::TlsError;
use crate::store::files::StoreError;
use crate::telemetry::log::LogError;

/// Exit code of what could not start or has failed.
pub const FAILED_CODE: u8 = 3;

/// Why the server could not start, or not stop as it should.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{0}; choose a directory that this user can write to with --state")]
    State(StoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot listen on {at}: {source}; choose another place with {flag}")]
    Listen {
        at: At,
        flag: &'static str,
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "this process may open {limit} files and needs {needed}; allow it more, with ulimit -n or LimitNOFILE="
    )]
    Descriptors { limit: u64, needed: u64 },
    #[error("cannot {what}: {source}")]
    Start {
        what: &'static str,
        source: io::Error,
    },
    #[error(
        "--cache-low is {low_bytes} bytes of this file system, not less than --cache-limit, which is \
         {high_bytes}"
    )]
    CacheLow { low_bytes: u64, high_bytes: u64 },
    #[error(
        "--io-driver uring was asked for, but io_uring cannot be used ({0}); use auto or epoll"
    )]
    NoUring(io::Error),
    #[error("a network core could not run: {0}")]
    Core(String),
    #[error("the background plane could not run: {0}")]
    Background(String),
    #[error("the file {} of {setting} cannot be read: {source}", .path.display())]
    Secrets {
        setting: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("--store {url} cannot be used: {source}")]
    Shared {
        url: StoreUrl,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("--oidc {url}: {source}")]
    Issuer { url: String, source: FetchError },
    #[error("--access {host}=upstream cannot be had: {why}")]
    Upstream { host: String, why: String },
}

impl ServerError {
    /// The process's exit code, as `--help` lists them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::CacheLow { .. } | Self::Upstream { .. } => MISUSED_CODE,
            _ => FAILED_CODE,
        }
    }
}

pub(super) fn start(what: &'static str) -> impl Fn(io::Error) -> ServerError {
    move |source| ServerError::Start { what, source }
}
