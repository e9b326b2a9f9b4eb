//! What is due of a mirror, and how it goes.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gix::ObjectId;
use gix::hash::Kind;
use tempfile::TempDir;

use crate::mirror::config;
use crate::mirror::error::MirrorError;
use crate::mirror::files::loose_ids;
use crate::mirror::packs::{Pack, PackKind, move_packs, open_index, packs, set_age};
use crate::mirror::set_up::format_of;

/// What is done with a pack that has a `.keep` when something of it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum KeepFiles {
    /// It stays.
    Count,
    /// It goes as any other does: nobody may have what is due.
    MeanNothing,
}

/// What is due.
pub(super) struct Due {
    hash: Kind,
    /// Packs that hold something due.
    pub(super) gone: Vec<Pack>,
    /// Loose objects.
    pub(super) loose: Vec<ObjectId>,
    /// What of these packs is to stay, in their order, and how much.
    pub(super) stays: File,
    pub(super) stays_count: u64,
    pub(super) count: u64,
}

pub(in crate::mirror) fn packs_of(mirror: &Path) -> Result<Vec<Pack>, MirrorError> {
    let folder = mirror.join("objects/pack");
    packs(&folder).map_err(|source| MirrorError::io("list the packs of", &folder, source))
}

pub(super) fn is_older(path: &Path, since: SystemTime) -> bool {
    let modified = std::fs::metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|at| at < since)
}

pub(super) fn loose_file(mirror: &Path, id: &ObjectId) -> PathBuf {
    let hex = id.to_string();
    let (fan, rest) = hex.split_at(2);
    mirror.join("objects").join(fan).join(rest)
}

/// A pack that something of may be due, and which of its objects stay.
struct Candidate {
    pack: Pack,
    index: gix::odb::pack::index::File,
    stays: Vec<bool>,
}

impl Candidate {
    /// An old one, of which nothing is known to stay yet.
    fn open(pack: Pack, hash: Kind) -> std::io::Result<Candidate> {
        let index = open_index(&pack.index, hash)?;
        let stays = vec![false; index.num_objects() as usize];
        Ok(Candidate { pack, index, stays })
    }

    /// A young one, of which all stays but what is due elsewhere: in an `old` pack, or loose.
    fn young(
        pack: Pack,
        hash: Kind,
        (old, loose): (&[Candidate], &HashSet<ObjectId>),
    ) -> std::io::Result<Candidate> {
        let mut young = Candidate::open(pack, hash)?;
        for at in 0..young.index.num_objects() {
            let id = young.index.oid_at_index(at).to_owned();
            young.stays[at as usize] = !loose.contains(&id) && !is_due_of(old, &id);
        }
        Ok(young)
    }

    fn is_any_due(&self) -> bool {
        self.stays.contains(&false)
    }
}

/// Whether an object lies in a pack of these and does not stay there.
fn is_due_of(old: &[Candidate], id: &ObjectId) -> bool {
    let is_due = |old: &Candidate| {
        let at = old.index.lookup(id);
        at.is_some_and(|at| !old.stays[at as usize])
    };
    old.iter().any(is_due)
}

impl Due {
    /// Compares packs and loose objects that are old enough with the list of all that is `reached`. What is not is due, and it
    /// goes from wherever it lies: a pack that has come lately may hold it once more.
    pub(super) fn find(
        mirror: &Path,
        reached: File,
        since: SystemTime,
        keep_files: KeepFiles,
    ) -> Result<Due, MirrorError> {
        let hash = format_of(&config::read(mirror)?);
        let io = |source| MirrorError::io("look for what is due in", mirror, source);
        let is_old = |pack: &Pack| pack.modified < since;
        let (old, young) = packs_of(mirror)?.into_iter().partition::<Vec<_>, _>(is_old);
        let old = old.into_iter().map(|pack| Candidate::open(pack, hash));
        let mut packs = old.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
        let all_loose = loose_ids(&mirror.join("objects")).map_err(io)?.into_iter();
        let (mut loose, young_loose) =
            all_loose.partition::<HashSet<_>, _>(|id| is_older(&loose_file(mirror, id), since));
        for line in BufReader::new(reached).lines() {
            let line = line.map_err(io)?;
            let id = ObjectId::from_hex(line.as_bytes());
            let id = id.map_err(|e| io(std::io::Error::other(format!("{line:?}: {e}"))))?;
            loose.remove(&id);
            for candidate in &mut packs {
                if let Some(at) = candidate.index.lookup(id) {
                    candidate.stays[at as usize] = true;
                }
            }
        }
        packs.retain(Candidate::is_any_due);
        let is_any_due = !packs.is_empty() || !loose.is_empty();
        let young = young.into_iter().filter(|_| is_any_due);
        let young = young.map(|pack| Candidate::young(pack, hash, (&packs, &loose)));
        let young = young.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
        loose.extend(young_loose.into_iter().filter(|id| is_due_of(&packs, id)));
        packs.extend(young.into_iter().filter(Candidate::is_any_due));
        let (kept, packs) = packs.into_iter().partition::<Vec<_>, _>(|candidate| {
            candidate.pack.kind == PackKind::Kept && keep_files == KeepFiles::Count
        });
        kept.iter()
            .for_each(|candidate| say_kept(mirror, candidate));
        Due::of(mirror, hash, packs, loose.into_iter().collect()).map_err(io)
    }

    fn of(
        mirror: &Path,
        hash: Kind,
        packs: Vec<Candidate>,
        loose: Vec<ObjectId>,
    ) -> std::io::Result<Due> {
        let mut out = BufWriter::new(tempfile::tempfile_in(mirror)?);
        let (mut stays_count, mut count) = (0, loose.len() as u64);
        for Candidate { index, stays, .. } in &packs {
            // As they lie there, so that the new pack keeps neighbours together.
            let staying = (0..index.num_objects()).filter(|at| stays[*at as usize]);
            let mut order: Vec<_> = staying
                .map(|at| (index.pack_offset_at_index(at), at))
                .collect();
            order.sort_unstable();
            stays_count += order.len() as u64;
            count += (stays.len() - order.len()) as u64;
            for (_, at) in order {
                writeln!(out, "{}", index.oid_at_index(at))?;
            }
        }
        let mut stays = out
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        stays.seek(SeekFrom::Start(0))?;
        Ok(Due {
            hash,
            gone: packs.into_iter().map(|candidate| candidate.pack).collect(),
            loose,
            stays,
            stays_count,
            count,
        })
    }

    /// Makes sure that the packs `made` have all that stays.
    pub(super) fn replaced_by(
        mut self,
        mirror: &Path,
        made: &[String],
    ) -> Result<Due, MirrorError> {
        let folder = mirror.join("objects/pack");
        let io = |source| MirrorError::io("compare the packs of", &folder, source);
        let index = |stem: &String| open_index(&folder.join(format!("{stem}.idx")), self.hash);
        let indices: Result<Vec<_>, _> = made.iter().map(index).collect();
        let indices = indices.map_err(io)?;
        self.stays.seek(SeekFrom::Start(0)).map_err(io)?;
        for line in BufReader::new(&self.stays).lines() {
            let line = line.map_err(io)?;
            let id = ObjectId::from_hex(line.as_bytes());
            let is_there = id.is_ok_and(|id| indices.iter().any(|i| i.lookup(id).is_some()));
            if !is_there {
                return Err(MirrorError::Output {
                    op: "git pack-objects",
                    target: mirror.display().to_string(),
                    what: format!("{line} is not in the new pack"),
                });
            }
        }
        set_age(&folder, made, &self.gone).map_err(io)?;
        File::open(&folder).and_then(|d| d.sync_all()).map_err(io)?;
        Ok(self)
    }

    /// Moves it away; gives where it is.
    pub(super) fn remove(&self, mirror: &Path) -> Result<TempDir, MirrorError> {
        let move_away = || {
            let trash = tempfile::Builder::new()
                .prefix("tmp_old_packs_")
                .tempdir_in(mirror)?;
            move_graphs(mirror, trash.path())?;
            move_packs(&mirror.join("objects/pack"), &self.gone, trash.path())?;
            for id in &self.loose {
                let to = trash.path().join(id.to_string());
                rename_if_there(&loose_file(mirror, id), &to)?;
            }
            Ok(trash)
        };
        move_away().map_err(|source| MirrorError::io("remove what is due of", mirror, source))
    }
}

/// Takes the graphs of commits away: they would have git believe that commits are there which have gone.
pub(in crate::mirror) fn move_graphs(mirror: &Path, trash: &Path) -> std::io::Result<()> {
    for graph in ["commit-graph", "commit-graphs"] {
        let from = mirror.join("objects/info").join(graph);
        rename_if_there(&from, &trash.join(graph))?;
    }
    Ok(())
}

fn rename_if_there(from: &Path, to: &Path) -> std::io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Nobody else can know why it is kept.
fn say_kept(mirror: &Path, Candidate { pack, stays, .. }: &Candidate) {
    let objects = stays.iter().filter(|stays| !**stays).count();
    tracing::warn!(
        objects,
        "{} of {} holds objects that no ref has led to for long, and stays for it has a .keep file; remove \
         that, and they go",
        pack.name(),
        mirror.display()
    );
}
