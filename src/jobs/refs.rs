//! What a mirror has.

use std::sync::Arc;

use super::archive_id::shown;
use super::state::Jobs;
use crate::refs::MirrorRefs;
use crate::repos::error::StartError;
use crate::repos::head::MirrorHead;
use crate::repos::repo::{RefsEpoch, Repo};

impl Jobs {
    /// The refs of the mirror at one moment.
    pub(super) async fn read_refs(&self, repo: &Arc<Repo>) -> Result<MirrorRefs, StartError> {
        let (repo, git) = (repo.clone(), self.git.clone());
        let name = repo.name.clone();
        let failed = |e: &dyn std::fmt::Display| StartError {
            status: 500,
            message: format!("{name}: {e}"),
        };
        let read = tokio::task::spawn_blocking(move || {
            let _pinned = repo.locks.refs.blocking_read();
            git.refs.read(&repo.mirror, &git.follow)
        });
        let read = read.await.map_err(|panic| failed(&panic))?;
        read.map_err(|e| failed(&e))
    }

    /// Reads the mirror's HEAD, and notes whether the snapshot shows what one of now would.
    pub(super) async fn read_head(&self, repo: &Arc<Repo>) -> Option<Arc<MirrorHead>> {
        let epoch = repo.epoch();
        match self.read_refs(repo).await {
            Ok(refs) => {
                self.compare_shown(repo, &refs, epoch);
                Some(Arc::new(MirrorHead::of(&refs)))
            }
            Err(e) => {
                tracing::error!(repository = &*repo.name, "cannot read HEAD: {e}");
                None
            }
        }
    }

    /// Notes which snapshots show what one of now would. Those of refs that are no more are not served any
    /// longer.
    fn compare_shown(&self, repo: &Repo, refs: &MirrorRefs, epoch: RefsEpoch) {
        let (digest, level) = (refs.digest(), self.shop.level);
        repo.note_refs(digest);
        for want in repo.wants() {
            let target = want.followed().map(|name| refs.get(name));
            let target = target.map(|found| found.map(|found| found.target));
            let now = match target {
                Some(None) => None,
                target => {
                    let target = target.flatten();
                    Some(shown(&want, (refs, &digest), target, &repo.url, level))
                }
            };
            if want.follows()
                && let Some(gone) = repo.compare_shown(&want, now.as_ref(), epoch)
            {
                self.catalog.retired.add(gone);
            }
        }
    }

    /// Notes the HEAD of a mirror that has taken another one's place.
    pub(super) async fn look_at_head(&self, repo: &Arc<Repo>) {
        if let Some(head) = self.read_head(repo).await {
            repo.set_head(head);
        }
    }

    /// The mirror's HEAD.
    pub(super) async fn head(&self, repo: &Arc<Repo>) -> Result<Arc<MirrorHead>, StartError> {
        if let Some(head) = repo.head() {
            return Ok(head);
        }
        let refs = self.read_refs(repo).await?;
        Ok(Arc::new(MirrorHead::of(&refs)))
    }
}
