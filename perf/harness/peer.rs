//! Another server with the same URL scheme, measured as its clients see it.

use super::probe::{self, Manners, Transfer};
use super::site::Repository;
use std::net::{SocketAddr, ToSocketAddrs};

/// Where it is.
#[derive(Debug, Clone)]
pub struct Peer {
    authority: String,
    address: SocketAddr,
    /// Of one snapshot, or empty: then it follows from the repository's URL.
    path: String,
}

impl Peer {
    /// Understands `http://HOST:PORT` and `http://HOST:PORT/git/…/snapshot.tar.zst`.
    pub fn parse(url: &str) -> Result<Peer, String> {
        let rest = url.strip_prefix("http://");
        let rest = rest.ok_or_else(|| format!("'{url}' does not begin with http://"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let port = if authority.contains(':') { "" } else { ":80" };
        let mut addresses = format!("{authority}{port}")
            .to_socket_addrs()
            .map_err(|e| format!("{url}: {e}"))?;
        Ok(Peer {
            authority: authority.to_owned(),
            address: addresses
                .next()
                .ok_or_else(|| format!("{url}: no address"))?,
            path: path.trim_end_matches('/').to_owned(),
        })
    }

    /// Host and port.
    pub fn name(&self) -> &str {
        &self.authority
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Downloads its snapshot of a repository.
    pub fn get(&self, repository: &Repository) -> Result<Transfer, String> {
        let target = match (&repository.public, self.path.is_empty()) {
            (_, false) => self.path.clone(),
            (Some(public), true) => format!("/git/{public}/snapshot.tar.zst"),
            (None, true) => {
                return Err("give the whole URL of its snapshot: the repository is a path".into());
            }
        };
        let got = probe::get(self.address, &target, Manners::EAGER, &mut |_| true);
        let transfer = got.map_err(|e| e.to_string())?;
        match (transfer.head.status, transfer.whole) {
            (200, true) => Ok(transfer),
            (200, false) => Err(format!("truncated after {} bytes", transfer.bytes)),
            (status, _) => Err(format!("it answers {status}")),
        }
    }
}
