//! The refs of a restored repository: read from an archive's HEAD, `packed-refs` and loose files, or
//! those of a moment of the mirror; checked, and written as a clone has them.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};

use gix::bstr::{BStr, ByteSlice};
use gix::hash::{Kind, ObjectId};

use super::capture::Captured;
use super::ensure::At;
use super::error::RestoreError;
use super::moment::{self, Found, Moment};
use super::stop::Stop;
use super::wanted::{Checkout, Named};
use super::write::stopped;
use crate::limits::UNSORTED_REFS_MAX;
use crate::refs::{self, Way, is_ref_name};

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

impl<'a> Head<'a> {
    fn branch(&self) -> Option<&'a BStr> {
        match self {
            Head::Branch(name, _) => Some(name),
            Head::Detached(_) => None,
        }
    }
}

/// A ref's full name and its id, as they stand in the archive.
type Line<'a> = (&'a BStr, &'a [u8]);

/// Branches of the upstream, and tags.
#[derive(Debug)]
enum List<'a> {
    /// By the names that they have here, sorted.
    Read(Vec<Line<'a>>),
    /// By the upstream's names: each gets the one that it has here when its turn comes.
    Moment(&'a Moment),
}

/// Refs as a clone has them, in memory as they came: there may be a million of them.
///
/// Invariant: whatever they are from, [`Refs::check`] was content. No name is there twice, and none of
/// all is another's directory. What stands for an id is one.
#[derive(Debug)]
pub struct Refs<'a> {
    pub head: Head<'a>,
    /// What the upstream's HEAD names, by the name that a clone has for it.
    remote_head: Option<Cow<'a, BStr>>,
    list: List<'a>,
    /// Whether there was the branch that a clone makes, besides what was checked out afterwards. It is
    /// left out: what was asked for is what is there.
    has_clones_branch: bool,
    /// Ids, one a line.
    shallow: &'a [u8],
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
    Id(&'a [u8]),
    Name(&'a BStr),
}

fn said<'a>(path: &[u8], text: &'a [u8], hash: Kind) -> Result<Said<'a>, RestoreError> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    match line.strip_prefix(b"ref: ") {
        Some(name) if is_ref_name(name) => Ok(Said::Name(name.as_bstr())),
        Some(_) => Err(refused(path, "it names no ref")),
        None => id(path, line, hash).map(|_| Said::Id(line)),
    }
}

impl<'a> Refs<'a> {
    /// Reads and checks all of them; ids are of the kind `hash`.
    pub fn read(captured: &'a Captured, hash: Kind, stop: &Stop) -> Result<Refs<'a>, RestoreError> {
        let head = captured.file("HEAD");
        let head = said(
            HEAD,
            head.ok_or_else(|| refused(HEAD, "it is not there"))?,
            hash,
        )?;
        if matches!(head, Said::Name(name) if !name.starts_with(HEADS)) {
            return Err(refused(HEAD, "it names no branch"));
        }
        let packed = captured.file("packed-refs").unwrap_or_default();
        let packed = read_packed(packed, hash, stop)?;
        let mut remote_head = None;
        let mut loose = Vec::new();
        for (name, text) in captured.refs() {
            let path = [b".git/", name].concat();
            if stop.is_set() {
                return Err(stopped());
            }
            match said(&path, text, hash)? {
                Said::Id(id) => loose.push((name.as_bstr(), id)),
                Said::Name(to) if name == REMOTE_HEAD => remote_head = Some(Cow::Borrowed(to)),
                Said::Name(_) => return Err(refused(&path, "it is a symbolic ref")),
            }
        }
        let mut refs = one_each(packed, loose);
        // An upstream may have a branch of this name; in a clone, too, it is not seen.
        if remote_head.is_some() {
            take(&mut refs, REMOTE_HEAD.as_bstr());
        }
        let head = match head {
            Said::Name(name) => {
                let born = take(&mut refs, name).map(|hex| id(HEAD, hex, hash));
                Head::Branch(name, born.transpose()?)
            }
            Said::Id(hex) => Head::Detached(id(HEAD, hex, hash)?),
        };
        let clones_branch = remote_head.as_deref().and_then(|to| {
            let branch = to.strip_prefix(REMOTE)?;
            take(&mut refs, [HEADS, branch].concat().as_bstr())
        });
        for (name, _) in &refs {
            if !name.starts_with(REMOTE) && !name.starts_with(TAGS) {
                return Err(refused(name, "a clone has no such ref"));
            }
        }
        let read = Refs {
            head,
            remote_head,
            list: List::Read(refs),
            has_clones_branch: clones_branch.is_some(),
            shallow: captured.file("shallow").unwrap_or_default(),
        };
        check_shallow(read.shallow, hash, stop)?;
        read.check(stop, |name, why| refused(name, why))?;
        Ok(read)
    }

    /// Those of a moment of the mirror, where `at` is checked out, which is `commit`.
    pub fn of_moment(
        moment: &'a Moment,
        at: &'a At,
        commit: Option<ObjectId>,
        stop: &Stop,
    ) -> Result<Refs<'a>, RestoreError> {
        let remote_head = match &moment.head {
            refs::Head::Symbolic(name) => moment.get(name.as_bstr()),
            refs::Head::Detached(_) => None,
        };
        let local = |found: Found<'_>| {
            let mut name = Vec::new();
            local_name(found.name, &mut name).then(|| Cow::Owned(name.into()))
        };
        let refs = Refs {
            head: match at {
                At::Branch(name) | At::Reset(name, _) => Head::Branch(name.as_bstr(), commit),
                At::Detached(id) => Head::Detached(commit.unwrap_or(*id)),
            },
            remote_head: remote_head.and_then(local),
            list: List::Moment(moment),
            has_clones_branch: false,
            shallow: b"",
        };
        refs.check(stop, |name, why| moment::wrong(format!("{name}: {why}")))?;
        Ok(refs)
    }

    /// Goes through branches and tags in the order of their names, each with its id as text.
    pub fn each<E>(&self, mut each: impl FnMut(&BStr, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let moment = match &self.list {
            List::Read(refs) => return refs.iter().try_for_each(|(name, hex)| each(name, hex)),
            List::Moment(moment) => moment,
        };
        let mut name = Vec::new();
        let mut hex = Kind::hex_buf();
        // Branches come elsewhere under their new names, all others stay where they are.
        let is_branch = |found: &Found<'_>| found.name.starts_with(HEADS);
        let others = || moment.refs().filter(|found| !is_branch(found));
        let before = others().filter(|found| **found.name < *REMOTE);
        let behind = others().filter(|found| **found.name >= *REMOTE);
        let branches = moment.refs().filter(is_branch);
        before.chain(branches).chain(behind).try_for_each(|found| {
            match local_name(found.name, &mut name) {
                true => each(name.as_bstr(), found.target.hex_to_buf(&mut hex).as_bytes()),
                false => Ok(()),
            }
        })
    }

    /// Sees to it that they can be files of a repository beside each other, and that HEAD of the
    /// upstream names one of them; `refused` says why not.
    fn check(
        &self,
        stop: &Stop,
        refused: impl Fn(&BStr, &str) -> RestoreError,
    ) -> Result<(), RestoreError> {
        let remote_head = self.remote_head.as_deref();
        let is_branch = |to: &BStr| to.starts_with(REMOTE) && to != REMOTE_HEAD;
        let mut has_target = false;
        let mut way = Way::default();
        let mut look = |name: &BStr| match way.takes(name) {
            true => Ok(()),
            false => Err(refused(
                name,
                "another ref has this name or that of its directory",
            )),
        };
        // Those that are not in the list, sorted as it is.
        let symbolic = remote_head.map(|_| REMOTE_HEAD.as_bstr());
        let mut more = self.head.branch().into_iter().chain(symbolic).peekable();
        self.each(|name, _| {
            if stop.is_set() {
                return Err(stopped());
            }
            if !is_ref_name(name) {
                return Err(refused(name, "that is no name of a ref"));
            }
            while let Some(before) = more.next_if(|more| *more < name) {
                look(before)?;
            }
            has_target |= remote_head == Some(name);
            look(name)
        })?;
        more.try_for_each(look)?;
        match remote_head {
            Some(to) if !has_target || !is_branch(to) => Err(refused(
                REMOTE_HEAD.as_bstr(),
                "it names no branch of the upstream",
            )),
            _ => Ok(()),
        }
    }

    /// What the archive's ref of this full name is at.
    fn get(&self, name: &[u8]) -> Option<ObjectId> {
        let List::Read(refs) = &self.list else {
            return None;
        };
        let at = refs.binary_search_by(|(n, _)| (*n).cmp(name.as_bstr()));
        ObjectId::from_hex(refs[at.ok()?].1).ok()
    }

    /// Whether these, of an archive, are of what was asked for. A server that knows nothing of that gives
    /// what it gives to everybody. `commit_of` finds what an object leads to.
    pub(super) fn are_of(
        &self,
        checkout: &Checkout,
        commit_of: impl Fn(ObjectId) -> Option<ObjectId>,
    ) -> bool {
        let Some(commit) = self.commit() else {
            return *checkout == Checkout::Head;
        };
        let is_at = |hex: &str| {
            let id = ObjectId::from_hex(hex.as_bytes());
            id.is_ok_and(|id| id == commit || commit_of(id) == Some(commit))
        };
        match checkout {
            Checkout::Head => true,
            Checkout::Commit(id) => self.head.branch().is_none() && is_at(id),
            Checkout::At(named, id) => self.is_on(named, true, |_| true) && is_at(id),
            Checkout::Ref(named) => {
                let is_tip = |id| id == commit || commit_of(id) == Some(commit);
                self.is_on(named, false, is_tip)
            }
        }
    }

    /// Whether HEAD is what a ref is checked out as, at a commit that was named or at the ref's own.
    fn is_on(&self, named: &Named, is_at_commit: bool, is_tip: impl Fn(ObjectId) -> bool) -> bool {
        if let Some(branch) = self.head.branch() {
            return named.names.iter().any(|name| name.as_bytes() == &**branch);
        }
        // What is no branch is detached.
        let names = || named.names.iter().map(String::as_bytes);
        let mut branches = names().filter_map(|name| name.strip_prefix(HEADS));
        if branches.any(|branch| self.get(&[REMOTE, branch].concat()).is_some()) {
            return false;
        }
        let Some(other) = names().find(|name| !name.starts_with(HEADS)) else {
            return false;
        };
        match self.get(other) {
            Some(id) if !is_at_commit => is_tip(id),
            Some(_) => true,
            None if named.names.len() > 1 => false,
            // No clone shows it. What everybody gets has no branch beside a HEAD that is detached.
            None => is_at_commit || self.has_clones_branch || self.is_shallow(),
        }
    }

    /// Whether history ends somewhere.
    pub fn is_shallow(&self) -> bool {
        !self.shallow.is_empty()
    }

    /// The ids, as text, of the commits at which history is said to end.
    pub fn shallow(&self) -> impl Iterator<Item = &'a [u8]> {
        self.shallow.lines()
    }

    /// The commit that is checked out.
    pub fn commit(&self) -> Option<ObjectId> {
        match self.head {
            Head::Branch(_, commit) => commit,
            Head::Detached(commit) => Some(commit),
        }
    }

    /// What is checked out, if anything is.
    pub fn at(&self) -> Option<At> {
        Some(match self.head {
            Head::Branch(name, commit) => At::Reset(name.to_vec(), commit?),
            Head::Detached(commit) => At::Detached(commit),
        })
    }

    /// The short name of the branch that HEAD names.
    pub fn branch(&self) -> Option<&'a BStr> {
        let name = self.head.branch()?.strip_prefix(HEADS)?;
        Some(name.as_bstr())
    }

    /// The files of `.git` that say all this but for the packed refs: names below it, and what they
    /// hold.
    pub fn files(&self) -> Vec<(Vec<u8>, Cow<'a, [u8]>)> {
        let mut files = Vec::new();
        let symbolic = |name: &[u8]| Cow::Owned([b"ref: ", name, b"\n"].concat());
        let line = |id: &ObjectId| Cow::Owned(format!("{id}\n").into_bytes());
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
            files.push((b"shallow".to_vec(), Cow::Borrowed(self.shallow)));
        }
        files
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match &self.list {
            List::Read(refs) => refs.is_empty(),
            List::Moment(moment) => moment.refs().len() == 0,
        }
    }

    /// Writes `packed-refs`, if one is needed. It does not say what tags lead to, as nobody has
    /// looked at them; git then does when it wants to know.
    pub fn write_packed<W: Write>(
        &self,
        out: impl FnOnce() -> io::Result<W>,
        stop: &Stop,
    ) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut out = BufWriter::new(out()?);
        out.write_all(b"# pack-refs with: sorted \n")?;
        self.each(|name, hex| {
            if stop.is_set() {
                return Err(io::Error::other("the restore ends"));
            }
            let parts = [hex, &b" "[..], name, b"\n"];
            parts.iter().try_for_each(|part| out.write_all(part))
        })?;
        out.flush()
    }
}

/// Makes `local` the name that a clone has for the upstream's ref `name`, if it has it at all.
fn local_name(name: &BStr, local: &mut Vec<u8>) -> bool {
    local.clear();
    match name.strip_prefix(HEADS) {
        // The name is that of the upstream's HEAD here.
        Some(b"HEAD") => false,
        Some(branch) => {
            local.extend_from_slice(REMOTE);
            local.extend_from_slice(branch);
            true
        }
        None => {
            local.extend_from_slice(name);
            !name.starts_with(REMOTE)
        }
    }
}

/// The refs of a `packed-refs`, sorted.
fn read_packed<'a>(text: &'a [u8], hash: Kind, stop: &Stop) -> Result<Vec<Line<'a>>, RestoreError> {
    let mut refs: Vec<Line<'_>> = Vec::new();
    if !text.is_empty() && !text.ends_with(b"\n") {
        return Err(refused(PACKED, "it is cut off"));
    }
    for (number, line) in text.lines().enumerate() {
        if stop.is_set() {
            return Err(stopped());
        }
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
        id(PACKED, hex, hash)?;
        refs.push((name.as_bstr(), hex));
    }
    if !refs.is_sorted_by_key(|(name, _)| *name) {
        // Git sorts them. A million takes a second, during which nothing would be heard.
        if refs.len() > UNSORTED_REFS_MAX {
            return Err(refused(PACKED, "its many refs are not sorted"));
        }
        refs.sort_unstable_by_key(|(name, _)| *name);
    }
    match refs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(refused(PACKED, format!("{} is there twice", pair[0].0))),
        None => Ok(refs),
    }
}

/// All refs, sorted; of a name that is packed and loose the loose one counts. Both are sorted.
fn one_each<'a>(mut refs: Vec<Line<'a>>, loose: Vec<Line<'a>>) -> Vec<Line<'a>> {
    let mut at = 0;
    refs.retain(|(name, _)| {
        while loose.get(at).is_some_and(|(loose, _)| loose < name) {
            at += 1;
        }
        loose.get(at).is_none_or(|(loose, _)| loose != name)
    });
    refs.extend(loose);
    // It sees that there are two runs.
    refs.sort_by_key(|(name, _)| *name);
    refs
}

/// Takes a ref out.
fn take<'a>(refs: &mut Vec<Line<'a>>, name: &BStr) -> Option<&'a [u8]> {
    let at = refs.binary_search_by(|(n, _)| (*n).cmp(name)).ok()?;
    Some(refs.remove(at).1)
}

/// Sees to it that a list of shallow commits has ids and nothing else.
fn check_shallow(text: &[u8], hash: Kind, stop: &Stop) -> Result<(), RestoreError> {
    if text.is_empty() {
        return Ok(());
    }
    let lines = text.strip_suffix(b"\n");
    let lines = lines.ok_or_else(|| refused(SHALLOW, "it is cut off"))?;
    for line in lines.split(|b| *b == b'\n') {
        if stop.is_set() {
            return Err(stopped());
        }
        id(SHALLOW, line, hash)?;
    }
    Ok(())
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
        let refs = match Refs::read(&captured, Kind::Sha1, &Stop::default()) {
            Ok(refs) => refs,
            Err(e) => {
                assert_eq!(e.exit_code(), 5);
                return None;
            }
        };
        Some(files_of(&refs))
    }

    fn files_of(refs: &Refs<'_>) -> Vec<(String, String)> {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let mut files = refs.files();
        let packed = tempfile::NamedTempFile::new().unwrap();
        refs.write_packed(|| packed.reopen(), &Stop::default())
            .unwrap();
        let packed = std::fs::read(packed.path()).unwrap();
        files.push((b"packed-refs".to_vec(), packed.into()));
        let files = files.into_iter().filter(|(_, data)| !data.is_empty());
        let short = |text: String| text.replace(A, "AA").replace(B, "BB");
        files
            .map(|(path, data)| (text(path), short(text(data.into_owned()))))
            .collect()
    }

    /// What is written of the server's answer `lines`, where all of `more` was asked for, too.
    fn of_lines(lines: &[&str], more: &[&str]) -> Result<Vec<(String, String)>, RestoreError> {
        let lines = lines.iter();
        let lines = lines.map(|line| line.replace("AA", A).replace("BB", B));
        let moment = Moment::of_lines(&lines.collect::<Vec<_>>(), more);
        let at = match &moment.head {
            refs::Head::Symbolic(name) => At::Branch(name.to_vec()),
            refs::Head::Detached(id) => At::Detached(*id),
        };
        let refs = Refs::of_moment(&moment, &at, moment.head_id(), &Stop::default());
        refs.map(|refs| files_of(&refs))
    }

    #[test]
    fn a_moments_refs_get_the_names_of_a_clone_when_they_are_written() {
        let more = [
            "refs/notes/n",
            "refs/pull/1/head",
            "refs/remotes/origin/other",
        ];
        let lines = [
            "AA HEAD symref-target:refs/heads/main",
            "BB refs/heads/HEAD",
            "BB refs/heads/a/b",
            "AA refs/heads/main",
            "BB refs/notes/n",
            "AA refs/pull/1/head",
            "BB refs/remotes/origin/other",
            "BB refs/tags/v1",
        ];
        let expected = [
            ("HEAD", "ref: refs/heads/main\n"),
            ("refs/heads/main", "AA\n"),
            (
                "refs/remotes/origin/HEAD",
                "ref: refs/remotes/origin/main\n",
            ),
            (
                "packed-refs",
                "# pack-refs with: sorted \nBB refs/notes/n\nAA refs/pull/1/head\n\
                 BB refs/remotes/origin/a/b\nAA refs/remotes/origin/main\nBB refs/tags/v1\n",
            ),
        ];
        let expected = expected.map(|(path, text)| (path.to_owned(), text.to_owned()));
        assert_eq!(of_lines(&lines, &more).unwrap(), expected);
        let unborn = of_lines(&["unborn HEAD symref-target:refs/heads/main"], &[]);
        assert_eq!(unborn.unwrap().len(), 1);
        // In nobody's way where the upstream's HEAD is no branch.
        let detached = of_lines(&["AA HEAD", "BB refs/heads/HEAD/x"], &[]).unwrap();
        assert_eq!(detached[0], ("HEAD".to_owned(), "AA\n".to_owned()));
        assert!(detached[1].1.ends_with("\nBB refs/remotes/origin/HEAD/x\n"));
    }

    /// Each is in nobody's way on the server.
    #[test]
    fn what_cannot_be_beside_each_other_in_a_clone_is_refused() {
        let head = "AA HEAD symref-target:refs/heads/main";
        let main = "AA refs/heads/main";
        // Of the longest path, before it comes elsewhere.
        let part = "x".repeat(crate::limits::NAME_BYTES_MAX);
        let mut long = format!("refs/heads/{}", format!("{part}/").repeat(20));
        long.truncate(crate::limits::PATH_BYTES_MAX);
        let long = format!("BB {}", long.trim_end_matches('/'));
        for (line, more) in [
            ("BB refs/remotes", "refs/remotes"),
            ("BB refs/remotes/origin", "refs/remotes/origin"),
            ("BB refs/heads/HEAD/x", ""),
            (&long, ""),
        ] {
            let error = of_lines(&[head, main, line], &[more]).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
        }
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

    /// Git sorts what it packs: of a few refs any order is taken, and many are not sorted here.
    #[test]
    fn many_refs_are_taken_as_git_has_them() {
        let line = |number: usize| format!("AA refs/tags/{number:06}\n");
        let text = |numbers: &mut dyn Iterator<Item = usize>| numbers.map(line).collect::<String>();
        let few = text(&mut (0..10).rev());
        let many = text(&mut (0..UNSORTED_REFS_MAX + 1));
        let unsorted = text(&mut (0..UNSORTED_REFS_MAX + 1).rev());
        let read = |packed: &str, stop: &Stop| {
            let captured = captured(&[("HEAD", "AA\n"), ("packed-refs", packed)]);
            let read = Refs::read(&captured, Kind::Sha1, stop);
            read.map(|refs| {
                let mut names = Vec::new();
                let each = refs.each(|name, _| -> io::Result<()> {
                    names.push(name.to_owned());
                    Ok(())
                });
                each.unwrap();
                assert!(names.is_sorted());
                names.len()
            })
        };
        let stop = Stop::default();
        assert_eq!(read(&few, &stop).unwrap(), 10);
        assert_eq!(read(&many, &stop).unwrap(), UNSORTED_REFS_MAX + 1);
        let error = read(&unsorted, &stop).unwrap_err();
        assert!(error.to_string().contains("not sorted"), "{error}");
        stop.set();
        assert!(
            read(&many, &stop)
                .unwrap_err()
                .to_string()
                .contains("stopped")
        );
    }
}
