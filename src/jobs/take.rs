//! What another server has shared takes the place of a build.

use std::rc::Rc;

use tokio::task::spawn_local;

use super::build::unwanted;
use super::state::Jobs;
use crate::repos::repo::Permit;

impl Jobs {
    /// Serves what another server has shared, if it has, as it comes; else the permit is given back.
    pub(super) async fn unless_shared(
        self: &Rc<Self>,
        permit: Permit,
        is_asked_for: bool,
    ) -> Option<Permit> {
        let repo = permit.repo().clone();
        let begun = tokio::select! {
            biased;
            begun = self.begin_import(&repo, permit.want()) => begun,
            () = unwanted(&permit), if is_asked_for => return None,
        };
        let Some(import) = begun else {
            return Some(permit);
        };
        permit.started(Ok(import.archive()));
        if let Some((archive, epoch)) = self.finish_import(&repo, import).await {
            self.publish(&repo, archive, epoch).await;
            // What another server has seen says nothing of what there is now.
            self.plan(&repo, None);
            // What nobody has asked for waits for its turn: a server that starts with much takes no mirrors.
            if is_asked_for || repo.asked.is_in_use() {
                spawn_local(self.clone().look_soon(repo));
            }
        }
        None
    }
}
