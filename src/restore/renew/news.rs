//! What the server has now: the refs that a working copy is to get, and what is checked out of them. Its objects are
//! fetched into the [`Scratch`](super::scratch).
//!
//! All of a history: the refs of one moment, and a bundle on top of what is there. One commit alone: the refs of its
//! snapshot, and what git fetches of it.

use std::os::fd::AsFd;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::BStr;
use gix::hash::Kind;

use super::copy::Copy;
use super::scratch::FETCH_ONE;
use crate::config::RestoreArgs;
use crate::manifest::parts::Contents;
use crate::restore::capture::Archive;
use crate::restore::dates::Dates;
use crate::restore::download::{Download, Served};
use crate::restore::error::{RestoreError, failed};
use crate::restore::extract::extract;
use crate::restore::feed::{Feed, Unpacks};
use crate::restore::landing::Destination;
use crate::restore::objects::Objects;
use crate::restore::opening::{self, Asked, By};
use crate::restore::origin::{self, FETCHES_ALL};
use crate::restore::parts::Fetching;
use crate::restore::reel::Reel;
use crate::restore::refs::Refs;
use crate::restore::run;
use crate::restore::source::Source;
use crate::restore::stop::Stop;
use crate::restore::update::{self, Fetched, Update};
use crate::restore::wanted::Wanted;
use crate::restore::write::{Site, Written, umask};

/// What of an archive says which refs it has.
const REFS: [Contents; 3] = [Contents::GitDir, Contents::Refs, Contents::End];

/// What there is.
pub(super) enum News {
    All(Fetched),
    /// Of one commit without its history.
    One {
        /// What its archive says.
        archive: Archive,
        /// What `git fetch` brings from then on.
        fetches: Option<Vec<u8>>,
        bundle_applied: bool,
    },
}

impl News {
    /// Whether a bundle was of use.
    pub(super) fn bundle_applied(&self) -> bool {
        match self {
            News::All(fetched) => fetched.bundle_applied,
            News::One { bundle_applied, .. } => *bundle_applied,
        }
    }

    /// What leads to the commit that is checked out.
    pub(super) fn tip(&self, hash: Kind, stop: &Stop) -> Result<Option<ObjectId>, RestoreError> {
        match self {
            News::All(fetched) => Ok(update::tip(&fetched.moment, &fetched.at)),
            News::One { archive, .. } => Ok(Refs::read(&archive.captured, hash, stop)?.commit()),
        }
    }

    /// The refs, where `commit` is checked out.
    pub(super) fn refs(
        &self,
        hash: Kind,
        commit: Option<ObjectId>,
        stop: &Stop,
    ) -> Result<Refs<'_>, RestoreError> {
        match self {
            News::All(fetched) => Refs::of_moment(&fetched.moment, &fetched.at, commit, stop),
            News::One { archive, .. } => Refs::read(&archive.captured, hash, stop),
        }
    }

    /// What `git fetch` brings from now on in a working copy that has this branch checked out then, if that is another
    /// thing than before: what a clone of this kind says. Where all branches are there it is all of them, also in a clone
    /// that was made of one. Where one commit is, a clone of one branch stays such a clone unless another branch comes: all
    /// branches would have another history each. What somebody has set stays.
    pub(super) fn fetches(&self, copy: &Copy, branch: Option<&BStr>) -> Option<Option<&[u8]>> {
        if copy.has_own_fetches {
            return None;
        }
        let narrow = copy.narrow();
        match self {
            News::All(_) => narrow.map(|_| Some(FETCHES_ALL)),
            News::One { fetches, .. } => {
                let is_of = |narrow: Option<&[u8]>| match (narrow, branch) {
                    (_, None) => true,
                    (Some(narrow), Some(branch)) => origin::fetches_branch(narrow, branch),
                    (None, Some(_)) => false,
                };
                let fetches = fetches.as_deref();
                let stays = fetches == Some(FETCHES_ALL) && narrow.is_some_and(is_of);
                (!stays).then_some(fetches)
            }
        }
    }
}

/// What branches and tags are at.
pub(super) fn ids_of(refs: &Refs<'_>) -> Result<Vec<ObjectId>, RestoreError> {
    let mut ids = Vec::new();
    refs.each(|_, hex| {
        let id = ObjectId::from_hex(hex);
        ids.push(id.map_err(|e| RestoreError::entry(b".git/packed-refs", e.to_string()))?);
        Ok::<_, RestoreError>(())
    })?;
    Ok(ids)
}

/// Who asks for one commit.
#[derive(Clone, Copy)]
pub(super) struct One<'o> {
    pub args: &'o RestoreArgs,
    /// The repository that it is fetched into, and a bundle that may have it.
    pub update: &'o Update<'o>,
    pub wanted: &'o Wanted,
    pub dates: Dates,
    pub hash: Kind,
    /// A directory of ours, into which nothing is written.
    pub ours: &'o Path,
}

impl One<'_> {
    /// Finds it, and fetches its objects.
    pub(super) fn fetch(self) -> Result<News, RestoreError> {
        let Update { link, room, .. } = *self.update;
        let (stop, tree) = (link.stop, room.tree);
        let archive = self.ask()?;
        let said = archive.captured.file("config").unwrap_or_default();
        let said = origin::read(said)?;
        let refs = Refs::read(&archive.captured, self.hash, stop)?;
        if said.hash != self.hash || !refs.is_shallow() {
            return Err(self.refused("what it has is of another kind"));
        }
        let mut ids = Vec::from_iter(refs.commit());
        ids.extend(ids_of(&refs)?);
        ids.sort_unstable();
        ids.dedup();
        let mut missing = self.missing(&ids)?;
        let mut bundle_applied = false;
        // One that leads on from what is there is had without a walk through all of both.
        if refs.commit().is_some_and(|id| missing.contains(&id)) {
            bundle_applied = self.update.take_bundle(refs.commit())?;
            missing = self.missing(&ids)?;
        }
        if !missing.is_empty() {
            let missing = missing.iter().map(ToString::to_string);
            let url = format!("{}{}", link.server.origin(), link.place);
            let args = FETCH_ONE.into_iter().map(str::to_owned).chain([url]);
            let args: Vec<String> = args.chain(missing).collect();
            run::server(link, room, &args)?;
        }
        let objects = Objects::open(tree, self.hash, stop)?;
        if !refs.are_of(&self.wanted.checkout, |id| objects.commit_of(id).ok()) {
            return Err(self.refused("what it has is of another commit than was asked for"));
        }
        let fetches = origin::fetches(&said, true);
        drop(refs);
        Ok(News::One {
            archive,
            fetches,
            bundle_applied,
        })
    }

    /// Those of `ids` that are not there yet.
    fn missing(self, ids: &[ObjectId]) -> Result<Vec<ObjectId>, RestoreError> {
        let Update { link, room, .. } = *self.update;
        let objects = Objects::open(room.tree, self.hash, link.stop)?;
        let mut missing = Vec::new();
        for id in ids {
            if objects.kind(*id)?.is_none() {
                missing.push(*id);
            }
        }
        Ok(missing)
    }

    fn refused(self, why: &str) -> RestoreError {
        RestoreError::NoSnapshot(format!("{why}; --overwrite restores it whole"))
    }

    /// What the snapshot says of itself.
    fn ask(self) -> Result<Archive, RestoreError> {
        let Update { link, room, .. } = *self.update;
        let asked = Asked {
            base: link.place,
            query: self.wanted.query(),
            is_fresh: self.args.fresh,
            by: By::Manifest,
        };
        let opened = opening::open(link, &asked)?;
        if !opened.is_manifest() {
            return Err(self.refused("the server has no manifest of one commit"));
        }
        let (link, base, query) = opened.asked();
        let source = Source {
            link,
            base: &base,
            query: &query,
        };
        let manifest = opened.manifest()?;
        let root = std::fs::File::open(self.ours).map_err(failed("open", self.ours))?;
        let site = Site {
            root: root.as_fd(),
            umask: umask(),
            quota: room.quota,
            stop: link.stop,
        };
        let to = Destination {
            dir: self.ours,
            quota: site.quota,
            seed: None,
        };
        let packs = Fetching::new(source, &manifest, std::iter::empty(), to)?;
        let reel = Reel::of(&manifest, &REFS)?;
        let bytes = reel.bytes();
        link.progress.set_total(bytes);
        let served = Served::Parts(reel, source, &manifest);
        let download = Download::new(link, served, Some(bytes));
        let (feed, unpacks) = (Feed::Parts(&packs), Unpacks::Objects);
        let at = (site, &Written::default());
        extract(&download, feed, at, self.dates, unpacks, |_| Ok(()))
    }
}
