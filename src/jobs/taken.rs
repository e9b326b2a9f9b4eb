//! What becomes of a repository that is dropped: because who runs the server wants it, or because its name was taken
//! over by another one, where who may read is the upstream's permission: who may read the one that is there now has
//! nothing to do with what was there before.

use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::flights::take_duty;
use super::state::Jobs;
use crate::mirror::{Tips, blocking_exclusive};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::store::dir::StateDir;
use crate::store::files::StoreError;

impl Jobs {
    /// The same by somebody who holds nothing, once nothing else is at it, if `may` says then that it is to go. Whether it
    /// is gone.
    ///
    /// # Errors
    /// It is being cloned.
    pub(super) async fn drop_alone(
        self: &Rc<Self>,
        repo: &Arc<Repo>,
        may: impl AsyncFnOnce() -> bool,
    ) -> Result<bool, StartError> {
        let name = &repo.name;
        let comparing = take_duty(&self.freshening, name).await;
        let _maintaining = take_duty(&self.maintaining, name).await;
        let _keeping_annex = take_duty(&self.keeping_annex, name).await;
        if let Some(setting_up) = self.setting_up.running(name) {
            setting_up.end().await;
        }
        let may = may().await;
        if self.cloning.running(name).is_some() {
            let why = refused(name, 503, "is being cloned; try again once it is");
            comparing.done(Err(why.clone()));
            return Err(why);
        }
        let mut is_gone = false;
        if may {
            // Nothing is awaited before whoever comes next waits for the mirror's end.
            self.cold.forget(name);
            self.bundles.borrow_mut().forget(name);
            self.untidy.borrow_mut().remove(name);
            is_gone = self.drop_all(repo).await;
        }
        comparing.done(Err(refused(name, 503, "was dropped just now; try again")));
        Ok(is_gone)
    }

    /// Drops its mirror with the annex, and its snapshots; what has begun to be sent goes on. Whoever asks next
    /// has it cloned anew. The caller holds the right to compare it. Whether the mirror is gone.
    pub(super) async fn drop_all(self: &Rc<Self>, repo: &Arc<Repo>) -> bool {
        let repository = &*repo.name;
        // From here on nothing of it is served, whatever becomes of the disk.
        let archives = repo.drop_all();
        repo.annex.load(Tips::default(), 0);
        let (_, leaving) = self.leaving.join(&repo.name);
        for archive in archives {
            archive.close_if_idle();
            // Not by its tag, either: whoever may read the one that is there now is somebody else.
            self.catalog.retired.add_refused(archive);
        }
        self.absent.borrow_mut().forget(&repo.name);
        self.schedule.borrow_mut().remove(&repo.name);
        let (dropped, catalog) = (repo.clone(), self.catalog.clone());
        let moved = spawn_blocking(move || take_away(&dropped, &catalog.state)).await;
        match &moved {
            Ok(Ok(())) => {}
            // It is not taken over where it is another repository's: its refs are not those of the upstream, and a
            // comparison says so again.
            Ok(Err(e)) => tracing::error!(repository, "a mirror that was dropped stays: {e}"),
            Err(panic) => tracing::error!("the removal of a mirror panicked: {panic}"),
        }
        drop(leaving);
        self.mirror_changed(repo);
        matches!(moved, Ok(Ok(())))
    }
}

/// Why something of a repository is not done.
pub(super) fn refused(name: &str, status: u16, what: &str) -> StartError {
    StartError {
        status,
        message: format!("{name} {what}"),
    }
}

/// Takes the mirror away once nobody reads it; where that takes too long, all the same.
fn take_away(repo: &Repo, state: &StateDir) -> Result<(), StoreError> {
    let away = {
        // Or the annex would be made anew where it was.
        let _arrivals = blocking_exclusive(&repo.locks.arrivals);
        let _packing = repo.locks.packing.blocking_lock();
        let _packs = blocking_exclusive(&repo.locks.packs);
        let _refs = repo.locks.refs.blocking_write();
        match state.take_mirror_away(&repo.mirror) {
            Err(e) if e.is_not_found() => return Ok(()),
            away => away?,
        }
    };
    drop(away);
    state.remove_empty_above(&repo.mirror);
    Ok(())
}
