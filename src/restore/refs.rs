//! The refs of a restored repository: read from an archive's HEAD, `packed-refs` and loose files and
//! checked, or those of a moment of the mirror, and written as a clone has them.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};

use gix::bstr::{BStr, ByteSlice};
use gix::hash::{Kind, ObjectId};

use super::capture::Captured;
use super::ensure::At;
use super::error::RestoreError;
use crate::refs::{self, MirrorRefs, in_the_way, is_ref_name};

const REMOTE: &[u8] = b"refs/remotes/origin/";
const TAGS: &[u8] = b"refs/tags/";
const HEADS: &[u8] = b"refs/heads/";
/// The only symbolic ref beside HEAD.
const REMOTE_HEAD: &[u8] = b"refs/remotes/origin/HEAD";
const PACKED: &[u8] = b".git/packed-refs";
const HEAD: &[u8] = b".git/HEAD";
const SHALLOW: &[u8] = b".git/shallow";

/// What HEAD says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head<'a> {
    /// On a branch, by its full name, and the commit of that; without one it is not born yet.
    Branch(&'a BStr, Option<ObjectId>),
    Detached(ObjectId),
}

/// Refs, each of a kind that a clone has.
///
/// Invariant: `refs` is sorted by name and has no name twice, and no name of all is another's
/// directory.
#[derive(Debug)]
pub struct Refs<'a> {
    pub head: Head<'a>,
    /// What the upstream's HEAD names, by the name that a clone has for it.
    remote_head: Option<Cow<'a, BStr>>,
    /// Branches of the upstream, and tags.
    refs: Vec<(Cow<'a, BStr>, ObjectId)>,
    shallow: Vec<ObjectId>,
}

fn refused(path: &[u8], why: impl Into<String>) -> RestoreError {
    RestoreError::entry(path, why)
}

/// An id as git writes it.
fn id(path: &[u8], hex: &[u8], hash: Kind) -> Result<ObjectId, RestoreError> {
    let is_lower = hex.iter().all(|b| !b.is_ascii_uppercase());
    match ObjectId::from_hex(hex) {
        Ok(id) if id.kind() == hash && is_lower && !id.is_null() => Ok(id),
        _ => Err(refused(
            path,
            "it has something that is no id of this repository's",
        )),
    }
}

/// What a file with one ref says: an id, or another ref.
enum Said<'a> {
    Id(ObjectId),
    Name(&'a BStr),
}

fn said<'a>(path: &[u8], text: &'a [u8], hash: Kind) -> Result<Said<'a>, RestoreError> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    match line.strip_prefix(b"ref: ") {
        Some(name) if is_ref_name(name) => Ok(Said::Name(name.as_bstr())),
        Some(_) => Err(refused(path, "it names no ref")),
        None => id(path, line, hash).map(Said::Id),
    }
}

impl<'a> Refs<'a> {
    /// Reads and checks all of them; ids are of the kind `hash`.
    pub fn read(captured: &'a Captured, hash: Kind) -> Result<Refs<'a>, RestoreError> {
        let head = captured.file("HEAD");
        let head = said(
            HEAD,
            head.ok_or_else(|| refused(HEAD, "it is not there"))?,
            hash,
        )?;
        let head_name = match head {
            Said::Name(name) if name.starts_with(HEADS) => Some(name),
            Said::Name(_) => return Err(refused(HEAD, "it names no branch")),
            Said::Id(_) => None,
        };
        let packed = captured.file("packed-refs").unwrap_or_default();
        let mut refs = read_packed(packed, hash)?;
        let mut remote_head = None;
        let packed = refs.len();
        for (name, text) in captured.refs() {
            let path = [b".git/", name].concat();
            if !is_ref_name(name) {
                return Err(refused(&path, "its name is none of a ref"));
            }
            match said(&path, text, hash)? {
                Said::Id(id) => refs.push((Cow::Borrowed(name.as_bstr()), id)),
                Said::Name(to) if name == REMOTE_HEAD => remote_head = Some(Cow::Borrowed(to)),
                Said::Name(_) => return Err(refused(&path, "it is a symbolic ref")),
            }
        }
        one_each(&mut refs, packed);
        // An upstream may have a branch of this name; in a clone, too, it is not seen.
        if remote_head.is_some() {
            take(&mut refs, REMOTE_HEAD.as_bstr());
        }
        let is_born = head_name.and_then(|name| take(&mut refs, name));
        let read = Refs {
            head: match head {
                Said::Name(name) => Head::Branch(name, is_born),
                Said::Id(id) => Head::Detached(id),
            },
            remote_head,
            refs,
            shallow: read_shallow(captured.file("shallow").unwrap_or_default(), hash)?,
        };
        read.check()?;
        Ok(read)
    }

    /// Those of a moment of the mirror, under the names that a clone gives them, where `at` is checked
    /// out, which is `commit`.
    pub fn of_moment(moment: &'a MirrorRefs, at: &'a At, commit: Option<ObjectId>) -> Refs<'a> {
        let refs = moment.refs.iter();
        let refs = refs.filter_map(|r| Some((local_name(r.name.as_bstr())?, r.target)));
        let mut refs: Vec<_> = refs.collect();
        refs.sort_by(|(a, _), (b, _)| a.cmp(b));
        let remote_head = match &moment.head {
            refs::Head::Symbolic(name) if moment.get(name.as_bstr()).is_some() => {
                local_name(name.as_bstr())
            }
            _ => None,
        };
        let head = match at {
            At::Branch(name) => Head::Branch(name.as_bstr(), commit),
            At::Detached(id) => Head::Detached(commit.unwrap_or(*id)),
        };
        Refs {
            head,
            remote_head,
            refs,
            shallow: Vec::new(),
        }
    }

    fn check(&self) -> Result<(), RestoreError> {
        for (name, _) in &self.refs {
            if !name.starts_with(REMOTE) && !name.starts_with(TAGS) {
                return Err(refused(name, "a clone has no such ref"));
            }
        }
        let has = |name: &[u8]| {
            self.refs
                .binary_search_by(|(n, _)| n.as_bytes().cmp(name))
                .is_ok()
        };
        let is_branch = |to: &BStr| to.starts_with(REMOTE) && to != REMOTE_HEAD && has(to);
        if self.remote_head.as_deref().is_some_and(|to| !is_branch(to)) {
            return Err(refused(REMOTE_HEAD, "it names no branch of the upstream"));
        }
        let symbolic = self.remote_head.as_ref().map(|_| REMOTE_HEAD.as_bstr());
        let names = self.refs.iter().map(|(name, _)| &**name).chain(symbolic);
        let mut names: Vec<&[u8]> = names.map(|name| name.as_bytes()).collect();
        names.sort_unstable();
        if let Some(name) = in_the_way(names) {
            return Err(refused(
                name.as_bstr(),
                "another ref has the name of its directory",
            ));
        }
        Ok(())
    }

    /// The commit that is checked out.
    pub fn commit(&self) -> Option<ObjectId> {
        match self.head {
            Head::Branch(_, commit) => commit,
            Head::Detached(commit) => Some(commit),
        }
    }

    /// The short name of the branch that HEAD names.
    pub fn branch(&self) -> Option<&'a BStr> {
        match self.head {
            Head::Branch(name, _) => name.strip_prefix(HEADS).map(ByteSlice::as_bstr),
            Head::Detached(_) => None,
        }
    }

    /// The small files of `.git` that say all this: names below it, and what they hold.
    pub fn files(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut files = Vec::new();
        let symbolic = |name: &[u8]| [b"ref: ", name, b"\n"].concat();
        let line = |id: &ObjectId| format!("{id}\n").into_bytes();
        files.push((
            b"HEAD".to_vec(),
            match &self.head {
                Head::Branch(name, _) => symbolic(name),
                Head::Detached(id) => line(id),
            },
        ));
        if let Head::Branch(name, Some(id)) = &self.head {
            files.push((name.to_vec(), line(id)));
        }
        if let Some(to) = &self.remote_head {
            files.push((REMOTE_HEAD.to_vec(), symbolic(to)));
        }
        if !self.shallow.is_empty() {
            files.push((
                b"shallow".to_vec(),
                self.shallow.iter().flat_map(line).collect(),
            ));
        }
        files
    }

    /// Writes `packed-refs`, if one is needed. It does not say what tags lead to, as nobody has
    /// looked at them; git then does when it wants to know.
    pub fn write_packed(&self, out: impl FnOnce() -> io::Result<File>) -> io::Result<()> {
        if self.refs.is_empty() {
            return Ok(());
        }
        let mut out = BufWriter::new(out()?);
        out.write_all(b"# pack-refs with: sorted \n")?;
        for (name, id) in &self.refs {
            id.write_hex_to(&mut out)?;
            out.write_all(b" ")?;
            out.write_all(name)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

/// The name that a clone has for the upstream's ref `name`, if it has it at all.
fn local_name(name: &BStr) -> Option<Cow<'_, BStr>> {
    match name.strip_prefix(HEADS) {
        // The name is that of the upstream's HEAD here.
        Some(b"HEAD") => None,
        Some(branch) => Some(Cow::Owned([REMOTE, branch].concat().into())),
        None => (!name.starts_with(REMOTE)).then_some(Cow::Borrowed(name)),
    }
}

/// The refs of a `packed-refs`, in its order.
fn read_packed(text: &[u8], hash: Kind) -> Result<Vec<(Cow<'_, BStr>, ObjectId)>, RestoreError> {
    let mut refs = Vec::new();
    if !text.is_empty() && !text.ends_with(b"\n") {
        return Err(refused(PACKED, "it is cut off"));
    }
    for (number, line) in text.lines().enumerate() {
        if number == 0 && line.starts_with(b"# pack-refs with:") {
            continue;
        }
        // What the tag above leads to.
        if let Some(hex) = line.strip_prefix(b"^") {
            id(PACKED, hex, hash)?;
            continue;
        }
        let Some((hex, name)) = line.split_once_str(" ") else {
            return Err(refused(PACKED, format!("line {} is no ref", number + 1)));
        };
        if !is_ref_name(name) {
            return Err(refused(
                PACKED,
                format!("line {} has no name of a ref", number + 1),
            ));
        }
        refs.push((Cow::Borrowed(name.as_bstr()), id(PACKED, hex, hash)?));
    }
    let mut names: Vec<&BStr> = refs.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(refused(PACKED, format!("{} is there twice", pair[0]))),
        None => Ok(refs),
    }
}

/// Sorts the refs; of a name that is packed and loose, which comes after the first `packed`, the
/// loose one counts.
fn one_each(refs: &mut Vec<(Cow<'_, BStr>, ObjectId)>, packed: usize) {
    refs[packed..].sort_by(|(a, _), (b, _)| a.cmp(b));
    let loose: Vec<Cow<'_, BStr>> = refs[packed..]
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let mut at = 0;
    refs.retain(|(name, _)| {
        at += 1;
        at > packed || loose.binary_search(name).is_err()
    });
    refs.sort_by(|(a, _), (b, _)| a.cmp(b));
}

/// Takes a ref out.
fn take(refs: &mut Vec<(Cow<'_, BStr>, ObjectId)>, name: &BStr) -> Option<ObjectId> {
    let at = refs.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
    Some(refs.remove(at).1)
}

fn read_shallow(text: &[u8], hash: Kind) -> Result<Vec<ObjectId>, RestoreError> {
    let ids = text.lines().map(|line| id(SHALLOW, line, hash));
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn captured(files: &[(&str, &str)]) -> Captured {
        let mut captured = Captured::default();
        for (path, text) in files {
            captured.begin(format!(".git/{path}").as_bytes()).unwrap();
            let text = text.replace("AA", A).replace("BB", B);
            captured.push(text.as_bytes()).unwrap();
        }
        captured
    }

    fn written(files: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        let captured = captured(files);
        let refs = match Refs::read(&captured, Kind::Sha1) {
            Ok(refs) => refs,
            Err(e) => {
                assert_eq!(e.exit_code(), 5);
                return None;
            }
        };
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let mut files = refs.files();
        let packed = tempfile::NamedTempFile::new().unwrap();
        refs.write_packed(|| packed.reopen()).unwrap();
        let packed = std::fs::read(packed.path()).unwrap();
        files.push((b"packed-refs".to_vec(), packed));
        let files = files.into_iter().filter(|(_, data)| !data.is_empty());
        let short = |text: String| text.replace(A, "AA").replace(B, "BB");
        Some(
            files
                .map(|(path, data)| (text(path), short(text(data))))
                .collect(),
        )
    }

    #[test]
    fn a_clones_refs_are_taken_and_written_as_a_clone_has_them() {
        let files = written(&[
            ("HEAD", "ref: refs/heads/main\n"),
            ("refs/heads/main", "AA\n"),
            (
                "refs/remotes/origin/HEAD",
                "ref: refs/remotes/origin/main\n",
            ),
            ("refs/tags/loose", "AA\n"),
            (
                "packed-refs",
                "# pack-refs with: peeled fully-peeled sorted \nAA refs/tags/v1\n^BB\n\
                 BB refs/tags/loose\nBB refs/remotes/origin/main\n",
            ),
            ("shallow", "BB\n"),
        ]);
        let expected = [
            ("HEAD", "ref: refs/heads/main\n"),
            ("refs/heads/main", "AA\n"),
            (
                "refs/remotes/origin/HEAD",
                "ref: refs/remotes/origin/main\n",
            ),
            ("shallow", "BB\n"),
            (
                "packed-refs",
                "# pack-refs with: sorted \nBB refs/remotes/origin/main\n\
                 AA refs/tags/loose\nAA refs/tags/v1\n",
            ),
        ];
        let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(files.unwrap(), expected);
        let detached = written(&[("HEAD", "AA\n"), ("packed-refs", "AA refs/tags/v1\n")]);
        assert_eq!(detached.unwrap()[0].1, "AA\n");
        let unborn = written(&[("HEAD", "ref: refs/heads/main\n")]);
        assert_eq!(unborn.unwrap().len(), 1);
    }

    #[test]
    fn a_branch_of_heads_may_be_packed() {
        let files = written(&[
            ("HEAD", "ref: refs/heads/main\n"),
            (
                "packed-refs",
                "AA refs/heads/main\nAA refs/remotes/origin/main\n",
            ),
        ]);
        assert_eq!(
            files.unwrap()[1],
            ("refs/heads/main".to_owned(), "AA\n".to_owned())
        );
    }

    #[test]
    fn all_else_is_refused() {
        let on_main = ("HEAD", "ref: refs/heads/main\n");
        let main = ("refs/heads/main", "AA\n");
        for more in [
            ("refs/heads/main.lock", "AA\n"),
            ("refs/heads/other", "AA\n"),
            ("refs/replace/AA", "BB\n"),
            ("refs/stash", "AA\n"),
            ("refs/bisect/bad", "AA\n"),
            ("refs/notes/x", "AA\n"),
            ("refs/remotes/other/main", "AA\n"),
            ("refs/tags/x", "ref: refs/heads/main\n"),
            ("refs/tags/x", "ref: ../../config\n"),
            ("refs/tags/x", ""),
            ("refs/tags/x", "AA"),
            ("refs/tags/x", "AA\nAA\n"),
            ("refs/tags/x", "AA extra\n"),
            ("refs/tags/x", "aaaa\n"),
            ("refs/tags/x", "AAAA\n"),
            ("refs/tags/x", "0000000000000000000000000000000000000000\n"),
            ("refs/tags/a..b", "AA\n"),
            ("refs/tags/a b", "AA\n"),
            ("refs/tags/-\u{7f}", "AA\n"),
            ("refs/tags/.a", "AA\n"),
            (
                "refs/remotes/origin/HEAD",
                "ref: refs/remotes/origin/HEAD\n",
            ),
            (
                "refs/remotes/origin/HEAD",
                "ref: refs/remotes/origin/none\n",
            ),
            ("refs/remotes/origin/HEAD", "ref: refs/heads/main\n"),
            ("packed-refs", "AA refs/replace/AA\n"),
            ("packed-refs", "AA refs/heads/x\n"),
            ("packed-refs", "AA refs/tags/x"),
            ("packed-refs", "AA refs/tags/x\nAA refs/tags/x\n"),
            ("packed-refs", "AA refs/tags/x\nAA refs/tags/x/y\n"),
            (
                "packed-refs",
                "AA refs/tags/x\nAA refs/tags/x-y\nAA refs/tags/x/y\n",
            ),
            ("packed-refs", "AA  refs/tags/x\n"),
            ("packed-refs", "\n"),
            ("packed-refs", "^AA\n^x\n"),
            ("packed-refs", "AA ../config\n"),
            ("packed-refs", "garbage\n"),
            ("packed-refs", "AA refs/tags/x\n# pack-refs with: sorted\n"),
            ("shallow", "x\n"),
            ("shallow", "\n"),
        ] {
            if more == ("refs/tags/x", "AA") {
                // Without its end of line it is the same.
                assert!(written(&[on_main, main, more]).is_some());
                continue;
            }
            assert_eq!(written(&[on_main, main, more]), None, "{more:?}");
        }
    }

    #[test]
    fn a_head_that_names_no_branch_and_no_commit_is_refused() {
        for head in [
            "",
            "\n",
            "ref:\n",
            "ref: \n",
            "ref: refs/tags/v1\n",
            "ref: refs/heads/\n",
            "ref: refs/heads/../../config\n",
            "ref: refs/heads/a\nref: refs/heads/b\n",
            "ref: HEAD\n",
            "x\n",
        ] {
            assert_eq!(written(&[("HEAD", head)]), None, "{head:?}");
        }
        let main = ("refs/heads/main", "AA\n");
        assert_eq!(written(&[main]), None);
        // Across loose and packed.
        let on_main = ("HEAD", "ref: refs/heads/main\n");
        let packed = ("packed-refs", "AA refs/tags/x\n");
        assert_eq!(
            written(&[on_main, main, packed, ("refs/tags/x/y", "AA\n")]),
            None
        );
    }
}
