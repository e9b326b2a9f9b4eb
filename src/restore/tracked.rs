//! Which files a repository tracks, by its index. It is read as data: the repository of a target
//! that is to be overwritten may be anybody's, and `git` would do what its configuration says.
//!
//! An index may be of any size, so it is never held: each question reads it from the beginning to
//! the end, entry by entry, in the order of its paths.
//!
//! Format: git's `Documentation/gitformat-index.txt`, versions 2 to 4.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Take};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::stop::Stop;
use crate::limits::PATH_BYTES_MAX;
use crate::tree::index::{HEADER_BYTES, MAGIC, MODE_AT, STAT_BYTES, SUBMODULE, padded};

const SHA256_BYTES: usize = 32;
const READ_BYTES: usize = 64 << 10;
/// A flag that says that there are further flags.
const EXTENDED: u16 = 0x4000;

/// The files that a repository tracks; none where there is no index that can be read.
pub struct Tracked<'s>(Option<Index<'s>>);

/// An index that was read to its end without a fault.
struct Index<'s> {
    file: File,
    stop: &'s Stop,
    bytes: u64,
    id_bytes: usize,
}

impl<'s> Tracked<'s> {
    /// Those of no repository.
    pub fn none() -> Tracked<'s> {
        Tracked(None)
    }

    /// Opens the index of the repository at `directory`, which may have so many bytes; an error says
    /// why it cannot be read.
    pub fn open(directory: &Path, bytes_max: u64, stop: &'s Stop) -> Result<Tracked<'s>, String> {
        Tracked::of(&directory.join(".git/index"), bytes_max, stop)
    }

    /// The same of an index.
    pub fn of(path: &Path, bytes_max: u64, stop: &'s Stop) -> Result<Tracked<'s>, String> {
        let Some(file) = open(path) else {
            return Ok(Tracked(None));
        };
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let bytes = file.metadata().map_err(failed)?.len();
        if bytes > bytes_max {
            return Err(format!(
                "{} has more than {bytes_max} bytes",
                path.display()
            ));
        }
        let mut index = Index {
            file,
            stop,
            bytes,
            id_bytes: 0,
        };
        // Its ids are of one of two lengths; read with the other one it makes no sense.
        for id_bytes in [20, SHA256_BYTES] {
            index.id_bytes = id_bytes;
            match index.read_all() {
                Ok(()) => return Ok(Tracked(Some(index))),
                Err(e) if is_content(&e) => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(Tracked(None))
    }

    /// How large the index is.
    pub fn bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |index| index.bytes)
    }

    /// Goes through all of its paths in their order. One that can no longer be read has no more.
    pub fn each<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut paths = self.paths();
        while let Some(path) = paths.next().ok().flatten() {
            each(path)?;
        }
        Ok(())
    }

    /// The same for those of submodules.
    pub fn each_submodule<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut paths = self.paths();
        // One that is in the middle of a merge is there more than once, and not always a submodule.
        while let Some(mode) = paths.any().ok().flatten() {
            if mode & libc::S_IFMT == SUBMODULE {
                each(&paths.path)?;
            }
        }
        Ok(())
    }

    /// The first of the sorted `paths` that is not tracked.
    pub fn first_other<'p>(&self, paths: &'p [Vec<u8>]) -> Option<&'p Vec<u8>> {
        let mut wanted = paths.iter();
        let mut next = wanted.next()?;
        let mut tracked = self.paths();
        // One that can no longer be read tracks no more.
        while let Some(path) = tracked.next().ok().flatten() {
            while path == next {
                next = wanted.next()?;
            }
            if path > &next[..] {
                break;
            }
        }
        Some(next)
    }

    fn paths(&self) -> Paths<'_> {
        let paths = self.0.as_ref().and_then(|index| index.paths().ok());
        paths.unwrap_or_else(|| Paths {
            input: None,
            version: 0,
            left: 0,
            id_bytes: 0,
            path: Vec::new(),
            name: Vec::new(),
        })
    }
}

/// The files of an old checkout that the new one does not have.
pub struct Stale<'s> {
    pub old: Tracked<'s>,
    pub new: Tracked<'s>,
}

impl Stale<'_> {
    /// Goes through them in the order of their paths.
    pub fn each<E>(&self, mut each: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let (mut old, mut new) = (self.old.paths(), self.new.paths());
        let mut kept = Vec::new();
        let mut has_kept = true;
        while let Ok(Some(path)) = old.next() {
            while has_kept && &kept[..] < path {
                match new.next() {
                    Ok(Some(next)) => {
                        kept.clear();
                        kept.extend_from_slice(next);
                    }
                    Ok(None) => has_kept = false,
                    // What is not known to be stale stays.
                    Err(_) => return Ok(()),
                }
            }
            if !has_kept || kept != path {
                each(path)?;
            }
        }
        Ok(())
    }
}

/// Opens a file; neither a link nor something that nobody writes to.
fn open(path: &Path) -> Option<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = File::options();
    let file = options.read(true).custom_flags(flags).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// Whether what was read is at fault, and not the reading.
fn is_content(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

fn wrong() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

impl Index<'_> {
    fn read_all(&self) -> io::Result<()> {
        let mut paths = self.paths()?;
        while paths.next()?.is_some() {}
        Ok(())
    }

    /// Its paths, from the first on.
    fn paths(&self) -> io::Result<Paths<'_>> {
        let end = self.bytes.checked_sub(self.id_bytes as u64);
        let from = From {
            file: &self.file,
            stop: self.stop,
            at: 0,
        };
        let mut input = BufReader::with_capacity(READ_BYTES, from).take(end.ok_or_else(wrong)?);
        let mut header = [0; HEADER_BYTES];
        input.read_exact(&mut header)?;
        let number = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|n| header[at + n]);
            u32::from_be_bytes([a, b, c, d])
        };
        let version = number(4);
        if !header.starts_with(&MAGIC) || !(2..=4).contains(&version) {
            return Err(wrong());
        }
        Ok(Paths {
            input: Some(input),
            version,
            left: number(8),
            id_bytes: self.id_bytes,
            path: Vec::new(),
            name: Vec::new(),
        })
    }
}

/// A file from `at` on, whoever else reads it; until the restore is to stop.
struct From<'f> {
    file: &'f File,
    stop: &'f Stop,
    at: u64,
}

impl Read for From<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_set() {
            return Err(io::Error::other("the restore ends"));
        }
        let count = self.file.read_at(out, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// The paths of an index, each once, in their order. Memory is taken for the longest of them, which
/// is no longer than the kernel's.
struct Paths<'i> {
    input: Option<Take<BufReader<From<'i>>>>,
    version: u32,
    /// Entries that follow.
    left: u32,
    id_bytes: usize,
    path: Vec<u8>,
    /// What the last entry has said of its path.
    name: Vec<u8>,
}

impl Paths<'_> {
    /// The mode of the next entry, whose path is in `path` then.
    fn any(&mut self) -> io::Result<Option<u32>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.entry().map(|(mode, _)| Some(mode))
    }

    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        while self.left > 0 {
            self.left -= 1;
            let (mode, is_new) = self.entry()?;
            match mode & libc::S_IFMT {
                libc::S_IFREG | libc::S_IFLNK | SUBMODULE if is_new => {
                    return Ok(Some(&self.path));
                }
                libc::S_IFREG | libc::S_IFLNK | SUBMODULE => {}
                // A directory of which nothing is checked out.
                libc::S_IFDIR => {}
                _ => return Err(wrong()),
            }
        }
        Ok(None)
    }

    /// Reads an entry, whose path is in `path` then: its mode, and whether the path is another one
    /// than before. An entry may be there in up to three versions while a merge goes on.
    fn entry(&mut self) -> io::Result<(u32, bool)> {
        let input = self.input.as_mut().ok_or_else(wrong)?;
        let mut fixed = [0; STAT_BYTES + SHA256_BYTES + 2];
        let mut len = STAT_BYTES + self.id_bytes + 2;
        input.read_exact(&mut fixed[..len])?;
        let mode = [0, 1, 2, 3].map(|n| fixed[MODE_AT + n]);
        if u16::from_be_bytes([fixed[len - 2], fixed[len - 1]]) & EXTENDED != 0 {
            input.read_exact(&mut fixed[..2])?;
            len += 2;
        }
        let kept = match self.version {
            4 => self.path.len().checked_sub(stripped(input)?),
            _ => Some(0),
        };
        let kept = kept.ok_or_else(wrong)?;
        self.name.clear();
        // With the NUL behind it.
        let name_bytes_max = (PATH_BYTES_MAX + 1 - kept) as u64;
        input.take(name_bytes_max).read_until(0, &mut self.name)?;
        if self.name.pop() != Some(0) || kept + self.name.len() == 0 {
            return Err(wrong());
        }
        let order = self.name[..].cmp(&self.path[kept..]);
        self.path.truncate(kept);
        self.path.extend_from_slice(&self.name);
        if self.version != 4 {
            let used = len + self.name.len();
            let padding = padded(used) - used - 1;
            input.read_exact(&mut fixed[..padding])?;
        }
        match order.is_lt() {
            true => Err(wrong()),
            false => Ok((u32::from_be_bytes(mode), order.is_gt())),
        }
    }
}

/// How many bytes of the last path are not in this one. The encoding is that of distances in packs.
fn stripped(input: &mut impl Read) -> io::Result<usize> {
    let mut value = 0_usize;
    loop {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value = value << 7 | usize::from(byte[0] & 0x7f);
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
        value = match value <= PATH_BYTES_MAX {
            true => value + 1,
            false => return Err(wrong()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Repository;
    use super::*;

    /// Has the index hold `paths`, none of which is there.
    fn track<'p>(repository: &Repository, version: &str, paths: impl Iterator<Item = &'p str>) {
        let id = "1".repeat(40);
        let list: String = paths
            .map(|path| format!("100644 {id} 0\t{path}\n"))
            .collect();
        let setting = format!("index.version={version}");
        let args = ["-c", &setting, "update-index", "--index-info"];
        repository.git(&args, list.as_bytes());
    }

    fn files(directory: &Path) -> Vec<Vec<u8>> {
        let stop = Stop::default();
        let tracked = Tracked::open(directory, 1 << 30, &stop).unwrap();
        let mut paths = tracked.paths();
        let mut found = Vec::new();
        while let Some(path) = paths.next().unwrap() {
            found.push(path.to_vec());
        }
        found
    }

    #[test]
    fn every_index_of_gits_is_read() {
        for format in ["sha1", "sha256"] {
            for version in ["2", "3", "4"] {
                let repository = Repository::of(format);
                let path = repository.path();
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
                repository.git(&["add", "."], b"");
                if version == "3" {
                    std::fs::write(path.join("later"), "").unwrap();
                    repository.git(&["add", "-N", "later"], b"");
                }
                repository.git(&["update-index", "--index-version", version], b"");
                let listed = repository.git(&["ls-files", "-z"], b"");
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

    #[test]
    fn what_is_not_tracked_and_what_is_stale_is_found() {
        let (old, new) = (Repository::new(), Repository::new());
        for (repository, version, paths) in [
            (&old, "2", ["a", "b/c", "b/d", "e", "x/y"]),
            (&new, "4", ["a", "b.c", "b/d", "f", "g"]),
        ] {
            track(repository, version, paths.into_iter());
        }
        let stop = Stop::default();
        let open = |repository: &Repository| Tracked::open(repository.path(), 1 << 20, &stop);
        let tracked = open(&old).unwrap();
        let other = |paths: &[&str]| {
            let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
            tracked.first_other(&paths).cloned()
        };
        assert_eq!(other(&[]), None);
        assert_eq!(other(&["a", "b/c", "x/y"]), None);
        for missing in ["0", "b", "b/cc", "x/z"] {
            let mut paths = ["a", "b/d", "x/y", missing];
            paths.sort_unstable();
            assert_eq!(other(&paths).unwrap(), missing.as_bytes());
        }
        let (old, new) = (open(&old).unwrap(), open(&new).unwrap());
        let stale = Stale { old, new };
        let mut found = Vec::new();
        let each = |path: &[u8]| {
            found.push(String::from_utf8(path.to_vec()).unwrap());
            Ok::<(), ()>(())
        };
        stale.each(each).unwrap();
        assert_eq!(found, ["b/c", "e", "x/y"]);
        let none = tempfile::tempdir().unwrap();
        let none = Tracked::open(none.path(), 1 << 20, &stop).unwrap();
        assert_eq!(none.first_other(&[b"a".to_vec()]).unwrap(), b"a");
    }

    /// A file of any length takes no space, and a path of any length three bytes more than the last.
    #[test]
    fn an_index_that_is_none_has_an_end() {
        let repository = Repository::new();
        let path = repository.path();
        let index = path.join(".git/index");
        let file = File::create(&index).unwrap();
        file.set_len(1 << 40).unwrap();
        let stop = Stop::default();
        let open = |bytes_max| Tracked::open(path, bytes_max, &stop);
        let error = open(1 << 20).map(drop).unwrap_err();
        assert!(error.contains("1048576"), "{error}");
        // Its entries would be without end.
        file.write_all_at(b"DIRC\0\0\0\x02\xff\xff\xff\xff", 0)
            .unwrap();
        assert!(open(1 << 41).unwrap().0.is_none());
        std::fs::remove_file(&index).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &index).unwrap();
        assert!(open(1 << 20).unwrap().0.is_none());
        std::fs::remove_file(&index).unwrap();
        let long = "a/".repeat(1000);
        let paths: Vec<String> = (0..2000).map(|n| format!("{long}{n:04}")).collect();
        track(&repository, "4", paths.iter().map(String::as_str));
        assert!(std::fs::metadata(&index).unwrap().len() < 1 << 20);
        assert_eq!(files(path).len(), 2000);
        // The kernel knows no such path.
        std::fs::remove_file(&index).unwrap();
        let long = "a/".repeat(PATH_BYTES_MAX / 2 + 1);
        track(&repository, "4", [&*format!("{long}x")].into_iter());
        assert_eq!(files(path), Vec::<Vec<u8>>::new());
    }
}
