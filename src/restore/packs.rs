//! Files of objects, as git's formats have them: what finds objects in a pack leads nowhere but
//! into that pack. The objects themselves are not looked at here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gix::hash::Kind;

use super::error::{RestoreError, failed};
use super::formats::{Fault, Index, Order, Pack, READ_BYTES, Reading, ensure, index, pack, table};
use super::path::as_path;
use super::stop::Stop;
use super::sums::{Running, Sums, lock};
use super::write::stopped;
use crate::limits::REVERSE_INDEX_OBJECTS_MAX;
use crate::tree::decoder::Packs;
use crate::tree::pack::HEADER_BYTES;
use crate::tree::stored::Entries;

/// Where packs are in a repository.
const DIRECTORY: &str = ".git/objects/pack";
/// What belongs to a pack and is looked at.
const ENDINGS: [&str; 4] = ["pack", "idx", "rev", "mtimes"];

/// Checks the files of objects below `tree`, whose ids are of the kind `hash`. `sizes` are those of
/// all of them, by path. What git can do without and nobody has checked is removed.
pub fn check(
    tree: &Path,
    sizes: &BTreeMap<&[u8], u64>,
    sums: &Sums,
    hash: Kind,
    stop: &Stop,
) -> Result<(), RestoreError> {
    check_forms(tree, sizes, hash, stop)?;
    check_sums(tree, sizes, sums, hash, stop).map(drop)
}

/// How many packs were found right in one respect. Only who has looked at them makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checked(usize);

/// All packs of a repository are right, with what belongs to them: in form, by their own sums, each index is that of its
/// pack, and each entry what that sums up. Only who has looked at them makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Right(());

impl Right {
    /// What a summary calls them.
    pub(super) fn named(self) -> &'static str {
        "packs"
    }

    /// `None` if not all were looked at in each respect.
    pub(super) fn of(forms: Checked, sums: Checked, entries: Checked) -> Option<Right> {
        (forms == entries && sums == entries).then_some(Right(()))
    }
}

/// Looks at all packs that are in the repository at `tree`, and all that belongs to them.
pub(super) fn check_all(tree: &Path, hash: Kind, stop: &Stop) -> Result<Right, RestoreError> {
    let directory = tree.join(DIRECTORY);
    let mut files = Vec::new();
    for file in std::fs::read_dir(&directory).map_err(failed("read", &directory))? {
        let path = file.map_err(failed("read", &directory))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
            let found = std::fs::metadata(&path).map_err(failed("look at", &path))?;
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            files.push(([DIRECTORY.as_bytes(), b"/", name].concat(), found.len()));
        }
    }
    let sizes = files.iter().map(|(path, bytes)| (&path[..], *bytes));
    let sizes = sizes.collect();
    let forms = check_forms(tree, &sizes, hash, stop)?;
    let sums = check_sums(tree, &sizes, &Sums::new(), hash, stop)?;
    let entries = check_entries(tree, hash, stop)?;
    let why = "there are others than were looked at";
    Right::of(forms, sums, entries).ok_or_else(|| RestoreError::entry(DIRECTORY.as_bytes(), why))
}

/// Sees to it that each entry of the packs at `tree` is what its index sums up.
pub(super) fn check_entries(tree: &Path, hash: Kind, stop: &Stop) -> Result<Checked, RestoreError> {
    let directory = DIRECTORY.as_bytes();
    let packs = Packs::open_all(&tree.join(".git"), hash);
    let packs = packs.map_err(|e| RestoreError::entry(directory, e.to_string()))?;
    let checked = Entries::of(&packs).check(|| stop.is_set());
    match checked {
        Ok(()) => Ok(Checked(packs.iter().count())),
        Err(_) if stop.is_set() => Err(stopped()),
        Err(what) => Err(RestoreError::entry(directory, what)),
    }
}

/// The same without the sums of packs: what is found in one lies in there, and each says whose it is.
pub(super) fn check_forms(
    tree: &Path,
    sizes: &BTreeMap<&[u8], u64>,
    hash: Kind,
    stop: &Stop,
) -> Result<Checked, RestoreError> {
    let checker = Checker {
        tree,
        sizes,
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
    let loose = sizes.keys().filter(|path| pack_stem(path).is_none());
    let jobs: Vec<&[u8]> = stems.iter().chain(loose).copied().collect();
    each(&jobs, |at, job| match at < stems.len() {
        true => checker.pack(job),
        false => checker.loose(job),
    })?;
    Ok(Checked(stems.len()))
}

/// Compares packs with their own sums, of which `sums` were begun.
pub(super) fn check_sums(
    tree: &Path,
    sizes: &BTreeMap<&[u8], u64>,
    sums: &Sums,
    hash: Kind,
    stop: &Stop,
) -> Result<Checked, RestoreError> {
    let checker = Checker {
        tree,
        sizes,
        hash,
        stop,
    };
    let packs = sizes.keys().filter(|path| path.ends_with(b".pack"));
    let packs: Vec<&[u8]> = packs.copied().collect();
    each(&packs, |_, path| checker.sum(path, sums.get(path)))?;
    Ok(Checked(packs.len()))
}

/// Does what is to be done with each, by its place, on all cores.
fn each(
    jobs: &[&[u8]],
    run: impl Fn(usize, &[u8]) -> Result<(), RestoreError> + Sync,
) -> Result<(), RestoreError> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let one_after_the_other = || {
        loop {
            let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some(job) = jobs.get(at) else {
                return Ok(());
            };
            run(at, job)?;
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let running: Vec<_> = (0..threads.min(jobs.len()))
            .map(|_| scope.spawn(one_after_the_other))
            .collect();
        running.into_iter().try_for_each(|thread| {
            let ended = thread.join();
            ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Leaves out of the files of objects below `tree` packs that are believed with all that belongs to them: each was found
/// right before, and names the same pack.
pub(super) fn leave_out(
    tree: &Path,
    sizes: &mut BTreeMap<&[u8], u64>,
    believed: &BTreeSet<Vec<u8>>,
    hash: Kind,
) {
    let is_of = |path: &[u8], stem: &[u8]| pack_stem(path) == Some(stem);
    let stems: Vec<Vec<u8>> = sizes
        .keys()
        .filter_map(|path| path.strip_suffix(b".pack"))
        .map(<[u8]>::to_owned)
        .collect();
    for stem in stems {
        let own = || sizes.iter().filter(|(path, _)| is_of(path, &stem));
        let is_believed = own().all(|(path, _)| believed.contains(*path));
        let mut named = own().map(|(path, bytes)| named_pack(tree, path, *bytes, hash));
        let first = named.next().flatten();
        if is_believed && first.is_some() && named.all(|next| next == first) {
            sizes.retain(|path, _| !is_of(path, &stem));
        }
    }
}

/// The sum of the pack that a file is or belongs to, as it says.
fn named_pack(tree: &Path, path: &[u8], bytes: u64, hash: Kind) -> Option<Vec<u8>> {
    let sum_bytes = hash.len_in_bytes() as u64;
    // Others have a sum of their own behind it.
    let sums = if path.ends_with(b".pack") { 1 } else { 2 };
    let at = bytes.checked_sub(sums * sum_bytes)?;
    let mut sum = vec![0; hash.len_in_bytes()];
    let file = File::open(tree.join(as_path(path))).ok()?;
    file.read_exact_at(&mut sum, at).ok()?;
    Some(sum)
}

/// Looks at the index at `path` of a pack of `pack_bytes` that still comes: what is found by it lies in there.
pub(super) fn check_index(
    path: &Path,
    pack_bytes: u64,
    hash: Kind,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let name = path.as_os_str().as_encoded_bytes();
    if pack_bytes < HEADER_BYTES as u64 {
        return Err(RestoreError::entry(name, "its pack is too short for one"));
    }
    let file = File::open(path).map_err(|e| RestoreError::disk("open", path, e))?;
    let found = file
        .metadata()
        .map_err(|e| RestoreError::disk("look at", path, e))?;
    let reading = Reading { file, at: 0, stop };
    let reading = BufReader::with_capacity(READ_BYTES, reading);
    let index = index(reading, found.len(), hash, |_| ()).map_err(|fault| match fault {
        Fault::Content(what) => RestoreError::entry(name, what),
        Fault::Read(e) => RestoreError::disk("read", path, e),
    })?;
    let end = pack_bytes.saturating_sub(hash.len_in_bytes() as u64);
    is_inside(&index, end).map_err(|what| RestoreError::entry(name, what))
}

/// How many packs there are in the repository at `tree`.
pub(super) fn count(tree: &Path) -> Result<usize, RestoreError> {
    let directory = tree.join(DIRECTORY);
    let mut packs = 0;
    for file in std::fs::read_dir(&directory).map_err(failed("read", &directory))? {
        let file = file.map_err(failed("read", &directory))?;
        packs += usize::from(file.path().extension().is_some_and(|end| end == "pack"));
    }
    Ok(packs)
}

/// The path of a pack's file without its ending.
fn pack_stem(path: &[u8]) -> Option<&[u8]> {
    let dot = path.iter().rposition(|b| *b == b'.')?;
    let name = path.strip_prefix(DIRECTORY.as_bytes())?;
    name.starts_with(b"/").then(|| &path[..dot])
}

struct Checker<'c> {
    tree: &'c Path,
    sizes: &'c BTreeMap<&'c [u8], u64>,
    hash: Kind,
    stop: &'c Stop,
}

impl Checker<'_> {
    fn open(&self, path: &[u8]) -> Result<(BufReader<Reading<'_>>, u64), RestoreError> {
        let bytes = self.sizes.get(path).copied().unwrap_or_default();
        let whole = self.tree.join(as_path(path));
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
            Fault::Read(e) => RestoreError::disk("read", as_path(path), e),
        })
    }

    /// Checks a pack and what belongs to it.
    fn pack(&self, stem: &[u8]) -> Result<(), RestoreError> {
        let with = |ending: &str| [stem, ending.as_bytes()].concat();
        let hash = self.hash;
        let path = with(".pack");
        let found = self.read(&path, |file, bytes| pack(file, bytes, hash))?;
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
            let whole = self.tree.join(as_path(&path));
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

    /// Compares a pack with its own sum, which may have been begun: what is behind that is read.
    fn sum(&self, path: &[u8], begun: Option<&Arc<Mutex<Running>>>) -> Result<(), RestoreError> {
        let bytes = self.sizes.get(path).copied().unwrap_or_default();
        let whole = self.tree.join(as_path(path));
        let file = File::open(&whole).map_err(failed("open", &whole))?;
        let mut own = Running::new(bytes, self.hash);
        let mut begun = begun.map(|begun| lock(begun));
        let begun = begun.as_deref_mut().filter(|begun| begun.hash == self.hash);
        let running = begun.unwrap_or(&mut own);
        let mut buffer = vec![0; READ_BYTES];
        while running.next() < bytes {
            if self.stop.is_set() {
                return Err(stopped());
            }
            let left = usize::try_from(bytes - running.next()).unwrap_or(READ_BYTES);
            let next = &mut buffer[..left.min(READ_BYTES)];
            let read = file.read_exact_at(next, running.next());
            read.map_err(failed("read", &whole))?;
            running.add(next);
        }
        let said = named_pack(self.tree, path, bytes, self.hash);
        match running.finish() == said && said.is_some() {
            true => Ok(()),
            false => Err(RestoreError::entry(path, "its checksum is wrong")),
        }
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

/// Whether an index is that of its pack.
fn fits(pack: &Pack, index: &Index, hash: Kind) -> Result<(), &'static str> {
    let end = pack.bytes - hash.len_in_bytes() as u64;
    if index.objects != pack.objects || index.pack_sum != pack.sum {
        return Err("it is of another pack");
    }
    is_inside(index, end)
}

/// Whether all that an index finds lies between the head of its pack and `end`.
fn is_inside(index: &Index, end: u64) -> Result<(), &'static str> {
    let is_inside = index.offset_min >= HEADER_BYTES as u64 && index.offset_max < end;
    match index.objects == 0 || is_inside {
        true => Ok(()),
        false => Err("an offset leads out of its pack"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Repository;
    use super::*;
    use crate::tree::sum::Sum;

    /// A repository with one pack, made with an index of `version`.
    fn repository(hash: &str, version: &str) -> Repository {
        let repository = Repository::of(hash);
        let git = |args: &[&str], input: &[u8]| {
            let said = String::from_utf8(repository.git(args, input)).unwrap();
            said.trim().to_owned()
        };
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
        repository
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
                let repository = repository(hash, version);
                let tree = repository.path();
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
                let write = |mut bytes: Vec<u8>| {
                    let mut sum = Sum::new(kind);
                    sum.update(&bytes);
                    bytes.extend(sum.finish());
                    drop(std::fs::remove_file(&index));
                    std::fs::write(&index, &bytes).unwrap();
                };
                for at in (0..end).step_by(7) {
                    let mut bad = real[..end].to_vec();
                    bad[at] ^= 0x80;
                    write(bad);
                    // Whatever else it then says, it leads nowhere else.
                    if checked(tree, kind).is_ok() {
                        let file = gix::odb::pack::index::File::at(&index, kind).unwrap();
                        let pack_bytes = std::fs::metadata(self::file(tree, "pack")).unwrap().len();
                        assert!(file.iter().all(|entry| entry.pack_offset < pack_bytes));
                    }
                }
                // An offset that no object has.
                let (table, sum) = real[..end].split_at(end - kind.len_in_bytes());
                write([table, &[0, 0, 0, 0, 0, 0, 0, 12], sum].concat());
                checked(tree, kind).unwrap_err();
                std::fs::write(&index, &real[..real.len() / 2]).unwrap();
                checked(tree, kind).unwrap_err();
            }
        }
    }
}
