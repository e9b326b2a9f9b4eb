//! The issuers of CI systems, at the start and for `tarpon check`.

use std::sync::Arc;

use super::error::ServerError;
use crate::access::discovery::{Reach, fetch, look_at_ca};
use crate::access::issuers::Issuers;
use crate::config::{Config, Rule};

/// Those of the settings. Whether one answers shows when it is asked: who knows its keys goes on without it.
pub(super) fn find_issuers(config: &Config) -> Result<Arc<Issuers>, ServerError> {
    if let Some(path) = &config.oidc_ca {
        look_at_ca(path).map_err(|source| ServerError::Secrets {
            setting: "--oidc-ca",
            path: path.clone(),
            source,
        })?;
    }
    Ok(Arc::new(Issuers::new(&config.oidc, config.oidc_ca.clone())))
}

/// Asks each for its keys; gives the first that has none to give.
pub(super) fn check_issuers(issuers: &Issuers) -> Result<(), ServerError> {
    let env = |name: &str| std::env::var_os(name);
    for (_, url) in issuers.urls() {
        let ca = issuers.ca.as_deref();
        let fetched = fetch(url, Reach { ca, env: &env });
        fetched.map_err(|source| ServerError::Issuer {
            url: url.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// What is set and means nothing.
pub(super) fn means_nothing(config: &Config) -> Option<&'static str> {
    let mut hosts = config.upstreams.iter();
    let is_token = |(host, _): (&str, &str)| config.access.of(host) == Rule::Token;
    if config.oidc.is_empty() {
        return config
            .oidc_ca
            .is_some()
            .then_some("--oidc-ca means nothing without --oidc");
    }
    (!hosts.any(is_token)).then_some("--oidc means nothing: no host has --access HOST=token")
}
