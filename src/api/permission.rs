//! Where the upstream's own permission decides: whether whoever sends a request may read its repository.

use std::time::{Duration, Instant};

use super::core::Core;
use super::pass::Pass;
use super::refused::{Refused, Why};
use crate::access::credential::Credential;
use crate::access::permissions::Shown;
use crate::access::verdicts::{About, Known};
use crate::http::net::service::Peer;
use crate::http::wire::head::RequestHead;
use crate::http::wire::route::RepoRef;
use crate::jobs::asker::Asker;
use crate::jobs::question_turns::Verdict;
use crate::jobs::questions::Asking;
use crate::limits::QUESTION_LIMIT_MS;
use crate::mirror::Via;
use crate::repos::repo::Repo;

impl Core {
    /// Whether an upstream is to be asked, as far as that is known at once.
    pub(super) fn may_be_asked(
        &self,
        repo: Option<RepoRef<'_>>,
        head: &RequestHead<'_>,
    ) -> Result<Pass, Refused> {
        let (shown, refused) = self.shown_to(repo.ok_or(Refused::Named(Why::NoHost))?, head)?;
        match self
            .permissions
            .verdicts
            .known(&shown.about, Instant::now())
        {
            Known::Yes => Ok(Pass::Shown(shown.about)),
            Known::No => Err(refused),
            Known::Before(_) | Known::Nothing => Ok(Pass::ToAsk),
        }
    }

    /// What a request shows to its upstream, and how it is refused.
    fn shown_to(
        &self,
        repo: RepoRef<'_>,
        head: &RequestHead<'_>,
    ) -> Result<(Shown, Refused), Refused> {
        let key = self.key(repo).ok_or(Refused::Named(Why::NoHost))?;
        let upstream = self.permissions.of(key.host());
        // What cannot be read is not taken for none.
        let credential = Credential::read(head.authorization.map(|value| value.0))?;
        let refused = match credential.is_none() {
            true => Refused::Unnamed,
            false => Refused::Named(Why::ByUpstream),
        };
        let shown =
            upstream.and_then(|upstream| self.permissions.shown(upstream, &key, credential));
        let not_tried = Refused::Named(Why::NotForUpstream);
        shown.map(|shown| (shown, refused)).ok_or(not_tried)
    }

    /// Has the upstream asked, or the issuer of what was shown, where it is to be. Nothing of the repository is looked at or begun before that.
    pub(super) async fn let_in(
        &self,
        pass: Pass,
        (repo, head, peer): (Option<RepoRef<'_>>, &RequestHead<'_>, &Peer),
    ) -> Result<(Pass, Option<Shown>), Refused> {
        if let Pass::ToProve(at) = pass {
            return Ok((self.by_new_key(at, head).await?, None));
        }
        if !matches!(pass, Pass::ToAsk) && !pass.is_said() {
            return Ok((pass, None));
        }
        let repo = repo.ok_or(Refused::Named(Why::NoHost))?;
        let (shown, refused) = self.shown_to(repo, head)?;
        let about = shown.about;
        let passed = (Pass::Shown(about), Some(shown.clone()));
        if self.is_still_shown(&about) {
            return Ok(passed);
        }
        let via = Via::read(head.via.iter()).unwrap_or_default();
        if via.leads_back_to(&self.via) {
            return Err(Refused::Loop);
        }
        let key = self.key(repo).ok_or(Refused::Named(Why::NoHost))?;
        let url = self.config.upstreams.url_for(key.host(), repo.path);
        let asking = Asking {
            name: key.name(),
            url: url.ok_or(Refused::Named(Why::NoHost))?,
            asker: Asker::at(peer.ip()).showing(Some(shown)).by_way_of(via),
        };
        match self.verdict(asking).await {
            Verdict::Yes if self.is_still_shown(&about) => Ok(passed),
            Verdict::Yes => Ok((Pass::Believed(about, Instant::now()), passed.1)),
            Verdict::No => Err(refused),
            Verdict::Unknown => Err(Refused::Unsaid),
        }
    }

    /// Whether what was shown still counts.
    pub(super) fn is_still_shown(&self, about: &About) -> bool {
        self.permissions.verdicts.known(about, Instant::now()) == Known::Yes
    }

    /// Whether what was said before still lets somebody in who was let in by it `since` then.
    pub(super) fn is_still_believed(&self, about: &About, since: Instant) -> bool {
        let verdicts = &self.permissions.verdicts;
        verdicts.is_believed(about, since, Instant::now())
    }

    /// Whether the upstream says so again, long after it said it first.
    pub(super) async fn is_shown_again(&self, pass: &Pass, repo: &Repo, asker: Asker) -> bool {
        if !pass.is_said() {
            return false;
        }
        let asking = Asking {
            name: repo.name.clone(),
            url: repo.url.clone(),
            asker,
        };
        self.verdict(asking).await == Verdict::Yes
    }

    async fn verdict(&self, asking: Asking) -> Verdict {
        let asked = self.ask(move |jobs| async move { Ok(jobs.verdict(asking).await) });
        // It has its own limit; this is for a plane that is held up.
        let limit = 2 * Duration::from_millis(QUESTION_LIMIT_MS);
        let verdict = monoio::time::timeout(limit, asked).await;
        verdict
            .ok()
            .and_then(Result::ok)
            .unwrap_or(Verdict::Unknown)
    }
}
