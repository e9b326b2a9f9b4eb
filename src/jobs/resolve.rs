//! What a request names, in the mirror: the ref and the commit that it leads to now.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::look::{Looked, Wanted, failed, look};
use super::state::Jobs;
use crate::manifest::want::{NO_SUCH_NAME, Named};
use crate::mirror::Closure;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;

impl Jobs {
    /// What is wanted, which is there; the mirror is cloned if there is none, and compared with its upstream
    /// once if it has it not.
    pub(crate) async fn resolve(
        self: Rc<Self>,
        repo: Arc<Repo>,
        named: Named,
        client: IpAddr,
    ) -> Result<Wanted, StartError> {
        let (asker, asked) = (Asker::at(client), Instant::now());
        self.ensure_mirror(&repo, &asker).await?;
        if let Some(want) = self.look_for(&repo, &named).await? {
            return Ok(want);
        }
        // A comparison that runs may have begun too early, but most likely it will do.
        if self.join_freshening(&repo).await
            && let Some(want) = self.look_for(&repo, &named).await?
        {
            return Ok(want);
        }
        let key = key(&named);
        let is_known = |jobs: &Jobs| {
            let mut absent = jobs.absent.borrow_mut();
            absent.has(&repo.name, &key, Instant::now())
        };
        if !is_known(&self) && !repo.is_fresh_since(asked) {
            self.fresh_now(&repo, &asker).await?;
            if let Some(want) = self.look_for(&repo, &named).await? {
                return Ok(want);
            }
            let mut absent = self.absent.borrow_mut();
            absent.note(&repo.name, &key, Instant::now());
        }
        Err(absent(&repo, &named))
    }

    /// The same in the mirror as it is; nothing where there is none.
    pub(crate) async fn resolve_here(
        self: Rc<Self>,
        repo: Arc<Repo>,
        named: Named,
    ) -> Result<Wanted, StartError> {
        let found = match repo.is_mirrored() {
            true => self.look_for(&repo, &named).await?,
            false => None,
        };
        found.ok_or_else(|| absent(&repo, &named))
    }

    async fn look_for(
        &self,
        repo: &Arc<Repo>,
        named: &Named,
    ) -> Result<Option<Wanted>, StartError> {
        let _permit = self.semaphores.lookups.acquire().await;
        let (at, git, named) = (repo.clone(), self.git.clone(), named.clone());
        let looked = spawn_blocking(move || look(&at, &git, &named));
        let looked = looked.await.map_err(|panic| failed(repo, &panic))??;
        match looked {
            Looked::Found(wanted) => Ok(Some(wanted)),
            Looked::Absent => Ok(None),
            Looked::Unsure(wanted, commit) => {
                let closure = self.git.closure(&repo.mirror, commit).await;
                match closure.map_err(|e| failed(repo, &e))? {
                    Closure::Reached | Closure::Left => Ok(Some(wanted)),
                    Closure::Broken => Ok(None),
                }
            }
        }
    }
}

/// What an upstream that lacks it is remembered by.
fn key(named: &Named) -> String {
    match (named.commit(), named.name()) {
        (Some(id), _) => id.to_string(),
        (None, name) => format!("ref {}", name.unwrap_or_default()),
    }
}

fn absent(repo: &Repo, named: &Named) -> StartError {
    let name = &repo.name;
    let message = match (named.commit(), named.name()) {
        (Some(id), _) => format!(
            "{NO_SUCH_NAME}commit {id} is not in the mirror of {name}: no branch or tag of its upstream led to it lately; \
             push it to one"
        ),
        (None, asked) => format!(
            "{NO_SUCH_NAME}{name} has no branch or tag {}, nor is that a ref which is followed (--follow)",
            asked.unwrap_or_default()
        ),
    };
    StartError {
        status: 404,
        message,
    }
}
