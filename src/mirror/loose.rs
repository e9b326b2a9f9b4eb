//! Objects that a mirror keeps outside of its packs: loose ones, and those that somebody's git has put
//! aside into cruft packs. What refs reach of them is packed, the rest is left where it is: nobody asked
//! for it, and it may be a secret that was taken back.

use super::blocking::blocking;
use super::config;
use super::error::MirrorError;
use super::files::loose_ids;
use super::git::Git;
use super::packs::{Pack, PackKind, open_index, packs};
use super::set_up::format_of;
use crate::git::stdin_file;
use crate::refs::{self, Follow, MirrorRefs};
use gix::ObjectId;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// What lies outside of the packs and is known not to be needed there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aside {
    /// All that these reach is in packs.
    tips: BTreeSet<ObjectId>,
    /// The loose objects that were there when that was so.
    loose: BTreeSet<ObjectId>,
    /// The cruft packs, by the names of their `.pack`.
    cruft: BTreeSet<String>,
}

impl Aside {
    /// Whether what such refs reach is in packs that are not cruft, where these loose objects and cruft
    /// packs are there. Without any it always is.
    pub fn covers(&self, refs: &MirrorRefs, loose: &[ObjectId], cruft: &[String]) -> bool {
        let is_known = || {
            loose.iter().all(|id| self.loose.contains(id))
                && cruft.iter().all(|name| self.cruft.contains(name))
        };
        let is_reached = || tips(refs).all(|tip| self.tips.contains(&tip));
        (loose.is_empty() && cruft.is_empty()) || (is_known() && is_reached())
    }

    /// Loose objects and cruft packs.
    pub fn len(&self) -> usize {
        self.loose.len() + self.cruft.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What all refs lead to.
pub(super) fn all_tips(mirror: &Path) -> Result<BTreeSet<ObjectId>, MirrorError> {
    Ok(tips(&all_refs(mirror)?).collect())
}

fn tips(refs: &MirrorRefs) -> impl Iterator<Item = ObjectId> {
    let head = refs.head_id();
    refs.refs.iter().map(|r| r.target).chain(head)
}

/// All refs, whoever has made them.
fn all_refs(mirror: &Path) -> Result<MirrorRefs, MirrorError> {
    let all = Follow::new(["refs/*"]).unwrap_or_default();
    Ok(refs::read(mirror, &all)?)
}

fn loose_of(mirror: &Path) -> Result<Vec<ObjectId>, MirrorError> {
    let objects = mirror.join("objects");
    loose_ids(&objects).map_err(|source| MirrorError::io("list", &objects, source))
}

/// What lies outside of the packs, and how what is needed of it is packed.
struct Outside {
    tips: BTreeSet<ObjectId>,
    loose: BTreeSet<ObjectId>,
    cruft: BTreeSet<String>,
    /// Revisions to walk, if there are any.
    list: Option<File>,
    options: Vec<String>,
}

impl Outside {
    fn look(mirror: &Path, before: &Aside) -> Result<Outside, MirrorError> {
        let folder = mirror.join("objects/pack");
        let failed = |source| MirrorError::io("look at the packs of", &folder, source);
        // Before the refs: what they reach was there then.
        let loose: BTreeSet<ObjectId> = loose_of(mirror)?.into_iter().collect();
        let (cruft, plain): (Vec<_>, Vec<_>) = packs(&folder)
            .map_err(failed)?
            .into_iter()
            .partition(|pack| pack.kind == PackKind::Cruft);
        let cruft: BTreeSet<String> = cruft.iter().map(Pack::name).collect();
        let tips = all_tips(mirror)?;
        // Otherwise something that they reach may have been put aside since.
        let is_known = loose.is_subset(&before.loose) && cruft.is_subset(&before.cruft);
        let closed = match is_known {
            true => present(&before.tips, &plain, mirror)?,
            false => BTreeSet::new(),
        };
        let new: Vec<_> = tips.difference(&closed).collect();
        let list = match new.is_empty() {
            true => None,
            false => {
                let mut list: String = new.iter().map(|tip| format!("{tip}\n")).collect();
                list.push_str("--not\n");
                list.extend(closed.iter().map(|tip| format!("{tip}\n")));
                Some(stdin_file(list.as_bytes()).map_err(failed)?)
            }
        };
        let mut options = vec!["--revs".to_owned(), "--use-bitmap-index".to_owned()];
        match cruft.is_empty() {
            true => options.push("--incremental".to_owned()),
            false => options.extend(plain.iter().map(|p| format!("--keep-pack={}", p.name()))),
        }
        Ok(Outside {
            tips,
            loose,
            cruft,
            list,
            options,
        })
    }
}

/// Those that packs have: somebody may have removed what no ref leads to any more.
fn present(
    tips: &BTreeSet<ObjectId>,
    packs: &[Pack],
    mirror: &Path,
) -> Result<BTreeSet<ObjectId>, MirrorError> {
    let hash = format_of(&config::read(mirror)?);
    let open = |pack: &Pack| open_index(&pack.index, hash);
    let indices: Result<Vec<_>, _> = packs.iter().map(open).collect();
    let failed = |source| MirrorError::io("read the packs of", mirror, source);
    let indices = indices.map_err(failed)?;
    let is_there = |tip: &&ObjectId| indices.iter().any(|index| index.lookup(tip).is_some());
    Ok(tips.iter().filter(is_there).copied().collect())
}

impl Git {
    /// Packs the objects that any ref reaches and that are loose or in cruft packs only, and removes loose
    /// ones that are packed. Gives what is left, of which no ref needs anything. What was found so
    /// `before` is not walked again.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when an object that is needed is damaged; then every loose file stays.
    pub async fn pack_reachable(
        &self,
        mirror: &Path,
        before: &Aside,
    ) -> Result<Aside, MirrorError> {
        let (path, before) = (mirror.to_owned(), before.clone());
        let found = blocking(mirror, move || Outside::look(&path, &before)).await?;
        let Outside {
            tips,
            loose,
            cruft,
            list,
            options,
        } = found;
        if let Some(list) = list {
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            self.pack_objects(mirror, list, &options).await?;
        }
        if !loose.is_empty() {
            // Nobody needs a lock: who looks for an object in the packs that were there before looks again.
            let prune = self.upkeep("git prune-packed", mirror, &["prune-packed", "--quiet"]);
            self.output(prune).await?;
        }
        let path = mirror.to_owned();
        let left = blocking(mirror, move || loose_of(&path)).await?;
        // What has come meanwhile was not looked at.
        let loose = left.into_iter().filter(|id| loose.contains(id)).collect();
        let aside = Aside { tips, loose, cruft };
        // Without anything put aside nobody has to know what was walked.
        Ok(match aside.is_empty() {
            true => Aside::default(),
            false => aside,
        })
    }
}

#[cfg(test)]
mod tests;
