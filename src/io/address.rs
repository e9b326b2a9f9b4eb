//! Where a request comes from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// The other end of its connection.
    Tcp(SocketAddr),
    /// Whom a trusted proxy names, on whose connection it comes.
    Forwarded(IpAddr),
    /// A unix socket: somebody on this machine.
    Unix,
}

impl Address {
    /// The address that counts; for a unix socket that of this machine.
    pub fn ip(self) -> IpAddr {
        match self {
            Address::Tcp(address) => address.ip(),
            Address::Forwarded(address) => address,
            Address::Unix => Ipv4Addr::LOCALHOST.into(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Forwarded(address) => address.fmt(f),
            Address::Unix => f.write_str("unix"),
        }
    }
}
