//! The gate: the one place where it is decided who may have what.
//!
//! It is asked before anything is looked up, made or begun for a request, so that a refusal cannot differ by
//! what there is; and again when the answer stands, however long that has taken: what has been taken away
//! meanwhile is not sent. What was sent goes on. A host that is open costs a look at one flag.

use std::sync::Arc;

use super::core::{Core, Note};
use super::pass::{Pass, Right};
use super::refused::{Proofs, Refused, Why, logged_path};
use crate::access::credential::{Credential, Invalid};
use crate::access::permissions::Shown;
use crate::access::tokens::TokenHash;
use crate::config::Rule;
use crate::http::net::service::{Answer, Entrance, Identity, Peer};
use crate::http::wire::Reject;
use crate::http::wire::caching::Reach;
use crate::http::wire::head::RequestHead;
use crate::http::wire::route::{Route, route};
use crate::http::wire::table::{Methods, Need};
use crate::jobs::asker::Asker;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::Outcome;

/// What became of a request at the gate.
pub(crate) enum Entry<'h> {
    LetIn(Route<'h>, (Pass, Option<Shown>)),
    Refused(Route<'h>, Refused),
    /// It leads to nothing that there could be.
    Nowhere(Reject),
}

/// Whether a browser asks for a page that is not of this server: what is done with POST is not done because
/// somebody looks at a page.
fn is_of_another_page(head: &RequestHead<'_>) -> bool {
    let Some(origin) = head.origin else {
        return false;
    };
    let behind = |scheme: &[u8]| origin.strip_prefix(scheme);
    let page = behind(b"http://").or_else(|| behind(b"https://"));
    match (page, head.host) {
        (Some(page), Some(host)) => !page.eq_ignore_ascii_case(host),
        _ => true,
    }
}

/// What a head has for this server: what is said to it alone, else what is said at all.
pub(super) fn shown(head: &RequestHead<'_>) -> Result<Credential, Invalid> {
    let value = head.tarpon_authorization.or(head.authorization);
    Credential::read(value.map(|value| value.0))
}

impl Core {
    /// Whether a request may have what it asks for.
    pub(super) fn gate(
        &self,
        route: &Route<'_>,
        peer: &Peer,
        head: &RequestHead<'_>,
    ) -> Result<Pass, Refused> {
        let row = route.endpoint().row();
        let is_told = row.methods == Methods::Post || row.need == Need::Admin;
        if is_told && is_of_another_page(head) {
            return Err(Refused::Foreign);
        }
        match row.need {
            // Its endpoint asks for more.
            Need::Nothing | Need::Signature => Ok(Pass::Open),
            Need::Read => {
                let host = route.repo().map(|repo| repo.host);
                match host.map(|host| self.config.access.of(host)) {
                    Some(Rule::Open) => Ok(Pass::Open),
                    Some(Rule::Token) => self.proven(peer, head, Right::Read),
                    Some(Rule::Upstream) => self.may_be_asked(route.repo(), head),
                    None => Err(Refused::Named(Why::NoHost)),
                }
            }
            Need::Names => self.proven(peer, head, Right::Names),
            Need::Admin => self.proven(peer, head, Right::Admin),
            Need::Counts => match self.proven(peer, head, Right::Names) {
                // It gets what is for everybody; so does who may do something else.
                Err(Refused::Unnamed) => Ok(Pass::Open),
                Err(refused) => match self.proven(peer, head, Right::Read) {
                    Ok(Pass::ToProve(_)) | Err(_) => Err(refused),
                    Ok(_) => Ok(Pass::Open),
                },
                passed => passed,
            },
        }
    }

    /// Has a request let in or refused, whoever must be asked for that.
    pub(super) async fn entry<'h>(&self, head: &RequestHead<'h>, peer: &Peer) -> Entry<'h> {
        let route = match route(head.method, head.target) {
            Ok(route) => route,
            Err(reject) => return Entry::Nowhere(reject),
        };
        let passed = match self.gate(&route, peer, head) {
            Ok(pass) => self.let_in(pass, (route.repo(), head, peer)).await,
            Err(refused) => Err(refused),
        };
        match passed {
            Ok(passed) => Entry::LetIn(route, passed),
            Err(refused) => Entry::Refused(route, refused),
        }
    }

    /// The same of one that was let in, once that may be long ago.
    pub(super) async fn entry_again<'h>(
        &self,
        entry: Entry<'h>,
        head: &RequestHead<'h>,
        peer: &Peer,
    ) -> Entry<'h> {
        match entry {
            Entry::LetIn(_, (ref pass, _)) if !self.still(pass, &peer.identity) => {
                self.entry(head, peer).await
            }
            entry => entry,
        }
    }

    /// By what name it is known who was let in so.
    pub(super) fn name_of(&self, pass: &Pass, peer: &Peer) -> Option<Arc<str>> {
        match pass {
            Pass::Token(hash, _) => self
                .tokens
                .load()
                .get(*hash)
                .map(|token| token.name.clone()),
            Pass::Certificate => peer.identity.name(),
            Pass::Ci(proven) => Some(proven.name.clone()),
            _ => None,
        }
    }

    /// Whether what a request was let in by is still there.
    pub(super) fn still(&self, pass: &Pass, identity: &Identity) -> bool {
        match pass {
            Pass::Open | Pass::Entrance | Pass::ToAsk | Pass::ToProve(_) => true,
            Pass::Ci(proven) => self.still_counts(proven),
            Pass::Certificate => identity.is_somebody(),
            Pass::Shown(about) => self.is_still_shown(about),
            Pass::Believed(about, since) => self.is_still_believed(about, *since),
            Pass::Token(hash, right) => self.is_token_for(*hash, *right),
        }
    }

    /// The same, for what has begun to answer and says itself why it breaks off.
    pub(super) async fn still_let_in(
        &self,
        (pass, identity): (&Pass, &Identity),
        (repo, asker): (&Arc<Repo>, Asker),
    ) -> Result<(), StartError> {
        match self.still(pass, identity) || self.is_shown_again(pass, repo, asker).await {
            true => Ok(()),
            false => {
                let gone = Refused::Named(Why::Meanwhile);
                let proofs = Proofs::of(&self.config);
                let (status, line) = gone.answer(Need::Read, Rule::Upstream, proofs);
                Err(StartError {
                    status,
                    message: line.into(),
                })
            }
        }
    }

    /// Who proves who he is: by his connection, or by what he says.
    fn proven(&self, peer: &Peer, head: &RequestHead<'_>, right: Right) -> Result<Pass, Refused> {
        match (peer.entrance, right) {
            (Entrance::Admin, _) => Ok(Pass::Entrance),
            (_, Right::Read) if peer.identity.is_somebody() => Ok(Pass::Certificate),
            _ => self.token(head, right),
        }
    }

    fn token(&self, head: &RequestHead<'_>, right: Right) -> Result<Pass, Refused> {
        let shown = shown(head)?;
        let secret = shown.secret().ok_or(Refused::Unnamed)?;
        let hash = TokenHash::of(secret);
        match self.tokens.load().get(hash).map(|token| token.role) {
            Some(role) if right.is_of(role) => Ok(Pass::Token(hash, right)),
            Some(role) => Err(Refused::Named(Why::TokenOf(role))),
            None => self.by_ci(secret, right).unwrap_or_else(|| {
                // It is nothing that anybody could have proven.
                Err(Refused::Named(Why::UnknownToken))
            }),
        }
    }

    fn is_token_for(&self, hash: TokenHash, right: Right) -> bool {
        let tokens = self.tokens.load();
        tokens
            .get(hash)
            .is_some_and(|token| right.is_of(token.role))
    }

    /// Who decides about a host.
    fn rule_of(&self, host: Option<&str>) -> Rule {
        host.map_or(Rule::Open, |host| self.config.access.of(host))
    }

    /// Whether what is answered to a target differs by who asks.
    pub(super) fn reach(&self, target: &str) -> Reach {
        let below = target.strip_prefix("/git/");
        let host = below.and_then(|below| below.split('/').next());
        match self.rule_of(host) {
            Rule::Open => Reach::Everybody,
            Rule::Token | Rule::Upstream => Reach::Asker,
        }
    }

    /// The answer to who is not let in. It does not depend on anything that there is.
    pub(super) fn not_let_in(
        &self,
        (head, route): (&RequestHead<'_>, &Route<'_>),
        refused: Refused,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let need = route.endpoint().row().need;
        let rule = self.rule_of(route.repo().map(|repo| repo.host));
        let (status, line) = refused.answer(need, rule, Proofs::of(&self.config));
        let answer = match route.repo() {
            Some(repo) => self.refuse_repository(head, repo, status, line, out),
            None => Answer {
                payload: self.text(head, status, line, out),
                keep_alive: head.keep_alive,
                note: Note {
                    path: Some(logged_path(head.target)),
                    reason: Some(line.into()),
                    ..self.note(head, Outcome::Refused, status)
                },
            },
        };
        let reason = refused.reason().map(Into::into);
        let note = Note {
            reason: reason.or(answer.note.reason),
            ..answer.note
        };
        Answer { note, ..answer }
    }
}
