//! A look into a mirror for what a request names. It reads refs and a few objects: on a thread of its own.

use std::collections::HashSet;
use std::sync::Arc;

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};

use super::tips::Claim;
use crate::limits::NEAR_TIPS_MAX;
use crate::manifest::want::{Named, Shape, Want};
use crate::mirror::{Git, annex};
use crate::refs::{Head, MirrorRefs};
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::snapshot::checkout::Checkout;
use crate::snapshot::lookup::{Leads, Objects};
use crate::snapshot::view::object_hash;

/// What is wanted, and how it is best built.
pub(crate) struct Wanted {
    pub want: Arc<Want>,
    /// The commit of the snapshot to build it on, if one is near.
    pub near: Option<ObjectId>,
    /// To what it is built of, where that is there for those alone who wait.
    pub claim: Option<Claim>,
}

impl Wanted {
    /// What is in a mirror.
    fn there(want: Want, near: Option<ObjectId>) -> Wanted {
        Wanted {
            want: Arc::new(want),
            near,
            claim: None,
        }
    }
}

/// What a look has found.
pub(super) enum Looked {
    Found(Wanted),
    /// The commit is there, and whether all of it is takes a longer look.
    Unsure(Wanted, ObjectId),
    /// It is not there, as far as is known.
    Absent,
}

/// Looks for it in the mirror as it is.
pub(super) fn look(repo: &Repo, git: &Git, named: &Named) -> Result<Looked, StartError> {
    let epoch = repo.epoch();
    let refs = {
        let _refs = repo.locks.refs.blocking_read();
        git.refs.read(&repo.mirror, &git.follow)
    };
    let refs = refs.map_err(|e| failed(repo, &e))?;
    if named.is_head() {
        let near = refs.head_id();
        let want = named.want(None);
        return Ok(want.map_or(Looked::Absent, |want| {
            Looked::Found(Wanted::there(want, near))
        }));
    }
    let full = named.name_among(&refs);
    repo.note_name(named, full.clone(), epoch);
    let hash = object_hash(&repo.mirror).map_err(|e| failed(repo, &e))?;
    let from = match (named.commit(), &full) {
        (Some(id), _) if id.kind() != hash => return Ok(Looked::Absent),
        (Some(id), _) => id,
        (None, Some(full)) => match refs.get(full.as_bstr()) {
            Some(found) => found.target,
            None => return Ok(Looked::Absent),
        },
        (None, None) => return Ok(Looked::Absent),
    };
    let objects = Objects::open(&repo.mirror, hash).map_err(|e| failed(repo, &e))?;
    let commit = match objects.lead(from).map_err(|e| failed(repo, &e))? {
        Leads::Commit(commit) => commit,
        Leads::Nowhere => return Ok(Looked::Absent),
        Leads::Other(kind) => return Err(no_commit(repo, from, kind)),
    };
    let known = known(repo);
    if named.commit().is_none() {
        // What a ref leads to is there.
        let near = objects.around(commit, &[], &known).nearest;
        let want = named.want(full);
        return Ok(want.map_or(Looked::Absent, |want| {
            Looked::Found(Wanted::there(want, near))
        }));
    }
    let around = objects.around(commit, &tips(&refs, full.as_ref()), &known);
    let Some(want) = named.at(commit).and_then(|named| named.want(full)) else {
        return Ok(Looked::Absent);
    };
    fits_beside(repo, &want, &refs)?;
    let is_tip = |id| refs.refs.iter().any(|one| one.target == id);
    // What leads to a tag is a ref, whatever leads to its commit.
    let may_be_reached = from == commit || is_tip(from);
    let is_reached = may_be_reached
        && (is_tip(commit)
            || around.is_reached
            || refs.refs.len() <= NEAR_TIPS_MAX && objects.reaches(&all_tips(&refs), commit));
    let wanted = Wanted::there(want, around.nearest);
    Ok(match is_reached {
        true => Looked::Found(wanted),
        false => Looked::Unsure(wanted, commit),
    })
}

/// The commits of snapshots that there are.
fn known(repo: &Repo) -> HashSet<ObjectId> {
    let known = repo.archives().into_iter().filter_map(|archive| {
        let commit = archive.commit.as_ref()?;
        ObjectId::from_hex(commit.as_bytes()).ok()
    });
    known.collect()
}

/// Looks for a commit in the mirror's annex, for as long as what is there may be served.
pub(super) fn look_annexed(
    repo: &Repo,
    git: &Git,
    named: &Named,
) -> Result<Option<Wanted>, StartError> {
    let Some(id) = named.commit().filter(|id| repo.annex.is_fresh(id)) else {
        return Ok(None);
    };
    let refs = {
        let _refs = repo.locks.refs.blocking_read();
        git.refs.read(&repo.mirror, &git.follow)
    };
    let refs = refs.map_err(|e| failed(repo, &e))?;
    let objects = Objects::open(&annex(&repo.mirror), id.kind()).map_err(|e| failed(repo, &e))?;
    let commit = match objects.lead(id).map_err(|e| failed(repo, &e))? {
        Leads::Commit(commit) => commit,
        Leads::Nowhere => return Ok(None),
        Leads::Other(kind) => return Err(no_commit(repo, id, kind)),
    };
    for used in [id, commit] {
        repo.annex.note_used(&used);
    }
    let full = named.name_among(&refs);
    let Some(want) = named.at(commit).and_then(|named| named.want(full)) else {
        return Ok(None);
    };
    fits_beside(repo, &want, &refs)?;
    let near = objects.around(commit, &[], &known(repo)).nearest;
    Ok(Some(Wanted::there(want, near)))
}

/// Where to look for a commit first.
fn tips(refs: &MirrorRefs, named: Option<&BString>) -> Vec<ObjectId> {
    let named = named.and_then(|name| refs.get(name.as_bstr()));
    let named = named.map(|found| found.peeled.unwrap_or(found.target));
    named.into_iter().chain(refs.head_id()).collect()
}

/// Where to look then: what was pushed to any branch, below its tip.
fn all_tips(refs: &MirrorRefs) -> Vec<ObjectId> {
    let tips = refs.refs.iter();
    tips.map(|one| one.peeled.unwrap_or(one.target)).collect()
}

/// A branch that is made must not be in the way of the one that a clone makes.
fn fits_beside(repo: &Repo, want: &Want, refs: &MirrorRefs) -> Result<(), StartError> {
    if want.shape() == Shape::Tip {
        // It makes no other.
        return Ok(());
    }
    // It fails for a ref alone.
    let Ok(checkout) = Checkout::of(want, refs, None) else {
        return Ok(());
    };
    let is_below = |one: &BStr, other: &BStr| {
        let rest = one.strip_prefix(other.as_bytes());
        rest.is_some_and(|rest| rest.first() == Some(&b'/'))
    };
    let Head::Symbolic(name) = &checkout.head else {
        return Ok(());
    };
    let mut others = checkout.branches.iter().map(|(other, _)| other.as_bstr());
    let name = name.as_bstr();
    match others.find(|other| is_below(name, other) || is_below(other, name)) {
        None => Ok(()),
        Some(other) => Err(StartError {
            status: 400,
            message: format!(
                "{}: {name} cannot be made beside {other}, which a clone makes; name the commit alone",
                repo.name
            ),
        }),
    }
}

pub(super) fn no_commit(repo: &Repo, id: ObjectId, kind: gix::objs::Kind) -> StartError {
    StartError {
        status: 400,
        message: format!(
            "{}: {id} leads to a {kind}, and what is checked out is a commit",
            repo.name
        ),
    }
}

pub(super) fn failed(repo: &Repo, why: &dyn std::fmt::Display) -> StartError {
    StartError {
        status: 500,
        message: format!("{}: {why}", repo.name),
    }
}
