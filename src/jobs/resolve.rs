//! What a request names, in the mirror or its annex: the ref and the commit that it leads to now.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::{BStr, ByteSlice};
use tokio::task::spawn_blocking;

use super::asker::{Asker, ClientPart};
use super::look::{Looked, Wanted, failed, look, look_annexed};
use super::state::Jobs;
use super::unknown::Sought;
use crate::manifest::want::{AnyId, NO_SUCH_NAME, Named, Shape};
use crate::mirror::{Apart, Closure};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;

impl Jobs {
    /// What a request names, which is there; with the part of the builds that its client may take if there is no
    /// archive of it yet. It waits for that before anybody else can wait for what it begins.
    pub(crate) async fn resolve(
        self: Rc<Self>,
        repo: Arc<Repo>,
        named: Named,
        since: Option<Instant>,
        asker: Asker,
    ) -> Result<(Wanted, Option<ClientPart>), StartError> {
        let client = asker.client;
        let wanted = self.clone().seek_named(repo.clone(), named, since, asker);
        let wanted = wanted.await?;
        let is_there = repo.archive_of(&wanted.want).is_some();
        if is_there || repo.is_building_for(&wanted.want) {
            return Ok((wanted, None));
        }
        let part = self.semaphores.builds_of_client.acquire(client).await;
        Ok((wanted, Some(part)))
    }

    /// What is wanted, which is there; the mirror is cloned if there is none. Where it is not there the mirror is
    /// compared with its upstream once, and what no followed ref may lead to is asked for. What a ref that
    /// is not followed leads to is as the upstream had it at `since`, or a moment ago.
    pub(super) async fn seek_named(
        self: Rc<Self>,
        repo: Arc<Repo>,
        named: Named,
        since: Option<Instant>,
        asker: Asker,
    ) -> Result<Wanted, StartError> {
        let asked = Instant::now();
        if named.shape() == Shape::Tip
            && let Some(want) = self.cold_tip(&repo, &named, (&asker, since)).await?
        {
            return Ok(want);
        }
        self.ensure_young(&repo, &asker).await?;
        if let Some(want) = self.look_for(&repo, &named, &asker).await? {
            return Ok(want);
        }
        match (named.commit(), named.full_name()) {
            (Some(id), _) => {
                self.resolve_unknown(&repo, &named, id, (&asker, asked))
                    .await
            }
            (None, Some(name)) if !self.git.follow.matches(name) => {
                let id = self.lead(&repo, name, since, &asker).await?;
                let id = id.ok_or_else(|| absent(&repo, &named))?;
                let commit = Named::new(None, Some(id));
                let commit = commit.ok_or_else(|| absent(&repo, &named))?;
                let commit = commit.shaped(named.shape());
                let found = self.look_for(&repo, &commit, &asker).await?;
                found.ok_or_else(|| absent(&repo, &named))
            }
            _ => self.resolve_new(&repo, &named, (&asker, asked)).await,
        }
    }

    /// A branch or tag that the mirror has not.
    async fn resolve_new(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        named: &Named,
        (asker, asked): (&Asker, Instant),
    ) -> Result<Wanted, StartError> {
        // A comparison that runs may have begun too early, but most likely it will do.
        if self.join_freshening(repo).await
            && let Some(want) = self.look_for(repo, named, asker).await?
        {
            return Ok(want);
        }
        let key = name_key(named);
        if !self.is_absent(repo, &key) && !repo.is_fresh_since(asked) {
            self.fresh_now(repo, asker).await?;
            if let Some(want) = self.look_for(repo, named, asker).await? {
                return Ok(want);
            }
            self.note_absent(repo, &key);
        }
        Err(absent(repo, named))
    }

    /// An object that is not there. The upstream is asked for it, and for its refs, at the same time: what
    /// a ref leads to is the mirror's, and then nothing else is waited for.
    async fn resolve_unknown(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        named: &Named,
        id: AnyId,
        (asker, asked): (&Asker, Instant),
    ) -> Result<Wanted, StartError> {
        let or_by = named
            .full_name()
            .filter(|name| !self.git.follow.matches(name));
        let sought = Sought {
            wanted: Apart::Id(id),
            or_by: or_by.map(Into::into),
            by: None,
        };
        if self.is_absent(repo, &sought.key()) {
            return Err(absent(repo, named));
        }
        let compare = async {
            // One that runs may have begun too early, but most likely it will do.
            if self.join_freshening(repo).await
                && let Some(want) = self.look_for(repo, named, asker).await?
            {
                return Ok(Some(want));
            }
            if !repo.is_fresh_since(asked) {
                self.fresh_now(repo, asker).await?;
            }
            self.look_for(repo, named, asker).await
        };
        let seek = self.seek(repo, sought, asker);
        tokio::pin!(compare, seek);
        let (compared, given) = tokio::select! {
            compared = &mut compare => (compared, None),
            given = &mut seek => (compare.await, Some(given)),
        };
        if let Ok(Some(want)) = compared {
            return Ok(want);
        }
        let given = match given {
            Some(given) => given,
            None => seek.await,
        };
        // It may have come by either way, whatever became of the other.
        if let Some(want) = self.look_for(repo, named, asker).await? {
            return Ok(want);
        }
        compared?;
        if given?.is_some() && repo.annex.is_fresh(&id) {
            // Somebody has removed it.
            self.forget_annexed(repo, &[id]).await;
        }
        Err(absent(repo, named))
    }

    /// What a ref that is not followed leads to.
    async fn lead(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        name: &BStr,
        since: Option<Instant>,
        asker: &Asker,
    ) -> Result<Option<AnyId>, StartError> {
        let lately = Instant::now().checked_sub(self.config.ref_check_interval);
        if let Some(id) = repo.annex.ref_since(name, since.or(lately))
            && self.is_there(repo, id, asker).await?
        {
            return Ok(Some(id));
        }
        let sought = Sought {
            wanted: Apart::Ref(name.into()),
            or_by: None,
            by: None,
        };
        match self.seek(repo, sought, asker).await {
            // What was there a while ago is better than nothing, for who takes it.
            Err(why) => match repo.annex.ref_since(name, None).filter(|_| since.is_none()) {
                Some(id) => Ok(Some(id)),
                None => Err(why),
            },
            given => given,
        }
    }

    async fn is_there(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        id: AnyId,
        asker: &Asker,
    ) -> Result<bool, StartError> {
        match Named::new(None, Some(id)) {
            Some(commit) => Ok(self.look_for(repo, &commit, asker).await?.is_some()),
            None => Ok(false),
        }
    }

    /// The same in the mirror as it is, as far as a few objects tell; nothing where there is none.
    pub(crate) async fn resolve_here(
        self: Rc<Self>,
        repo: Arc<Repo>,
        named: Named,
        asker: Asker,
    ) -> Result<Wanted, StartError> {
        let found = match repo.is_mirrored() {
            true => self.look_near(&repo, &named, &asker).await?.ok(),
            false => None,
        };
        found.ok_or_else(|| absent(&repo, &named))
    }

    /// What a few objects tell: what followed refs lead to in a few steps. What takes a walk over the history has
    /// other places, and holds none of these up.
    async fn look_near(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        named: &Named,
        asker: &Asker,
    ) -> Result<Result<Wanted, Looked>, StartError> {
        let (refs, id) = (repo.refs_mark(), named.commit());
        let _permit = self.semaphores.lookups.acquire().await;
        let (at, git, asked) = (repo.clone(), self.git.clone(), named.clone());
        let looked = spawn_blocking(move || look(&at, &git, &asked));
        let looked = looked.await.map_err(|panic| failed(repo, &panic))??;
        let Looked::Found(wanted) = looked else {
            return Ok(Err(looked));
        };
        id.into_iter()
            .for_each(|id| self.note_reached(id, &refs, asker));
        Ok(Ok(wanted))
    }

    /// What of it is there that `asker` may have.
    async fn look_for(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        named: &Named,
        asker: &Asker,
    ) -> Result<Option<Wanted>, StartError> {
        let looked = match self.look_near(repo, named, asker).await {
            Ok(Ok(wanted)) => return Ok(Some(wanted)),
            Ok(Err(looked)) => Ok(looked),
            Err(why) => Err(why),
        };
        // The upstream may have to be asked. What is wrong with an object says that it is there.
        if !self.are_shown(repo, named.commit(), asker).await? {
            return Ok(None);
        }
        let looked = looked?;
        if let Looked::Unsure(wanted, commit) = looked {
            // The semaphores are never closed, so this only waits.
            let _permit = self.semaphores.closures.acquire().await;
            let closure = self.git.closure(&repo.mirror, commit).await;
            match closure.map_err(|e| failed(repo, &e))? {
                Closure::Reached | Closure::Left => return Ok(Some(wanted)),
                Closure::Broken => {}
            }
        }
        let _permit = self.semaphores.lookups.acquire().await;
        let (at, git, asked) = (repo.clone(), self.git.clone(), named.clone());
        let looked = spawn_blocking(move || look_annexed(&at, &git, &asked));
        looked.await.map_err(|panic| failed(repo, &panic))?
    }
}

/// What an upstream that lacks a name is remembered by, however it was asked.
pub(super) fn name_key(named: &Named) -> String {
    format!("ref {}", named.name().unwrap_or_default())
}

pub(super) fn absent(repo: &Repo, named: &Named) -> StartError {
    let name = &repo.name;
    let message = match (named.commit(), named.name()) {
        (Some(id), _) => format!(
            "{NO_SUCH_NAME}commit {id} is not in the mirror of {name}, and its upstream does not give it out by its id; push it \
             to a branch, or name the ref that leads to it, too (ref=refs/…, --ref refs/… of a restore)"
        ),
        (None, Some(asked)) if asked.starts_with(b"refs/") => {
            format!("{NO_SUCH_NAME}the upstream of {name} has no ref {asked}")
        }
        (None, asked) => format!(
            "{NO_SUCH_NAME}{name} has no branch or tag {}; write the full name of another ref (refs/…)",
            asked.unwrap_or_default().as_bstr()
        ),
    };
    StartError {
        status: 404,
        message,
    }
}
