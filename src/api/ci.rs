//! Tokens of CI systems: whether one lets a request in. A core judges it by the keys that are there; where its key is
//! not, its issuer is asked by the background plane, before anything is looked up.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::gate::shown;
use super::pass::{Pass, Right};
use super::refused::{Refused, Why};
use crate::access::issuers::{IssuerAt, Judged, Proven};
use crate::access::jwt::{Fault, has_its_form};
use crate::http::wire::head::RequestHead;
use crate::io::clock::unix_ms;
use crate::jobs::issuer_keys::Asked;
use crate::limits::OIDC_FETCH_MS;
use crate::telemetry::metrics::{CiToken, Event};

impl Core {
    /// Whether somebody who shows this, which is no token of the server's file, is let in by an issuer. `None` where it
    /// is nothing of the kind.
    pub(super) fn by_ci(&self, secret: &[u8], right: Right) -> Option<Result<Pass, Refused>> {
        if self.issuers.is_empty() || !has_its_form(secret) {
            return None;
        }
        if right != Right::Read {
            return Some(Err(Refused::Named(Why::CiReads)));
        }
        Some(match self.issuers.judge(secret, now_unix_s()) {
            Judged::Known(proven) => Ok(self.let_in_by(proven, CiToken::Known)),
            Judged::Proven(proven) => Ok(self.let_in_by(proven, CiToken::Proven)),
            Judged::Unknown(at) => Ok(Pass::ToProve(at)),
            Judged::Refused(fault) => Err(self.not_by_ci(fault)),
        })
    }

    /// The same of one whose key was not there, once its issuer was asked for it. Where that cannot be asked, or was a
    /// moment ago, nobody knows whose key it is: that is no refusal.
    pub(super) async fn by_new_key(
        &self,
        at: IssuerAt,
        head: &RequestHead<'_>,
    ) -> Result<Pass, Refused> {
        let asked = self.ask(move |jobs| async move { Ok(jobs.ask_issuer(at).await) });
        // It has its own limit; this is for a plane that is held up.
        let limit = 2 * Duration::from_millis(OIDC_FETCH_MS);
        let asked = monoio::time::timeout(limit, asked).await;
        let shown = shown(head)?;
        let secret = shown.secret().ok_or(Refused::Unnamed)?;
        match (self.issuers.judge(secret, now_unix_s()), asked) {
            (Judged::Known(proven), _) => Ok(self.let_in_by(proven, CiToken::Known)),
            (Judged::Proven(proven), _) => Ok(self.let_in_by(proven, CiToken::Proven)),
            (Judged::Refused(fault), _) => Err(self.not_by_ci(fault)),
            (Judged::Unknown(_), Ok(Ok(Asked::Now))) => Err(self.not_by_ci(Fault::UnknownKey)),
            (Judged::Unknown(_), _) => {
                self.meter.add(Event::CiToken(CiToken::Unsaid), 1);
                Err(Refused::NoKeys)
            }
        }
    }

    /// Whether a token that was proven still counts.
    pub(super) fn still_counts(&self, proven: &Proven) -> bool {
        proven.counts(now_unix_s())
    }

    fn let_in_by(&self, proven: Arc<Proven>, how: CiToken) -> Pass {
        self.meter.add(Event::CiToken(how), 1);
        Pass::Ci(proven)
    }

    fn not_by_ci(&self, fault: Fault) -> Refused {
        self.meter.add(Event::CiToken(CiToken::Refused), 1);
        Refused::Named(Why::CiToken(fault))
    }
}

fn now_unix_s() -> u64 {
    unix_ms() / 1000
}
