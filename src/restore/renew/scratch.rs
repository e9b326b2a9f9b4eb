//! A repository of ours that sees the objects of a working copy's and no more of it: what comes for that is fetched
//! into this one, looked at by way of it, and only then moved over.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use gix::ObjectId;
use gix::hash::Kind;

use super::copy::Copy;
use super::refusal::{not_taken, refs_unread};
use crate::limits::{OLD_LOOSE_REFS_BYTES_MAX, OLD_PACKED_REFS_BYTES_MAX, SHALLOW_BYTES_MAX};
use crate::refs::{self, Head, Loose, RefsError};
use crate::restore::data::read;
use crate::restore::error::{RestoreError, failed};
use crate::restore::link::Link;
use crate::restore::local::check_files;
use crate::restore::run::{self, Room};
use crate::restore::steps;

const PACKS: &str = "objects/pack";
const SHALLOW: &str = "shallow";
const EXCLUDE: &str = "info/exclude";
/// The endings of a pack's files, in the order in which they are moved: git looks for the index.
const ENDINGS: [&str; 3] = ["pack", "rev", "idx"];

/// The repository.
pub(super) struct Scratch {
    /// Its worktree, which has no files.
    pub tree: PathBuf,
    /// The commit that the working copy has checked out.
    pub head: Option<ObjectId>,
}

#[derive(Debug, thiserror::Error)]
enum TipsError {
    #[error("{0}")]
    Refs(#[from] RefsError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Scratch {
    /// Makes it at `tree`, which is not there yet.
    pub(super) fn new(tree: PathBuf, copy: &Copy) -> Result<Scratch, RestoreError> {
        let git_dir = tree.join(".git");
        let unmade = |e: io::Error| RestoreError::disk("make a repository at", &tree, e);
        let shallow = shallow(copy)?;
        prepare((&copy.git_dir, shallow), &git_dir, copy.hash()).map_err(unmade)?;
        if let Some(text) = exclude(copy)? {
            steps::write(git_dir.join(EXCLUDE), text).map_err(unmade)?;
        }
        let head = tips(&copy.git_dir, &git_dir, copy.hash()).map_err(|e| match e {
            TipsError::Io(e) => unmade(e),
            TipsError::Refs(e) => {
                refs_unread(&copy.directory, format!("its refs cannot be read: {e}"))
            }
        })?;
        Ok(Scratch { tree, head })
    }

    fn git_dir(&self) -> PathBuf {
        self.tree.join(".git")
    }

    /// Leaves what has come in a directory, for a repository that takes it.
    pub(super) fn leave(&self, to: &Path) -> Result<(), RestoreError> {
        steps::create_dir_all(to).map_err(failed("create", to))?;
        let git_dir = self.git_dir();
        carry(&git_dir.join(PACKS), to)?;
        let shallow = git_dir.join(SHALLOW);
        match shallow.exists() {
            true => rename(&shallow, &to.join(SHALLOW)),
            false => Ok(()),
        }
    }

    /// Takes what another one has left, if it has.
    pub(super) fn take(&self, from: &Path) -> Result<(), RestoreError> {
        if !from.exists() {
            return Ok(());
        }
        let git_dir = self.git_dir();
        let shallow = from.join(SHALLOW);
        if shallow.exists() {
            rename(&shallow, &git_dir.join(SHALLOW))?;
        }
        carry(from, &git_dir.join(PACKS))
    }

    /// Moves what has come into the working copy; how many bytes that are.
    pub(super) fn give(&self, copy: &Copy) -> Result<u64, RestoreError> {
        let (from, to) = (self.git_dir().join(PACKS), copy.git_dir.join(PACKS));
        let mut stems = Vec::new();
        for entry in fs::read_dir(&from).map_err(failed("read", &from))? {
            let entry = entry.map_err(failed("read", &from))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(failed("look at", &path))?;
            if kind.is_file() && path.extension().is_some_and(|end| end == "idx") {
                stems.push(path);
            }
        }
        let mut bytes = 0;
        for stem in stems {
            for ending in ENDINGS {
                let path = stem.with_extension(ending);
                // What is there already is a link, which leads there.
                let found = fs::symlink_metadata(&path).ok();
                let Some(found) = found.filter(fs::Metadata::is_file) else {
                    continue;
                };
                bytes += found.len();
                let name = path.file_name().unwrap_or_default();
                let to = to.join(name);
                steps::rename(&path, &to).map_err(failed("rename to", &to))?;
                // What is looked at from here on is where it was.
                steps::symlink(&to, &path).map_err(failed("link", &path))?;
            }
        }
        Ok(bytes)
    }
}

/// Moves the files of a directory into another one, but for links, which lead to what was there before.
fn carry(from: &Path, to: &Path) -> Result<(), RestoreError> {
    for entry in fs::read_dir(from).map_err(failed("read", from))? {
        let entry = entry.map_err(failed("read", from))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(failed("look at", &path))?;
        if kind.is_file() {
            rename(&path, &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Moves a file; on another file system it stays, and what is in it comes again.
fn rename(from: &Path, to: &Path) -> Result<(), RestoreError> {
    match steps::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => Ok(()),
        renamed => renamed.map_err(failed("rename to", to)),
    }
}

/// What has git fetch one commit without its history.
pub(super) const FETCH_ONE: [&str; 5] = [
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--depth=1",
];

/// Fetches a commit, and nothing that it leads to, from the server into a repository that is made for it.
pub(super) fn fetch_commit(
    link: Link<'_>,
    room: Room<'_>,
    hash: Kind,
    commit: ObjectId,
) -> Result<(), RestoreError> {
    let url = format!("{}{}", link.server.origin(), link.place);
    let git_dir = room.tree.join(".git");
    let made = begin(
        &git_dir,
        hash,
        &format!("[remote \"it\"]\n\turl = {}\n", quoted(&url)),
    );
    made.map_err(|e| RestoreError::disk("make a repository at", room.tree, e))?;
    let commit = commit.to_string();
    let args = [&FETCH_ONE[..], &["--filter=tree:0", "it", &commit]].concat();
    run::server(link, room, &args).map(drop)
}

/// A value of a configuration.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Where the history of a working copy ends, if it does before its beginning.
fn shallow(copy: &Copy) -> Result<Option<Vec<u8>>, RestoreError> {
    match read(&copy.git_dir.join(SHALLOW), SHALLOW_BYTES_MAX) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(not_taken(
            &copy.directory,
            format!("its .git/{SHALLOW} cannot be read: {e}"),
        )),
    }
}

/// Makes a repository that has nothing, with `settings`.
fn begin(git_dir: &Path, hash: Kind, settings: &str) -> io::Result<()> {
    steps::create_dir_all(git_dir.join(PACKS))?;
    steps::create_dir_all(git_dir.join("refs"))?;
    steps::create_dir_all(git_dir.join("info"))?;
    steps::write(git_dir.join("HEAD"), "ref: refs/heads/none\n")?;
    let format = match hash {
        Kind::Sha1 => "0\n".into(),
        kind => format!("1\n[extensions]\n\tobjectformat = {kind}\n"),
    };
    // The lists of packs and of commits that git keeps are its own word for what they say.
    let config = format!(
        "[core]\n\tbare = false\n\tcommitGraph = false\n\tmultiPackIndex = false\n\
         \trepositoryformatversion = {format}{settings}"
    );
    steps::write(git_dir.join("config"), config)
}

/// Makes the repository at `ours` with the objects of the one at `theirs`, and with what is `shallow` there.
fn prepare((theirs, shallow): (&Path, Option<Vec<u8>>), ours: &Path, hash: Kind) -> io::Result<()> {
    begin(ours, hash, "")?;
    let objects = fs::canonicalize(theirs.join("objects"))?;
    for entry in fs::read_dir(&objects)? {
        let entry = entry?;
        let is_loose = entry.file_name().len() == 2;
        if is_loose && entry.file_type()?.is_dir() {
            check_files(&entry.path())?;
            let to = ours.join("objects").join(entry.file_name());
            steps::symlink(entry.path(), to)?;
        }
    }
    for entry in fs::read_dir(objects.join("pack"))? {
        let entry = entry?;
        let path = entry.path();
        let is_known = path
            .extension()
            .is_some_and(|end| ENDINGS.iter().any(|known| end == *known));
        // A pack without its index is one that a run which was killed has left: it comes again.
        let is_whole =
            || path.with_extension("idx").is_file() && path.with_extension("pack").is_file();
        if is_known && entry.file_type()?.is_file() && is_whole() {
            steps::symlink(&path, ours.join(PACKS).join(entry.file_name()))?;
        }
    }
    shallow.map_or(Ok(()), |text| steps::write(ours.join(SHALLOW), text))
}

/// What git ignores in a working copy and nowhere else; as git does it is read through a link, too.
fn exclude(copy: &Copy) -> Result<Option<Vec<u8>>, RestoreError> {
    let path = fs::canonicalize(copy.git_dir.join(EXCLUDE));
    match path.and_then(|path| read(&path, SHALLOW_BYTES_MAX)) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(not_taken(
            &copy.directory,
            (
                format!("its .git/{EXCLUDE} cannot be read: {e}"),
                "remove it, or have it be a file",
            ),
        )),
    }
}

/// Writes what the refs of the repository at `theirs` lead to as refs of `ours`; what HEAD leads to.
fn tips(theirs: &Path, ours: &Path, hash: Kind) -> Result<Option<ObjectId>, TipsError> {
    let head = refs::read_head(theirs)?;
    let loose = refs::read_loose_within(theirs, OLD_LOOSE_REFS_BYTES_MAX)?;
    let mut out = BufWriter::new(steps::create_new(ours.join("packed-refs"))?);
    let mut written = 0_u64;
    let mut write = |id: ObjectId| -> io::Result<()> {
        written += 1;
        match id.kind() == hash {
            true => writeln!(out, "{id} refs/own/{written:09}"),
            false => Err(io::Error::other("they are ids of different kinds")),
        }
    };
    let branch = match &head {
        Head::Detached(_) => None,
        Head::Symbolic(name) => Some(name),
    };
    let mut found = None;
    if let Head::Detached(id) = head {
        write(id)?;
        found = Some(id);
    }
    for (name, one) in &loose {
        if let Loose::Direct(id) = one {
            write(*id)?;
            if branch == Some(name) {
                found = Some(*id);
            }
        }
    }
    refs::each_packed(theirs, OLD_PACKED_REFS_BYTES_MAX, |name, id| {
        if loose.contains_key(gix::bstr::BStr::new(name)) {
            return Ok(());
        }
        if branch.is_some_and(|branch| branch == name) {
            found = Some(id);
        }
        write(id).map_err(TipsError::from)
    })?;
    out.flush()?;
    Ok(found)
}
