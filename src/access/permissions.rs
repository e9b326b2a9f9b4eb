//! The upstreams whose own permission decides who may read: how each is asked, and what they have said lately.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::credential::{Credential, Mark};
use super::issuers::Issuers;
use super::question::Questioner;
use super::verdicts::{About, Known, Verdicts};
use crate::config::{RepoKey, is_safe};

/// Of one upstream.
#[derive(Debug)]
pub(crate) struct ByPermission {
    /// What a repository's path is appended to.
    pub base: String,
    pub questioner: Questioner,
    /// What counts for everybody of the operator's configuration of git: keys and values.
    pub settings: Arc<[(String, String)]>,
    /// Whether the server has a credential of its own there: if not, it is asked with those of who asks only.
    pub has_own: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Permissions {
    upstreams: BTreeMap<String, ByPermission>,
    /// Of repositories.
    pub verdicts: Verdicts,
    /// Of objects of them, of which there may be many: these push out none of those.
    pub objects: Verdicts,
    /// Of CI systems, whose tokens are for this server.
    issuers: Arc<Issuers>,
    young: Duration,
    stale: Duration,
}

/// Whoever shows a credential for a repository.
#[derive(Clone)]
pub(crate) struct Shown {
    pub credential: Arc<Credential>,
    /// What stands for it.
    pub mark: Mark,
    /// What verdicts are remembered by.
    pub about: About,
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.credential.fmt(f)
    }
}

impl Permissions {
    /// Those of these hosts, which get no token of these issuers. What one has said, and what it had, counts for so
    /// long; when it cannot be asked, for `stale` longer.
    pub(crate) fn new(
        upstreams: BTreeMap<String, ByPermission>,
        issuers: Arc<Issuers>,
        (young, stale): (Duration, Duration),
    ) -> Permissions {
        Permissions {
            upstreams,
            verdicts: Verdicts::new(young, stale),
            objects: Verdicts::new(young, stale),
            issuers,
            young,
            stale,
        }
    }

    /// The upstream of this host, if its permission decides.
    pub(crate) fn of(&self, host: &str) -> Option<&ByPermission> {
        self.upstreams.get(host)
    }

    /// The hosts of all of them.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.upstreams.keys().map(String::as_str)
    }

    /// The same of a repository, by its name.
    pub(crate) fn of_repository(&self, name: &str) -> Option<&ByPermission> {
        // For most servers this is all.
        if self.upstreams.is_empty() {
            return None;
        }
        self.of(name.split('/').next().unwrap_or_default())
    }

    /// Whoever shows this for a repository; `None` where it cannot be tried: what is a
    /// token of a server or of a CI system for it, or may be one, is nobody else's, and what nobody may overhear is
    /// not sent.
    pub(crate) fn shown(
        &self,
        upstream: &ByPermission,
        key: &RepoKey<'_>,
        credential: Credential,
    ) -> Option<Shown> {
        let is_sent = !credential.is_none();
        let is_kept = || {
            credential.is_or_looks_like_token()
                || self.issuers.have_issued(&credential)
                || !is_safe(&upstream.base)
        };
        if is_sent && is_kept() {
            return None;
        }
        let mark = credential.mark();
        let about = About::repository(&upstream.base, key, &mark);
        Some(Shown {
            credential: Arc::new(credential),
            mark,
            about,
        })
    }

    /// For how long what an upstream had counts; and for how long where it cannot be asked again.
    pub(crate) fn young(&self) -> (Duration, Duration) {
        (self.young, self.young + self.stale)
    }

    /// Whether an object was shown: what followed refs lead to as they are now, to all who may read; else
    /// by a fetch of it, to those who made it.
    pub(crate) fn is_shown(&self, shown: &Shown, id: &[u8], refs: &[u8; 16]) -> Known {
        match self.is_reached(shown, id, refs) {
            true => Known::Yes,
            false => self.objects.known(&shown.about.object(id), Instant::now()),
        }
    }

    /// Whether it is known that followed refs lead to it.
    pub(crate) fn is_reached(&self, shown: &Shown, id: &[u8], refs: &[u8; 16]) -> bool {
        let about = reached(&shown.about, id, refs);
        self.objects.known(&about, Instant::now()) == Known::Yes
    }

    /// From here on it is.
    pub(crate) fn note_reached(&self, shown: &Shown, id: &[u8], refs: &[u8; 16]) {
        let about = reached(&shown.about, id, refs);
        self.objects.note(about, true, Instant::now());
    }
}

/// What says that followed refs lead to an object, which these are.
fn reached(about: &About, id: &[u8], refs: &[u8; 16]) -> About {
    about.object(id).object(refs)
}
