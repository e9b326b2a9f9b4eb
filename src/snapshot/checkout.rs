//! What git leaves of HEAD and of local branches for a want: what a clone makes, and what is checked out
//! in it afterwards.

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};

use crate::manifest::want::{Revision, Want};
use crate::refs::{Head, MirrorRefs};

const HEADS: &[u8] = b"refs/heads/";

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// HEAD. As a clone sees it, a detached HEAD that is a branch's tip is that branch.
    pub head: Head,
    /// What HEAD leads to, if anything.
    pub commit: Option<ObjectId>,
    /// Local branches by their full names.
    pub branches: Vec<(BString, ObjectId)>,
    /// The short name of the branch that is configured to follow the upstream's.
    pub tracking: Option<BString>,
    /// The short name of the branch that the upstream's HEAD names, if it is there.
    pub origin_head: Option<BString>,
}

/// What is wanted is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not there any more")]
pub struct NoRef {
    /// Its full name.
    pub name: BString,
}

impl Checkout {
    /// What `git clone URL` leaves.
    #[must_use]
    pub fn of_clone(refs: &MirrorRefs) -> Checkout {
        let head = refs.clone_head();
        let (commit, branch) = match &head {
            Head::Detached(id) => (Some(*id), None),
            Head::Symbolic(name) => {
                let found = refs.get(name.as_bstr());
                (found.map(|found| found.target), Some(name))
            }
        };
        let at = |name: &BString| commit.map(|commit| (name.clone(), commit));
        let tracking = branch.and_then(|name| short_branch(name.as_bstr()));
        Checkout {
            branches: branch.and_then(at).into_iter().collect(),
            origin_head: tracking.clone().filter(|_| commit.is_some()),
            tracking,
            commit,
            head,
        }
    }

    /// What there is for `want`. `target` is what the ref that it follows leads to, as a commit.
    ///
    /// # Errors
    /// It follows a ref and there is no target.
    pub fn of(want: &Want, refs: &MirrorRefs, target: Option<ObjectId>) -> Result<Checkout, NoRef> {
        let clone = Checkout::of_clone(refs);
        let name = match want.revision() {
            Revision::Head => return Ok(clone),
            Revision::Commit(id) => return Ok(clone.detached_at(*id)),
            Revision::BranchAt(name, id) => return Ok(clone.with_branch_at(name, *id)),
            Revision::Ref(name) => name,
        };
        let target = target.ok_or_else(|| NoRef { name: name.clone() })?;
        if let Some(short) = short_branch(name.as_bstr()) {
            return Ok(Checkout {
                head: Head::Symbolic(name.clone()),
                commit: Some(target),
                branches: vec![(name.clone(), target)],
                tracking: Some(short),
                ..clone
            });
        }
        let at = clone.detached_at(target);
        Ok(match name.starts_with(b"refs/tags/") {
            // It was cloned so, and there never was a branch.
            true => Checkout {
                branches: Vec::new(),
                tracking: None,
                ..at
            },
            false => at,
        })
    }

    /// After `git checkout --detach`.
    fn detached_at(self, id: ObjectId) -> Checkout {
        Checkout {
            head: Head::Detached(id),
            commit: Some(id),
            ..self
        }
    }

    /// After `git checkout -B`.
    fn with_branch_at(mut self, name: &BString, id: ObjectId) -> Checkout {
        self.branches.retain(|(other, _)| other != name);
        self.branches.push((name.clone(), id));
        Checkout {
            head: Head::Symbolic(name.clone()),
            commit: Some(id),
            ..self
        }
    }
}

/// The short name of a branch.
fn short_branch(name: &BStr) -> Option<BString> {
    name.strip_prefix(HEADS).map(BString::from)
}
