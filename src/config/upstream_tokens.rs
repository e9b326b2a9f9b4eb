//! The files with credentials of the server's own.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{ConfigError, Origin};
use super::layers::Layers;
use super::upstreams::{Upstreams, is_safe};
use super::value;

/// Of hosts that are served, by a way on which nobody can read them.
pub(super) fn upstream_tokens(
    layers: &Layers,
    known: &Upstreams,
) -> Result<BTreeMap<String, PathBuf>, ConfigError> {
    let one = |text: &str| {
        let allowed = || "HOST=FILE, where HOST is one that is served".to_owned();
        let (host, file) = text.split_once('=').ok_or_else(allowed)?;
        let host = known.spelled(host).ok_or_else(allowed)?;
        let base = known
            .iter()
            .find(|(known, _)| *known == host)
            .map(|(_, base)| base);
        if !base.is_some_and(is_safe) {
            return Err(format!(
                "a token only for https, or for this machine: {host} could be overheard"
            ));
        }
        Ok((host.to_owned(), value::file(file)?))
    };
    let given = layers.list("upstream_token", one)?.unwrap_or_default();
    let mut tokens = BTreeMap::new();
    for (host, file) in given {
        if tokens.get(&host).is_some_and(|other| *other != file) {
            let origin = layers.find("upstream_token").map(|(_, origin)| origin);
            return Err(ConfigError::value(
                "upstream_token",
                host.as_ref(),
                origin.unwrap_or_else(|| Origin::flag("upstream_token")),
                "one file for each host",
            ));
        }
        tokens.insert(host, file);
    }
    Ok(tokens)
}
