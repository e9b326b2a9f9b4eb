//! What somebody may have of a repository where its upstream's own permission decides: with whose credential the
//! upstream is asked for it, and the objects of it that no followed ref leads to.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::look::failed;
use super::question_turns::Verdict;
use super::questions::{Asking, Topic};
use super::state::Jobs;
use super::unknown::Sought;
use crate::access::permissions::{ByPermission, Shown};
use crate::access::verdicts::{About, Known};
use crate::git::Arrived;
use crate::limits::{ENSURE_BY_ID_MAX, FRESHEN_WAIT_MS, QUESTION_LIMIT_MS, SHOWN_AT_ONCE_MAX};
use crate::manifest::want::AnyId;
use crate::mirror::beside::Beside;
use crate::mirror::{Apart, Git, MirrorError, Voice};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;

/// What is known of some objects without asking the upstream.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// Followed refs lead to these.
    pub reached: HashSet<AnyId>,
    /// These were shown, whatever leads to them.
    pub shown: HashSet<AnyId>,
    /// Of these nothing is known, in order.
    pub unknown: Vec<AnyId>,
}

impl Here {
    /// Those that may be had.
    fn yes(self) -> HashSet<AnyId> {
        let Here { reached, shown, .. } = self;
        reached.into_iter().chain(shown).collect()
    }
}

impl Jobs {
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
        let here = self.known_here(repo, ids.iter().copied().collect(), asker);
        let mut here = here.await?;
        let unknown = std::mem::take(&mut here.unknown);
        let mut yes = here.yes();
        match self.show(repo, &unknown, asker).await {
            Verdict::Yes => yes.extend(unknown),
            Verdict::No => {}
            Verdict::Unknown => return Err(unsaid()),
        }
        Ok(yes)
    }

    /// The same as far as that is known without asking the upstream. Takes time in proportion to the ids, and a walk
    /// over the history.
    pub(super) async fn known_here(
        &self,
        repo: &Arc<Repo>,
        ids: HashSet<AnyId>,
        asker: &Asker,
    ) -> Result<Here, StartError> {
        let mut here = Here::default();
        if self.permissions.of_repository(&repo.name).is_none() {
            here.reached = ids;
            return Ok(here);
        }
        let Some(shown) = asker.shown.clone() else {
            return Ok(here);
        };
        let (permissions, refs) = (self.permissions.clone(), repo.refs_mark());
        let sorted = spawn_blocking(move || {
            let mut no = Vec::new();
            for id in ids {
                if permissions.is_reached(&shown, id.as_slice(), &refs) {
                    here.reached.insert(id);
                    continue;
                }
                match permissions.is_shown(&shown, id.as_slice(), &refs) {
                    Known::Yes => drop(here.shown.insert(id)),
                    // A ref may lead to it by now.
                    Known::No => no.push(id),
                    Known::Before(_) | Known::Nothing => here.unknown.push(id),
                }
            }
            // The same ids are the same question.
            here.unknown.sort_unstable();
            (here, no)
        });
        let (mut here, no) = sorted.await.map_err(|panic| failed(repo, &panic))?;
        let sought = [&no[..], &here.unknown].concat();
        if !repo.is_mirrored() || sought.is_empty() {
            return Ok(here);
        }
        // The semaphores are never closed, so this only waits. Nothing else is held meanwhile.
        let _permit = self.semaphores.closures.acquire().await;
        let there = self.git.reached_of(&repo.mirror, &sought).await;
        for id in there.map_err(|e| failed(repo, &e))? {
            self.note_reached(id, &refs, asker);
            here.reached.insert(id);
        }
        here.unknown.retain(|id| !here.reached.contains(id));
        Ok(here)
    }

    /// As [`shown`](Self::shown), each for itself, as far as these are not too many.
    pub(super) async fn shown_each(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        asker: &Asker,
    ) -> Result<HashSet<AnyId>, StartError> {
        let here = self.known_here(repo, ids.iter().copied().collect(), asker);
        let mut shown = here.await?.yes();
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
        let known = self.permissions.objects.known(&about, Instant::now());
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
        let objects = &self.permissions.objects;
        objects.note(about, found.is_some(), Instant::now());
    }

    /// Followed refs lead to an object: all who may read may have it until they move.
    pub(super) fn note_reached(&self, id: AnyId, refs: &[u8; 16], asker: &Asker) {
        if let Some(shown) = &asker.shown {
            self.permissions.note_reached(shown, id.as_slice(), refs);
        }
    }

    /// Shows objects by a fetch of them. Where there are none there is nothing to show.
    pub(super) async fn show(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        ids: &[AnyId],
        asker: &Asker,
    ) -> Verdict {
        let Some(shown) = asker.shown.as_ref().filter(|_| !ids.is_empty()) else {
            return Verdict::No;
        };
        if ids.len() > SHOWN_AT_ONCE_MAX {
            return Verdict::No;
        }
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
        let topic = Topic::Objects(about, ids.to_vec());
        let verdict = self.ask_upstream(asking, topic).await;
        let (objects, now) = (&self.permissions.objects, Instant::now());
        // It may have been asked before this came; and what only counts as it cannot be asked counts no longer.
        let asked = now.checked_sub(Duration::from_millis(QUESTION_LIMIT_MS));
        let asked = asked.filter(|_| ids.len() > 1 && objects.known(&about, now) == Known::Yes);
        if let Some(asked) = asked {
            let abouts = ids.iter().map(|id| shown.about.object(id.as_slice()));
            abouts.for_each(|about| objects.note(about, true, asked));
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

    /// The same, whose comparisons bring word of these refs, too.
    pub(super) fn asking_beside(&self, beside: &Arc<Beside>) -> Gits {
        let Gits(first, second) = self;
        Gits(
            first.asking_beside(beside),
            second.as_ref().map(|git| git.asking_beside(beside)),
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
pub(crate) use crate::manifest::want::UNSAID;

/// The upstream does not say whether somebody may.
pub(crate) fn unsaid() -> StartError {
    StartError {
        status: 503,
        message: UNSAID.into(),
    }
}
