//! Issuers of CI systems are asked for their keys by timer, and when a token names one that is not there; by one task
//! for all who wait, and at most once a minute, whatever tokens name.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::spawn_local;

use super::flights::Duty;
use super::issuer_keys::Asked;
use super::state::Jobs;
use crate::access::discovery::{self, Reach};
use crate::access::issuers::IssuerAt;
use crate::limits::{OIDC_FETCH_APART_MS, OIDC_KEYS_YOUNG_MS};
use crate::telemetry::metrics::{Event, KeyFetchResult};

impl Jobs {
    /// Asks all of them at the start, and again when what they said is old.
    pub(super) async fn keep_issuer_keys(self: Rc<Self>) {
        for (at, _) in self.issuer_keys.issuers.clone().urls() {
            spawn_local(self.clone().keep_keys_of(at));
        }
    }

    async fn keep_keys_of(self: Rc<Self>, at: IssuerAt) {
        loop {
            let wait_ms = match self.clone().ask_issuer(at).await {
                Asked::Now => self.faults.issuer_young_ms.unwrap_or(OIDC_KEYS_YOUNG_MS),
                Asked::InVain | Asked::TooSoon => self.issuer_apart_ms(),
            };
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    fn issuer_apart_ms(&self) -> u64 {
        self.faults.issuer_apart_ms.unwrap_or(OIDC_FETCH_APART_MS)
    }

    /// Asks one for its keys, unless it was asked a moment ago.
    pub(crate) async fn ask_issuer(self: Rc<Self>, at: IssuerAt) -> Asked {
        let keys = &self.issuer_keys;
        let (flight, duty) = keys.asking.join(&at);
        let Some(duty) = duty else {
            // What it says it may have said before somebody began to wait here.
            return match flight.end().await {
                Some(Asked::Now) => Asked::TooSoon,
                ended => ended.unwrap_or(Asked::InVain),
            };
        };
        let apart = Duration::from_millis(self.issuer_apart_ms());
        let Some(asked) = keys.is_due(at, apart) else {
            return Asked::TooSoon;
        };
        // Whoever began it may leave.
        spawn_local(self.clone().ask_issuer_alone(at, asked, duty));
        flight.end().await.unwrap_or(Asked::InVain)
    }

    async fn ask_issuer_alone(
        self: Rc<Self>,
        at: IssuerAt,
        asked: Instant,
        duty: Duty<IssuerAt, Asked>,
    ) {
        let issuers = self.issuer_keys.issuers.clone();
        let fetched = self.issuer_keys.askers.ask(move || {
            let env = |name: &str| std::env::var_os(name);
            let ca = issuers.ca.as_deref();
            discovery::fetch(issuers.url(at), Reach { ca, env: &env })
        });
        let fetched = fetched.await;
        let issuer = self.issuer_keys.issuers.url(at);
        let (result, ended) = match fetched {
            Some(Ok(keys)) => {
                tracing::debug!(issuer, keys = keys.len(), "has its keys");
                self.issuer_keys.issuers.put_keys(at, keys, asked);
                (KeyFetchResult::Done, Asked::Now)
            }
            Some(Err(why)) => {
                tracing::warn!(issuer, "no keys of the issuer of --oidc: {why}");
                // One that has none has answered: what it had before is no key of its any more.
                let ended = match why.has_no_keys() {
                    true => {
                        self.issuer_keys.issuers.put_keys(at, Vec::new(), asked);
                        Asked::Now
                    }
                    false => Asked::InVain,
                };
                (KeyFetchResult::Failed, ended)
            }
            None => (KeyFetchResult::Failed, Asked::InVain),
        };
        self.meter.add(Event::KeyFetch(result), 1);
        duty.done(ended);
    }
}
