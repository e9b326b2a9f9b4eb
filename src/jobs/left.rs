//! What refs have left, where the upstream's permission decides: nobody may have it from the comparison on that saw
//! that, and packs are sent whole. So it is gone from the mirror, and from what is served, before that comparison
//! counts.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::flights::take_duty;
use super::state::Jobs;
use crate::limits::{LEFT_TRIES_MAX, MAINTENANCE_LIMIT_MS};
use crate::mirror::{Aside, Expired, Git, Locks, MirrorError};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::telemetry::metrics::Cause;

/// The locks of a repository that an expiry takes.
pub(super) fn locks(repo: &Repo) -> Locks<'_> {
    Locks {
        arrivals: &repo.locks.arrivals,
        packs: &repo.locks.packs,
        refs: &repo.locks.refs,
    }
}

fn stays(repo: &Repo) -> StartError {
    StartError {
        status: 503,
        message: format!(
            "{}: what its upstream does not show any more could not be removed yet; try again",
            repo.name
        ),
    }
}

impl Jobs {
    /// Sees to it that what is served of a repository is what its refs lead to, if that is needed there.
    pub(super) async fn leave_nothing(self: &Rc<Self>, repo: &Arc<Repo>) -> Result<(), StartError> {
        if self.permissions.of_repository(&repo.name).is_none() {
            return Ok(());
        }
        let expire = async |git: &Git| git.expire_left(&repo.mirror, locks(repo)).await;
        match self.remove_left(repo, &expire).await? {
            None => self.end_gone(repo).await,
            Some(_) => {
                self.note_removed(repo);
                tracing::info!(repository = &*repo.name, "removed what its refs have left");
                repo.notes.set_swept();
            }
        }
        Ok(())
    }

    /// The same once some other server has had something expire, whatever is known here of what refs have left: by what the
    /// upstream has now, which was just compared.
    pub(super) async fn leave_expired(self: &Rc<Self>, repo: &Arc<Repo>) -> Result<(), StartError> {
        let expire = async |git: &Git| {
            let expired = git.expire_unreached(&repo.mirror, locks(repo));
            expired.await.map(Some)
        };
        let is_gone = matches!(
            self.remove_left(repo, &expire).await?,
            Some(Expired::Objects(_))
        );
        if is_gone || has_gone_packs(repo).await {
            self.catalog.retired.refuse(&repo.name);
            self.note_removed(repo);
            tracing::info!(
                repository = &*repo.name,
                "removed what has expired elsewhere"
            );
            self.rebuild(repo, Cause::Timer);
        }
        Ok(())
    }

    fn note_removed(&self, repo: &Repo) {
        repo.aside.set(Aside::default());
        self.end_expired(repo.set_expired());
        self.mirror_changed(repo);
    }

    /// Has a mirror expire, however often something is in the way; an error says that something may be there still.
    async fn remove_left(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        expire: &impl AsyncFn(&Git) -> Result<Option<Expired>, MirrorError>,
    ) -> Result<Option<Expired>, StartError> {
        for _ in 0..LEFT_TRIES_MAX {
            // Packs that others join meanwhile would have what is to go.
            let _maintaining = take_duty(&self.maintaining, &repo.name).await;
            let _keeping_annex = take_duty(&self.keeping_annex, &repo.name).await;
            let git = self
                .git
                .with_time(Duration::from_millis(MAINTENANCE_LIMIT_MS));
            match expire(&git).await {
                // Whoever takes what is kept nowhere may take hours for it.
                Ok(Some(Expired::Busy)) => repo.end_live_only("what refs have left is to go first"),
                Ok(Some(Expired::AnnexBroken)) => self.give_up_annex(repo).await,
                Ok(expired) => return Ok(expired),
                Err(e) => {
                    tracing::error!(
                        repository = &*repo.name,
                        "what its refs have left stays: {e}"
                    );
                    return Err(stays(repo));
                }
            }
        }
        tracing::warn!(
            repository = &*repo.name,
            "what its refs have left stays: its packs are being read where they are"
        );
        Err(stays(repo))
    }

    /// Once in this process: archives of an earlier one that have packs which the mirror has no more are not served,
    /// for it may have ended before it could say so.
    async fn end_gone(self: &Rc<Self>, repo: &Arc<Repo>) {
        if !repo.notes.set_swept() {
            self.end_what_is_gone(repo).await;
        }
    }

    /// Archives of packs that the mirror has no more are not served, and shared no more.
    pub(super) async fn end_what_is_gone(&self, repo: &Arc<Repo>) {
        if has_gone_packs(repo).await {
            self.end_expired(repo.set_expired());
        }
    }
}

/// Whether something is served of packs that the mirror has no more.
async fn has_gone_packs(repo: &Arc<Repo>) -> bool {
    let (archives, mirror) = (repo.archives(), repo.mirror.clone());
    let looked = spawn_blocking(move || {
        let files = archives.iter().filter_map(|archive| archive.names());
        let mut packs = files
            .flat_map(|names| &names.linked)
            .filter(|linked| linked.path.ends_with(".pack"));
        packs.any(|pack| !mirror.join(&pack.path).exists())
    });
    looked.await.unwrap_or(true)
}
