//! Files of objects, as git's formats have them: what finds objects in a pack leads nowhere but
//! into that pack. The objects themselves are not looked at here.
//!
//! Formats: git's `Documentation/gitformat-pack.txt`. Each file is read once, from the beginning to
//! the end, and summed meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use gix::hash::Kind;
use sha1::Digest;

use super::error::RestoreError;
use super::stop::Stop;
use crate::limits::REVERSE_INDEX_OBJECTS_MAX;

/// Bytes read at a time: what was written a moment ago is in memory.
const READ_BYTES: usize = 128 << 10;
const PACK_HEADER_BYTES: u64 = 12;
const FANOUT: usize = 256;
/// Of an `.idx` of version 2, and the bit of an offset that is in the table of long ones.
const INDEX_MAGIC: [u8; 4] = *b"\xfftOc";
const LONG: u32 = 1 << 31;

/// What a pack's file says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pack {
    bytes: u64,
    objects: u32,
    sum: Vec<u8>,
}

/// What an `.idx` says of its pack.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    objects: u32,
    offset_min: u64,
    offset_max: u64,
    has_long: bool,
    pack_sum: Vec<u8>,
}

/// A sum in the making.
#[derive(Debug, Clone)]
enum Sum {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Sum {
    fn new(hash: Kind) -> Sum {
        match hash {
            Kind::Sha256 => Sum::Sha256(sha2::Sha256::default()),
            _ => Sum::Sha1(sha1::Sha1::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha1(sum) => sum.update(bytes),
            Sum::Sha256(sum) => sum.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Sum::Sha1(sum) => sum.finalize().to_vec(),
            Sum::Sha256(sum) => sum.finalize().to_vec(),
        }
    }
}

/// What is wrong with a file, or that it cannot be read.
#[derive(Debug)]
enum Fault {
    Content(&'static str),
    Read(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Fault::Content("it is too short"),
            _ => Fault::Read(error),
        }
    }
}

fn ensure(is_right: bool, else_what: &'static str) -> Result<(), Fault> {
    match is_right {
        true => Ok(()),
        false => Err(Fault::Content(else_what)),
    }
}

/// A file of which all is summed but the sum at its end.
struct Summed<R> {
    inner: R,
    left: u64,
    sum: Sum,
    hash: Kind,
}

impl<R: BufRead> Summed<R> {
    /// `bytes` is the length of the whole file.
    fn new(inner: R, bytes: u64, hash: Kind) -> Result<Summed<R>, Fault> {
        let left = bytes.checked_sub(hash.len_in_bytes() as u64);
        Ok(Summed {
            inner,
            left: left.ok_or(Fault::Content("it is too short"))?,
            sum: Sum::new(hash),
            hash,
        })
    }

    /// Takes `out.len()` bytes.
    fn take(&mut self, out: &mut [u8]) -> Result<(), Fault> {
        let left = self.left.checked_sub(out.len() as u64);
        self.left = left.ok_or(Fault::Content("it is too short"))?;
        self.inner.read_exact(out)?;
        self.sum.update(out);
        Ok(())
    }

    fn number(&mut self) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Takes `count` pieces of `bytes` each.
    fn pieces(
        &mut self,
        count: u64,
        bytes: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let at_once = (READ_BYTES / bytes) as u64;
        let mut block = vec![0; bytes * usize::try_from(count.min(at_once)).unwrap_or_default()];
        let mut left = count;
        while left > 0 {
            let pieces = left.min(at_once);
            block.truncate(bytes * usize::try_from(pieces).unwrap_or_default());
            self.take(&mut block)?;
            block.chunks_exact(bytes).try_for_each(&mut each)?;
            left -= pieces;
        }
        Ok(())
    }

    /// Takes `count` bytes, whatever they are.
    fn skip(&mut self, mut count: u64) -> Result<(), Fault> {
        ensure(count <= self.left, "it is too short")?;
        self.left -= count;
        while count > 0 {
            let have = self.inner.fill_buf()?;
            ensure(!have.is_empty(), "it is too short")?;
            let take = have.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            self.sum.update(&have[..take]);
            self.inner.consume(take);
            count -= take as u64;
        }
        Ok(())
    }

    /// The sum of another file, which is part of this one.
    fn other_sum(&mut self) -> Result<Vec<u8>, Fault> {
        let mut sum = vec![0; self.hash.len_in_bytes()];
        self.take(&mut sum)?;
        Ok(sum)
    }

    /// Compares the sum at the end; gives it.
    fn finish(mut self) -> Result<Vec<u8>, Fault> {
        ensure(self.left == 0, "it is too long")?;
        let mut end = vec![0; self.hash.len_in_bytes()];
        self.inner.read_exact(&mut end)?;
        ensure(self.sum.finish() == end, "its checksum is wrong")?;
        Ok(end)
    }
}

/// `known` is the sum of all but its end, if that has been made already; then only the beginning
/// and the end of the file are read.
fn pack(
    file: BufReader<Reading<'_>>,
    bytes: u64,
    hash: Kind,
    known: Option<Vec<u8>>,
) -> Result<Pack, Fault> {
    let mut file = Summed::new(file, bytes, hash)?;
    let mut magic = [0; 4];
    file.take(&mut magic)?;
    ensure(&magic == b"PACK", "it is no pack")?;
    let version = file.number()?;
    ensure(matches!(version, 2 | 3), "it is a pack of another version")?;
    let objects = file.number()?;
    let sum = match known {
        None => {
            file.skip(file.left)?;
            file.finish()?
        }
        Some(known) => {
            let end = bytes - hash.len_in_bytes() as u64;
            let mut sum = vec![0; hash.len_in_bytes()];
            file.inner.get_ref().file.read_exact_at(&mut sum, end)?;
            ensure(sum == known, "its checksum is wrong")?;
            sum
        }
    };
    Ok(Pack {
        bytes,
        objects,
        sum,
    })
}

/// The sum of a file, but for the sum at its end, that is made while its bytes pass: so a large pack,
/// which comes as fast as it can be summed, is not read again.
#[derive(Debug)]
pub struct Running {
    sum: Sum,
    hash: Kind,
    /// The bytes before it are summed.
    next: u64,
    end: u64,
}

impl Running {
    /// For a file of `bytes` with ids of the kind `hash`.
    pub fn new(bytes: u64, hash: Kind) -> Running {
        Running {
            sum: Sum::new(hash),
            hash,
            next: 0,
            end: bytes.saturating_sub(hash.len_in_bytes() as u64),
        }
    }

    /// What follows in the file.
    pub fn add(&mut self, bytes: &[u8]) {
        let left = usize::try_from(self.end.saturating_sub(self.next)).unwrap_or(usize::MAX);
        self.sum.update(&bytes[..bytes.len().min(left)]);
        self.next += bytes.len() as u64;
    }

    /// The sum, if that was all.
    pub fn finish(&self) -> Option<Vec<u8>> {
        let is_whole = self.next == self.end + self.hash.len_in_bytes() as u64;
        is_whole.then(|| self.sum.clone().finish())
    }
}

/// Sums that were begun, by the paths of their files.
pub type Sums = BTreeMap<Vec<u8>, Arc<Mutex<Running>>>;

/// Reads an `.idx`; `each` gets the offsets in the order of the ids, with those that are long as 0.
fn index(
    file: impl BufRead,
    bytes: u64,
    hash: Kind,
    mut each: impl FnMut(u32),
) -> Result<Index, Fault> {
    let mut file = Summed::new(file, bytes, hash)?;
    let mut first = [0; 4];
    file.take(&mut first)?;
    let is_new = first == INDEX_MAGIC;
    let mut fanout = [0; FANOUT];
    if is_new {
        ensure(file.number()? == 2, "it is an index of another version")?;
        fanout[0] = file.number()?;
    } else {
        fanout[0] = u32::from_be_bytes(first);
    }
    for entry in &mut fanout[1..] {
        *entry = file.number()?;
    }
    ensure(fanout.is_sorted(), "its fan-out is not sorted")?;
    let mut found = Index {
        objects: fanout[FANOUT - 1],
        offset_min: u64::MAX,
        ..Index::default()
    };
    let id_bytes = hash.len_in_bytes() as u64;
    let entry_bytes = id_bytes + if is_new { 8 } else { 4 };
    let rest = file
        .left
        .checked_sub(u64::from(found.objects) * entry_bytes + id_bytes);
    let rest = rest.ok_or(Fault::Content("it is too short"))?;
    match is_new {
        true => new_entries(&mut file, &fanout, rest, &mut found, &mut each)?,
        false => old_entries(&mut file, &fanout, &mut found, &mut each)?,
    }
    found.pack_sum = file.other_sum()?;
    file.finish()?;
    Ok(found)
}

/// Sees to it that ids are sorted and where the fan-out says.
struct Ids<'f> {
    fanout: &'f [u32; FANOUT],
    last: [u8; 32],
    number: u32,
}

impl Ids<'_> {
    fn new(fanout: &[u32; FANOUT]) -> Ids<'_> {
        Ids {
            fanout,
            last: [0; 32],
            number: 0,
        }
    }

    fn accept(&mut self, id: &[u8]) -> Result<(), Fault> {
        let last = &mut self.last[..id.len()];
        ensure(self.number == 0 || *last < *id, "its ids are not sorted")?;
        last.copy_from_slice(id);
        let first = usize::from(id[0]);
        let begin = if first == 0 {
            0
        } else {
            self.fanout[first - 1]
        };
        let is_there = (begin..self.fanout[first]).contains(&self.number);
        self.number += 1;
        ensure(is_there, "its fan-out is not that of its ids")
    }
}

impl Index {
    fn offset(&mut self, offset: u64) {
        self.offset_min = self.offset_min.min(offset);
        self.offset_max = self.offset_max.max(offset);
    }
}

/// The number at the beginning of a piece.
fn number(piece: &[u8]) -> u32 {
    u32::from_be_bytes([piece[0], piece[1], piece[2], piece[3]])
}

fn old_entries<R: BufRead>(
    file: &mut Summed<R>,
    fanout: &[u32; FANOUT],
    found: &mut Index,
    each: &mut impl FnMut(u32),
) -> Result<(), Fault> {
    let mut ids = Ids::new(fanout);
    let entry_bytes = 4 + file.hash.len_in_bytes();
    file.pieces(u64::from(found.objects), entry_bytes, |entry| {
        let offset = number(entry);
        found.offset(u64::from(offset));
        each(offset);
        ids.accept(&entry[4..])
    })
}

/// `rest` bytes are those of the long offsets.
fn new_entries<R: BufRead>(
    file: &mut Summed<R>,
    fanout: &[u32; FANOUT],
    rest: u64,
    found: &mut Index,
    each: &mut impl FnMut(u32),
) -> Result<(), Fault> {
    let objects = u64::from(found.objects);
    let mut ids = Ids::new(fanout);
    let id_bytes = file.hash.len_in_bytes();
    file.pieces(objects, id_bytes, |id| ids.accept(id))?;
    // Sums of entries: whoever reads one can tell.
    file.skip(objects * 4)?;
    ensure(
        rest.is_multiple_of(8),
        "its table of long offsets is cut off",
    )?;
    let long = rest / 8;
    found.has_long = long > 0;
    file.pieces(objects, 4, |piece| match number(piece) {
        offset if offset & LONG == 0 => {
            found.offset(u64::from(offset));
            each(offset);
            Ok(())
        }
        place => {
            each(0);
            ensure(
                u64::from(place & !LONG) < long,
                "an offset leads out of its table",
            )
        }
    })?;
    file.pieces(long, 8, |piece| {
        found.offset(u64::from(number(piece)) << 32 | u64::from(number(&piece[4..])));
        Ok(())
    })
}

/// Reads a `.rev` or an `.mtimes`: `each` gets its numbers, one for each object.
fn table(
    file: impl BufRead,
    bytes: u64,
    magic: &[u8; 4],
    pack: &Pack,
    hash: Kind,
    mut each: impl FnMut(u32) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut file = Summed::new(file, bytes, hash)?;
    let mut own = [0; 4];
    file.take(&mut own)?;
    ensure(own == *magic, "it does not begin as it should")?;
    ensure(file.number()? == 1, "it is of another version")?;
    let kind = file.number()?;
    ensure(
        kind == if hash == Kind::Sha256 { 2 } else { 1 },
        "it is for other ids",
    )?;
    file.pieces(u64::from(pack.objects), 4, |piece| each(number(piece)))?;
    ensure(file.other_sum()? == pack.sum, "it is of another pack")?;
    file.finish().map(|_| ())
}

/// The order of a pack's objects: each once, and each behind the one before it.
struct Order<'o> {
    offsets: &'o [u32],
    last: Option<u32>,
}

impl Order<'_> {
    fn accept(&mut self, place: u32) -> Result<(), Fault> {
        let offset = self.offsets.get(place as usize).copied();
        let offset = offset.ok_or(Fault::Content("it has an object that is not there"))?;
        let follows = self.last.is_none_or(|last| last < offset);
        self.last = Some(offset);
        ensure(follows, "its order is not that of its pack")
    }
}

/// Checks the files of objects below `tree`, whose ids are of the kind `hash`. `sizes` are those of
/// all of them, by path. What git can do without and nobody has checked is removed.
pub fn check(
    tree: &Path,
    sizes: &BTreeMap<&[u8], u64>,
    sums: &Sums,
    hash: Kind,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let checker = Checker {
        tree,
        sizes,
        sums,
        hash,
        stop,
    };
    let stems: Vec<&[u8]> = sizes
        .keys()
        .filter_map(|path| path.strip_suffix(b".pack"))
        .collect();
    for path in sizes.keys() {
        let stem = pack_stem(path);
        if stem.is_some_and(|stem| stems.binary_search(&stem).is_err()) {
            return Err(RestoreError::entry(path, "its pack is not there"));
        }
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let one_after_the_other = || {
        let loose = sizes.keys().filter(|path| pack_stem(path).is_none());
        let jobs: Vec<&[u8]> = stems.iter().copied().chain(loose.copied()).collect();
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(job) = jobs.get(at) else {
                return Ok(());
            };
            match at < stems.len() {
                true => checker.pack(job)?,
                false => checker.loose(job)?,
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let running: Vec<_> = (0..threads.min(sizes.len()))
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        running.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// The path of a pack's file without its ending.
fn pack_stem(path: &[u8]) -> Option<&[u8]> {
    let dot = path.iter().rposition(|b| *b == b'.')?;
    path.starts_with(b".git/objects/pack/")
        .then(|| &path[..dot])
}

struct Checker<'c> {
    tree: &'c Path,
    sizes: &'c BTreeMap<&'c [u8], u64>,
    sums: &'c Sums,
    hash: Kind,
    stop: &'c Stop,
}

impl Checker<'_> {
    fn open(&self, path: &[u8]) -> Result<(BufReader<Reading<'_>>, u64), RestoreError> {
        let bytes = self.sizes.get(path).copied().unwrap_or_default();
        let whole = self.tree.join(super::write::as_path(path));
        let file = File::open(&whole).map_err(|e| RestoreError::disk("open", &whole, e))?;
        let reading = Reading {
            file,
            at: 0,
            stop: self.stop,
        };
        Ok((BufReader::with_capacity(READ_BYTES, reading), bytes))
    }

    /// Runs a check of the file at `path`.
    fn read<T>(
        &self,
        path: &[u8],
        check: impl FnOnce(BufReader<Reading<'_>>, u64) -> Result<T, Fault>,
    ) -> Result<T, RestoreError> {
        let (file, bytes) = self.open(path)?;
        check(file, bytes).map_err(|fault| match fault {
            Fault::Content(what) => RestoreError::entry(path, what),
            Fault::Read(e) => RestoreError::disk("read", super::write::as_path(path), e),
        })
    }

    /// Checks a pack and what belongs to it.
    fn pack(&self, stem: &[u8]) -> Result<(), RestoreError> {
        let with = |ending: &str| [stem, ending.as_bytes()].concat();
        let hash = self.hash;
        let path = with(".pack");
        let sum = self.sums.get(&path).map(|sum| lock(sum));
        let sum = sum
            .filter(|sum| sum.hash == hash)
            .and_then(|sum| sum.finish());
        let found = self.read(&path, |file, bytes| pack(file, bytes, hash, sum))?;
        let path = with(".idx");
        if !self.sizes.contains_key(&path[..]) {
            return Err(RestoreError::entry(&path, "it is not there"));
        }
        let has_order = self.sizes.contains_key(&with(".rev")[..])
            && found.objects <= REVERSE_INDEX_OBJECTS_MAX;
        let mut offsets = Vec::new();
        let index = self.read(&path, |file, bytes| {
            index(file, bytes, hash, |offset| {
                if has_order {
                    offsets.push(offset);
                }
            })
        })?;
        fits(&found, &index, hash).map_err(|what| RestoreError::entry(&path, what))?;
        let path = with(".mtimes");
        if self.sizes.contains_key(&path[..]) {
            self.read(&path, |file, bytes| {
                table(file, bytes, b"MTME", &found, hash, |_| Ok(()))
            })?;
        }
        let path = with(".rev");
        if !self.sizes.contains_key(&path[..]) {
            return Ok(());
        }
        if !has_order || index.has_long {
            let whole = self.tree.join(super::write::as_path(&path));
            return std::fs::remove_file(&whole)
                .map_err(|e| RestoreError::disk("remove", &whole, e));
        }
        let mut order = Order {
            offsets: &offsets,
            last: None,
        };
        self.read(&path, |file, bytes| {
            table(file, bytes, b"RIDX", &found, hash, |place| {
                order.accept(place)
            })
        })
    }

    /// Checks that a loose object begins as zlib's streams do.
    fn loose(&self, path: &[u8]) -> Result<(), RestoreError> {
        // `.git/objects/`, two digits, a slash, and the rest of the id.
        let name_bytes = path.len() - ".git/objects/01/".len();
        if name_bytes + 2 != self.hash.len_in_hex() {
            return Err(RestoreError::entry(
                path,
                "its name is of another kind of ids",
            ));
        }
        self.read(path, |mut file, _| {
            let mut begin = [0; 2];
            file.read_exact(&mut begin)?;
            let is_deflated = begin[0] & 0x8f == 0x08;
            let sum = u16::from_be_bytes(begin);
            ensure(
                is_deflated && sum.is_multiple_of(31),
                "it is no loose object",
            )
        })
    }
}

/// A sum that nobody else adds to meanwhile.
pub fn lock(sum: &Mutex<Running>) -> MutexGuard<'_, Running> {
    sum.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Whether an index is that of its pack.
fn fits(pack: &Pack, index: &Index, hash: Kind) -> Result<(), &'static str> {
    let end = pack.bytes - hash.len_in_bytes() as u64;
    if index.objects != pack.objects || index.pack_sum != pack.sum {
        return Err("it is of another pack");
    }
    let is_inside = index.offset_min >= PACK_HEADER_BYTES && index.offset_max < end;
    match index.objects == 0 || is_inside {
        true => Ok(()),
        false => Err("an offset leads out of its pack"),
    }
}

/// A file that is read until the restore is to stop.
struct Reading<'c> {
    file: File,
    at: u64,
    stop: &'c Stop,
}

impl Read for Reading<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_set() {
            return Err(io::Error::other("the restore ends"));
        }
        let count = self.file.read_at(out, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with one pack, made with an index of `version`.
    fn repository(hash: &str, version: &str) -> tempfile::TempDir {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let git = |args: &[&str], input: &[u8]| {
            let mut child = std::process::Command::new("git")
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .arg("-C")
                .arg(directory.path())
                .args(args)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            let out = child.wait_with_output().unwrap();
            assert!(out.status.success(), "{args:?}");
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "-q", &format!("--object-format={hash}")], b"");
        let ids: Vec<String> = (0..40)
            .map(|number| git(&["hash-object", "-w", "--stdin"], &[number; 900]))
            .collect();
        let plain = version.split(',').next().unwrap();
        let index = format!("pack.indexVersion={plain}");
        let name = ".git/objects/pack/pack";
        let args = ["-c", &index, "-c", "pack.writeReverseIndex=true"];
        let made = git(
            &[&args[..], &["pack-objects", "-q", name]].concat(),
            ids.join("\n").as_bytes(),
        );
        if version.contains(',') {
            let pack = format!("{name}-{made}.pack");
            let version = format!("--index-version={version}");
            git(&["index-pack", &version, &pack], b"");
        }
        git(&["prune-packed", "-q"], b"");
        directory
    }

    fn checked(tree: &Path, hash: Kind) -> Result<(), RestoreError> {
        let directory = tree.join(".git/objects/pack");
        let listing = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
        let sizes = listing.map(|entry| {
            let path = Path::new(".git/objects/pack").join(entry.file_name());
            let bytes = entry.metadata().unwrap().len();
            (path.into_os_string().into_encoded_bytes(), bytes)
        });
        let sizes: Vec<_> = sizes.collect();
        let sizes = sizes
            .iter()
            .map(|(path, bytes)| (&path[..], *bytes))
            .collect();
        check(tree, &sizes, &Sums::new(), hash, &Stop::default())
    }

    /// The file of the pack that ends so.
    fn file(tree: &Path, ending: &str) -> std::path::PathBuf {
        let listing = std::fs::read_dir(tree.join(".git/objects/pack")).unwrap();
        let mut paths = listing.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.extension().is_some_and(|e| e == ending))
            .unwrap()
    }

    #[test]
    fn every_index_of_gits_is_taken_and_each_byte_of_it_counts() {
        for hash in ["sha1", "sha256"] {
            for version in ["1", "2", "2,0x200"] {
                let kind = if hash == "sha1" {
                    Kind::Sha1
                } else {
                    Kind::Sha256
                };
                let directory = repository(hash, version);
                let tree = directory.path();
                checked(tree, kind).unwrap();
                let other = if hash == "sha1" {
                    Kind::Sha256
                } else {
                    Kind::Sha1
                };
                checked(tree, other).unwrap_err();
                let index = file(tree, "idx");
                let real = std::fs::read(&index).unwrap();
                let end = real.len() - kind.len_in_bytes();
                for at in (0..end).step_by(7) {
                    let mut bad = real[..end].to_vec();
                    bad[at] ^= 0x80;
                    let mut sum = Sum::new(kind);
                    sum.update(&bad);
                    bad.extend(sum.finish());
                    drop(std::fs::remove_file(&index));
                    std::fs::write(&index, &bad).unwrap();
                    // Whatever else it then says, it leads nowhere else.
                    if checked(tree, kind).is_ok() {
                        let file = gix::odb::pack::index::File::at(&index, kind).unwrap();
                        let pack_bytes = std::fs::metadata(self::file(tree, "pack")).unwrap().len();
                        assert!(file.iter().all(|entry| entry.pack_offset < pack_bytes));
                    }
                }
                std::fs::write(&index, &real[..real.len() / 2]).unwrap();
                checked(tree, kind).unwrap_err();
            }
        }
    }
}
