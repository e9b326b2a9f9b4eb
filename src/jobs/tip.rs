//! Has git pack one commit for a snapshot that is nothing else, of packs that the build borrows.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::room::Need;
use super::state::Jobs;
use crate::classes::Seat;
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
    /// Makes the pack, in this place; ends when nobody waits for it any more.
    pub(super) async fn pack_tip(self: Rc<Self>, job: TipJob, place: Option<Seat>) {
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
        drop(place);
        // Fails only if nobody waits.
        let _ = made.send(packed);
    }
}
