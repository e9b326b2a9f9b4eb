//! What git leaves of HEAD, of local branches and of the upstream's refs for a want: what a clone makes, and
//! what is checked out in it afterwards.

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};

use crate::manifest::want::{Revision, Shape, Want};
use crate::refs::{Head, MirrorRefs};

const HEADS: &[u8] = b"refs/heads/";
const TAGS: &[u8] = b"refs/tags/";
const REMOTE: &[u8] = b"refs/remotes/origin/";
/// What a clone of all branches is told to fetch.
const ALL: &[u8] = b"+refs/heads/*:refs/remotes/origin/*";

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
    /// What `git fetch` fetches, as a refspec; nothing but HEAD if there is none.
    pub fetches: Option<BString>,
    /// Of the upstream's refs.
    pub shows: Shows,
}

/// Which of the upstream's refs there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shows {
    /// All branches and tags.
    All,
    /// Of a history that is one commit, this branch by its short name, if any, and tags of what is there,
    /// or none of them.
    Tip { branch: Option<BString>, tags: bool },
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
            fetches: Some(ALL.into()),
            shows: Shows::All,
        }
    }

    /// What there is for `want`. `target` is what the ref that it follows leads to, as a commit.
    ///
    /// # Errors
    /// It follows a ref and there is no target.
    pub fn of(want: &Want, refs: &MirrorRefs, target: Option<ObjectId>) -> Result<Checkout, NoRef> {
        match want.shape() {
            Shape::Full => Checkout::of_full(want, refs, target),
            Shape::Tip => Checkout::of_tip(want, refs, target),
        }
    }

    fn of_full(
        want: &Want,
        refs: &MirrorRefs,
        target: Option<ObjectId>,
    ) -> Result<Checkout, NoRef> {
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
        Ok(match name.starts_with(TAGS) {
            // It was cloned so, and there never was a branch.
            true => Checkout {
                branches: Vec::new(),
                tracking: None,
                ..at
            },
            false => at,
        })
    }

    /// The same of one commit: `git clone --depth 1` for what it takes the name of, else `git fetch --depth 1`
    /// in a repository that was made for that.
    fn of_tip(want: &Want, refs: &MirrorRefs, target: Option<ObjectId>) -> Result<Checkout, NoRef> {
        let name = match want.revision() {
            Revision::Head => return Ok(Checkout::of_clone(refs).of_one_branch(refs)),
            Revision::Commit(id) => return Ok(Checkout::fetched(Head::Detached(*id), *id)),
            Revision::BranchAt(name, id) => {
                let made = Checkout::fetched(Head::Symbolic(name.clone()), *id);
                return Ok(made.with_branch_at(name, *id));
            }
            Revision::Ref(name) => name,
        };
        let target = target.ok_or_else(|| NoRef { name: name.clone() })?;
        let full = Checkout::of_full(want, refs, Some(target))?;
        Ok(match &full.head {
            Head::Symbolic(_) => full.of_one_branch(refs),
            Head::Detached(_) if name.starts_with(TAGS) => Checkout {
                origin_head: None,
                fetches: Some([b"+", name.as_slice(), b":", name].concat().into()),
                shows: Shows::Tip {
                    branch: None,
                    tags: true,
                },
                ..full
            },
            Head::Detached(_) => Checkout::fetched(full.head, target),
        })
    }

    /// After `git clone --single-branch`.
    fn of_one_branch(self, refs: &MirrorRefs) -> Checkout {
        let branch = self.tracking.clone().filter(|_| self.commit.is_some());
        let is_head = |short: &BString| match &refs.head {
            Head::Symbolic(name) => short_branch(name.as_bstr()).as_ref() == Some(short),
            Head::Detached(id) => self.commit == Some(*id),
        };
        let refspec = |short: &BString| {
            let parts = [b"+", HEADS, short.as_slice(), b":", REMOTE, short];
            BString::from(parts.concat())
        };
        Checkout {
            origin_head: branch.clone().filter(is_head),
            fetches: branch.as_ref().map(refspec),
            shows: Shows::Tip { branch, tags: true },
            ..self
        }
    }

    /// After a fetch into a repository that was made for that, which brings no refs.
    fn fetched(head: Head, commit: ObjectId) -> Checkout {
        Checkout {
            head,
            commit: Some(commit),
            branches: Vec::new(),
            tracking: None,
            origin_head: None,
            fetches: Some(ALL.into()),
            shows: Shows::Tip {
                branch: None,
                tags: false,
            },
        }
    }

    /// The commit that all of the history is.
    #[must_use]
    pub fn tip(&self) -> Option<ObjectId> {
        self.commit.filter(|_| self.shows != Shows::All)
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
