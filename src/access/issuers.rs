//! The issuers of CI systems that are believed, their keys, and the tokens of theirs that were proven.
//!
//! Cores judge tokens by the keys that are there, and never wait for others: keys come from the background plane. A token
//! is looked at by what it says first; its signature is checked if all else is right, once: then it is remembered by a
//! hash with a key of this process, until it runs out or its issuer has its key no more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::credential::{Credential, Mark};
use super::identity::Identity;
use super::jwks::PublicKey;
use super::jwt::{self, Fault, Unproven};
use crate::config::IssuerRule;
use crate::limits::{
    OIDC_KEYS_LAST_MS, OIDC_PROVEN_BYTES_MAX, OIDC_PROVEN_MAX, OIDC_PROVEN_SHARDS,
};

/// All of them.
#[derive(Debug, Default)]
pub struct Issuers {
    all: Vec<Issuer>,
    /// The authorities that they are believed by.
    pub(crate) ca: Option<PathBuf>,
    proven: Remembered,
}

#[derive(Debug)]
struct Issuer {
    url: String,
    rules: Vec<IssuerRule>,
    keys: ArcSwap<Keys>,
}

/// What an issuer had, and when it was asked for that.
#[derive(Debug, Default)]
struct Keys {
    known: Vec<Arc<PublicKey>>,
    asked: Option<Instant>,
}

/// Which of them: their place in the order of their URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IssuerAt(pub(crate) usize);

/// A token that was proven.
#[derive(Debug)]
pub struct Proven {
    /// Who has it.
    pub identity: Identity,
    /// By what name the log knows him.
    pub(crate) name: Arc<str>,
    until_unix_s: u64,
    key: Weak<PublicKey>,
    bytes: usize,
}

impl Proven {
    /// Whether it still counts.
    pub(crate) fn counts(&self, now_unix_s: u64) -> bool {
        // Whoever holds the key is the set of its issuer's keys alone.
        now_unix_s < self.until_unix_s && self.key.strong_count() > 0
    }
}

/// What is found of what somebody shows.
#[derive(Debug)]
pub enum Judged {
    /// It is a token that was proven before.
    Known(Arc<Proven>),
    /// It was proven now.
    Proven(Arc<Proven>),
    /// All of it is right, as far as that can be seen without its key, which is not there.
    Unknown(IssuerAt),
    /// It is not believed.
    Refused(Fault),
}

impl Issuers {
    /// Those of these rules.
    pub fn new(rules: &[IssuerRule], ca: Option<PathBuf>) -> Issuers {
        let mut by_url: BTreeMap<&str, Vec<IssuerRule>> = BTreeMap::new();
        for rule in rules {
            by_url.entry(&rule.issuer).or_default().push(rule.clone());
        }
        let all = by_url.into_iter().map(|(url, rules)| Issuer {
            url: url.to_owned(),
            rules,
            keys: ArcSwap::default(),
        });
        Issuers {
            all: all.collect(),
            ca,
            proven: Remembered::default(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Each, and its URL.
    pub fn urls(&self) -> impl Iterator<Item = (IssuerAt, &str)> {
        let all = self.all.iter().enumerate();
        all.map(|(at, issuer)| (IssuerAt(at), &*issuer.url))
    }

    /// The URL of one.
    pub(crate) fn url(&self, IssuerAt(at): IssuerAt) -> &str {
        self.all.get(at).map_or("", |issuer| &issuer.url)
    }

    /// What it has by now, as it was `asked` then. What was proven by keys that it has no more counts no longer.
    pub fn put_keys(&self, IssuerAt(at): IssuerAt, keys: Vec<PublicKey>, asked: Instant) {
        let Some(issuer) = self.all.get(at) else {
            return;
        };
        let before = issuer.keys.load();
        let kept = |key: PublicKey| {
            let known = before.known.iter().find(|known| ***known == key);
            known.cloned().unwrap_or_else(|| Arc::new(key))
        };
        issuer.keys.store(Arc::new(Keys {
            known: keys.into_iter().map(kept).collect(),
            asked: Some(asked),
        }));
    }

    /// Judges what may be a token of one of them, at this time.
    pub fn judge(&self, secret: &[u8], now_unix_s: u64) -> Judged {
        if !jwt::has_its_form(secret) {
            return Judged::Refused(Fault::NoToken);
        }
        let mark = Mark::of_secret(secret);
        if let Some(proven) = self.proven.get(&mark, now_unix_s) {
            return Judged::Known(proven);
        }
        match self.check(secret, now_unix_s) {
            Ok(Checked::Proven(proven)) => {
                let proven = Arc::new(proven);
                self.proven.put(mark, proven.clone());
                Judged::Proven(proven)
            }
            Ok(Checked::Unknown(at)) => Judged::Unknown(at),
            Err(fault) => Judged::Refused(fault),
        }
    }

    /// What is cheap comes first: a key is asked for, and a signature checked, for nothing that is refused anyway.
    fn check(&self, secret: &[u8], now_unix_s: u64) -> Result<Checked, Fault> {
        let token = jwt::read(secret)?;
        let named = token.issuer().ok_or(Fault::Issuer)?;
        let mut all = self.all.iter().enumerate();
        let (at, issuer) = all
            .find(|(_, issuer)| issuer.url == named)
            .ok_or(Fault::Issuer)?;
        let until_unix_s = token.until(now_unix_s)?;
        token.is_of(&issuer.rules)?;
        let keys = issuer.keys.load();
        let lasts = Duration::from_millis(OIDC_KEYS_LAST_MS);
        let left = keys
            .asked
            .map(|asked| lasts.saturating_sub(asked.elapsed()));
        let left_s = left.unwrap_or_default().as_secs();
        let mut known = keys.known.iter().filter(|_| left_s > 0);
        let Some(key) = known.find(|key| key.kid == token.kid) else {
            return Ok(Checked::Unknown(IssuerAt(at)));
        };
        // What is remembered counts for no longer than its key would now; then it is looked at again.
        let until_unix_s = until_unix_s.min(now_unix_s.saturating_add(left_s));
        prove(token, key, (until_unix_s, secret.len())).map(Checked::Proven)
    }

    /// Whether a token of one of them stands in a credential, or what may be most of one, wherever: as user, as
    /// password, with something around it. Such a thing goes to nobody else.
    pub fn have_issued(&self, credential: &Credential) -> bool {
        if self.is_empty() {
            return false;
        }
        let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let mut parts = credential.bytes().split(|byte| !is_of_token(*byte));
        let is_ours = |issuer: String| self.all.iter().any(|known| known.url == issuer);
        parts.any(|part| !part.is_empty() && jwt::issuer_in(part).is_some_and(is_ours))
    }
}

enum Checked {
    Proven(Proven),
    Unknown(IssuerAt),
}

fn prove(
    token: Unproven<'_>,
    key: &Arc<PublicKey>,
    (until_unix_s, bytes): (u64, usize),
) -> Result<Proven, Fault> {
    if !key.is_for(token.algorithm) {
        return Err(Fault::Algorithm);
    }
    if !key.has_signed(token.algorithm, token.signed, &token.signature) {
        return Err(Fault::Signature);
    }
    let identity = Identity::of_ci(token.claims);
    Ok(Proven {
        name: identity.logged(),
        identity,
        until_unix_s,
        key: Arc::downgrade(key),
        bytes,
    })
}

/// Tokens that were proven; of too many the oldest are forgotten, and are checked again if they come again.
#[derive(Debug, Default)]
struct Remembered {
    shards: [Mutex<Shard>; OIDC_PROVEN_SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    known: HashMap<Mark, Arc<Proven>>,
    /// In the order in which they came.
    order: VecDeque<Mark>,
    bytes: usize,
}

impl Remembered {
    /// A panic leaves at worst one that is there and in no order.
    fn shard(&self, mark: &Mark) -> MutexGuard<'_, Shard> {
        let first = mark.bytes().first().copied().unwrap_or_default();
        let shard = &self.shards[usize::from(first) % OIDC_PROVEN_SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, mark: &Mark, now_unix_s: u64) -> Option<Arc<Proven>> {
        let shard = self.shard(mark);
        let proven = shard.known.get(mark)?;
        proven.counts(now_unix_s).then(|| proven.clone())
    }

    fn put(&self, mark: Mark, proven: Arc<Proven>) {
        let mut shard = self.shard(&mark);
        shard.bytes += proven.bytes;
        match shard.known.insert(mark, proven) {
            // It has its place in the order.
            Some(before) => shard.bytes -= before.bytes,
            None => shard.order.push_back(mark),
        }
        while shard.order.len() > OIDC_PROVEN_MAX / OIDC_PROVEN_SHARDS
            || shard.bytes > OIDC_PROVEN_BYTES_MAX / OIDC_PROVEN_SHARDS
        {
            let Some(first) = shard.order.pop_front() else {
                break;
            };
            if let Some(forgotten) = shard.known.remove(&first) {
                shard.bytes -= forgotten.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests;
