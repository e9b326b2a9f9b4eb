//! What somebody wants of a repository: a revision in a shape. Each want has a snapshot of its own, and all
//! of a repository share parts.
//!
//! A request names a branch or tag in few words ([`Named`]); which ref that leads to depends on the mirror. A
//! [`Want`] has its full name, so that it means the same for as long as it is kept.

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};
use sha2::{Digest, Sha256};

use crate::refs::{MirrorRefs, is_ref_name};

const HEADS: &[u8] = b"refs/heads/";
const TAGS: &[u8] = b"refs/tags/";

/// How the answer begins that a repository has no such ref or commit: 404 alone can also mean that there is
/// no such repository, and then a client may look for that elsewhere.
pub const NO_SUCH_NAME: &str = "no such ref or commit: ";

/// How the answer begins that nobody is told anything, since the upstream does not say who may read: 503 alone means
/// that the server is busy.
pub const UNSAID: &str = "the upstream does not say now who may read this; try again";

/// Which state of a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub enum Revision {
    /// The upstream's HEAD: what `git clone URL` gives.
    #[default]
    Head,
    /// What the ref of this full name leads to. A branch: `git clone --branch`, and so for a tag; any other:
    /// a clone, and then HEAD detached at what was fetched.
    Ref(BString),
    /// A commit: a clone, and then `git checkout --detach`.
    Commit(ObjectId),
    /// A branch, by its full name, made to be at a commit: a clone, and then `git checkout -B`.
    BranchAt(BString, ObjectId),
}

/// The id of a commit.
pub type CommitId = ObjectId;
/// The id of any object.
pub type AnyId = ObjectId;

/// How much of its history.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Shape {
    /// All of it.
    #[default]
    Full,
    /// None: the commit alone, as `--depth 1` has it.
    Tip,
}

/// See the module's text. [`Want::default`] is that of a plain request.
///
/// Invariant: names of refs are full ones that git allows; that of [`Revision::BranchAt`] is a branch's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Want {
    revision: Revision,
    shape: Shape,
}

/// Whether git makes a branch of this full name: it would take some for something else.
///
/// Source: `strbuf_check_branch_ref` in git's branch.c.
fn is_branch_name(name: &BString) -> bool {
    let short = name.strip_prefix(HEADS);
    short.is_some_and(|short| !short.starts_with(b"-") && short != b"HEAD") && is_ref_name(name)
}

impl Want {
    /// Checks what a name must be; `None` if it is not.
    #[must_use]
    pub fn new(revision: Revision, shape: Shape) -> Option<Want> {
        let is_sound = match &revision {
            Revision::Head | Revision::Commit(_) => true,
            Revision::Ref(name) => is_ref_name(name),
            Revision::BranchAt(name, _) => is_branch_name(name),
        };
        is_sound.then_some(Want { revision, shape })
    }

    /// Which state of the repository.
    #[must_use]
    pub fn revision(&self) -> &Revision {
        &self.revision
    }

    /// How much of its history.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether it is that of a plain request.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.revision == Revision::Head && self.shape == Shape::Full
    }

    /// Whether it shows something else when a ref moves; else it is for ever what it was.
    #[must_use]
    pub fn follows(&self) -> bool {
        matches!(self.revision, Revision::Head | Revision::Ref(_))
    }

    /// The ref that it follows by its name.
    #[must_use]
    pub fn followed(&self) -> Option<&BStr> {
        match &self.revision {
            Revision::Ref(name) => Some(name.as_bstr()),
            _ => None,
        }
    }

    /// The commit that it names.
    #[must_use]
    pub fn commit(&self) -> Option<ObjectId> {
        match &self.revision {
            Revision::Commit(id) | Revision::BranchAt(_, id) => Some(*id),
            Revision::Head | Revision::Ref(_) => None,
        }
    }
}

impl std::fmt::Display for Want {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.revision {
            Revision::Head => f.write_str("HEAD"),
            Revision::Ref(name) => write!(f, "{name}"),
            Revision::Commit(id) => write!(f, "{id}"),
            Revision::BranchAt(name, id) => write!(f, "{name} at {id}"),
        }?;
        write!(f, "{}", self.shape)
    }
}

/// Behind what it is the shape of.
impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Shape::Full => Ok(()),
            Shape::Tip => f.write_str(", depth 1"),
        }
    }
}

/// What a short name is that of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NameKind {
    Branch,
    Tag,
}

impl NameKind {
    /// That of a full name.
    pub(crate) fn of(full: &BStr) -> Option<NameKind> {
        let kinds = [(HEADS, NameKind::Branch), (TAGS, NameKind::Tag)];
        let found = kinds.iter().find(|(prefix, _)| full.starts_with(prefix));
        found.map(|(_, kind)| *kind)
    }

    /// The full name.
    pub(crate) fn full(self, short: &[u8]) -> BString {
        let prefix = match self {
            NameKind::Branch => HEADS,
            NameKind::Tag => TAGS,
        };
        [prefix, short].concat().into()
    }
}

/// What a request names, as it names it. [`Named::default`] is a plain request.
///
/// Invariant: the name is one that git allows, in full or behind `refs/heads/` and `refs/tags/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Named {
    name: Option<BString>,
    commit: Option<ObjectId>,
    shape: Shape,
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.name, &self.commit) {
            (None, None) => f.write_str("HEAD"),
            (Some(name), None) => write!(f, "{name}"),
            (None, Some(id)) => write!(f, "{id}"),
            (Some(name), Some(id)) => write!(f, "{name} at {id}"),
        }?;
        write!(f, "{}", self.shape)
    }
}

/// The id that these digits are; `None` if they are none, or not all of one.
#[must_use]
pub(crate) fn full_id(hex: &[u8]) -> Option<ObjectId> {
    matches!(hex.len(), 40 | 64).then(|| ObjectId::from_hex(hex).ok())?
}

impl Named {
    /// Checks the name; `None` if git does not allow it, or makes no branch of that name for a commit.
    #[must_use]
    pub fn new(name: Option<BString>, commit: Option<ObjectId>) -> Option<Named> {
        let is_sound = name.as_ref().is_none_or(|name| {
            // The longer one, where it is short.
            let full = match name.starts_with(b"refs/") {
                true => name.clone(),
                false => [HEADS, name.as_slice()].concat().into(),
            };
            let is_made = commit.is_some() && full.starts_with(HEADS);
            is_ref_name(&full) && (!is_made || is_branch_name(&full))
        });
        is_sound.then_some(Named {
            name,
            commit,
            shape: Shape::Full,
        })
    }

    /// The same in this shape.
    #[must_use]
    pub fn shaped(self, shape: Shape) -> Named {
        Named { shape, ..self }
    }

    /// Whether it is a plain request.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.is_head() && self.shape == Shape::Full
    }

    /// Whether it names no revision.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.name.is_none() && self.commit.is_none()
    }

    /// How much of the history.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The branch, tag or ref.
    #[must_use]
    pub fn name(&self) -> Option<&BStr> {
        self.name.as_ref().map(|name| name.as_bstr())
    }

    /// The object that is named as the commit; it may be a tag.
    #[must_use]
    pub fn commit(&self) -> Option<ObjectId> {
        self.commit
    }

    /// The same with the commit that a tag leads to.
    #[must_use]
    pub fn at(&self, commit: ObjectId) -> Option<Named> {
        Some(Named::new(self.name.clone(), Some(commit))?.shaped(self.shape))
    }

    /// What stands for it where its length must not matter.
    #[must_use]
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update([self.shape as u8, u8::from(self.name.is_some())]);
        let commit = self.commit.as_ref().map_or(&[][..], |id| id.as_bytes());
        hash.update([commit.len() as u8]);
        hash.update(commit);
        hash.update(self.name().unwrap_or_default());
        hash.finalize().into()
    }

    /// The full name, if it does not depend on what there is.
    #[must_use]
    pub fn full_name(&self) -> Option<&BStr> {
        self.name().filter(|name| name.starts_with(b"refs/"))
    }

    /// Whether it is a full name of neither a branch nor a tag.
    fn is_unusual(&self) -> bool {
        let full = self.full_name();
        full.is_some_and(|name| !name.starts_with(HEADS) && !name.starts_with(TAGS))
    }

    /// The full name among these refs: a branch, else a tag; `None` if there is none.
    #[must_use]
    pub fn name_among(&self, refs: &MirrorRefs) -> Option<BString> {
        let name = self.name()?;
        if name.starts_with(b"refs/") {
            return refs.get(name).map(|found| found.name.clone());
        }
        let found = [NameKind::Branch, NameKind::Tag].map(|kind| kind.full(name));
        found
            .into_iter()
            .find(|name| refs.get(name.as_bstr()).is_some())
    }

    /// What is wanted where the name is short for `full`. A branch that is no more, or not known
    /// yet, can still be made at a commit; what is no branch leaves HEAD detached there.
    #[must_use]
    pub fn want(&self, full: Option<BString>) -> Option<Want> {
        let revision = match (self.commit, &self.name) {
            (None, None) => Revision::Head,
            (None, Some(_)) => Revision::Ref(full?),
            (Some(id), None) => Revision::Commit(id),
            (Some(id), Some(name)) => {
                let short = || [HEADS, name.as_slice()].concat().into();
                let full = full.or_else(|| self.full_name().map(BString::from));
                match full.unwrap_or_else(short) {
                    branch if branch.starts_with(HEADS) => Revision::BranchAt(branch, id),
                    _ => Revision::Commit(id),
                }
            }
        };
        Want::new(revision, self.shape)
    }

    /// Whether it can have led to this one, whatever refs there were.
    #[must_use]
    pub fn may_mean(&self, want: &Want) -> bool {
        let is_name = |full: &BString| {
            let ends = |name: &BStr| match name.starts_with(b"refs/") {
                true => full == name,
                false => [HEADS, TAGS]
                    .iter()
                    .any(|prefix| full.strip_prefix(*prefix) == Some(name)),
            };
            self.name().is_some_and(ends)
        };
        if self.shape != want.shape {
            return false;
        }
        match &want.revision {
            Revision::Head => self.is_head(),
            Revision::Ref(full) => self.commit.is_none() && is_name(full),
            // A ref that is not followed leads to what was there when it was asked for.
            Revision::Commit(_) if self.commit.is_none() => self.is_unusual(),
            Revision::Commit(id) => self.commit == Some(*id),
            Revision::BranchAt(full, id) => self.commit == Some(*id) && is_name(full),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::refs::{Head, Ref};

    fn id(digit: u8) -> ObjectId {
        ObjectId::from_hex(&[digit; 40]).unwrap()
    }

    fn refs(names: &[&str]) -> MirrorRefs {
        let mut names = names.to_vec();
        names.sort_unstable();
        let one = |name: &&str| Ref {
            name: BString::from(*name),
            target: id(b'1'),
            peeled: None,
        };
        MirrorRefs {
            head: Head::Symbolic("refs/heads/main".into()),
            refs: Arc::new(names.iter().map(one).collect()),
            fully_peeled: true,
        }
    }

    fn asked(name: &str) -> Named {
        Named::new(Some(name.into()), None).unwrap()
    }

    #[test]
    fn a_name_leads_to_a_branch_before_a_tag() {
        let refs = refs(&[
            "refs/heads/main",
            "refs/heads/v1",
            "refs/tags/v1",
            "refs/tags/v2",
            "refs/pull/7/head",
        ]);
        let rows = [
            ("main", Some("refs/heads/main")),
            ("v1", Some("refs/heads/v1")),
            ("refs/tags/v1", Some("refs/tags/v1")),
            ("v2", Some("refs/tags/v2")),
            ("refs/pull/7/head", Some("refs/pull/7/head")),
            ("pull/7/head", None),
            ("heads/main", None),
            ("refs/heads/v2", None),
        ];
        for (name, full) in rows {
            let found = asked(name).name_among(&refs);
            assert_eq!(found, full.map(BString::from), "{name}");
            if let Some(found) = found {
                let want = asked(name).want(Some(found.clone())).unwrap();
                assert!(asked(name).may_mean(&want));
                let shallow = asked(name).shaped(Shape::Tip);
                assert!(!shallow.may_mean(&want));
                assert!(shallow.may_mean(&shallow.want(Some(found)).unwrap()));
            }
        }
    }

    #[test]
    fn a_branch_and_a_commit_are_both_wanted() {
        let at = |name: &str| Named::new(Some(name.into()), Some(id(b'2'))).unwrap();
        let branch = Revision::BranchAt("refs/heads/new".into(), id(b'2'));
        let rows = [
            ("new", None, &branch),
            ("refs/heads/new", None, &branch),
            ("new", Some("refs/heads/new"), &branch),
            ("v2", Some("refs/tags/v2"), &Revision::Commit(id(b'2'))),
            ("refs/pull/7/merge", None, &Revision::Commit(id(b'2'))),
        ];
        for (name, full, revision) in rows {
            let asked = at(name);
            let want = asked.want(full.map(BString::from)).unwrap();
            assert_eq!(want.revision(), revision, "{name}");
            assert!(asked.may_mean(&want), "{name}");
            assert!(!want.follows() && !want.is_default());
        }
        assert!(!Named::default().may_mean(&Want::new(branch, Shape::Full).unwrap()));
        let commit = Want::new(Revision::Commit(id(b'2')), Shape::Full).unwrap();
        assert!(asked("refs/pull/7/merge").may_mean(&commit));
        assert!(!asked("refs/heads/new").may_mean(&commit) && !asked("v2").may_mean(&commit));
        assert!(Named::default().may_mean(&Want::default()));
    }

    #[test]
    fn names_are_what_git_allows() {
        for name in [
            "",
            "a..b",
            "a\n",
            "-a/",
            "/a",
            "refs/heads/",
            "refs/",
            "a.lock",
        ] {
            assert_eq!(Named::new(Some(name.into()), None), None, "{name:?}");
        }
        for name in ["fix/#7&x", "ü", "a+b", "a%20b", "refs/notes/x", "-a"] {
            assert!(Named::new(Some(name.into()), None).is_some(), "{name:?}");
        }
        let tag_at = Revision::BranchAt("refs/tags/x".into(), id(b'3'));
        assert_eq!(Want::new(tag_at, Shape::Full), None);
    }
}
