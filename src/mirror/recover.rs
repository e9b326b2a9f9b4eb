//! Leftovers of processes that were killed, and of fetches that failed.

use super::annex::{TMP, annex};
use super::files::entries;
use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::limits::{HALF_LASTS_MS, KEEP_BYTES_MAX};

/// Removes what a killed process left in a mirror: lock files, half-written, half-moved and replaced
/// packs. Only for the start of the server, before anything works in the mirror. Synchronous.
///
/// # Errors
/// The first thing that could not be removed; the others are gone.
pub(crate) fn recover(mirror: &Path) -> io::Result<()> {
    let locks = [
        "objects/pack/multi-pack-index.lock",
        "objects/info/commit-graph.lock",
        "config.lock",
        "HEAD.lock",
        "packed-refs.lock",
        "packed-refs.new",
    ];
    let mut found: Vec<PathBuf> = locks.iter().map(|name| mirror.join(name)).collect();
    found.extend(with_prefix(mirror, "tmp_")?);
    found.extend(with_prefix(&mirror.join("objects/pack"), "tmp_")?);
    found.extend(with_prefix(&mirror.join("objects/pack"), ".tmp-")?);
    found.extend(ref_locks(mirror)?);
    found.extend(left_keeps(mirror)?);
    let annex = annex(mirror);
    found.extend(with_prefix(&annex, TMP)?);
    found.extend(with_prefix(&annex.join("objects/pack"), "tmp_")?);
    found.extend(with_prefix(&annex.join("objects/pack"), ".tmp-")?);
    found.extend(lasting_halves([mirror, &annex])?);
    remove_all(&found)
}

/// What is a half for longer than whoever runs git in the mirror needs from one file of a pack to the next.
fn lasting_halves(repositories: [&Path; 2]) -> io::Result<Vec<PathBuf>> {
    let look = || {
        let folders = repositories.map(|repository| repository.join("objects/pack"));
        let found = folders.iter().map(|folder| halves(folder));
        Ok::<_, io::Error>(found.collect::<io::Result<Vec<_>>>()?.concat())
    };
    let mut lasting = look()?;
    if !lasting.is_empty() {
        std::thread::sleep(Duration::from_millis(HALF_LASTS_MS));
        let again = look()?;
        lasting.retain(|half| again.contains(half));
    }
    Ok(lasting)
}

/// Files of packs that are not whole: where a process is killed while packs come into their place or leave it, the pack is
/// there without its index, and after a power cut the index can be there without its pack. git does not see them, so
/// nobody has relied on them. What somebody keeps stays as it is.
fn halves(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = with_prefix(folder, "pack-")?;
    files.retain(|path| {
        let has = |end: &str| path.with_extension(end).exists();
        let keep = path.with_extension("keep");
        let is_kept = keep.exists() && !is_left(&keep);
        let is_whole = has("pack") && has("idx");
        !is_kept && !is_whole
    });
    Ok(files)
}

/// Files by which a fetch keeps its pack until the refs are there, and that it did not come to remove: the
/// pack would never be joined, and what is in it never expire. Those that people make say something else.
fn left_keeps(mirror: &Path) -> io::Result<Vec<PathBuf>> {
    let keeps = with_prefix(&mirror.join("objects/pack"), "pack-")?.into_iter();
    let keeps = keeps.filter(|path| path.extension().is_some_and(|end| end == "keep"));
    Ok(keeps.filter(|path| is_left(path)).collect())
}

/// Whether a `.keep` is git's own, as index-pack writes it (`fetch-pack PID on HOST`), and that process is
/// no more. One of another machine is, too: nobody there works in this mirror.
fn is_left(keep: &Path) -> bool {
    let mut text = Vec::new();
    let read = std::fs::File::open(keep).and_then(|file| {
        io::Read::read_to_end(&mut io::Read::take(file, KEEP_BYTES_MAX), &mut text)
    });
    let text = String::from_utf8_lossy(&text);
    let mut words = text.split_ascii_whitespace();
    let by = words.next();
    let pid = words.next().and_then(|pid| pid.parse::<u32>().ok());
    let is_gits = matches!(by, Some("fetch-pack" | "receive-pack")) && words.next() == Some("on");
    read.is_ok() && is_gits && pid.is_some_and(|pid| !is_git(pid))
}

/// Whether the process runs and is a git.
fn is_git(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(b"git"))
}

/// Removes what a fetch that failed has left in a mirror: on a disk that is full git leaves the
/// half of a pack. Only while nothing else works in the mirror. Synchronous.
///
/// # Errors
/// The first thing that could not be removed; the others are gone.
pub(crate) fn remove_unfinished(mirror: &Path) -> io::Result<()> {
    let mut found = with_prefix(&mirror.join("objects/pack"), "tmp_")?;
    found.extend(left_keeps(mirror)?);
    remove_all(&found)
}

/// Lock files of loose refs. No ref has a name that ends like theirs.
fn ref_locks(mirror: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut pending) = (Vec::new(), vec![mirror.join("refs")]);
    while let Some(folder) = pending.pop() {
        let inside = match entries(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            inside => inside?,
        };
        for entry in inside {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|end| end == "lock") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

pub(super) fn with_prefix(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let found = match entries(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let matches = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with(prefix);
    Ok(found
        .into_iter()
        .filter(matches)
        .map(|entry| entry.path())
        .collect())
}

fn remove_all(paths: &[PathBuf]) -> io::Result<()> {
    let remove = |path: &PathBuf| match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(found) if found.is_dir() => crate::io::fs::remove_tree(path),
        _ => std::fs::remove_file(path),
    };
    paths.iter().map(remove).fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests;
