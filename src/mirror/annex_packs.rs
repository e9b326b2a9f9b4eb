//! The packs of an annex: what a snapshot needs of it, what it has to have before the mirror loses it, and
//! nothing that its tips do not reach.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use gix::ObjectId;
use tempfile::TempDir;
use tokio::sync::RwLock;

use super::annex::{TMP, annex, is_there};
use super::annex_tips::{self, Tips};
use super::blocking::blocking;
use super::closure::{Closure, has_aside};
use super::error::MirrorError;
use super::exclusive::exclusive;
use super::files::Stamp;
use super::git::Git;
use super::loose::all_tips;
use super::packs::{Pack, move_packs, packs};
use crate::git::stdin_file;

/// What came of a look at what an annex has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tidied {
    /// It has what its tips reach, and nothing else.
    Done,
    /// Somebody is using it, or it has changed meanwhile.
    Busy,
}

impl Git {
    /// Makes a repository beside the annex whose one pack, or none, is exactly what the object needs and no pack
    /// of the mirror has. It goes when the directory is dropped. Until then nothing may leave mirror or
    /// annex.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when something is missing.
    pub(crate) async fn pack_for(
        &self,
        mirror: &Path,
        id: ObjectId,
    ) -> Result<TempDir, MirrorError> {
        let path = mirror.to_owned();
        let made = blocking(mirror, move || {
            let at = annex(&path);
            let io = |source| MirrorError::io("make a directory in", &at, source);
            let made = tempfile::Builder::new()
                .prefix(&format!("{TMP}view_"))
                .tempdir_in(&at)
                .map_err(io)?;
            std::fs::create_dir_all(made.path().join("objects/pack")).map_err(io)?;
            // What is loose in the mirror is no part of a snapshot.
            let list = list(&path, &BTreeSet::from([id]))?;
            Ok((made, list, has_aside(&path)?))
        });
        let (made, list, has_aside) = made.await?;
        let options: &[&str] = match has_aside {
            true => &["--revs"],
            false => &["--revs", "--local"],
        };
        let into = made.path().to_owned();
        let place = annex(mirror);
        self.pack_objects_into(&place, &into, list, options).await?;
        Ok(made)
    }

    /// Has the annex hold all that its tips reach and the mirror's refs do not, so that the mirror may lose it.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when something is missing already.
    pub(super) async fn secure_annex(&self, mirror: &Path) -> Result<(), MirrorError> {
        let path = mirror.to_owned();
        let Some((own, list)) = blocking(mirror, move || wanted(&path)).await? else {
            return Ok(());
        };
        let have = own
            .iter()
            .map(|pack| format!("--keep-pack={}", pack.name()));
        let options: Vec<String> = std::iter::once("--revs".to_owned()).chain(have).collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let made = self.pack_objects(&annex(mirror), list, &options).await?;
        let folder = annex(mirror).join("objects/pack");
        blocking(mirror, move || {
            let synced = made.iter().try_for_each(|stem| {
                let file = |end: &str| File::open(folder.join(format!("{stem}.{end}")));
                file("pack")?.sync_all()?;
                file("idx")?.sync_all()
            });
            let synced = synced.and_then(|()| File::open(&folder)?.sync_all());
            synced.map_err(|source| MirrorError::io("sync", &folder, source))
        })
        .await
    }

    /// Leaves the annex nothing but what its tips reach, in one pack. `arrivals` is read by whoever uses the annex.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when something is missing; then all stays.
    pub(crate) async fn tidy_annex(
        &self,
        mirror: &Path,
        arrivals: &RwLock<()>,
    ) -> Result<Tidied, MirrorError> {
        if !is_there(mirror) {
            return Ok(Tidied::Done);
        }
        let (before, path) = (stamp(mirror)?, mirror.to_owned());
        let (own, wanted) =
            blocking(mirror, move || Ok((own_packs(&path)?, wanted(&path)?))).await?;
        let made = match wanted {
            Some((_, list)) => self.pack_objects(&annex(mirror), list, &["--revs"]).await?,
            None => Vec::new(),
        };
        let mut gone = own;
        gone.retain(|pack| !made.contains(&pack.stem));
        let at = annex(mirror);
        let trash = tempfile::Builder::new()
            .prefix(&format!("{TMP}old_packs_"))
            .tempdir_in(&at);
        let trash = trash.map_err(|source| MirrorError::io("make a directory in", &at, source))?;
        let Some(_nobody) = exclusive(arrivals).await else {
            return Ok(Tidied::Busy);
        };
        // Not on another thread: if this future were dropped, it would go on without the lock.
        if stamp(mirror)? != before {
            return Ok(Tidied::Busy);
        }
        let moved = move_packs(&at.join("objects/pack"), &gone, trash.path());
        moved.map_err(|source| MirrorError::io("remove old packs of", &at, source))?;
        Ok(Tidied::Done)
    }

    /// Whether refs lead to an object that is in the mirror.
    ///
    /// # Errors
    /// The mirror cannot be read, or that takes too long.
    pub(crate) async fn is_reached(
        &self,
        mirror: &Path,
        id: ObjectId,
    ) -> Result<bool, MirrorError> {
        let there = self.kinds(mirror, &[id.to_string()]).await?;
        if there.iter().any(Option::is_none) {
            return Ok(false);
        }
        Ok(self.closure(mirror, id).await? == Closure::Reached)
    }
}

/// How many packs an annex has.
pub(crate) fn count(mirror: &Path) -> usize {
    own_packs(mirror).map_or(0, |packs| packs.len())
}

/// Tells whether it has other tips.
pub(super) fn stamp(mirror: &Path) -> Result<Stamp, MirrorError> {
    let stamp = Stamp::of([annex_tips::path(mirror)]);
    stamp.map_err(|source| MirrorError::io("look at the annex of", mirror, source))
}

fn own_packs(mirror: &Path) -> Result<Vec<Pack>, MirrorError> {
    let folder = annex(mirror).join("objects/pack");
    packs(&folder).map_err(|source| MirrorError::io("list the packs of", &folder, source))
}

/// The annex's packs, and the list of what its tips reach; `None` if it has none.
fn wanted(mirror: &Path) -> Result<Option<(Vec<Pack>, File)>, MirrorError> {
    let found = Tips::read(&annex_tips::path(mirror));
    let found = found.map_err(|source| MirrorError::io("read the tips of", mirror, source))?;
    let tips: BTreeSet<ObjectId> = found.tips.kept().map(|(id, _)| id).collect();
    match tips.is_empty() {
        true => Ok(None),
        false => Ok(Some((own_packs(mirror)?, list(mirror, &tips)?))),
    }
}

/// What these reach and the mirror's refs do not, as `git pack-objects --revs` reads it.
fn list(mirror: &Path, tips: &BTreeSet<ObjectId>) -> Result<File, MirrorError> {
    let mut list: String = tips.iter().map(|tip| format!("{tip}\n")).collect();
    list.push_str("--not\n");
    list.extend(all_tips(mirror)?.iter().map(|tip| format!("{tip}\n")));
    stdin_file(list.as_bytes()).map_err(|source| MirrorError::io("list tips of", mirror, source))
}
