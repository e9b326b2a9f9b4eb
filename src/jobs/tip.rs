//! Has git pack one commit for a snapshot that is nothing else, of packs that the build borrows.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::room::Need;
use super::state::Jobs;
use crate::limits::TIP_PACKS_MAX;
use crate::manifest::want::CommitId;
use crate::mirror::MirrorError;

/// Where packs are, in a repository as in an entry.
pub(super) const PACKS: &str = "objects/pack";

/// The names of packs without what their files end with.
pub(super) type Packed = Result<Vec<String>, MirrorError>;

/// A pack that is to be made.
pub(super) struct TipJob {
    pub repository: Arc<str>,
    /// A repository that stays as it is meanwhile.
    pub from: PathBuf,
    /// The entry's directory.
    pub entry: PathBuf,
    pub tip: CommitId,
    pub made: oneshot::Sender<Packed>,
}

impl Jobs {
    /// Makes the pack; ends when nobody waits for it any more.
    pub(super) async fn pack_tip(self: Rc<Self>, job: TipJob) {
        let TipJob {
            repository,
            from,
            entry,
            tip,
            mut made,
        } = job;
        let into = entry.join(PACKS);
        let packs_max = self.config.encoders.get().min(TIP_PACKS_MAX);
        let make = async {
            // The semaphore is never closed, so this only waits.
            let _turn = self.semaphores.tips.acquire().await;
            let packed = self.git.pack_tip(&from, &into, tip, packs_max).await;
            match packed {
                Err(e) if e.is_disk_full() => {
                    self.make_room(&repository, Need::Keep).await;
                    self.git.pack_tip(&from, &into, tip, packs_max).await
                }
                packed => packed,
            }
        };
        let packed = tokio::select! {
            packed = make => packed,
            () = made.closed() => return,
        };
        // Fails only if nobody waits.
        let _ = made.send(packed);
    }
}
