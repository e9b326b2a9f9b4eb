//! The repository that `--overwrite` replaces: what nobody else has of it, and of those of its
//! submodules that go with it.
//!
//! It may be anybody's: nothing of its configuration, hooks, attributes or caches is read, and no
//! `git` is told that it is a repository. Its refs are read as files. Its objects are looked at
//! through a repository of our own that has nothing but the way to them.

mod tips;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gix::ObjectId;
use gix::bstr::ByteSlice;

use super::data::read;
use super::error::RestoreError;
use super::names::Names;
use super::nested::{self, Submodule};
use super::noted::note;
use super::run;
use super::stop::Stop;
use super::tracked::Tracked;
use crate::limits::{
    FETCHED_BYTES_MAX, LOCAL_TRIED_MAX, OLD_INDEX_BYTES_MAX, OLD_WALK_LIMIT_MS, SHALLOW_BYTES_MAX,
    STASH_LOG_BYTES_MAX,
};
use tips::{Others, Tips, TipsError};

/// What nobody else has of a repository, and of those of its submodules: names of some of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Branches and worktrees with commits that none of its remote-tracking branches and tags, and
    /// not the last restore, leads to.
    pub commits: Names,
    pub stashes: Names,
    /// Tags and the like that lead to what is no commit and nobody else's.
    pub tags: Names,
    /// Files that were added to the index and are not in HEAD's commit.
    pub added: Names,
    /// Repositories that nobody tracks, where something else comes.
    pub repositories: Names,
}

/// Why that cannot be told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unseen {
    #[error("{0}")]
    Why(String),
    /// The disk, which is ours as well: to have something go is no help.
    #[error("{0}")]
    Disk(#[from] RestoreError),
}

impl From<String> for Unseen {
    fn from(why: String) -> Unseen {
        Unseen::Why(why)
    }
}

impl Lost {
    /// Adds what else is lost.
    pub(super) fn extend(&mut self, lost: Lost) {
        self.commits.append(lost.commits, |name| name);
        self.stashes.append(lost.stashes, |name| name);
        self.tags.append(lost.tags, |name| name);
        self.added.append(lost.added, |name| name);
        self.repositories.append(lost.repositories, |name| name);
    }

    /// Adds what is lost with a submodule of this name.
    pub(super) fn add(&mut self, of: &str, lost: Lost) {
        let named = |what: String| format!("{what} of its submodule {of}");
        self.commits.append(lost.commits, named);
        self.stashes.append(lost.stashes, named);
        self.tags.append(lost.tags, named);
        self.added.append(lost.added, named);
        self.repositories.append(lost.repositories, named);
    }
}

/// What would be lost with the repository at `directory`; of a submodule what was last fetched is
/// somebody else's, too. `scratch` is a directory of ours. Where that cannot be told, the error is
/// why.
pub(super) fn lost(stop: &Stop, directory: &Path, scratch: &Path) -> Result<Lost, Unseen> {
    let git_dir = directory.join(".git");
    if fs::symlink_metadata(&git_dir).is_err() {
        return Ok(Lost::default());
    }
    let known: Vec<ObjectId> = note(&git_dir).into_iter().collect();
    let look = Look::new(stop, scratch, Index::Goes, Others::Known);
    let mut lost = look.lost_of(&git_dir, &known)?;
    look.add_submodules(nested::submodules(&git_dir)?, &mut lost)?;
    Ok(lost)
}

/// What would be lost with these submodules, and with those inside of them.
pub(super) fn lost_with(
    stop: &Stop,
    submodules: Vec<Submodule>,
    scratch: &Path,
) -> Result<Lost, Unseen> {
    let look = Look::new(stop, scratch, Index::Goes, Others::Own(None));
    let mut lost = Lost::default();
    for one in submodules {
        let inside = nested::submodules(&one.git_dir)?;
        look.add_submodules(vec![one], &mut lost)?;
        look.add_submodules(inside, &mut lost)?;
    }
    Ok(lost)
}

/// What would be lost of the repository at `git_dir` if its refs were replaced and nothing else; what the last
/// restore and `known` lead to is somebody else's, too, and so is exactly what the upstream's refs are at, which are
/// `theirs`.
pub(super) fn lost_with_refs(
    stop: &Stop,
    git_dir: &Path,
    scratch: &Path,
    (known, mut theirs): (&[ObjectId], Vec<ObjectId>),
) -> Result<Lost, Unseen> {
    let known: Vec<ObjectId> = note(git_dir)
        .into_iter()
        .chain(known.iter().copied())
        .collect();
    theirs.extend(&known);
    theirs.sort_unstable();
    let others = Others::Own(Some(&theirs));
    Look::new(stop, scratch, Index::Stays, others).lost_of(git_dir, &known)
}

/// What becomes of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Index {
    Goes,
    Stays,
}

/// One look at a repository and those of its submodules.
struct Look<'a> {
    stop: &'a Stop,
    index: Index,
    others: Others<'a>,
    /// A directory of ours.
    scratch: &'a Path,
    /// All walks have to end by then.
    until: Instant,
}

impl<'a> Look<'a> {
    fn new(stop: &'a Stop, scratch: &'a Path, index: Index, others: Others<'a>) -> Look<'a> {
        Look {
            stop,
            index,
            others,
            scratch,
            until: Instant::now() + Duration::from_millis(OLD_WALK_LIMIT_MS),
        }
    }

    /// Adds what would be lost with submodules.
    fn add_submodules(&self, all: Vec<Submodule>, lost: &mut Lost) -> Result<(), Unseen> {
        for submodule in all {
            let name = &submodule.name;
            let mut known = fetched(&submodule.git_dir);
            known.extend(note(&submodule.git_dir));
            let found =
                self.lost_of(&submodule.git_dir, &known)
                    .map_err(|unseen| match unseen {
                        Unseen::Why(why) => Unseen::Why(format!("of its submodule {name} {why}")),
                        disk => disk,
                    })?;
            lost.add(name, found);
            let all = [
                &mut lost.commits,
                &mut lost.stashes,
                &mut lost.tags,
                &mut lost.added,
            ];
            if all.iter().any(|names| names.len() > LOCAL_TRIED_MAX) {
                all.into_iter().for_each(Names::leave_open);
                break;
            }
        }
        Ok(())
    }

    /// What would be lost with the one repository at `git_dir`, if somebody else has what `known`
    /// leads to.
    fn lost_of(&self, git_dir: &Path, known: &[ObjectId]) -> Result<Lost, Unseen> {
        let unseen = |e: io::Error| match is_full(&e) {
            true => Unseen::Disk(RestoreError::disk("write in", self.scratch, e)),
            false => Unseen::Why(format!("its objects cannot be looked at: {e}")),
        };
        let ours = tempfile::tempdir_in(self.scratch).map_err(unseen)?;
        let ours_git = ours.path().join(".git");
        fs::create_dir(&ours_git).map_err(unseen)?;
        let packed = File::create_new(ours_git.join("packed-refs")).map_err(unseen)?;
        let tagged = tempfile::tempfile_in(self.scratch).map_err(unseen)?;
        let mut tips = Tips::new(packed, tagged, self.others);
        tips.read(git_dir, known).map_err(|e| match e {
            TipsError::Copy(e) if is_full(&e) => unseen(e),
            e => Unseen::Why(format!("its refs cannot be read: {e}")),
        })?;
        let mut lost = Lost::default();
        if tips.has_stash {
            lost.stashes = stashes(git_dir);
        }
        let Some((_, first)) = tips.own.first() else {
            return Ok(lost);
        };
        prepare(git_dir, &ours_git, first.kind()).map_err(unseen)?;
        if let Some(head) = tips.head.filter(|_| self.index == Index::Goes) {
            lost.added = self.added(git_dir, ours.path(), head)?;
        }
        if tips.tags.0 > 0 {
            let tagged = tips.tagged().map_err(unseen)?;
            lost.tags = self.tags(ours.path(), tagged, &tips.tags)?;
        }
        let has_more = |what: &str| {
            let args = ["rev-list", "--ignore-missing", "--max-count=1", what];
            let args = [&args[..], &["--not", "--glob=refs/known/*"]].concat();
            match run::walk(self.stop, ours.path(), self.until, Stdio::null(), &args) {
                Ok(listed) => Ok(!listed.trim_ascii().is_empty()),
                Err(e) if e.is_disks() => Err(Unseen::Disk(e)),
                Err(e) => Err(Unseen::Why(format!("its commits cannot be read: {e}"))),
            }
        };
        if !has_more("--glob=refs/own/*")? {
            return Ok(lost);
        }
        for (name, id) in &tips.own {
            if has_more(&id.to_string())? {
                lost.commits.push(name.clone());
            }
        }
        if lost.commits.is_empty() {
            lost.commits.push("one of its many branches".into());
        }
        if tips.own.len() >= LOCAL_TRIED_MAX {
            lost.commits.leave_open();
        }
        Ok(lost)
    }

    /// Those of so many tags and the like, of which the first have these names, that lead to what is `tagged` and no
    /// commit. `ours` is the repository of ours that has its objects.
    fn tags(
        &self,
        ours: &Path,
        tagged: File,
        (count, first): &(usize, Vec<String>),
    ) -> Result<Names, Unseen> {
        let args = ["cat-file", "--batch-check=%(objecttype)"];
        let listed = run::walk(self.stop, ours, self.until, Stdio::from(tagged), &args);
        let listed = listed.map_err(|e| match e.is_disks() {
            true => Unseen::Disk(e),
            false => Unseen::Why(format!("what its tags lead to cannot be read: {e}")),
        })?;
        let mut names = Names::default();
        for (number, kind) in listed.lines().enumerate().take(*count) {
            // What is not there cannot be lost.
            if kind == b"commit" || kind.ends_with(b" missing") {
                continue;
            }
            match first.get(number) {
                Some(name) => names.push(name.clone()),
                None => names.push("one of its many tags".into()),
            }
        }
        Ok(names)
    }

    /// Files that the index of the repository at `git_dir` has and the commit `head` has not, or not
    /// so. `ours` is the repository of ours that has its objects.
    fn added(&self, git_dir: &Path, ours: &Path, head: ObjectId) -> Result<Names, String> {
        let unread = |e: &dyn std::fmt::Display| format!("its index cannot be read: {e}");
        let index = git_dir.join("index");
        // One that is none tracks nothing.
        let tracked = Tracked::of(&index, OLD_INDEX_BYTES_MAX, self.stop)?;
        if tracked.bytes() == 0 {
            return Ok(Names::default());
        }
        let index = fs::canonicalize(&index).map_err(|e| unread(&e))?;
        symlink(index, ours.join(".git/index")).map_err(|e| unread(&e))?;
        link_shared(git_dir, &ours.join(".git")).map_err(|e| unread(&e))?;
        let head = head.to_string();
        let args = [
            "diff-index",
            "--cached",
            "--name-only",
            "-z",
            "--no-renames",
            "--ignore-submodules=all",
            "--diff-filter=AM",
            &head,
        ];
        let listed = run::walk(self.stop, ours, self.until, Stdio::null(), &args);
        let listed = listed.map_err(|e| unread(&e))?;
        let names = listed.split(|b| *b == 0).filter(|name| !name.is_empty());
        let name = |name: &[u8]| name.to_str_lossy().into_owned();
        Ok(names.map(name).collect())
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// What was fetched last into the repository of a submodule: `git submodule update` fetches by its id
/// what no branch has, and nothing else tells of it.
pub(super) fn fetched(git_dir: &Path) -> Vec<ObjectId> {
    let text = read(&git_dir.join("FETCH_HEAD"), FETCHED_BYTES_MAX).unwrap_or_default();
    let id = |line: &[u8]| ObjectId::from_hex(line.split(|b| *b == b'\t').next()?).ok();
    text.lines().filter_map(id).collect()
}

/// The names of all stashes: the log of their ref has a line for each.
fn stashes(git_dir: &Path) -> Names {
    let log = read(&git_dir.join("logs/refs/stash"), STASH_LOG_BYTES_MAX).unwrap_or_default();
    let count = log.lines().count().max(1);
    (0..count)
        .map(|number| format!("stash@{{{number}}}"))
        .collect()
}

/// What an index may build upon (`core.splitIndex`).
fn shared(git_dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    let is_shared = |entry: &io::Result<fs::DirEntry>| {
        entry.as_ref().map_or(true, |entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("sharedindex.")
                && entry.file_type().is_ok_and(|kind| kind.is_file())
        })
    };
    fs::read_dir(git_dir)?.filter(is_shared).collect()
}

/// Whether the index may build upon another one, which has the most of its files.
pub(super) fn is_split(git_dir: &Path) -> bool {
    shared(git_dir).is_ok_and(|shared| !shared.is_empty())
}

/// Links what an index may build upon into a repository of ours.
fn link_shared(git_dir: &Path, ours: &Path) -> io::Result<()> {
    for entry in shared(git_dir)? {
        symlink(
            fs::canonicalize(entry.path())?,
            ours.join(entry.file_name()),
        )?;
    }
    Ok(())
}

/// Sees to it that a directory of objects has nothing that whoever opens it waits for.
pub(in crate::restore) fn check_files(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            kind = match fs::metadata(entry.path()) {
                Ok(found) => found.file_type(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
        }
        if !kind.is_file() && !kind.is_dir() {
            let path = entry.path();
            return Err(io::Error::other(format!("{path:?} is no file")));
        }
    }
    Ok(())
}

/// Makes the repository at `ours` that sees the objects of the one at `git_dir`, and no more of it:
/// not what that borrows from others, and none of its replacements.
fn prepare(git_dir: &Path, ours: &Path, kind: gix::hash::Kind) -> io::Result<()> {
    let (from, to) = (git_dir.join("objects"), ours.join("objects"));
    fs::create_dir_all(&to)?;
    fs::create_dir_all(ours.join("refs"))?;
    fs::write(ours.join("HEAD"), "ref: refs/heads/none\n")?;
    let format = match kind {
        gix::hash::Kind::Sha1 => "0\n".into(),
        kind => format!("1\n[extensions]\n\tobjectformat = {kind}\n"),
    };
    // The lists of packs and of commits that git keeps are its own word for what they say.
    let config = format!(
        "[core]\n\tbare = true\n\tcommitGraph = false\n\tmultiPackIndex = false\n\
         \trepositoryformatversion = {format}"
    );
    fs::write(ours.join("config"), config)?;
    for entry in fs::read_dir(&from)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_objects = name == "pack" || name.len() == 2;
        if is_objects && fs::metadata(entry.path())?.is_dir() {
            let path = fs::canonicalize(entry.path())?;
            check_files(&path)?;
            symlink(path, to.join(&name))?;
        }
    }
    match read(&git_dir.join("shallow"), SHALLOW_BYTES_MAX) {
        Ok(text) => {
            let is_id = |line: &[u8]| ObjectId::from_hex(line).is_ok_and(|id| id.kind() == kind);
            if !text.lines().all(is_id) {
                return Err(io::Error::other("its list of shallow commits is damaged"));
            }
            fs::write(ours.join("shallow"), text)?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OLD_PACKED_REFS_BYTES_MAX;

    /// A file of any length takes no space.
    #[test]
    fn refs_take_no_more_memory_than_they_may() {
        let (old, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git_dir = old.path().join(".git");
        fs::create_dir_all(git_dir.join("refs/heads")).unwrap();
        fs::write(git_dir.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        let look = || lost(&Stop::default(), old.path(), scratch.path());
        assert_eq!(look().unwrap(), Lost::default());
        let packed = git_dir.join("packed-refs");
        let file = File::create(&packed).unwrap();
        file.set_len(1000 << 20).unwrap();
        let why = look().unwrap_err().to_string();
        let limit = OLD_PACKED_REFS_BYTES_MAX;
        let expected = format!("packed-refs is larger than {limit}");
        assert!(why.contains(&expected), "{why}");
        file.set_len(100 << 20).unwrap();
        let why = look().unwrap_err().to_string();
        assert!(why.contains("line 1: the line is too long"), "{why}");
        for other in ["/dev/zero", "/dev/null"] {
            fs::remove_file(&packed).unwrap();
            symlink(other, &packed).unwrap();
            let why = look().unwrap_err().to_string();
            assert!(why.contains("cannot be read"), "{why}");
        }
    }
}
