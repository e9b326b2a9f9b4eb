//! Which files a repository tracks, by its index. It is read as data: the repository of a target
//! that is to be overwritten may be anybody's, and `git` would do what its configuration says.
//!
//! Format: git's `Documentation/gitformat-index.txt`, versions 2 to 4.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const HEADER_BYTES: usize = 12;
const STAT_BYTES: usize = 40;
const MODE_AT: usize = 24;
/// What a path costs besides its bytes.
const PATH_BYTES: usize = 40;
/// A flag that says that there are further flags.
const EXTENDED: u16 = 0x4000;

/// The files that the repository at `directory` tracks; none where there is no index that can be
/// read. Neither the index nor its paths together may have more than `bytes_max`: one path can stand
/// for many bytes there. An error says what is too large.
pub fn files(directory: &Path, bytes_max: u64) -> Result<Vec<Vec<u8>>, String> {
    let path = directory.join(".git/index");
    let too_large = || format!("{} has more than {bytes_max} bytes", path.display());
    let Some(file) = open(&path) else {
        return Ok(Vec::new());
    };
    let mut index = Vec::new();
    if file.take(bytes_max + 1).read_to_end(&mut index).is_err() {
        return Ok(Vec::new());
    }
    if index.len() as u64 > bytes_max {
        return Err(too_large());
    }
    // Its ids are of one of two lengths; read with the other one it makes no sense.
    for id_bytes in [20, 32] {
        let mut room = usize::try_from(bytes_max).ok();
        match (parse(&index, id_bytes, &mut room), room) {
            (Some(paths), _) => return Ok(paths),
            (None, None) => return Err(too_large()),
            (None, Some(_)) => {}
        }
    }
    Ok(Vec::new())
}

/// Opens a file; neither a link nor something that nobody writes to.
fn open(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// The paths of an index whose ids have `id_bytes`. There is no `room` left after an end for want of
/// it.
fn parse(index: &[u8], id_bytes: usize, room: &mut Option<usize>) -> Option<Vec<Vec<u8>>> {
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
                    *room = room.and_then(|room| room.checked_sub(path.len() + PATH_BYTES));
                    (*room)?;
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
                assert_eq!(files(path, 1 << 20).unwrap(), listed, "{format} {version}");
                assert!(listed.len() >= names.len());
                let index = path.join(".git/index");
                let bytes = std::fs::read(&index).unwrap();
                for len in 0..bytes.len() {
                    std::fs::write(&index, &bytes[..len]).unwrap();
                    files(path, 1 << 20).unwrap();
                }
            }
        }
    }

    /// A file of any length takes no space, and a path of any length three bytes more than the last.
    #[test]
    fn an_index_takes_no_more_memory_than_it_may() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        git(path, &["init", "-q", "--object-format=sha1"]);
        let index = path.join(".git/index");
        let file = File::create(&index).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = files(path, 1 << 20).unwrap_err();
        assert!(error.contains("1048576"), "{error}");
        let id = "1".repeat(40);
        let long = "a/".repeat(1000);
        let lines: String = (0..2000)
            .map(|n| format!("100644 {id} 0\t{long}{n}\n"))
            .collect();
        std::fs::remove_file(&index).unwrap();
        let list = directory.path().join("list");
        std::fs::write(&list, lines).unwrap();
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        let command = command
            .arg("-C")
            .arg(path)
            .stdin(File::open(&list).unwrap());
        let args = ["-c", "index.version=4", "update-index", "--index-info"];
        assert!(command.args(args).status().unwrap().success());
        assert!(std::fs::metadata(&index).unwrap().len() < 1 << 20);
        files(path, 1 << 20).unwrap_err();
        assert_eq!(files(path, 8 << 20).unwrap().len(), 2000);
    }
}
