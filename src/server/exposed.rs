//! What others can reach or read of a server as it is set: its listeners, and its files of secrets.

use std::path::Path;

use crate::config::{At, Config, Listen, Rule};

fn is_beyond(listen: &Listen) -> bool {
    matches!(listen.at, At::Tcp(at) if !at.ip().is_loopback())
}

/// Who may read, where other machines reach the server.
pub(super) fn who_reaches(config: &Config) -> Option<String> {
    let who = || config.access.words(&config.upstreams);
    let is_reached = config.listeners.listen.iter().any(is_beyond);
    is_reached.then(|| format!("other machines reach this server: {}", who()))
}

/// Listeners to which tokens and logins come in the clear, by a network. A proxy that is believed may end TLS.
pub(super) fn overheard(config: &Config) -> Option<String> {
    let is_asked = |(host, _): (&str, &str)| config.access.of(host) != Rule::Open;
    let asks =
        config.tokens.is_some() || !config.oidc.is_empty() || config.upstreams.iter().any(is_asked);
    if !asks || !config.listeners.trust_proxy.is_empty() {
        return None;
    }
    let mut plain = config.listeners.listen.iter();
    let plain = plain.find(|listen| is_beyond(listen) && !listen.tls)?;
    Some(format!(
        "whoever listens on the way to {} reads the tokens and logins that come there in the clear: --tls-cert and \
         --tls-key have it speak TLS",
        plain.at
    ))
}

/// Files with secrets that not only their owner and group can read, for the group is often there for it, or that not only
/// their owner can change. Of tokens there are hashes only: who can change them lets himself in.
pub(super) fn exposed_files(config: &Config) -> Vec<String> {
    let look = |(setting, path): (&str, &Path)| {
        let (others, what) = match setting {
            "--tokens" => (0o022, "says who may read, and others may change it"),
            _ => (0o026, "has secrets, and others may read or change it"),
        };
        let mode = rustix::fs::stat(path).ok()?.st_mode & 0o777;
        (mode & others != 0).then(|| {
            let path = path.display();
            format!("{setting}: {path} {what} (mode {mode:o}): chmod g-w,o= {path}")
        })
    };
    config.secret_files().into_iter().filter_map(look).collect()
}
