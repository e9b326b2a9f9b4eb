//! What a request of git's protocol names by its id and whoever sends it may not have, or not know to be here,
//! where the upstream's permission decides.
//!
//! What branches and tags name is told by a list; of what else is asked for there is a bound, and of what the client
//! says that it has only the first is looked for, and none of it at the upstream: git does without the rest.

use std::collections::HashSet;
use std::fs::File;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::asker::Asker;
use super::look::failed;
use super::permission::{Here, unsaid};
use super::question_turns::Verdict;
use super::state::Jobs;
use super::upload_request::UploadRequest;
use crate::limits::{FRESHEN_WAIT_MS, HAVES_SHOWN_MAX, SHOWN_AT_ONCE_MAX};
use crate::manifest::want::AnyId;
use crate::mirror::upload::{Unnamed, Word, each_named, retain_named};
use crate::refs::MirrorRefs;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::view::object_hash;

/// How git begins its answer when it lacks an object, behind the length of the line.
pub(super) const NOT_OUR_REF: &[u8] = b"ERR upload-pack: not our ref";

/// What git says of an object that is not there.
pub(super) fn not_our_ref(id: AnyId) -> Vec<u8> {
    let said = [NOT_OUR_REF, b" ", id.to_string().as_bytes()].concat();
    [format!("{:04x}", said.len() + 4).as_bytes(), &said].concat()
}

/// What a request names by its id and no ref does.
struct Named {
    kind: gix::hash::Kind,
    /// What followed refs name: that all may have who may read.
    tips: HashSet<AnyId>,
    /// In the order in which they are asked for, some perhaps several times.
    wants: Vec<AnyId>,
    shallow: HashSet<AnyId>,
    /// Not all of them, if there are many.
    haves: HashSet<AnyId>,
}

impl Named {
    /// Reads a request for what a mirror has. Takes time in proportion to both.
    fn in_request(repo: &Repo, refs: &MirrorRefs, request: &File) -> Result<Named, StartError> {
        let kind = object_hash(&repo.mirror).map_err(|e| failed(repo, &e))?;
        let targets = refs
            .refs
            .iter()
            .flat_map(|one| [Some(one.target), one.peeled]);
        let mut named = Named {
            kind,
            tips: targets.flatten().chain(refs.head_id()).collect(),
            wants: Vec::new(),
            shallow: HashSet::new(),
            haves: HashSet::new(),
        };
        let read = each_named(request, kind, |word, id| named.take(word, id));
        read.map_err(|why| unnamed(repo, &why))?;
        Ok(named)
    }

    fn take(&mut self, word: Word, id: AnyId) -> Result<(), Unnamed> {
        if self.tips.contains(&id) {
            return Ok(());
        }
        match word {
            Word::Have if self.haves.len() < HAVES_SHOWN_MAX => drop(self.haves.insert(id)),
            Word::Have => {}
            Word::Shallow => drop(self.shallow.insert(id)),
            Word::Want => self.wants.push(id),
        }
        match self.wants.len().max(self.shallow.len()) > SHOWN_AT_ONCE_MAX {
            true => Err(Unnamed::TooMany(SHOWN_AT_ONCE_MAX)),
            false => Ok(()),
        }
    }

    /// All of them.
    fn all(&self) -> HashSet<AnyId> {
        let shallow = self.shallow.iter().chain(&self.haves);
        self.wants.iter().chain(shallow).copied().collect()
    }

    /// Whether a line that says that the client has something may be read by git. Of what was only shown it is not
    /// known what leads to it: where the client lacks something of its history, and it may not be known here where,
    /// that is not taken for there.
    fn is_kept<'n>(&'n self, here: &'n Here) -> impl Fn(Word, &AnyId) -> bool + 'n {
        let is_reached = |id: &AnyId| self.tips.contains(id) || here.reached.contains(id);
        let is_known = move |id: &AnyId| is_reached(id) || here.shown.contains(id);
        let knows_borders = self.shallow.iter().all(is_known);
        move |word, id| match word {
            Word::Want => true,
            Word::Shallow => is_known(id),
            Word::Have => is_reached(id) || knows_borders && is_known(id),
        }
    }

    /// Whether all lines of the request are kept.
    fn is_whole(&self, here: &Here) -> bool {
        let is_kept = self.is_kept(here);
        self.haves.len() < HAVES_SHOWN_MAX
            && self.haves.iter().all(|id| is_kept(Word::Have, id))
            && self.shallow.iter().all(|id| is_kept(Word::Shallow, id))
    }
}

fn unnamed(repo: &Repo, why: &Unnamed) -> StartError {
    let status = match why {
        Unnamed::NoId => 400,
        Unnamed::TooMany(_) => 413,
        Unnamed::Io(_) => 500,
    };
    StartError {
        status,
        message: format!("{}: {why}", repo.name),
    }
}

impl Jobs {
    /// Something that is wanted and that this one may not have, if there is that; else takes out of the request what
    /// he says that he has and may not know to be here.
    pub(super) async fn hide(
        self: &Rc<Self>,
        (repo, asker): (&Arc<Repo>, &Asker),
        input: Option<&mut UploadRequest>,
    ) -> Result<Option<AnyId>, StartError> {
        let Some(input) = input else {
            return Ok(None);
        };
        let limit = Duration::from_millis(FRESHEN_WAIT_MS);
        let hidden = tokio::time::timeout(limit, self.hide_in((repo, asker), input)).await;
        hidden.unwrap_or_else(|_| {
            Err(StartError {
                status: 503,
                message: format!("{}: too much is looked for at once; try again", repo.name),
            })
        })
    }

    async fn hide_in(
        self: &Rc<Self>,
        (repo, asker): (&Arc<Repo>, &Asker),
        input: &mut UploadRequest,
    ) -> Result<Option<AnyId>, StartError> {
        let (at, refs) = (repo.clone(), self.read_refs(repo).await?);
        let file = input.file().map_err(|e| failed(repo, &e))?;
        let read = spawn_blocking(move || Named::in_request(&at, &refs, &file)).await;
        let named = read.map_err(|panic| failed(repo, &panic))??;
        let here = self.known_here(repo, named.all(), asker).await?;
        let is_here = |id: &AnyId| here.reached.contains(id) || here.shown.contains(id);
        let rest = HashSet::<AnyId>::from_iter(named.wants.iter().copied());
        let mut rest = Vec::from_iter(rest.into_iter().filter(|id| !is_here(id)));
        if !rest.is_empty() {
            // The same ids are the same question; what was refused a moment ago is not asked for again.
            rest.sort_unstable();
            let is_new = rest.iter().all(|id| here.unknown.binary_search(id).is_ok());
            let verdict = match is_new {
                true => self.show(repo, &rest, asker).await,
                false => Verdict::No,
            };
            match verdict {
                Verdict::Yes => {}
                Verdict::No => return Ok(named.wants.into_iter().find(|id| !is_here(id))),
                Verdict::Unknown => return Err(unsaid()),
            }
        }
        if named.is_whole(&here) {
            return Ok(None);
        }
        let file = input.file().map_err(|e| failed(repo, &e))?;
        let left = spawn_blocking(move || {
            let is_kept = named.is_kept(&here);
            retain_named(&file, named.kind, is_kept)
        });
        let left = left.await.map_err(|panic| failed(repo, &panic))?;
        input.set_bytes(left.map_err(|why| unnamed(repo, &why))?);
        Ok(None)
    }
}
