//! Has one commit packed for a snapshot that is nothing else, of packs that the build borrows.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::room::Need;
use super::state::Jobs;
use crate::classes::Seat;
use crate::limits::TIP_PACKS_MAX;
use crate::manifest::want::CommitId;
use crate::mirror::MirrorError;
use crate::snapshot::tip_pack::{self, Tip, TipPackError};

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
            let packed = self.pack_one((&from, &into), tip, packs_max).await;
            match packed {
                Err(e) if e.is_disk_full() => {
                    self.make_room(&repository, Need::Keep).await;
                    self.pack_one((&from, &into), tip, packs_max).await
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
    /// Packs it here, or has git do what is not for this.
    async fn pack_one(
        &self,
        (from, into): (&Path, &Path),
        tip: CommitId,
        packs_max: usize,
    ) -> Packed {
        let given_up = GivenUp::default();
        let (source, place, is_given_up) = (from.to_owned(), into.to_owned(), given_up.0.clone());
        let packed = spawn_blocking(move || {
            if is_given_up.load(Ordering::Relaxed) {
                // Its directory may be gone, and nobody would remove another one.
                return Ok(None);
            }
            let made = std::fs::create_dir_all(&place);
            made.map_err(|e| MirrorError::io("create", &place, e))?;
            let packed = tip_pack::pack(&Tip {
                from: &source,
                into: &place,
                commit: tip,
                packs_max,
                is_given_up: &is_given_up,
            });
            packed.map_err(|TipPackError { op, path, source }| MirrorError::io(op, &path, source))
        });
        match packed.await {
            Ok(Ok(Some(stems))) => Ok(stems),
            Ok(Err(why)) => Err(why),
            Ok(Ok(None)) | Err(_) => self.git.pack_tip(from, into, tip, packs_max).await,
        }
    }
}

/// Ends what is made on another thread when this is dropped.
#[derive(Default)]
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
