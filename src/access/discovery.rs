//! The keys of an issuer, fetched: what it says of itself, and from there its keys. By https alone, of a bounded size,
//! within a bounded time, and without going where it redirects to. Blocks: for a thread of its own.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Proxy};

use super::jwks::{self, KeysError, PublicKey};
use super::shown::without_password;
use super::way::{Variables, Way};
use crate::io::certificate;
use crate::limits::{
    OIDC_DISCOVERY_BYTES_MAX, OIDC_FETCH_MS, OIDC_HEAD_BYTES_MAX, OIDC_KEYS_BYTES_MAX,
    OIDC_URL_BYTES_MAX,
};

/// Where each says what it is, below its own URL.
const SAYS_AT: &str = "/.well-known/openid-configuration";

/// Why there are no keys, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // They say what they are.
pub enum FetchError {
    #[error("the certificates of --oidc-ca cannot be read: {0}; name a file of certificates (PEM)")]
    Roots(io::Error),
    #[error("the proxy that the environment names is no URL of one; set https_proxy, or no_proxy")]
    Proxy,
    #[error(
        "{url}: its certificate is not believed: {why}; name its authority's with --oidc-ca FILE"
    )]
    Certificate { url: String, why: String },
    #[error("{url} does not answer: {why}; can this machine reach it, by which proxy?")]
    Nothing { url: String, why: String },
    #[error("{url} answers {status}; is the issuer as its tokens name it in iss?")]
    Status { url: String, status: u16 },
    #[error(
        "{url} redirects elsewhere ({status}), which is not followed: name the issuer that its tokens name in iss"
    )]
    Redirects { url: String, status: u16 },
    #[error("{url} says more than {bytes_max} bytes, which no issuer does")]
    TooLong { url: String, bytes_max: u64 },
    #[error("{url} is not what an issuer says of itself (issuer and jwks_uri, in JSON)")]
    NoIssuer { url: String },
    #[error("{url} says that it is {issuer:?}: write that in --oidc, if its tokens name it in iss")]
    Other { url: String, issuer: String },
    #[error("{url} names keys that are not to be had by https: {keys_url:?}")]
    NotHttps { url: String, keys_url: String },
    #[error("{url}: {why}")]
    Keys { url: String, why: KeysError },
}

impl FetchError {
    /// Whether it has said that it has no key that is used here.
    pub(crate) fn has_no_keys(&self) -> bool {
        let none = |why: &KeysError| *why == KeysError::NoneOfUse;
        matches!(self, FetchError::Keys { why, .. } if none(why))
    }
}

#[derive(Deserialize)]
struct Says {
    issuer: String,
    jwks_uri: String,
}

/// How issuers are reached.
#[derive(Clone, Copy)]
pub struct Reach<'r> {
    /// The authorities that are believed; without, those of the system.
    pub ca: Option<&'r Path>,
    /// Looks up a variable of the environment, for the proxy.
    pub env: Variables<'r>,
}

/// Fetches the keys of an issuer; takes [`OIDC_FETCH_MS`] at most.
///
/// # Errors
/// See [`FetchError`].
pub fn fetch(issuer: &str, reach: Reach<'_>) -> Result<Vec<PublicKey>, FetchError> {
    let until = Instant::now() + Duration::from_millis(OIDC_FETCH_MS);
    let url = format!("{}{SAYS_AT}", issuer.trim_end_matches('/'));
    let said = get(&url, reach, OIDC_DISCOVERY_BYTES_MAX, until)?;
    let Ok(Says {
        issuer: itself,
        jwks_uri: keys_url,
    }) = serde_json::from_slice(&said)
    else {
        return Err(FetchError::NoIssuer { url });
    };
    let shown = |text: &str| text.chars().take(OIDC_URL_BYTES_MAX).collect::<String>();
    if itself != issuer {
        let issuer = shown(&itself);
        return Err(FetchError::Other { url, issuer });
    }
    let is_plain = keys_url.bytes().all(|byte| byte.is_ascii_graphic());
    let is_https = keys_url.starts_with("https://") && !keys_url.contains('@');
    if !is_plain || !is_https || keys_url.len() > OIDC_URL_BYTES_MAX {
        let keys_url = shown(&keys_url);
        return Err(FetchError::NotHttps { url, keys_url });
    }
    let keys = get(&keys_url, reach, OIDC_KEYS_BYTES_MAX, until)?;
    jwks::read(&keys).map_err(|why| FetchError::Keys { url: keys_url, why })
}

/// Whether a file of authorities can be read.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn look_at_ca(path: &Path) -> io::Result<()> {
    super::question::own_roots(Some(path), None).map(drop)
}

/// What is at a URL.
fn get(url: &str, reach: Reach<'_>, bytes_max: u64, until: Instant) -> Result<Vec<u8>, FetchError> {
    let agent = agent(url, reach)?;
    // 0 would be no limit.
    let left = until.saturating_duration_since(Instant::now());
    let asked = agent.get(url).header("Accept", "application/json");
    let asked = asked.config();
    let asked = asked.timeout_global(Some(left.max(Duration::from_millis(1))));
    let answer = asked.build().call().map_err(|why| nothing(url, &why))?;
    let url = url.to_owned();
    match answer.status().as_u16() {
        200 => {}
        status @ 300..400 => return Err(FetchError::Redirects { url, status }),
        status => return Err(FetchError::Status { url, status }),
    }
    let mut said = Vec::new();
    let mut body = answer.into_body();
    let read = body.as_reader().take(bytes_max + 1).read_to_end(&mut said);
    read.map_err(|why| nothing(&url, &ureq::Error::Io(why)))?;
    match said.len() as u64 > bytes_max {
        true => Err(FetchError::TooLong { url, bytes_max }),
        false => Ok(said),
    }
}

/// One that goes there and nowhere else. The file of authorities is read each time, so that a new one counts.
fn agent(url: &str, reach: Reach<'_>) -> Result<Agent, FetchError> {
    let roots = match reach.ca {
        Some(_) => super::question::own_roots(reach.ca, None),
        None => super::question::system_roots(),
    };
    let roots = roots.map_err(FetchError::Roots)?;
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .build();
    // Of git's settings nothing counts here, and nothing turns the look at certificates off.
    let proxy = Way::to(url, &[], reach.env).proxy;
    let proxy = proxy.as_deref().map(Proxy::new).transpose();
    Ok(Agent::config_builder()
        .tls_config(tls)
        .proxy(proxy.map_err(|_| FetchError::Proxy)?)
        .https_only(true)
        .user_agent(concat!("tarpon/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_response_header_size(OIDC_HEAD_BYTES_MAX)
        .max_idle_connections(0)
        .build()
        .new_agent())
}

fn nothing(url: &str, error: &ureq::Error) -> FetchError {
    let about_tls = match error {
        ureq::Error::Io(e) => certificate::why_of_io(e),
        ureq::Error::Rustls(e) => Some(certificate::why(e)),
        _ => None,
    };
    let url = url.to_owned();
    match about_tls {
        Some(why) => FetchError::Certificate { url, why },
        None => FetchError::Nothing {
            url,
            why: without_password(&error.to_string()),
        },
    }
}
