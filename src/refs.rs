//! Reads the refs of a bare mirror: `packed-refs`, loose files and HEAD. Synchronous; a
//! builder thread calls it under the repository's read lock (50,000 packed refs: 15 ms with
//! little optimisation).
//!
//! Loose files are read before `packed-refs`. `git pack-refs` writes the packed file first
//! and removes the loose one then, so in this order no ref can be missed while it runs.
use crate::limits;
use gix::ObjectId;
use gix::bstr::{BStr, BString, ByteSlice};
use rustix::fs::OFlags;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    pub refs: Vec<Ref>,
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

/// Why the refs of a mirror could not be read.
#[derive(Debug, thiserror::Error)]
pub enum RefsError {
    #[error("cannot read {}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// `line` counts from 1.
    #[error("{} line {line}: {what}", .path.display())]
    Malformed {
        path: PathBuf,
        line: usize,
        what: &'static str,
    },
    #[error("{} line {line}: invalid ref name {name:?}", .path.display())]
    Name {
        path: PathBuf,
        line: usize,
        name: BString,
    },
    #[error("{} is larger than {limit} bytes", .path.display())]
    TooLarge { path: PathBuf, limit: u64 },
}

/// Reads HEAD and the followed refs of the bare repository at `mirror`.
///
/// # Errors
/// A file that cannot be read or is not what git writes, with its path and line. A symbolic
/// ref under `refs/` that leads nowhere is left out, as git does.
pub fn read(mirror: &Path, follow: &Follow) -> Result<MirrorRefs, RefsError> {
    let head = read_head(mirror)?;
    let loose = read_loose(mirror)?;
    let mut packed = read_packed(mirror)?;
    let tags_unknown = |(name, loose): (&BString, &Loose)| {
        // git lets nothing but commits into refs/heads/.
        matches!(loose, Loose::Direct(_))
            && !name.starts_with(b"refs/heads/")
            && follow.matches(name)
    };
    let fully_peeled = packed.fully_peeled && !loose.iter().any(tags_unknown);
    let resolved: Vec<Ref> = loose
        .iter()
        .filter(|(name, _)| follow.matches(name))
        .filter_map(|(name, _)| resolve(name, &loose, &packed.refs))
        .collect();
    packed
        .refs
        .retain(|r| follow.matches(&r.name) && !loose.contains_key(&r.name));
    let mut refs = packed.refs;
    if !resolved.is_empty() {
        refs.extend(resolved);
        refs.sort_by(|a, b| a.name.cmp(&b.name));
    }
    check_one_hash(mirror, &head, &refs)?;
    Ok(MirrorRefs {
        head,
        refs,
        fully_peeled,
    })
}

/// About what a loose ref costs besides its name: an id, at least.
const LOOSE_BYTES: usize = 64;

/// What a loose ref file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loose {
    Direct(ObjectId),
    Symbolic(BString),
}

/// The contents of `packed-refs`, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub refs: Vec<Ref>,
    pub fully_peeled: bool,
}

/// Reads HEAD, and nothing that it leads to.
pub(crate) fn read_head(mirror: &Path) -> Result<Head, RefsError> {
    let path = mirror.join("HEAD");
    let bytes = read_file(&path, limits::LOOSE_REF_BYTES_MAX)?.ok_or_else(|| RefsError::Io {
        path: path.clone(),
        source: io::ErrorKind::NotFound.into(),
    })?;
    Ok(match parse_loose(&path, &bytes)? {
        Loose::Direct(id) => Head::Detached(id),
        Loose::Symbolic(name) => Head::Symbolic(name),
    })
}

/// Reads every loose ref under `refs/`.
pub(crate) fn read_loose(mirror: &Path) -> Result<BTreeMap<BString, Loose>, RefsError> {
    read_loose_within(mirror, limits::PACKED_REFS_BYTES_MAX)
}

/// The same where they may have so many bytes together.
pub(crate) fn read_loose_within(
    mirror: &Path,
    bytes_max: u64,
) -> Result<BTreeMap<BString, Loose>, RefsError> {
    let mut found = BTreeMap::new();
    let mut found_bytes = 0;
    let mut pending = vec![BString::from("refs")];
    while let Some(folder) = pending.pop() {
        let path = mirror.join(folder.to_path_lossy());
        let fail = |source| RefsError::Io {
            path: path.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            // git removes folders that became empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fail(error)),
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let file_name = entry.file_name();
            // Lock files and what file managers leave are no refs.
            if file_name.as_bytes().starts_with(b".") || file_name.as_bytes().ends_with(b".lock") {
                continue;
            }
            let mut name = folder.clone();
            name.push(b'/');
            name.extend_from_slice(file_name.as_bytes());
            found_bytes += (name.len() + LOOSE_BYTES) as u64;
            if found_bytes > bytes_max {
                return Err(RefsError::TooLarge {
                    path: mirror.join("refs"),
                    limit: bytes_max,
                });
            }
            if entry.file_type().map_err(fail)?.is_dir() {
                pending.push(name);
                continue;
            }
            check_name(&entry.path(), 1, &name)?;
            if let Some(bytes) = read_file(&entry.path(), limits::LOOSE_REF_BYTES_MAX)? {
                let loose = parse_loose(&entry.path(), &bytes)?;
                found.insert(name, loose);
            }
        }
    }
    Ok(found)
}

fn parse_loose(path: &Path, bytes: &[u8]) -> Result<Loose, RefsError> {
    let malformed = |what| RefsError::Malformed {
        path: path.to_owned(),
        line: 1,
        what,
    };
    let text = bytes.trim_end();
    if let Some(name) = text.strip_prefix(b"ref:") {
        let name = name.trim_start();
        check_name(path, 1, name)?;
        return Ok(Loose::Symbolic(name.into()));
    }
    // git allows, and old versions wrote, more text after the id.
    let id = text
        .split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default();
    ObjectId::from_hex(id)
        .map(Loose::Direct)
        .map_err(|_| malformed("no object id and no symbolic ref"))
}

/// Follows a loose ref to an object through at most
/// [`REF_SYMBOLIC_DEPTH_MAX`](limits::REF_SYMBOLIC_DEPTH_MAX) symbolic ones.
fn resolve(name: &BString, loose: &BTreeMap<BString, Loose>, packed: &[Ref]) -> Option<Ref> {
    let mut at = name;
    for _ in 0..=limits::REF_SYMBOLIC_DEPTH_MAX {
        match loose.get(at) {
            Some(Loose::Direct(id)) => {
                return Some(Ref {
                    name: name.clone(),
                    target: *id,
                    peeled: None,
                });
            }
            Some(Loose::Symbolic(next)) => at = next,
            None => {
                let found = packed.binary_search_by(|r| r.name.cmp(at)).ok()?;
                return Some(Ref {
                    name: name.clone(),
                    ..packed.get(found)?.clone()
                });
            }
        }
    }
    None
}

/// Reads all of `packed-refs`, followed or not; a missing file is an empty one.
pub(crate) fn read_packed(mirror: &Path) -> Result<Packed, RefsError> {
    let path = mirror.join("packed-refs");
    match read_file(&path, limits::PACKED_REFS_BYTES_MAX)? {
        Some(bytes) => parse_packed(&path, &bytes),
        None => Ok(Packed {
            refs: Vec::new(),
            fully_peeled: true,
        }),
    }
}

/// Hands each ref of `packed-refs` to `each` while the file is read, in its order; that may have
/// `bytes_max` bytes, none of which stays. It is no link.
pub(crate) fn each_packed<E: From<RefsError>>(
    mirror: &Path,
    bytes_max: u64,
    mut each: impl FnMut(&[u8], ObjectId) -> Result<(), E>,
) -> Result<(), E> {
    let path = mirror.join("packed-refs");
    let fail = |source| RefsError::Io {
        path: path.clone(),
        source,
    };
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut options = File::options();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error).into()),
    };
    if file.metadata().map_err(fail)?.len() > bytes_max {
        let limit = bytes_max;
        return Err(RefsError::TooLarge { path, limit }.into());
    }
    let mut file = BufReader::with_capacity(PACKED_READ_BYTES, file.take(bytes_max));
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut file)
            .take(limits::PACKED_LINE_BYTES_MAX)
            .read_until(b'\n', &mut line);
        if read.map_err(fail)? == 0 {
            break;
        }
        if line.pop() != Some(b'\n') {
            let what = "the line is too long, or cut off";
            return Err(malformed(&path, number, what).into());
        }
        if let PackedLine::Ref(id, name) = packed_line(&path, number, &line)? {
            each(name, id)?;
        }
    }
    Ok(())
}

const PACKED_READ_BYTES: usize = 64 * 1024;

/// What a line of `packed-refs` says.
enum PackedLine<'l> {
    /// Whether it is known of every tag what that leads to.
    Traits(bool),
    /// What the tag above leads to.
    Peeled(ObjectId),
    Comment,
    Ref(ObjectId, &'l [u8]),
}

fn malformed(path: &Path, line: usize, what: &'static str) -> RefsError {
    RefsError::Malformed {
        path: path.to_owned(),
        line,
        what,
    }
}

fn packed_line<'l>(
    path: &Path,
    number: usize,
    line: &'l [u8],
) -> Result<PackedLine<'l>, RefsError> {
    if let Some(traits) = line.strip_prefix(b"# pack-refs with:") {
        let is_peeled = traits.fields().any(|word| word == b"fully-peeled");
        return Ok(PackedLine::Traits(is_peeled));
    }
    if let Some(hex) = line.strip_prefix(b"^") {
        let id = ObjectId::from_hex(hex);
        let id = id.map_err(|_| malformed(path, number, "not an object id after ^"));
        return id.map(PackedLine::Peeled);
    }
    if line.starts_with(b"#") {
        return Ok(PackedLine::Comment);
    }
    let (hex, name) = line
        .split_once_str(" ")
        .ok_or_else(|| malformed(path, number, "no space"))?;
    let target =
        ObjectId::from_hex(hex).map_err(|_| malformed(path, number, "not an object id"))?;
    check_name(path, number, name)?;
    Ok(PackedLine::Ref(target, name))
}

fn parse_packed(path: &Path, bytes: &[u8]) -> Result<Packed, RefsError> {
    let malformed = |line, what| malformed(path, line, what);
    let mut packed = Packed::default();
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        return Err(malformed(
            ByteSlice::lines(bytes).count(),
            "the file is cut off",
        ));
    }
    let mut sorted = true;
    for (at, line) in ByteSlice::lines(bytes).enumerate() {
        let number = at + 1;
        match packed_line(path, number, line)? {
            PackedLine::Traits(fully_peeled) => packed.fully_peeled = fully_peeled,
            PackedLine::Comment => {}
            PackedLine::Peeled(id) => {
                let tag = packed.refs.last_mut().filter(|tag| tag.peeled.is_none());
                tag.ok_or_else(|| malformed(number, "a ^ line follows no ref"))?
                    .peeled = Some(id);
            }
            PackedLine::Ref(target, name) => {
                sorted &= packed
                    .refs
                    .last()
                    .is_none_or(|last| last.name.as_slice() < name);
                packed.refs.push(Ref {
                    name: name.into(),
                    target,
                    peeled: None,
                });
            }
        }
    }
    if !sorted {
        packed.refs.sort_by(|a, b| a.name.cmp(&b.name));
        if packed
            .refs
            .windows(2)
            .any(|pair| pair[0].name == pair[1].name)
        {
            return Err(malformed(1, "a ref is there twice"));
        }
    }
    Ok(packed)
}

fn check_name(path: &Path, line: usize, name: &[u8]) -> Result<(), RefsError> {
    if is_ref_name(name) {
        return Ok(());
    }
    Err(RefsError::Name {
        path: path.to_owned(),
        line,
        name: name.into(),
    })
}

/// Whether git allows this as the full name of a ref under `refs/`.
pub(crate) fn is_ref_name(name: &[u8]) -> bool {
    // Refs are files, at least while git moves them.
    let fits = name.len() <= limits::PATH_BYTES_MAX
        && name
            .split(|b| *b == b'/')
            .all(|part| part.len() <= limits::NAME_BYTES_MAX);
    fits && name.starts_with(b"refs/") && gix::validate::reference::name(name.as_bstr()).is_ok()
}

/// Looks at names in their order for what is in the way of what: one that is there twice, or that has
/// another one for a directory. It takes a look at each byte of a name and no more.
#[derive(Debug, Default)]
pub(crate) struct Way {
    last: Vec<u8>,
    /// How long those are that the last name begins with, itself included, each longer than the one
    /// before.
    prefixes: Vec<usize>,
}

impl Way {
    /// Takes the next name; not if one before is in its way.
    pub(crate) fn takes(&mut self, name: &[u8]) -> bool {
        let pairs = self.last.iter().zip(name);
        let common = pairs.take_while(|(a, b)| a == b).count();
        while self.prefixes.last().is_some_and(|last| *last > common) {
            self.prefixes.pop();
        }
        let is_above = |prefix: &usize| matches!(name.get(*prefix), None | Some(b'/'));
        if self.prefixes.iter().any(is_above) {
            return false;
        }
        self.last.truncate(common);
        self.last.extend_from_slice(&name[common..]);
        self.prefixes.push(name.len());
        true
    }
}

/// The first of the sorted `names` that another one is in the way of ([`Way`]).
pub(crate) fn in_the_way<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Option<&'n [u8]> {
    let mut way = Way::default();
    names.into_iter().find(|name| !way.takes(name))
}

/// An id that a caller gave, which must be whole; an error says what to write instead.
pub(crate) fn full_id(text: &str) -> Result<String, String> {
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    match is_id {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "{text:?} is no commit; write all 40 or 64 hex digits"
        )),
    }
}

/// A repository has one kind of hash; ids of another kind mean a damaged file.
fn check_one_hash(mirror: &Path, head: &Head, refs: &[Ref]) -> Result<(), RefsError> {
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

/// The bytes of a file; `None` when there is none.
fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RefsError> {
    let fail = |source| RefsError::Io {
        path: path.to_owned(),
        source,
    };
    // What is no file but a pipe is not waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let size = file.metadata().map_err(fail)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or_default());
    let read = file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if read as u64 > limit {
        return Err(RefsError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
