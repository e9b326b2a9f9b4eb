//! Whether somebody may read a repository, where its upstream's own permission decides, and the objects of it that
//! no followed ref leads to.
//!
//! Each question is asked once for all who wait for its answer, by a task of its own: whoever began it may leave.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::{spawn_blocking, spawn_local};

use super::asker::Asker;
use super::flights::Duty;
use super::look::failed;
use super::questions::Verdict;
use super::state::Jobs;
use super::unknown::Sought;
use crate::access::packets::Says;
use crate::access::permissions::{ByPermission, Shown, reached};
use crate::access::question::Question;
use crate::access::verdicts::{About, Known};
use crate::git::Arrived;
use crate::limits::{ENSURE_BY_ID_MAX, FRESHEN_WAIT_MS, QUESTION_LIMIT_MS, SHOWN_AT_ONCE_MAX};
use crate::manifest::want::AnyId;
use crate::mirror::via::HEADER;
use crate::mirror::{Apart, Git, MirrorError, Voice};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::{Event, QuestionResult};

/// What is asked for somebody.
pub(crate) struct Asking {
    /// The repository's canonical name.
    pub name: Arc<str>,
    pub url: String,
    /// Who has shown something for it.
    pub asker: Asker,
}

impl Jobs {
    /// Whether somebody may read a repository; known within [`QUESTION_LIMIT_MS`], or not.
    pub(crate) async fn verdict(self: Rc<Self>, asking: Asking) -> Verdict {
        let about = asking.asker.shown.as_ref().map(|shown| shown.about);
        match about {
            Some(about) => self.ask_upstream(asking, about, Vec::new()).await,
            None => Verdict::Unknown,
        }
    }

    /// The same of objects of it, or of the repository if there are none; `about` is what it is remembered by.
    async fn ask_upstream(
        self: &Rc<Self>,
        asking: Asking,
        about: About,
        ids: Vec<AnyId>,
    ) -> Verdict {
        let before = match self.permissions.verdicts.known(&about, Instant::now()) {
            Known::Yes => return Verdict::Yes,
            Known::No => return Verdict::No,
            Known::Before(at) => Some(at),
            Known::Nothing => None,
        };
        let (flight, duty) = self.questions.asking.join(&about);
        if let Some(duty) = duty {
            spawn_local(self.clone().ask_alone(asking, (about, before), ids, duty));
        }
        let limit = Duration::from_millis(QUESTION_LIMIT_MS);
        match tokio::time::timeout(limit, flight.end()).await {
            Ok(Some(verdict)) => verdict,
            Ok(None) => Verdict::Unknown,
            Err(_) => self.or_before(before),
        }
    }

    async fn ask_alone(
        self: Rc<Self>,
        asking: Asking,
        (about, before): (About, Option<Instant>),
        ids: Vec<AnyId>,
        duty: Duty<About, Verdict>,
    ) {
        let host = asking.name.split('/').next().unwrap_or_default().to_owned();
        let turns = self.questions.of(&host);
        let says = match (
            turns.take(asking.asker.client).await,
            self.permissions.of(&host),
        ) {
            (Some(_turn), Some(upstream)) => {
                let asked = Instant::now();
                let says = self.put_question(upstream, &asking, ids).await;
                if let Says::Yes | Says::No = says {
                    self.permissions
                        .verdicts
                        .note(about, says == Says::Yes, asked);
                }
                says
            }
            _ => Says::Nothing("it was asked too much within a minute".to_owned()),
        };
        let (verdict, result) = match &says {
            Says::Yes => (Verdict::Yes, QuestionResult::Yes),
            Says::No => (Verdict::No, QuestionResult::No),
            Says::Nothing(_) => (self.or_before(before), QuestionResult::Nothing),
        };
        self.meter.add(Event::Question(result), 1);
        if let Says::Nothing(why) = says {
            let repository = &*asking.name;
            tracing::warn!(
                repository,
                "its upstream does not say who may read it: {why}"
            );
        }
        duty.done(verdict);
    }

    async fn put_question(
        &self,
        upstream: &ByPermission,
        asking: &Asking,
        ids: Vec<AnyId>,
    ) -> Says {
        let questioner = upstream.questioner.clone();
        let (url, shown) = (asking.url.clone(), asking.asker.shown.clone());
        let via = asking.asker.via.then(&self.git.via).to_string();
        let asked = spawn_blocking(move || {
            let authorization = shown.and_then(|shown| shown.credential.header_value());
            let question = Question {
                url: &url,
                authorization: authorization.as_ref().map(|value| value.as_str()),
                via: Some((HEADER, &via)),
            };
            match ids.is_empty() {
                true => questioner.ask(&question),
                false => questioner.ask_for(&question, &ids),
            }
        });
        asked
            .await
            .unwrap_or_else(|_| Says::Nothing("the question was lost".to_owned()))
    }

    fn or_before(&self, before: Option<Instant>) -> Verdict {
        let is_covered = |at| self.permissions.verdicts.covers(at, Instant::now());
        match before.is_some_and(is_covered) {
            true => Verdict::Yes,
            false => Verdict::Unknown,
        }
    }

    /// How git speaks to the upstream of a repository, for whoever asks: with the server's own credential, if it has
    /// one, and where that is refused with his.
    pub(super) fn git_for(&self, repo: &Repo, asker: &Asker) -> Result<Gits, StartError> {
        let git = self.git.by_way_of(&asker.via);
        let Some(upstream) = self.permissions.of_repository(&repo.name) else {
            return Ok(Gits(git, None));
        };
        let his = asker.shown.as_ref();
        let his = his.map(|shown| self.speaking(git.clone(), upstream, shown));
        match (upstream.has_own, his) {
            (true, his) => Ok(Gits(git.by_permission_of(None), his)),
            (false, Some(his)) => Ok(Gits(his, None)),
            (false, None) => Err(StartError {
                status: 503,
                message: format!(
                    "{}: its upstream is asked only for those who ask",
                    repo.name
                ),
            }),
        }
    }

    fn speaking(&self, git: Git, upstream: &ByPermission, shown: &Shown) -> Git {
        let voice = Voice::of(&shown.credential, upstream.settings.clone());
        git.by_permission_of(Some(voice))
    }

    /// The same for what somebody fetches who shows the right to it so.
    pub(super) fn git_of(&self, repo: &Repo, asker: &Asker) -> Result<Git, StartError> {
        match (self.permissions.of_repository(&repo.name), &asker.shown) {
            (Some(upstream), Some(shown)) => {
                Ok(self.speaking(self.git.by_way_of(&asker.via), upstream, shown))
            }
            _ => self.git_for(repo, asker).map(|gits| gits.0),
        }
    }

    /// Whose credential a repository's upstream is asked with, if not the server's own.
    pub(super) fn asked_by(&self, repo: &Repo, asker: &Asker) -> Option<About> {
        let shown = asker
            .shown
            .as_ref()
            .filter(|_| !self.compares_by_itself(repo));
        shown.map(|shown| shown.about)
    }

    /// Whether an upstream has refused what somebody has shown, who was allowed before: he may not from here on.
    pub(super) fn is_refused_to(&self, by: Option<About>, error: &MirrorError) -> bool {
        let is_refused = is_refused(error);
        if let Some(about) = by.filter(|_| is_refused) {
            self.permissions.verdicts.note(about, false, Instant::now());
        }
        by.is_some() && is_refused
    }

    /// Whether it may not be refused to this one.
    pub(super) fn may_ask_again(&self, asker: &Asker, tries: &mut u32) -> bool {
        *tries = tries.saturating_sub(1);
        let known = |shown: &Shown| {
            self.permissions
                .verdicts
                .known(&shown.about, Instant::now())
        };
        *tries > 0 && asker.shown.as_ref().map(known) == Some(Known::Yes)
    }

    /// Whether this server compares a repository by itself.
    pub(super) fn compares_by_itself(&self, repo: &Repo) -> bool {
        self.permissions
            .of_repository(&repo.name)
            .is_none_or(|upstream| upstream.has_own)
    }

    /// Waits for a mirror that may be served: where the upstream's permission decides, one whose last comparison
    /// began a minute ago at most.
    pub(super) async fn ensure_young(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        asker: &Asker,
    ) -> Result<bool, StartError> {
        let cloned = self.ensure_mirror(repo, asker).await?;
        if self.permissions.of_repository(&repo.name).is_none() {
            return Ok(cloned);
        }
        let now = Instant::now();
        let ago = |by| now.checked_sub(by).unwrap_or(now);
        let (young, allowed) = self.permissions.young();
        match self.fresh_or_cloned(repo, ago(young), asker).await {
            Err(_) if repo.is_fresh_since(ago(allowed)) => Ok(cloned),
            fresh => fresh.map(|()| cloned),
        }
    }

    /// Compares the mirror if it must; one that turns out to be of another repository is cloned anew.
    pub(super) async fn fresh_or_cloned(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        since: Instant,
        asker: &Asker,
    ) -> Result<(), StartError> {
        let limit = Duration::from_millis(FRESHEN_WAIT_MS);
        let fresh = self.fresh_in_time(repo, since, asker, limit).await;
        if fresh.is_err() && !repo.is_mirrored() {
            self.ensure_mirror(repo, asker).await?;
            return self.fresh_in_time(repo, since, asker, limit).await;
        }
        fresh
    }

    /// Which of these objects somebody may have: all, where not the upstream's permission decides; else those that
    /// followed refs lead to, and those that the upstream gives out to that one. These are asked for together,
    /// and given out all or none.
    pub(super) async fn shown(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        asker: &Asker,
    ) -> Result<HashSet<AnyId>, StartError> {
        let (mut yes, unknown) = self.shown_here(repo, ids, asker).await?;
        let Some(shown) = asker.shown.as_ref().filter(|_| !unknown.is_empty()) else {
            return Ok(yes);
        };
        if unknown.len() > SHOWN_AT_ONCE_MAX {
            return Ok(yes);
        }
        match self.show(repo, &unknown, (asker, shown)).await {
            Verdict::Yes => yes.extend(unknown),
            Verdict::No => {}
            Verdict::Unknown => return Err(unsaid()),
        }
        Ok(yes)
    }

    /// The same as far as that is known without asking the upstream; and those of which it is not.
    pub(super) async fn shown_here(
        &self,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        asker: &Asker,
    ) -> Result<(HashSet<AnyId>, Vec<AnyId>), StartError> {
        let all = || ids.iter().copied().collect::<HashSet<_>>();
        if self.permissions.of_repository(&repo.name).is_none() {
            return Ok((all(), Vec::new()));
        }
        let Some(shown) = &asker.shown else {
            return Ok((HashSet::new(), Vec::new()));
        };
        let refs = &repo.refs_mark();
        let (mut yes, mut no, mut unknown) = (HashSet::new(), Vec::new(), Vec::new());
        for id in all() {
            match self.permissions.is_shown(shown, id.as_slice(), refs) {
                Known::Yes => drop(yes.insert(id)),
                // A ref may lead to it by now.
                Known::No => no.push(id),
                Known::Before(_) | Known::Nothing => unknown.push(id),
            }
        }
        let sought = [&no[..], &unknown].concat();
        let there = match repo.is_mirrored() && !sought.is_empty() {
            true => {
                // The semaphores are never closed, so this only waits. Nothing else is held meanwhile.
                let _permit = self.semaphores.closures.acquire().await;
                self.git.reached_of(&repo.mirror, &sought).await
            }
            false => Ok(HashSet::new()),
        };
        for id in there.map_err(|e| failed(repo, &e))? {
            self.note_reached(id, refs, asker);
            yes.insert(id);
        }
        unknown.retain(|id| !yes.contains(id));
        // The same ids are the same question.
        unknown.sort_unstable();
        Ok((yes, unknown))
    }

    /// As [`shown`](Self::shown), each for itself, as far as these are not too many.
    pub(super) async fn shown_each(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        asker: &Asker,
    ) -> Result<HashSet<AnyId>, StartError> {
        let mut shown = self.shown_here(repo, ids, asker).await?.0;
        let rest = ids.iter().filter(|id| !shown.contains(*id));
        for id in Vec::from_iter(rest).into_iter().take(ENSURE_BY_ID_MAX) {
            shown.extend(self.shown(repo, &[*id], asker).await?);
        }
        Ok(shown)
    }

    /// Has an object shown, while nobody waits for that.
    pub(crate) async fn show_soon(self: Rc<Self>, repo: Arc<Repo>, id: AnyId, asker: Asker) {
        // Whoever asks for it hears why it fails.
        let _ = self.shown(&repo, &[id], &asker).await;
    }

    /// Whether somebody may have all of some objects.
    pub(super) async fn are_shown(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: impl IntoIterator<Item = AnyId>,
        asker: &Asker,
    ) -> Result<bool, StartError> {
        let ids = Vec::from_iter(ids);
        Ok(ids.len() == self.shown(repo, &ids, asker).await?.len())
    }

    /// What is sought, as somebody may seek it: where the upstream's permission decides, an object that was shown; or
    /// for that one alone what it is the fetch that shows. `None` where that was refused a moment ago.
    pub(super) async fn sought_by(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        sought: Sought,
        asker: &Asker,
    ) -> Result<Option<Sought>, StartError> {
        if self.permissions.of_repository(&repo.name).is_none() {
            return Ok(Some(sought));
        }
        let Some(shown) = &asker.shown else {
            return Ok(None);
        };
        if let Apart::Id(id) = sought.wanted {
            if self.are_shown(repo, [id], asker).await? {
                return Ok(Some(sought));
            }
            if sought.or_by.is_none() {
                return Ok(None);
            }
        }
        let about = shown.about.object(sought.key().as_bytes());
        let known = self.permissions.verdicts.known(&about, Instant::now());
        let by = Some(shown.about);
        Ok((known != Known::No).then_some(Sought { by, ..sought }))
    }

    /// Notes what came of it for whoever sought it.
    pub(super) fn note_sought(&self, sought: &Sought, found: Option<AnyId>, asker: &Asker) {
        let Some(shown) = &asker.shown else { return };
        let about = match found {
            Some(id) => shown.about.object(id.as_slice()),
            None => shown.about.object(sought.key().as_bytes()),
        };
        self.permissions
            .verdicts
            .note(about, found.is_some(), Instant::now());
    }

    /// Followed refs lead to an object: all who may read may have it until they move.
    pub(super) fn note_reached(&self, id: AnyId, refs: &[u8; 16], asker: &Asker) {
        if let Some(shown) = &asker.shown {
            let about = reached(&shown.about, id.as_slice(), refs);
            self.permissions.verdicts.note(about, true, Instant::now());
        }
    }

    /// Shows objects by a fetch of them.
    async fn show(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        (asker, shown): (&Asker, &Shown),
    ) -> Verdict {
        let about = match ids {
            [id] => shown.about.object(id.as_slice()),
            ids => ids
                .iter()
                .fold(shown.about, |about, id| about.object(id.as_slice())),
        };
        let asking = Asking {
            name: repo.name.clone(),
            url: repo.url.clone(),
            asker: asker.clone(),
        };
        let verdict = self.ask_upstream(asking, about, ids.to_vec()).await;
        let (verdicts, now) = (&self.permissions.verdicts, Instant::now());
        // It may have been asked before this came; and what only counts as it cannot be asked counts no longer.
        let asked = now.checked_sub(Duration::from_millis(QUESTION_LIMIT_MS));
        let asked = asked.filter(|_| ids.len() > 1 && verdicts.known(&about, now) == Known::Yes);
        if let Some(asked) = asked {
            let abouts = ids.iter().map(|id| shown.about.object(id.as_slice()));
            abouts.for_each(|about| verdicts.note(about, true, asked));
        }
        verdict
    }
}

/// How git speaks to an upstream: the first way, and where it is refused so the second.
pub(super) struct Gits(Git, Option<Git>);

impl Gits {
    /// The same, which tell somebody how much has come.
    pub(super) fn telling(&self, arrived: &Arc<Arrived>) -> Gits {
        let Gits(first, second) = self;
        Gits(
            first.telling(arrived),
            second.as_ref().map(|git| git.telling(arrived)),
        )
    }

    /// Does something in one of these ways.
    pub(super) async fn each<T>(
        &self,
        work: impl AsyncFn(&Git) -> Result<T, MirrorError>,
    ) -> Result<T, MirrorError> {
        let done = work(&self.0).await;
        match (&done, &self.1) {
            (Err(e), Some(second)) if is_refused(e) => work(second).await,
            _ => done,
        }
    }
}

fn is_refused(error: &MirrorError) -> bool {
    matches!(
        error,
        MirrorError::Denied { .. } | MirrorError::NotFound { .. }
    )
}

/// What whoever asks hears then: the same of all repositories.
pub(crate) const UNSAID: &str = "the upstream does not say now who may read this; try again";

/// The upstream does not say whether somebody may.
pub(crate) fn unsaid() -> StartError {
    StartError {
        status: 503,
        message: UNSAID.into(),
    }
}
