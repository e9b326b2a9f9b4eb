//! A restored repository's `.git`: of the archive only objects are written into it. What git
//! executes, follows, trusts or parses as configuration is made here from a few checked values:
//! where the repository is from, its refs, and the trees of its commit.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use gix::bstr::{BStr, ByteSlice};
use gix::hash::Kind;

use super::capture::{Archive, LeftOut};
use super::dates::Dates;
use super::ensure::At;
use super::error::RestoreError;
use super::history;
use super::index::{self, Expected};
use super::looked::Looked;
use super::objects::Objects;
use super::origin;
use super::packs;
use super::path::as_path;
use super::refs::Refs;
use super::stop::Stop;
use super::tree::{self, Unpacked};
use super::wanted::Checkout;
use super::worktree::{From, Making, Proven, Task};
use super::write::umask;

/// What was restored: all that its configuration is made from, but the branch.
#[derive(Debug)]
pub struct Restored {
    /// Of its ids.
    pub kind: Kind,
    /// Where the repository is from.
    pub origin: Vec<u8>,
    /// What `git fetch` brings, as a refspec.
    pub fetches: Option<Vec<u8>>,
    pub modes: Modes,
}

impl Restored {
    /// What the repository says that it is from, to be shown.
    pub fn origin(&self) -> String {
        origin::shown(&self.origin)
    }
}

/// Directories of a repository, besides those of refs.
const DIRECTORIES: [&str; 3] = ["info", "objects/info", "objects/pack"];
/// Those of refs, besides those of refs that are loose.
const REFS_DIRECTORIES: [&str; 3] = ["refs/heads", "refs/remotes/origin", "refs/tags"];
const DESCRIPTION: &str =
    "Unnamed repository; edit this file 'description' to name the repository.\n";
const EXCLUDE: &str = "# Patterns of files that git ignores here, one a line, as in .gitignore.\n";

/// What became of an archive.
pub(super) struct Made {
    pub restored: Restored,
    /// Whether it was of what was asked for.
    pub is_wanted: bool,
    /// What it has checked out, if that is a commit which was named.
    pub kept: Option<At>,
    /// Whether it has not all of the history.
    pub is_shallow: bool,
    /// What was looked at, if it is to be proven and all of it was.
    pub looked: Option<Looked>,
}

impl Made {
    /// What somebody has to hear of it who has asked for one commit alone, or for all. What is not of what was
    /// asked for, as the archive of a server which knows nothing of that, is what the rest is fetched on top of.
    pub(super) fn news(
        &self,
        is_shallow: bool,
        is_proven: bool,
    ) -> Result<Option<&'static str>, RestoreError> {
        if is_proven && self.is_shallow && !is_shallow {
            let why = "it cuts the history off, which was not asked for";
            return Err(RestoreError::entry(b".git/shallow", why));
        }
        match (self.is_wanted, is_shallow, self.is_shallow) {
            (false, _, true) => Err(RestoreError::NoSnapshot(
                "its archive is of another commit than was asked for, without a history".into(),
            )),
            (false, _, false) => Ok(Some(
                "the server's archive is not of what was asked for; that is fetched on top of it",
            )),
            (true, false, true) => Ok(Some(
                "the archive is one commit without its history; git fetch --unshallow gets the rest",
            )),
            (true, true, false) => Ok(Some(
                "the server knows nothing of --depth: all of the history is there",
            )),
            (true, _, _) => Ok(None),
        }
    }
}

/// Makes the `.git` of the repository at `tree`, into which `archive` was unpacked, and its worktree, if that is to be
/// made and was not unpacked, too. It was asked for as `given`, and is to be of `checkout`.
pub(super) fn make(
    tree: &Path,
    (given, checkout): (&str, &Checkout),
    (archive, making): (&Archive, Option<&mut Making<'_>>),
    dates: Dates,
    stop: &Stop,
) -> Result<Made, RestoreError> {
    let captured = &archive.captured;
    let config = captured.file("config");
    let config = config.ok_or_else(|| RestoreError::entry(b".git/config", "it is not there"))?;
    let said = origin::read(config)?;
    let origin = origin::choose(given, &said)?;
    let refs = Refs::read(captured, said.hash, stop)?;
    let commit = refs.commit().map(|id| id.to_string());
    if archive.said_commit.is_some() && archive.said_commit != commit {
        let why = "its manifest says that it is of another commit";
        return Err(RestoreError::entry(b".git/HEAD", why));
    }
    let git = tree.join(".git");
    // An archive without objects has not even made those of objects.
    make_directories(&git, &DIRECTORIES)?;
    let mut sizes: BTreeMap<&[u8], u64> = captured.objects().collect();
    packs::leave_out(tree, &mut sizes, &archive.believed, said.hash);
    let forms = packs::check_forms(tree, &sizes, said.hash, stop)?;
    let is_proven = making
        .as_ref()
        .is_some_and(|making| making.task != Task::Make);
    let entries = is_proven.then(|| packs::check_entries(tree, said.hash, stop));
    let entries = entries.transpose()?;
    let restored = Restored {
        kind: said.hash,
        origin,
        fetches: origin::fetches(&said, refs.shallow().next().is_some()),
        modes: Modes::find(&git)?,
    };
    put(&git.join("description"), DESCRIPTION.as_bytes())?;
    put(&git.join("info/exclude"), EXCLUDE.as_bytes())?;
    write(&git, &restored, &refs, stop)?;
    let (sums, files) = std::thread::scope(|scope| {
        let sums = || packs::check_sums(tree, &sizes, &archive.sums, said.hash, stop);
        let sums = scope.spawn(sums);
        let history = scope.spawn(|| history::check(tree, &refs, said.hash, stop));
        let checked_out = check_out(tree, &refs, archive, dates, (restored.modes, making), stop);
        let (sums, history) = (joined(sums.join()), joined(history.join()));
        match sums {
            // Why all else is wrong.
            Err(error @ RestoreError::Entry { .. }) => Err(error),
            // Who was stopped because of another has nothing to say.
            sums => checked_out.and_then(|files| Ok((history.and(sums)?, files))),
        }
    })?;
    let packs = entries.and_then(|entries| packs::Right::of(forms, sums, entries));
    let looked = packs.map(|packs| Looked::new(packs, files));
    let commit_of = |id| {
        let objects = Objects::open(tree, said.hash, stop);
        objects.and_then(|objects| objects.commit_of(id)).ok()
    };
    let is_wanted = refs.are_of(checkout, commit_of);
    let is_named = matches!(checkout, Checkout::Commit(_) | Checkout::At(..));
    Ok(Made {
        is_wanted,
        kept: refs.at().filter(|_| is_wanted && is_named),
        is_shallow: refs.is_shallow(),
        looked,
        restored,
    })
}

fn joined<T>(ended: std::thread::Result<T>) -> T {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Replaces the refs of the restored repository at `tree` by others, and no others stay; its
/// configuration says so, too.
pub(super) fn replace_refs(
    tree: &Path,
    restored: &Restored,
    refs: &Refs<'_>,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let git = tree.join(".git");
    let directory = git.join("refs");
    fs::remove_dir_all(&directory).map_err(|e| RestoreError::disk("remove", directory, e))?;
    for name in ["HEAD", "config", "packed-refs"] {
        let path = git.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(RestoreError::disk("remove", path, e));
            }
            _ => {}
        }
    }
    write(&git, restored, refs, stop)
}

/// Writes configuration and refs into a `git` that has none.
pub(super) fn write(
    git: &Path,
    restored: &Restored,
    refs: &Refs<'_>,
    stop: &Stop,
) -> Result<(), RestoreError> {
    make_directories(git, &REFS_DIRECTORIES)?;
    put(
        &git.join("config"),
        &configuration(restored, followed(refs)),
    )?;
    for (name, bytes) in refs.files() {
        put(&git.join(as_path(&name)), &bytes)?;
    }
    let packed = git.join("packed-refs");
    let written = refs.write_packed(|| File::create_new(&packed), stop);
    written.map_err(|e| RestoreError::disk("write", &packed, e))
}

/// The branch that is checked out, by its short name, if the upstream has it, or nothing yet: what a clone follows. One
/// that was made for a commit follows nothing.
pub(super) fn followed<'a>(refs: &Refs<'a>) -> Option<&'a BStr> {
    let branch = refs.branch()?;
    let theirs = [b"refs/remotes/origin/", branch.as_bytes()].concat();
    let until_found = |name: &BStr, _: &[u8]| match name == theirs.as_bstr() {
        true => Err(()),
        false => Ok(()),
    };
    let is_there = refs.each(until_found).is_err();
    (is_there || refs.commit().is_none()).then_some(branch)
}

fn make_directories(git: &Path, names: &[&str]) -> Result<(), RestoreError> {
    names.iter().try_for_each(|name| {
        let path = git.join(name);
        fs::create_dir_all(&path).map_err(|e| RestoreError::disk("create", &path, e))
    })
}

/// Makes the index, and with it the worktree, or sees to it that this is that of HEAD's commit; what of that is proven.
fn check_out(
    tree: &Path,
    refs: &Refs<'_>,
    archive: &Archive,
    dates: Dates,
    (modes, making): (Modes, Option<&mut Making<'_>>),
    stop: &Stop,
) -> Result<Option<Proven>, RestoreError> {
    let Some(commit) = refs.commit() else {
        // What was begun is there all the same: whoever makes a worktree settles it, and here nobody does.
        let begun = making.and_then(|making| making.begun).unwrap_or_default();
        return match [archive.unpacked, begun] == [Unpacked::default(); 2] {
            true => Ok(None),
            false => Err(RestoreError::entry(
                b".git/HEAD",
                "the archive has files, but no commit that they are of",
            )),
        };
    };
    let mut proven = None;
    let index = match making {
        None => tree::index(tree, commit, archive.unpacked, stop)?,
        Some(making) => {
            let LeftOut { entries, bytes } = archive.left_out.unwrap_or_default();
            making.site.quota.give_back(entries, bytes);
            let mut made = making.made.take().filter(|made| made.commit == commit);
            if made.is_none() {
                making.run(tree, commit, From::There)?;
                made = making.made.take();
            }
            // Whoever reads an object takes it from whichever pack has it: what is proven is so for these alone.
            let packs = made.as_ref().map(|made| made.packs);
            if packs != Some(packs::count(tree)?) {
                let why = "there are other packs than the worktree was made of";
                return Err(RestoreError::entry(b".git/objects/pack", why));
            }
            proven = made.as_ref().and_then(|made| made.proven);
            made.map_or_else(Vec::new, |made| made.index)
        }
    };
    put(&tree.join(".git/index"), &index)?;
    drop(index);
    let root = File::open(tree).map_err(|e| RestoreError::disk("open", tree, e))?;
    let executable = modes == Modes::Told;
    let expected = Expected::OfTheirKind { executable };
    let sha256 = commit.kind() == Kind::Sha256;
    index::refresh(root.as_fd(), sha256, dates, expected, stop)?;
    Ok(proven)
}

/// What a file's mode tells of who may execute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// What was asked for when it was made.
    Told,
    /// The umask has its say in that.
    Masked,
    /// The file system has no such modes.
    None,
}

impl Modes {
    /// Finds out with a file of its own in `git`.
    fn find(git: &Path) -> Result<Modes, RestoreError> {
        let path = git.join("config.mode");
        let failed = |e| RestoreError::disk("create", &path, e);
        let open = |mode| {
            File::options()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
        };
        let executable = |file: File| {
            let mode = file.metadata().map(|m| m.permissions().mode());
            fs::remove_file(&path)
                .and(mode)
                .map(|mode| mode & libc::S_IXUSR != 0)
        };
        let plain = open(0o666).and_then(executable).map_err(failed)?;
        let file = open(0o777).map_err(failed)?;
        // As git does, whose umask plays no part in this either.
        let can = file
            .set_permissions(fs::Permissions::from_mode(0o600))
            .and_then(|()| {
                let is_off = file.metadata()?.permissions().mode() & libc::S_IXUSR == 0;
                file.set_permissions(fs::Permissions::from_mode(0o700))?;
                Ok(is_off && file.metadata()?.permissions().mode() & libc::S_IXUSR != 0)
            });
        fs::remove_file(&path).map_err(failed)?;
        let made = open(0o777).and_then(executable).map_err(failed)?;
        // Files of an archive have the user's, this one not all of it.
        let made = made && !umask().contains(rustix::fs::Mode::XUSR);
        Ok(match (can.unwrap_or(false), plain, made) {
            (true, false, true) => Modes::Told,
            (true, _, _) => Modes::Masked,
            (false, _, _) => Modes::None,
        })
    }
}

/// Writes a file that is not there yet.
fn put(path: &Path, bytes: &[u8]) -> Result<(), RestoreError> {
    let above = path.parent().unwrap_or(path);
    fs::create_dir_all(above).map_err(|e| RestoreError::disk("create", above, e))?;
    let file = File::create_new(path).and_then(|mut file| file.write_all(bytes));
    file.map_err(|e| RestoreError::disk("write", path, e))
}

/// What `git clone` writes.
pub fn configuration(restored: &Restored, branch: Option<&BStr>) -> Vec<u8> {
    let sha256 = restored.kind == Kind::Sha256;
    let mut out = format!(
        "[core]\n\trepositoryformatversion = {}\n\tfilemode = {}\n\tbare = false\n\
         \tlogallrefupdates = true\n",
        u8::from(sha256),
        restored.modes != Modes::None,
    )
    .into_bytes();
    if sha256 {
        out.extend_from_slice(b"[extensions]\n\tobjectformat = sha256\n");
    }
    out.extend_from_slice(b"[remote \"origin\"]\n\turl = ");
    out.extend(value(restored.origin.as_bstr()));
    out.push(b'\n');
    if let Some(fetches) = &restored.fetches {
        out.extend_from_slice(b"\tfetch = ");
        out.extend(value(fetches.as_bstr()));
        out.push(b'\n');
    }
    if let Some(branch) = branch {
        out.extend(branch_section(branch));
    }
    out
}

/// What it says of a branch that follows the upstream's.
pub(super) fn branch_section(branch: &BStr) -> Vec<u8> {
    let mut out = b"[branch \"".to_vec();
    out.extend(escaped(branch));
    out.extend_from_slice(b"\"]\n\tremote = origin\n\tmerge = ");
    out.extend(value(
        [b"refs/heads/", branch.as_bytes()].concat().as_bstr(),
    ));
    out.push(b'\n');
    out
}

/// Text between quotes (git-config, "Syntax"). It has no control characters: neither names of refs
/// nor origins may.
fn escaped(text: &BStr) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'"' | b'\\' => vec![b'\\', *byte],
        b'\n' => b"\\n".to_vec(),
        _ => vec![*byte],
    };
    text.iter().flat_map(escape).collect()
}

/// A value, in quotes where git would use them.
fn value(text: &BStr) -> Vec<u8> {
    let is_bare = |byte: &u8| byte.is_ascii_graphic() && !b";#\"\\".contains(byte) || *byte > 0x7f;
    match text.iter().all(is_bare) {
        true => text.to_vec(),
        false => [b"\"", &escaped(text)[..], b"\""].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Progress;
    use super::super::quota::Quota;
    use super::super::write::Site;
    use super::*;

    /// Whoever has put it there, and whether or not that was all.
    #[test]
    fn files_that_no_commit_has_are_refused() {
        let tree = tempfile::tempdir().unwrap();
        let root = File::open(tree.path()).unwrap();
        let quota = Quota::new(Some(u64::MAX), tree.path()).unwrap();
        let (stop, progress, dates) = (Stop::default(), Progress::default(), Dates::now());
        let mut archive = Archive::default();
        archive.captured.begin(b".git/HEAD").unwrap();
        archive.captured.push(b"ref: refs/heads/main\n").unwrap();
        let captured = std::mem::take(&mut archive.captured);
        let refs = Refs::read(&captured, Kind::Sha1, &stop).unwrap();
        let nothing = Unpacked::default();
        let files = |files, directories| Unpacked { files, directories };
        for (unpacked, begun, is_refused) in [
            (nothing, None, false),
            (nothing, Some(nothing), false),
            (nothing, Some(files(1, 0)), true),
            (nothing, Some(files(0, 1)), true),
            (files(1, 0), None, true),
            (files(0, 1), Some(nothing), true),
        ] {
            archive.unpacked = unpacked;
            let site = Site {
                root: root.as_fd(),
                umask: rustix::fs::Mode::empty(),
                quota: &quota,
                stop: &stop,
            };
            let mut making = Making {
                site,
                dates,
                progress: &progress,
                way: None,
                task: Task::Make,
                workers: 1,
                begun,
                made: None,
            };
            let how = (Modes::Told, Some(&mut making));
            let made = check_out(tree.path(), &refs, &archive, dates, how, &stop);
            assert_eq!(made.is_err(), is_refused, "{unpacked:?} {begun:?}");
            if let Err(error) = made {
                assert_eq!(error.exit_code(), 5);
                assert!(error.to_string().contains("no commit"), "{error}");
            }
        }
    }

    #[test]
    fn whatever_origin_and_branch_are_git_reads_them_as_they_are() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for text in [
            "https://example.org/a/b.git",
            "https://h/a#b;c",
            "https://h/ a\"b\\c ",
            "https://h/[core]\\",
            "https://h/\u{e4}\"]",
        ] {
            let bytes = text.as_bytes().as_bstr();
            let restored = Restored {
                kind: Kind::Sha256,
                origin: text.into(),
                fetches: Some(origin::FETCHES_ALL.into()),
                modes: Modes::Told,
            };
            let config = configuration(&restored, Some(bytes));
            fs::write(&path, config).unwrap();
            let list = std::process::Command::new("git")
                .args(["config", "--list", "-z", "--file"])
                .arg(&path)
                .output()
                .unwrap();
            let listed = String::from_utf8(list.stdout).unwrap();
            let pairs: Vec<&str> = listed.split_terminator('\0').collect();
            let expected = [
                "core.repositoryformatversion\n1".to_owned(),
                "core.filemode\ntrue".to_owned(),
                "core.bare\nfalse".to_owned(),
                "core.logallrefupdates\ntrue".to_owned(),
                "extensions.objectformat\nsha256".to_owned(),
                format!("remote.origin.url\n{text}"),
                "remote.origin.fetch\n+refs/heads/*:refs/remotes/origin/*".to_owned(),
                format!("branch.{text}.remote\norigin"),
                format!("branch.{text}.merge\nrefs/heads/{text}"),
            ];
            assert_eq!(pairs, expected);
        }
    }
}
