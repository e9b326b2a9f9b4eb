//! What makes `git status` trust a restored worktree: the real stat data of the written files in
//! the index, and none of the configuration that an archive needs without it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use super::dates::Dates;
use super::error::RestoreError;
use super::write::as_path;
use crate::io::fs::index_size;
use crate::limits::RESTORED_CONFIG_BYTES_MAX;

const HEADER_BYTES: usize = 12;
const STAT_BYTES: usize = 40;
const MODE_AT: usize = 24;
const GITLINK_TYPE: u32 = 0o160_000;
const INDEX: &str = ".git/index";
const CONFIG: &str = ".git/config";

/// Keys that a server writes into a configuration, by section. Any other could make `git` run
/// something.
const CONFIG_KEYS: &[(&str, &[&str])] = &[
    (
        "core",
        &[
            "repositoryformatversion",
            "filemode",
            "bare",
            "logallrefupdates",
            "checkstat",
            "trustctime",
        ],
    ),
    ("extensions", &["objectformat"]),
    ("remote", &["url", "fetch"]),
    ("branch", &["remote", "merge"]),
];
/// What only an extraction by `tar` needs.
const FOR_TAR: &[&str] = &["checkstat", "trustctime"];

fn open(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root, path, flags, Mode::empty()).map(File::from)
}

/// Replaces the file at `path` by one that holds `bytes`, at once.
fn replace(root: BorrowedFd<'_>, path: &str, bytes: &[u8]) -> Result<File, RestoreError> {
    let new = format!("{path}.restore");
    let failed = |e: io::Error| RestoreError::disk("write", &new, e);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(root, &*new, flags, Mode::from_raw_mode(0o666));
    let mut file = File::from(opened.map_err(|e| failed(e.into()))?);
    file.write_all(bytes).map_err(failed)?;
    rustix::fs::renameat(root, &*new, root, path).map_err(|e| failed(e.into()))?;
    Ok(file)
}

/// Checks the configuration and takes out what only `tar` needs. Returns whether the repository's
/// hashes are SHA-256.
pub fn finish_config(root: BorrowedFd<'_>) -> Result<bool, RestoreError> {
    let missing = |e: rustix::io::Errno| match e {
        rustix::io::Errno::NOENT => RestoreError::entry(CONFIG.as_bytes(), "it is not there"),
        e => RestoreError::disk("open", CONFIG, e),
    };
    let file = open(root, CONFIG).map_err(missing)?;
    let mut text = Vec::new();
    let read = file.take(RESTORED_CONFIG_BYTES_MAX).read_to_end(&mut text);
    read.map_err(|e| RestoreError::disk("read", CONFIG, e))?;
    let (kept, sha256) = clean_config(&text)?;
    replace(root, CONFIG, &kept)?;
    Ok(sha256)
}

/// The configuration without [`FOR_TAR`], and whether it says SHA-256.
fn clean_config(text: &[u8]) -> Result<(Vec<u8>, bool), RestoreError> {
    let refused = |line: &[u8]| {
        let line = String::from_utf8_lossy(line).into_owned();
        RestoreError::entry(CONFIG.as_bytes(), format!("it has the line {line:?}"))
    };
    let mut kept = Vec::new();
    let mut keys: &[&str] = &[];
    let mut sha256 = false;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let plain = line.trim_ascii();
        if plain.ends_with(b"\\") {
            return Err(refused(line));
        }
        if let Some(section) = plain.strip_prefix(b"[") {
            let end = section.iter().position(|b| matches!(b, b' ' | b']'));
            let name = &section[..end.ok_or_else(|| refused(line))?];
            let known = CONFIG_KEYS
                .iter()
                .find(|(known, _)| known.as_bytes() == name);
            keys = known.ok_or_else(|| refused(line))?.1;
            if !plain.ends_with(b"]") {
                return Err(refused(line));
            }
            kept.extend_from_slice(line);
            continue;
        }
        let end = plain.iter().position(|b| *b == b'=').unwrap_or(plain.len());
        let key = plain[..end].trim_ascii().to_ascii_lowercase();
        if key.is_empty() && end == plain.len() {
            continue;
        }
        let key = keys.iter().find(|known| known.as_bytes() == key);
        let key = key.ok_or_else(|| refused(line))?;
        sha256 |= *key == "objectformat" && plain.ends_with(b"sha256");
        if !FOR_TAR.contains(key) {
            kept.extend_from_slice(line);
        }
    }
    Ok((kept, sha256))
}

/// Gives the files below `root` their date and writes their real stat data into the index, which
/// must be of version 2. A repository without an index has no files.
pub fn refresh(root: BorrowedFd<'_>, sha256: bool, dates: Dates) -> Result<(), RestoreError> {
    let mut file = match open(root, INDEX) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(RestoreError::disk("open", INDEX, e)),
    };
    let mut bytes = Vec::new();
    let read = file.read_to_end(&mut bytes);
    read.map_err(|e| RestoreError::disk("read", INDEX, e))?;
    let kind = match sha256 {
        true => gix::hash::Kind::Sha256,
        false => gix::hash::Kind::Sha1,
    };
    let latest_s = fill(root, &mut bytes, kind, dates)?;
    let index = replace(root, INDEX, &bytes)?;
    let dated = dates.date_index(&index, latest_s);
    dated.map_err(|e| RestoreError::disk("date", INDEX, e))
}

fn corrupt(offset: usize, what: &str) -> RestoreError {
    RestoreError::entry(INDEX.as_bytes(), format!("at byte {offset}: {what}"))
}

/// Where each entry begins.
fn entries(bytes: &[u8], id_bytes: usize) -> Result<Vec<usize>, RestoreError> {
    let end = bytes.len().saturating_sub(id_bytes);
    let header = bytes.get(..HEADER_BYTES).unwrap_or_default();
    if !header.starts_with(b"DIRC\0\0\0\x02") {
        return Err(corrupt(0, "it is no index of version 2"));
    }
    let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    let fixed = STAT_BYTES + id_bytes + 2;
    let mut starts = Vec::new();
    let mut at = HEADER_BYTES;
    for _ in 0..count {
        let rest = bytes.get(at + fixed..end).unwrap_or_default();
        let len = rest.iter().position(|b| *b == 0);
        let len = len.ok_or_else(|| corrupt(at, "an entry does not end"))?;
        starts.push(at);
        at += (fixed + len) / 8 * 8 + 8;
    }
    if at > end {
        return Err(corrupt(at, "an entry does not end"));
    }
    // Where the entries end, so that the last one has an end, too.
    starts.push(at);
    Ok(starts)
}

/// Puts the stat data in and sums the index anew; returns the latest mtime.
fn fill(
    root: BorrowedFd<'_>,
    bytes: &mut Vec<u8>,
    kind: gix::hash::Kind,
    dates: Dates,
) -> Result<i64, RestoreError> {
    let id_bytes = kind.len_in_bytes();
    let starts = entries(bytes, id_bytes)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let per_thread = (starts.len() - 1).div_ceil(threads).max(1);
    let latest_s = std::thread::scope(|scope| {
        let mut rest = &mut bytes[..];
        let mut taken = 0;
        let mut running = Vec::new();
        for first in (0..starts.len() - 1).step_by(per_thread) {
            let last = (first + per_thread).min(starts.len() - 1);
            let starts = &starts[first..=last];
            let (part, after) = rest.split_at_mut(starts[starts.len() - 1] - taken);
            let base = taken;
            taken += part.len();
            rest = after;
            running.push(scope.spawn(move || {
                let directory = Directory { root, open: None };
                fill_part(directory, dates, part, base, starts, id_bytes)
            }));
        }
        let mut latest_s = 0;
        for thread in running {
            let part = thread.join();
            let part = part.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            latest_s = latest_s.max(part?);
        }
        Ok::<_, RestoreError>(latest_s)
    })?;
    bytes.truncate(bytes.len() - id_bytes);
    let mut hasher = gix::hash::hasher(kind);
    hasher.update(bytes);
    let sum = hasher
        .try_finalize()
        .map_err(|e| corrupt(0, &e.to_string()))?;
    bytes.extend_from_slice(sum.as_bytes());
    Ok(latest_s)
}

/// Fills the entries between neighbouring `starts`; `part` begins at byte `base` of the index.
fn fill_part(
    mut directory: Directory<'_>,
    dates: Dates,
    part: &mut [u8],
    base: usize,
    starts: &[usize],
    id_bytes: usize,
) -> Result<i64, RestoreError> {
    let mut latest_s = 0;
    for window in starts.windows(2) {
        let entry = &mut part[window[0] - base..window[1] - base];
        let mode = u32::from_be_bytes([
            entry[MODE_AT],
            entry[MODE_AT + 1],
            entry[MODE_AT + 2],
            entry[MODE_AT + 3],
        ]);
        if mode == GITLINK_TYPE {
            continue;
        }
        let (stat, rest) = entry.split_at_mut(STAT_BYTES);
        let path = rest[id_bytes + 2..]
            .split(|b| *b == 0)
            .next()
            .unwrap_or_default();
        let found = directory.date_and_stat(path, dates).map_err(|e| match e {
            rustix::io::Errno::NOENT => RestoreError::entry(path, "it is in the index only"),
            e => RestoreError::disk("look at", as_path(path), e),
        })?;
        latest_s = latest_s.max(found.st_mtime);
        put(stat, mode, &found);
    }
    Ok(latest_s)
}

/// The stat fields of an entry (gitformat-index); the low 32 bits of each.
fn put(stat: &mut [u8], mode: u32, found: &Stat) {
    let fields = [
        found.st_ctime as u32,
        found.st_ctime_nsec as u32,
        found.st_mtime as u32,
        found.st_mtime_nsec as u32,
        found.st_dev as u32,
        found.st_ino as u32,
        mode,
        found.st_uid,
        found.st_gid,
        index_size(found.st_size.cast_unsigned()),
    ];
    for (field, value) in stat.chunks_exact_mut(4).zip(fields) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

/// Looks at files; the directory of the last one stays open, as neighbours follow each other.
struct Directory<'r> {
    root: BorrowedFd<'r>,
    open: Option<(Vec<u8>, std::os::fd::OwnedFd)>,
}

impl Directory<'_> {
    /// The stat data of a file or link that has its date then.
    fn date_and_stat(&mut self, path: &[u8], dates: Dates) -> rustix::io::Result<Stat> {
        let (at, name) = self.enter(path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = rustix::fs::statat(at, name, flags)?;
        if (found.st_mtime, found.st_mtime_nsec) == (dates.file_s(), 0) {
            return Ok(found);
        }
        match rustix::fs::utimensat(at, name, &dates.of_files(), flags) {
            // Not every file system dates links.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
        rustix::fs::statat(at, name, flags)
    }

    /// Opens the directory of `path`; gives it and the last name.
    fn enter<'p>(&mut self, path: &'p [u8]) -> rustix::io::Result<(BorrowedFd<'_>, &'p [u8])> {
        let cut = path.iter().rposition(|b| *b == b'/');
        let Some(cut) = cut else {
            return Ok((self.root, path));
        };
        let (directory, name) = (&path[..cut], &path[cut + 1..]);
        if self.open.as_ref().is_none_or(|(open, _)| open != directory) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(self.root, directory, flags, Mode::empty())?;
            self.open = Some((directory.to_owned(), opened));
        }
        let at = self
            .open
            .as_ref()
            .map_or(self.root, |(_, open)| open.as_fd());
        Ok((at, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: &[u8] = b"[core]\n\trepositoryformatversion = 1\n\tcheckStat = minimal\n\
        \ttrustctime = false\n[extensions]\n\tobjectformat = sha256\n[remote \"origin\"]\n\
        \turl = \"https://x/[core]\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
        [branch \"a b]\"]\n\tremote = origin\n\tmerge = \"refs/heads/a b]\"\n";

    #[test]
    fn a_file_of_4_gib_is_not_taken_for_one_that_nobody_has_looked_at() {
        for (bytes, expected) in [(0, 0), (7, 7), (1 << 32, 1 << 31), ((3 << 32) + 7, 7_u32)] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(bytes).unwrap();
            let mut stat = [0; STAT_BYTES];
            put(&mut stat, 0o100_644, &rustix::fs::fstat(&file).unwrap());
            assert_eq!(stat[STAT_BYTES - 4..], expected.to_be_bytes(), "{bytes}");
        }
    }

    #[test]
    fn the_two_keys_go_and_the_rest_stays() {
        let (kept, sha256) = clean_config(SERVERS).unwrap();
        let kept = String::from_utf8(kept).unwrap();
        assert!(sha256);
        let expected = String::from_utf8_lossy(SERVERS)
            .replace("\tcheckStat = minimal\n\ttrustctime = false\n", "");
        assert_eq!(kept, expected);
    }

    #[test]
    fn a_key_that_could_run_something_is_refused() {
        for bad in [
            "[core]\n\tfsmonitor = /tmp/x\n",
            "[core]\n\tsshCommand=x\n",
            "[core] hooksPath = /tmp\n",
            "[alias]\n\tx = !y\n",
            "[include]\n\tpath = /etc/x\n",
            "[remote \"origin\"]\n\tuploadpack = x\n",
            "[remote \"origin\"]\n\turl = x\\\n",
            "bare = true\n",
        ] {
            assert_eq!(
                clean_config(bad.as_bytes()).unwrap_err().exit_code(),
                5,
                "{bad}"
            );
        }
    }
}
