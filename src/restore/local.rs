//! The repository that `--overwrite` replaces: what it tracks, and what nobody else has of it.
//!
//! It may be anybody's: nothing of its configuration, hooks, attributes or caches is read, and no
//! `git` is told that it is a repository. Its refs are read as files. Its objects are looked at
//! through a repository of our own that has nothing but the way to them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;

use super::run;
use super::stop::Stop;
use crate::limits::{
    LOCAL_NAMED_MAX, LOCAL_TRIED_MAX, LOOSE_REF_BYTES_MAX, OLD_REFS_BYTES_MAX, SHALLOW_BYTES_MAX,
    STASH_LOG_BYTES_MAX,
};
use crate::refs::{self, Follow, Head, full_id};

/// Where a restore notes the commit that it has checked out.
pub const NOTE: &str = ".git/tarpon-restored";

/// What would be lost with the repository at `directory`: names of branches, worktrees and stashes
/// with commits that none of its remote-tracking branches and tags, and not the last restore, leads
/// to. `scratch` is an empty directory. Where that cannot be told, the error is why.
pub fn lost(stop: &Stop, directory: &Path, scratch: &Path) -> Result<Vec<String>, String> {
    let git_dir = directory.join(".git");
    if fs::symlink_metadata(&git_dir).is_err() {
        return Ok(Vec::new());
    }
    let found = Refs::read(&git_dir)?;
    let mut lost = found.stashes.clone();
    let Some(kind) = found.own.values().next().map(|id| id.kind()) else {
        return Ok(lost);
    };
    prepare(&git_dir, &scratch.join(".git"), kind, &found)
        .map_err(|e| format!("its objects cannot be looked at: {e}"))?;
    let has_more = |what: &str| {
        let args = ["rev-list", "--ignore-missing", "--max-count=1", what];
        let args = [&args[..], &["--not", "--glob=refs/known/*"]].concat();
        match run::walk(stop, scratch, &args) {
            Ok(listed) => Ok(!listed.trim_ascii().is_empty()),
            Err(e) => Err(format!("its commits cannot be read: {e}")),
        }
    };
    if !has_more("--glob=refs/own/*")? {
        return Ok(lost);
    }
    let before = lost.len();
    for (name, id) in found.own.iter().take(LOCAL_TRIED_MAX) {
        if lost.len() - before < LOCAL_NAMED_MAX && has_more(&id.to_string())? {
            lost.push(name.clone());
        }
    }
    if lost.len() == before {
        lost.push("one of its many branches".into());
    }
    Ok(lost)
}

/// The refs of an old repository.
struct Refs {
    /// HEAD, those of worktrees, and branches by their short names.
    own: BTreeMap<String, ObjectId>,
    /// What somebody else has, too.
    known: Vec<ObjectId>,
    stashes: Vec<String>,
}

impl Refs {
    fn read(git_dir: &Path) -> Result<Refs, String> {
        let cannot = |e: &dyn std::fmt::Display| format!("its refs cannot be read: {e}");
        if git_dir.join("reftable").exists() {
            return Err(cannot(&"they are in a reftable"));
        }
        let follow = Follow::new(["refs/remotes/*", "refs/stas*"]).map_err(|e| cannot(&e))?;
        let refs =
            refs::read_within(git_dir, &follow, OLD_REFS_BYTES_MAX).map_err(|e| cannot(&e))?;
        let mut found = Refs {
            own: BTreeMap::new(),
            known: note(git_dir).into_iter().collect(),
            stashes: Vec::new(),
        };
        if let Head::Detached(id) = refs.head {
            found.own.insert("HEAD".into(), id);
        }
        for r in &refs.refs {
            if let Some(branch) = r.name.strip_prefix(b"refs/heads/") {
                found
                    .own
                    .insert(branch.to_str_lossy().into_owned(), r.target);
            } else if r.name == "refs/stash" {
                found.stashes = stashes(git_dir);
            } else {
                found.known.push(r.target);
            }
        }
        for entry in fs::read_dir(git_dir.join("worktrees"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let head = read(&entry.path().join("HEAD"), LOOSE_REF_BYTES_MAX);
            if let Some(id) = head
                .ok()
                .and_then(|text| ObjectId::from_hex(text.trim()).ok())
            {
                let name = entry.file_name().to_string_lossy().into_owned();
                found.own.insert(format!("HEAD of worktree {name}"), id);
            }
        }
        Ok(found)
    }
}

/// The commit that a restore has noted.
fn note(git_dir: &Path) -> Option<ObjectId> {
    let path = git_dir.parent()?.join(NOTE);
    let text = read(&path, LOOSE_REF_BYTES_MAX).ok()?;
    let id = full_id(text.to_str().ok()?.trim()).ok()?;
    ObjectId::from_hex(id.as_bytes()).ok()
}

/// The names of all stashes: the log of their ref has a line for each.
fn stashes(git_dir: &Path) -> Vec<String> {
    let log = read(&git_dir.join("logs/refs/stash"), STASH_LOG_BYTES_MAX).unwrap_or_default();
    let count = log.lines().count().max(1);
    (0..count.min(LOCAL_NAMED_MAX))
        .map(|number| format!("stash@{{{number}}}"))
        .collect()
}

/// The bytes of a file that is no link and no longer than `limit`.
fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let mut options = fs::File::options();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.len() > limit {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Makes the repository at `ours` that sees the objects of the one at `git_dir`, and no more of it:
/// not what that borrows from others, and none of its replacements. Its refs are those of `found`.
fn prepare(git_dir: &Path, ours: &Path, kind: gix::hash::Kind, found: &Refs) -> io::Result<()> {
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
        if is_objects && entry.file_type()?.is_dir() {
            symlink(fs::canonicalize(entry.path())?, to.join(&name))?;
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
    let named =
        |kind: &str, number: usize, id: &ObjectId| format!("{id} refs/{kind}/{number:09}\n");
    let known = found.known.iter().enumerate();
    let own = found.own.values().enumerate();
    let packed: String = known
        .map(|(number, id)| named("known", number, id))
        .chain(own.map(|(number, id)| named("own", number, id)))
        .collect();
    fs::write(
        ours.join("packed-refs"),
        format!("# pack-refs with: sorted \n{packed}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of any length takes no space.
    #[test]
    fn refs_take_no_more_memory_than_they_may() {
        let (old, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git_dir = old.path().join(".git");
        fs::create_dir_all(git_dir.join("refs/heads")).unwrap();
        fs::write(git_dir.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        let look = || lost(&Stop::default(), old.path(), scratch.path());
        assert_eq!(look().unwrap(), Vec::<String>::new());
        let packed = git_dir.join("packed-refs");
        let file = fs::File::create(&packed).unwrap();
        file.set_len(1000 << 20).unwrap();
        let why = look().unwrap_err();
        assert!(why.contains("packed-refs is larger than 16777216"), "{why}");
        fs::remove_file(&packed).unwrap();
        symlink("/dev/zero", &packed).unwrap();
        let why = look().unwrap_err();
        assert!(why.contains("packed-refs is larger than"), "{why}");
    }
}
