//! By what a request was let in.

use std::sync::Arc;
use std::time::Instant;

use crate::access::issuers::{IssuerAt, Proven};
use crate::access::tokens::TokenHash;
use crate::access::verdicts::About;
use crate::config::Role;

/// By what a request was let in, which can be looked at again.
#[derive(Debug, Clone)]
pub(crate) enum Pass {
    /// It needs nothing.
    Open,
    /// The socket file of the administrator, whoever has opened it.
    Entrance,
    /// The certificate that the connection has shown.
    Certificate,
    /// A token, which has to be one that may do this.
    Token(TokenHash, Right),
    /// A token of a CI system that was proven.
    Ci(Arc<Proven>),
    /// One by a key that its issuer is still to be asked for.
    ToProve(IssuerAt),
    /// Its upstream is still to be asked.
    ToAsk,
    /// What its upstream has said of what was shown.
    Shown(About),
    /// What it said before, as it could not be asked then.
    Believed(About, Instant),
}

impl Pass {
    /// Whether an upstream has said so, which can be asked again.
    pub(super) fn is_said(&self) -> bool {
        matches!(self, Pass::Shown(_) | Pass::Believed(..))
    }
}

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Read repositories of hosts whose access is `token`.
    Read,
    /// See the names of all repositories.
    Names,
    /// Run the server.
    Admin,
}

impl Right {
    /// Whether who has this role may.
    pub(super) fn is_of(self, role: Role) -> bool {
        match self {
            Right::Read => role.may_read(),
            Right::Names => role.may_see_names(),
            Right::Admin => role == Role::Admin,
        }
    }
}
