//! Who is at the other end of a connection.

use std::net::IpAddr;
use std::sync::Arc;

use crate::io::address::Address;

/// Who makes a request, as far as its connection tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Where it comes from.
    pub address: Address,
    /// By which kind of listener.
    pub entrance: Entrance,
    /// Who that is shown to be.
    pub identity: Identity,
}

impl Peer {
    /// The address that counts.
    pub(crate) fn ip(&self) -> IpAddr {
        self.address.ip()
    }
}

/// A kind of listener. Of all of them only [`Admin`](Entrance::Admin) gives a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// An address and a port.
    Public,
    /// A unix socket of `--listen`.
    Unix,
    /// The unix socket of `--admin-listen`, which only the server's own user can open.
    Admin,
}

/// Who a connection has shown its client to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nobody.
    None,
    /// The holder of a client certificate, by the name in it that is allowed.
    Certificate(Arc<str>),
}
