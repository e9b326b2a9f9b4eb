//! Why a request is not let in, and what its client hears of that: no more than what he knows. The log has the rest.

use crate::access::credential::Invalid;
use crate::access::jwt::Fault;
use crate::config::{Config, Role, Rule};
use crate::http::wire::table::Need;
use crate::jobs::clone::{IS_ITS_OWN_UPSTREAM, LOOP};
use crate::jobs::permission::UNSAID;
use crate::limits::LOGGED_PATH_BYTES_MAX;

/// Why a request is not let in. Neither depends on what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It says nothing of who sends it.
    Unnamed,
    /// What it says is not enough.
    Named(Why),
    /// A browser sends it for a page of somebody else's.
    Foreign,
    /// The upstream does not say whether it may.
    Unsaid,
    /// The upstream is this server itself.
    Loop,
    /// The issuer of what it shows does not say with which keys it signs.
    NoKeys,
}

/// Why what was shown is not enough. The answer is the same for all: this is for the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// It is no credential that is understood.
    Unreadable,
    /// No token of the server's file is that one.
    UnknownToken,
    /// One is, and is for something else.
    TokenOf(Role),
    /// It is of a CI system, and is not believed.
    CiToken(Fault),
    /// The same, which reads and does nothing else.
    CiReads,
    /// It may not be tried at the upstream, which so is not asked.
    NotForUpstream,
    /// The upstream says no.
    ByUpstream,
    /// It was enough when the request came.
    Meanwhile,
    /// The host is not served.
    NoHost,
}

/// What whoever shows a token hears whose key is not known, the same whatever he asks for.
const NO_KEYS: &str = "the issuer of the token has not said by which keys it signs, or not lately; try again in a minute";

/// By what somebody can prove here who he is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proofs {
    pub tokens: bool,
    pub issuers: bool,
    pub certificates: bool,
}

impl Proofs {
    pub(super) fn of(config: &Config) -> Proofs {
        let tls = config.listeners.tls.as_ref();
        Proofs {
            tokens: config.tokens.is_some(),
            issuers: !config.oidc.is_empty(),
            certificates: tls.is_some_and(|tls| tls.clients.is_some()),
        }
    }

    /// The question to who shows nothing, by what is asked for and by who decides.
    fn question(self, need: Need, rule: Rule) -> &'static str {
        let reads_by_token = self.tokens || self.issuers;
        match (need, rule, self.tokens, self.certificates) {
            (Need::Read, Rule::Upstream, _, _) => {
                "who are you? Send what you log in with at the repository's own host, as Basic or Bearer"
            }
            (Need::Read, _, _, true) if reads_by_token => {
                "who are you? Show a client certificate, or send a token as Bearer, or as the password of Basic"
            }
            (Need::Read, _, _, true) => {
                "who are you? Show a client certificate; there are no tokens here"
            }
            (Need::Read, ..) => "who are you? Send a token as Bearer, or as the password of Basic",
            (_, _, true, _) => {
                "who are you? This is for the socket of --admin-listen, and for tokens that are made for it"
            }
            (_, _, false, _) => {
                "who are you? This is for the socket of --admin-listen; there are no tokens here"
            }
        }
    }
}

impl From<Invalid> for Refused {
    fn from(_: Invalid) -> Refused {
        Refused::Named(Why::Unreadable)
    }
}

impl Refused {
    /// Status and line, by what is asked for, by who decides, and by what can be proven here. A 401 for somebody who has
    /// sent a password would have git erase it.
    pub(super) fn answer(self, need: Need, rule: Rule, proofs: Proofs) -> (u16, &'static str) {
        match self {
            Refused::Unnamed => (401, proofs.question(need, rule)),
            Refused::Foreign => (403, "a page of another site may not ask for this"),
            Refused::Unsaid => (503, UNSAID),
            Refused::Loop => (LOOP, IS_ITS_OWN_UPSTREAM),
            Refused::NoKeys => (503, NO_KEYS),
            Refused::Named(_) if need == Need::Read => {
                (404, "there is no such repository, or not for you")
            }
            Refused::Named(_) => (
                404,
                "there is nothing here for the credential that was sent",
            ),
        }
    }

    /// What the log says beyond that.
    pub(super) fn reason(self) -> Option<&'static str> {
        let Refused::Named(why) = self else {
            return None;
        };
        Some(match why {
            Why::Unreadable => "the credential cannot be read",
            Why::UnknownToken => "the token is not in the file of --tokens",
            Why::TokenOf(Role::Read) => "the token is of role read, which is not enough",
            Why::TokenOf(Role::Metrics) => "the token is of role metrics, which is not enough",
            Why::TokenOf(Role::Admin) => "the token is of role admin, which is not enough",
            Why::CiToken(fault) => return Some(fault.words()),
            Why::CiReads => "the token is of a CI system, which reads and does nothing else",
            Why::NotForUpstream => {
                "the credential is a token for this server, or would be overheard: the upstream was not asked"
            }
            Why::ByUpstream => "its upstream says no to the credential",
            Why::Meanwhile => "what it was let in by is no more",
            Why::NoHost => "the host is not served",
        })
    }
}

/// What the log shows of a target, which is visible ASCII: its path, or the beginning of it. What is in
/// its query may be a secret.
pub(super) fn logged_path(target: &str) -> Box<str> {
    let (path, _) = target.split_once('?').unwrap_or((target, ""));
    match path.get(..LOGGED_PATH_BYTES_MAX) {
        Some(start) if start.len() < path.len() => format!("{start}…").into(),
        _ => path.into(),
    }
}
