//! Who is at the other end of a connection.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::tls::holder::Holder;
use crate::io::address::Address;

/// Who makes a request, as far as its connection tells.
#[derive(Debug, Clone)]
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
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    /// Nobody.
    None,
    /// The holder of a client certificate.
    Certificate(Rc<Holder>),
}

impl Identity {
    /// Whether it is somebody, by now.
    pub(crate) fn is_somebody(&self) -> bool {
        match self {
            Identity::None => false,
            Identity::Certificate(holder) => holder.is_believed(),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> Option<Arc<str>> {
        match self {
            Identity::None => None,
            Identity::Certificate(holder) => Some(holder.kept_name()),
        }
    }

    /// Whether it was somebody and is nobody any more.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Identity::Certificate(_)) && !self.is_somebody()
    }
}
