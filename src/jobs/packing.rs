//! The pack of a snapshot that is one commit, as its build sees it: of which packs it is made, and what it is
//! then.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gix::ObjectId;
use tokio::sync::oneshot;

use super::tip::{PACKS, Packed, TipJob};
use crate::archive::open_files::{OpenFile, Places};
use crate::archive::place::Archive;
use crate::io::lasts::Lasts;
use crate::io::shortage::Detail;
use crate::manifest::record::Linked;
use crate::snapshot::output::BuildError;
use crate::snapshot::produce::{History, MadePacks};
use crate::snapshot::reverse::make_reverse_index;
use crate::snapshot::turns::Closed;

/// A pack that is to be made for an entry, of those that it borrows.
pub(super) struct OwnPack {
    /// The entry's directory, and that of what it borrows.
    pub entry: PathBuf,
    pub borrowed: PathBuf,
    pub hash: gix::hash::Kind,
    /// The packs of which it is made.
    pub packs: Vec<Linked>,
    pub places: Places,
    /// None where there is no commit.
    pub tip: Option<ObjectId>,
}

/// Where an archive that has a place has its history from: `pack` has its own pack made, if it is to have one.
pub(super) fn history(
    archive: &Arc<Archive>,
    own: Option<OwnPack>,
    pack: impl FnOnce(TipJob),
) -> History<'static> {
    let Some(own) = own else {
        return History::Views;
    };
    let (made, is_made) = oneshot::channel();
    let has_tip = own.tip.is_some();
    if let Some(tip) = own.tip {
        pack(TipJob {
            repository: archive.repository.clone(),
            from: own.borrowed.clone(),
            entry: own.entry.clone(),
            tip,
            made,
        });
    }
    let packing = Packing {
        archive: archive.clone(),
        of: own,
        made: has_tip.then_some(is_made),
    };
    History::Made(Box::new(move || packing.wait()))
}

/// A pack that is being made, as its build sees it.
pub(super) struct Packing {
    archive: Arc<Archive>,
    of: OwnPack,
    /// None where there is no commit.
    made: Option<oneshot::Receiver<Packed>>,
}

impl Packing {
    /// Waits for the pack. Where the disk takes none, the archive is not kept, and its readers get the packs
    /// of which it would be made: they have more than is shown, and nothing less.
    pub(super) fn wait(mut self) -> Result<MadePacks, BuildError> {
        let made = match self.made.take() {
            None => Ok(Vec::new()),
            Some(made) => made.blocking_recv().map_err(|_| Closed)?,
        };
        let (directory, files) = match made {
            Ok(stems) => (self.of.entry.clone(), self.own(&stems)?),
            Err(e) if e.is_disk_full() => {
                self.archive.fanout.spool_failed(&e.to_string());
                (self.of.borrowed.clone(), std::mem::take(&mut self.of.packs))
            }
            Err(e) => return Err(BuildError::Pack(Detail::of(&e))),
        };
        let open = |file: &Linked| self.of.places.open_one(&directory.join(&file.path));
        let opened = files.iter().map(open).collect::<Result<Vec<_>, _>>();
        let opened = opened.map_err(|e| BuildError::Pack(Detail::of(&e)))?;
        let is_exact = directory == self.of.entry;
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
            let pack = self.of.entry.join(format!("{PACKS}/{stem}.pack"));
            if !pack.with_extension("rev").exists() {
                let made = make_reverse_index(&pack, self.of.hash, Lasts::ByCaller);
                made.map_err(|source| failed("index", &pack, source))?;
            }
            for extension in ["pack", "idx", "rev"] {
                let path = format!("{PACKS}/{stem}.{extension}");
                let place = self.of.entry.join(&path);
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
