//! The pack of a snapshot that is one commit: made by git beside the build, of the packs that this borrows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use gix::ObjectId;
use tokio::sync::oneshot;

use super::room::Need;
use super::state::Jobs;
use crate::archive::open_files::{OpenFile, Places};
use crate::archive::place::Archive;
use crate::io::shortage::Detail;
use crate::manifest::record::Linked;
use crate::mirror::MirrorError;
use crate::snapshot::output::BuildError;
use crate::snapshot::produce::MadePacks;
use crate::snapshot::reverse::make_reverse_index;
use crate::snapshot::turns::Closed;

/// Where packs are, in a repository as in an entry.
const PACKS: &str = "objects/pack";

/// A pack that is to be made.
pub(super) struct TipJob {
    repository: Arc<str>,
    /// A repository that stays as it is meanwhile.
    from: PathBuf,
    /// The entry's directory.
    entry: PathBuf,
    tip: ObjectId,
    made: oneshot::Sender<Result<Vec<String>, MirrorError>>,
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
        let make = async {
            // The semaphore is never closed, so this only waits.
            let _turn = self.semaphores.tips.acquire().await;
            let packed = self.git.pack_tip(&from, &into, tip).await;
            match packed {
                Err(e) if e.is_disk_full() => {
                    self.make_room(&repository, Need::Keep).await;
                    self.git.pack_tip(&from, &into, tip).await
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

/// A pack that is being made, as its build sees it.
pub(super) struct Packing {
    archive: Arc<Archive>,
    hash: gix::hash::Kind,
    /// The entry's directory, and that of what it borrows.
    entry: PathBuf,
    borrowed: PathBuf,
    /// The packs of which it is made.
    packs: Vec<Linked>,
    places: Places,
    /// None where there is no commit.
    made: Option<oneshot::Receiver<Result<Vec<String>, MirrorError>>>,
}

impl Packing {
    /// What is to be made for an archive that has its place, and who waits for it.
    pub(super) fn begin(
        archive: &Arc<Archive>,
        (entry, borrowed): (PathBuf, PathBuf),
        (hash, packs): (gix::hash::Kind, Vec<Linked>),
        places: Places,
        tip: Option<ObjectId>,
    ) -> (Packing, Option<TipJob>) {
        let (made, is_made) = oneshot::channel();
        let job = tip.map(|tip| TipJob {
            repository: archive.repository.clone(),
            from: borrowed.clone(),
            entry: entry.clone(),
            tip,
            made,
        });
        let packing = Packing {
            archive: archive.clone(),
            hash,
            entry,
            borrowed,
            packs,
            places,
            made: job.is_some().then_some(is_made),
        };
        (packing, job)
    }

    /// Waits for the pack. Where the disk takes none, the archive is not kept, and its readers get the packs
    /// of which it would be made: they have more than is shown, and nothing less.
    pub(super) fn wait(mut self) -> Result<MadePacks, BuildError> {
        let made = match self.made.take() {
            None => Ok(Vec::new()),
            Some(made) => made.blocking_recv().map_err(|_| Closed)?,
        };
        let (directory, files) = match made {
            Ok(stems) => (self.entry.clone(), self.own(&stems)?),
            Err(e) if e.is_disk_full() => {
                self.archive.fanout.spool_failed(&e.to_string());
                (self.borrowed.clone(), std::mem::take(&mut self.packs))
            }
            Err(e) => return Err(BuildError::Pack(Detail::of(&e))),
        };
        let open = |file: &Linked| self.places.open_one(&directory.join(&file.path));
        let opened = files.iter().map(open).collect::<Result<Vec<_>, _>>();
        let opened = opened.map_err(|e| BuildError::Pack(Detail::of(&e)))?;
        let is_exact = directory == self.entry;
        let first_number = self.number(opened, &files);
        Ok(MadePacks {
            directory,
            files,
            first_number,
            is_exact,
        })
    }

    /// Gives the files the numbers that follow those of the archive's others: gives the first.
    fn number(&self, opened: Vec<Arc<OpenFile>>, files: &[Linked]) -> u32 {
        if let Some(all) = self.archive.files() {
            all.add_made(opened);
        }
        let Some(names) = self.archive.names() else {
            return 0;
        };
        // Once: a build makes them once.
        let _ = names.made.set(files.to_vec());
        names.linked.len() as u32
    }

    /// The files of packs that were made.
    fn own(&self, stems: &[String]) -> Result<Vec<Linked>, BuildError> {
        let mut files = Vec::new();
        for stem in stems {
            let pack = self.entry.join(format!("{PACKS}/{stem}.pack"));
            if !pack.with_extension("rev").exists() {
                let made = make_reverse_index(&pack, self.hash);
                made.map_err(|source| failed("index", &pack, source))?;
            }
            for extension in ["pack", "idx", "rev"] {
                let path = format!("{PACKS}/{stem}.{extension}");
                let place = self.entry.join(&path);
                let found = fs::metadata(&place);
                files.push(Linked {
                    path,
                    bytes: found.map_err(|e| failed("look at", &place, e))?.len(),
                    whole: None,
                });
            }
        }
        Ok(files)
    }
}

fn failed(op: &'static str, path: &Path, source: io::Error) -> BuildError {
    BuildError::Io {
        op,
        path: path.to_owned(),
        source,
    }
}
