//! Why a request is not let in, and what its client hears of that: no more than what he knows. The log has the rest.

use crate::access::credential::Invalid;
use crate::config::{Role, Rule};
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
    /// It may not be tried at the upstream, which so is not asked.
    NotForUpstream,
    /// The upstream says no.
    ByUpstream,
    /// It was enough when the request came.
    Meanwhile,
    /// The host is not served.
    NoHost,
}

impl From<Invalid> for Refused {
    fn from(_: Invalid) -> Refused {
        Refused::Named(Why::Unreadable)
    }
}

impl Refused {
    /// Status and line, by what is asked for and by who decides. A 401 for somebody who has sent a password would have
    /// git erase it.
    pub(super) fn answer(self, need: Need, rule: Rule) -> (u16, &'static str) {
        match self {
            Refused::Unnamed if rule == Rule::Upstream => (
                401,
                "who are you? Send what you log in with at the repository's own host, as Basic or Bearer",
            ),
            Refused::Unnamed => (
                401,
                "who are you? Send a token as Bearer, or as the password of Basic",
            ),
            Refused::Foreign => (403, "a page of another site may not ask for this"),
            Refused::Unsaid => (503, UNSAID),
            Refused::Loop => (LOOP, IS_ITS_OWN_UPSTREAM),
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
            Why::NotForUpstream => {
                "the credential is a token of this server, or would be overheard: the upstream was not asked"
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
