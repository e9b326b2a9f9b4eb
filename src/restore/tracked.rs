//! Which files a repository tracks, by its index. It is read as data: the repository of a target
//! that is to be overwritten may be anybody's, and `git` would do what its configuration says.
//!
//! Format: git's `Documentation/gitformat-index.txt`, versions 2 to 4.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::limits::TRACKED_INDEX_BYTES_MAX;

const HEADER_BYTES: usize = 12;
const STAT_BYTES: usize = 40;
const MODE_AT: usize = 24;
/// A flag that says that there are further flags.
const EXTENDED: u16 = 0x4000;

/// The files that the repository at `directory` tracks; none where there is no index that can be
/// read.
pub fn files(directory: &Path) -> Vec<Vec<u8>> {
    // Its ids are of one of two lengths; read with the other one it makes no sense.
    let index = read(&directory.join(".git/index")).unwrap_or_default();
    let found = [20, 32]
        .iter()
        .find_map(|id_bytes| parse(&index, *id_bytes));
    found.unwrap_or_default()
}

fn read(path: &Path) -> Option<Vec<u8>> {
    // Neither a link nor something that nobody writes to.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .ok()?;
    let found = file.metadata().ok()?;
    if !found.is_file() || found.len() > TRACKED_INDEX_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(TRACKED_INDEX_BYTES_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The paths of an index whose ids have `id_bytes`.
fn parse(index: &[u8], id_bytes: usize) -> Option<Vec<Vec<u8>>> {
    let entries = index.strip_prefix(b"DIRC")?;
    let version = u32::from_be_bytes(number(entries, 0)?);
    let count = u32::from_be_bytes(number(entries, 4)?);
    if !(2..=4).contains(&version) {
        return None;
    }
    let end = index.len().checked_sub(id_bytes)?;
    let mut at = HEADER_BYTES;
    let mut paths: Vec<Vec<u8>> = Vec::new();
    let mut path: Vec<u8> = Vec::new();
    for _ in 0..count {
        let mode = u32::from_be_bytes(number(index, at + MODE_AT)?);
        let flags = u16::from_be_bytes(number(index, at + STAT_BYTES + id_bytes)?);
        let more = if flags & EXTENDED != 0 { 2 } else { 0 };
        let fixed = STAT_BYTES + id_bytes + 2 + more;
        let mut name = index.get(at + fixed..end)?;
        let before = name.len();
        let last = path.clone();
        match version {
            4 => path.truncate(path.len().checked_sub(stripped(&mut name)?)?),
            _ => path.clear(),
        }
        let len = name.iter().position(|b| *b == 0)?;
        path.extend_from_slice(&name[..len]);
        // An entry may be there in up to three versions while a merge goes on.
        if path.is_empty() || path < last {
            return None;
        }
        at += match version {
            4 => fixed + (before - name.len()) + len + 1,
            _ => (fixed + len) / 8 * 8 + 8,
        };
        match mode & libc::S_IFMT {
            libc::S_IFREG | libc::S_IFLNK | 0o160_000 => {
                if path != last {
                    paths.push(path.clone());
                }
            }
            // A directory of which nothing is checked out.
            libc::S_IFDIR => {}
            _ => return None,
        }
    }
    (at <= end).then_some(paths)
}

/// How many bytes of the last path are not in this one; takes that from the beginning of `name`.
/// The encoding is that of distances in packs.
fn stripped(name: &mut &[u8]) -> Option<usize> {
    let mut value = 0_usize;
    loop {
        let (byte, rest) = name.split_first()?;
        *name = rest;
        value = value
            .checked_shl(7)?
            .checked_add(usize::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
        value = value.checked_add(1).filter(|value| *value < 1 << 32)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn git(directory: &Path, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new("git");
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        let out = command
            .arg("-C")
            .arg(directory)
            .args(args)
            .output()
            .unwrap();
        assert!(out.status.success(), "{args:?}: {out:?}");
        out.stdout
    }

    #[test]
    fn every_index_of_gits_is_read() {
        for format in ["sha1", "sha256"] {
            for version in ["2", "3", "4"] {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path();
                let format = format!("--object-format={format}");
                git(path, &["init", "-q", &format]);
                let names = [
                    "a",
                    "a.b",
                    "a-very/long/path/to/a/file",
                    "a-very/long/x",
                    "z",
                ];
                for name in names {
                    let file = path.join(name);
                    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                    std::fs::write(file, name).unwrap();
                }
                git(path, &["add", "."]);
                if version == "3" {
                    std::fs::write(path.join("later"), "").unwrap();
                    git(path, &["add", "-N", "later"]);
                }
                git(path, &["update-index", "--index-version", version]);
                let listed = git(path, &["ls-files", "-z"]);
                let listed = listed.split(|b| *b == 0).filter(|path| !path.is_empty());
                let listed: Vec<Vec<u8>> = listed.map(<[u8]>::to_vec).collect();
                assert_eq!(files(path), listed, "{format} {version}");
                assert!(listed.len() >= names.len());
                let index = path.join(".git/index");
                let bytes = std::fs::read(&index).unwrap();
                for len in 0..bytes.len() {
                    std::fs::write(&index, &bytes[..len]).unwrap();
                    files(path);
                }
            }
        }
    }
}
