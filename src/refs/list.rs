//! The refs of a mirror, and which of an upstream's belong to it.

use std::path::Path;
use std::sync::Arc;

use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};
use sha2::{Digest, Sha256};

use super::error::RefsError;

/// Which refs belong to a mirror: heads, tags, and what the operator adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    /// What stands before and after the `*` of every added pattern.
    patterns: Vec<(BString, BString)>,
}

impl Follow {
    /// Takes patterns of full names with one `*` each, which stands for anything, slashes
    /// included: `refs/notes/*`, `refs/pull/*/head`.
    ///
    /// # Errors
    /// A text that says what is wrong with which pattern.
    pub fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self, String> {
        let patterns = patterns.into_iter().map(|pattern| {
            let pattern = pattern.as_ref();
            let wrong =
                |why| format!("ref pattern {pattern:?} {why}, write for example refs/notes/*");
            let (before, after) = pattern.split_once('*').ok_or_else(|| wrong("has no *"))?;
            if !before.starts_with("refs/") {
                return Err(wrong("does not begin with refs/"));
            }
            if gix::validate::reference::name(format!("{before}x{after}").as_str().into()).is_err()
            {
                return Err(wrong("is not a valid ref name with one *"));
            }
            Ok((before.into(), after.into()))
        });
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// Whether the ref of this full name is followed.
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        name.starts_with(b"refs/heads/")
            || name.starts_with(b"refs/tags/")
            || self.patterns.iter().any(|(before, after)| {
                name.len() > before.len() + after.len()
                    && name.starts_with(before)
                    && name.ends_with(after)
            })
    }

    /// HEAD, and what the names of all followed refs begin with.
    pub(crate) fn prefixes(&self) -> Vec<BString> {
        let own = ["HEAD", "refs/heads/", "refs/tags/"].map(BString::from);
        let more = self.patterns.iter().map(|(before, _)| before.clone());
        own.into_iter().chain(more).collect()
    }

    /// Whether anything besides heads and tags is followed.
    pub(crate) fn has_more(&self) -> bool {
        !self.patterns.is_empty()
    }
}

/// What HEAD says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// The full name of a branch, which need not exist.
    Symbolic(BString),
    /// An object.
    Detached(ObjectId),
}

/// One ref with what it points to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ref {
    /// Full name, such as `refs/heads/main`.
    pub name: BString,
    /// The object it names; a tag object for an annotated tag.
    pub target: ObjectId,
    /// What the tag object leads to in the end, where that is known.
    pub peeled: Option<ObjectId>,
}

/// The refs of a mirror at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MirrorRefs {
    pub head: Head,
    /// The followed refs, sorted by name, each name once.
    pub refs: Arc<Vec<Ref>>,
    /// Whether `peeled` is complete: a ref without it does not point to a tag object.
    pub fully_peeled: bool,
}

impl MirrorRefs {
    /// The ref of this full name.
    #[must_use]
    pub fn get(&self, name: &BStr) -> Option<&Ref> {
        let at = self
            .refs
            .binary_search_by(|r| r.name.as_bstr().cmp(name))
            .ok()?;
        self.refs.get(at)
    }

    /// A digest of all that a snapshot shows of them: HEAD, heads and tags. It is the same
    /// whatever else is followed, and whether or not the refs are packed.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        match &self.head {
            Head::Symbolic(name) => part(name),
            Head::Detached(id) => part(id.as_bytes()),
        }
        let shown = Follow::default();
        for r in self.refs.iter().filter(|r| shown.matches(&r.name)) {
            part(&r.name);
            part(r.target.as_bytes());
        }
        hash.finalize().into()
    }

    /// What a clone takes for HEAD, like `guess_remote_head` of git's `remote.c`: a detached HEAD
    /// that is the tip of a branch is taken for that branch, `master` before others.
    #[must_use]
    pub fn clone_head(&self) -> Head {
        let Head::Detached(id) = self.head else {
            return self.head.clone();
        };
        let is_tip = |name: &[u8]| self.get(name.as_bstr()).is_some_and(|r| r.target == id);
        if is_tip(b"refs/heads/master") {
            return Head::Symbolic("refs/heads/master".into());
        }
        let branch = |r: &&Ref| r.target == id && r.name.starts_with(b"refs/heads/");
        match self.refs.iter().find(branch) {
            Some(r) => Head::Symbolic(r.name.clone()),
            None => Head::Detached(id),
        }
    }

    /// What HEAD leads to; `None` when its branch does not exist.
    #[must_use]
    pub fn head_id(&self) -> Option<ObjectId> {
        match &self.head {
            Head::Symbolic(name) => self.get(name.as_bstr()).map(|r| r.target),
            Head::Detached(id) => Some(*id),
        }
    }
}

/// A repository has one kind of hash; ids of another kind mean a damaged file.
pub(super) fn check_one_hash(mirror: &Path, head: &Head, refs: &[Ref]) -> Result<(), RefsError> {
    let head = if let Head::Detached(id) = head {
        Some(id)
    } else {
        None
    };
    let mut ids = head.into_iter().chain(
        refs.iter()
            .flat_map(|r| [&r.target].into_iter().chain(&r.peeled)),
    );
    let Some(first) = ids.next() else {
        return Ok(());
    };
    if ids.all(|id| id.kind() == first.kind()) {
        return Ok(());
    }
    let what = "refs of this repository have object ids of different lengths";
    Err(RefsError::Malformed {
        path: mirror.join("packed-refs"),
        line: 1,
        what,
    })
}
