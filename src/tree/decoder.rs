//! Objects, read straight from the packs of a build, and blobs into their place in the archive.
//!
//! A pack entry says how many bytes its zlib stream makes (gitformat-pack(5)), so it can be
//! inflated in one call, which is what libdeflate is made for: with gix's reader, which inflates
//! in steps and into a buffer of its own, that is where a third of a build's time went. Loose
//! objects, what takes much memory and what looks odd are left to gix.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gix::objs::{Data, Find, Kind};
use gix::odb::pack::data::Entry;
use gix::odb::pack::data::entry::Header;
use gix::oid;
use libdeflater::Decompressor;

use super::bases::Bases;
use super::delta::Delta;
pub use super::packed::OpenError;
use super::packed::Pack;
use crate::limits::{DECODE_LIMIT_BYTES, DELTA_CHAIN_MAX};
use crate::manifest::record::Linked;

/// A pack entry that is not what its header says.
#[derive(Debug, thiserror::Error)]
#[error("its data at {offset} of {} is damaged: {detail}", .pack.display())]
pub struct DamagedEntry {
    pack: PathBuf,
    offset: u64,
    detail: String,
}

/// All packs of a build, mapped.
pub struct Packs {
    pub(super) packs: Vec<Pack>,
}

/// A zlib stream in a pack: where it begins, and how many bytes it makes.
#[derive(Clone, Copy)]
pub struct Stream<'p> {
    pack: &'p Pack,
    /// Where its entry begins: two that begin at different places may have the same data.
    entry: u64,
    offset: u64,
    wire: &'p [u8],
    /// Bytes that it makes, as the entry's header has it.
    pub size: u64,
}

/// An object as one pack has it.
pub(crate) struct Found<'p> {
    pack: &'p Pack,
    /// Where its entry begins.
    offset: u64,
    entry: Entry,
}

/// What an object is made from.
pub(crate) struct Chain<'p> {
    pub kind: Kind,
    /// What is stored whole.
    pub base: Stream<'p>,
    /// What makes the object of it, the last one first.
    pub deltas: Vec<Stream<'p>>,
}

/// Trees, read from the packs, or where they are not in one from `others`. For one thread.
pub struct Trees<'a> {
    packs: &'a Packs,
    others: &'a dyn Find,
    hash: gix::hash::Kind,
    decoder: RefCell<Decoder>,
}

/// What a thread decodes with. It keeps its buffers, and what is in them: memory that is new costs
/// more than what is done with it.
pub struct Decoder {
    inflater: Decompressor,
    base: Vec<u8>,
    delta: Vec<u8>,
    result: Vec<u8>,
    /// What was inflated and put together so far.
    made_bytes: u64,
}

impl Packs {
    /// Opens the packs among `linked`, which are in `directory`.
    pub fn open(
        directory: &Path,
        linked: &[Linked],
        hash: gix::hash::Kind,
    ) -> Result<Packs, OpenError> {
        let indices = linked.iter().filter(|l| l.path.ends_with(".idx"));
        let open = |index: &Linked| Pack::open(&directory.join(&index.path), hash);
        Ok(Packs {
            packs: indices.map(open).collect::<Result<_, _>>()?,
        })
    }

    /// These packs.
    pub(crate) fn of(packs: Vec<Pack>) -> Packs {
        Packs { packs }
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Pack> {
        self.packs.iter()
    }

    /// Where the copies of `id` lie: the number of each pack that has it, and where it begins there.
    pub(crate) fn places(&self, id: &oid) -> impl Iterator<Item = (usize, u64)> {
        let packs = self.packs.iter().enumerate();
        packs.filter_map(move |(number, pack)| Some((number, pack.offset(id)?)))
    }

    /// Whether what begins at such a place has come, or begun to, or never will.
    pub(crate) fn is_known(&self, (pack, offset): (usize, u64)) -> bool {
        self.packs
            .get(pack)
            .is_none_or(|pack| pack.is_known(offset))
    }

    /// Waits for that, for so long at most.
    pub(crate) fn wait_for(&self, (pack, offset): (usize, u64), time: Duration) {
        if let Some(pack) = self.packs.get(pack) {
            pack.wait_for(offset, time);
        }
    }

    /// How many bytes their data has.
    pub(crate) fn bytes(&self) -> u64 {
        self.packs.iter().map(Pack::bytes).sum()
    }

    /// The copies of `id`: one for each pack that has it.
    pub(crate) fn copies<'p>(&'p self, id: &oid) -> impl Iterator<Item = Found<'p>> {
        self.packs.iter().filter_map(move |pack| {
            let offset = pack.offset(id)?;
            let entry = pack.entry(offset)?;
            Some(Found {
                pack,
                offset,
                entry,
            })
        })
    }

    /// The blob `id`, if it is stored whole.
    pub fn find_whole(&self, id: &oid) -> Option<Stream<'_>> {
        let copy = self.copies(id).next()?;
        matches!(copy.entry.header, Header::Blob).then_some(copy.stream())
    }

    /// Appends the object `id`, which is a `kind`, to `out`, after what `begin` appends for an
    /// object of the size it is given. `None`, and nothing is appended, if it is not for this
    /// reader: it is in no pack or something else, or decoding it takes more than `max_bytes`. An
    /// error, after which `out` is as before, if it is damaged in every pack that has it.
    pub fn push_object(
        &self,
        id: &oid,
        kind: Kind,
        max_bytes: u64,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
        begin: impl Fn(&mut Vec<u8>, u64),
    ) -> Result<Option<u64>, DamagedEntry> {
        let start = out.len();
        let mut damaged = None;
        for copy in self.copies(id) {
            match copy.push(kind, max_bytes, decoder, out, &begin, None) {
                Err(e) => {
                    out.truncate(start);
                    damaged.get_or_insert(e);
                }
                pushed => return pushed,
            }
        }
        damaged.map_or(Ok(None), Err)
    }
}

impl<'p> Found<'p> {
    fn stream(&self) -> Stream<'p> {
        Stream {
            pack: self.pack,
            entry: self.offset,
            offset: self.entry.data_offset,
            wire: self.pack.wire(&self.entry).unwrap_or_default(),
            size: self.entry.decompressed_size,
        }
    }

    /// What it is made from. `None` if that does not lead to anything.
    pub(crate) fn chain(mut self) -> Result<Option<Chain<'p>>, DamagedEntry> {
        let mut deltas = Vec::new();
        loop {
            let stream = self.stream();
            stream.check_size()?;
            let at = match self.entry.header {
                Header::OfsDelta { base_distance } => {
                    self.entry.checked_base_pack_offset(base_distance)
                }
                Header::RefDelta { base_id } => self.pack.offset(&base_id),
                whole => {
                    let kind = whole.as_kind();
                    return Ok(kind.map(|kind| Chain {
                        kind,
                        base: stream,
                        deltas,
                    }));
                }
            };
            let next = at.and_then(|at| Some((at, self.pack.entry(at)?)));
            match next.filter(|_| deltas.len() < DELTA_CHAIN_MAX) {
                None => return Ok(None),
                Some(next) => (self.offset, self.entry) = next,
            }
            deltas.push(stream);
        }
    }

    /// What [`Packs::push_object`] does with one copy; what `bases` hold is not made again.
    pub(crate) fn push(
        self,
        kind: Kind,
        max_bytes: u64,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
        begin: &impl Fn(&mut Vec<u8>, u64),
        bases: Option<&mut Bases<'p>>,
    ) -> Result<Option<u64>, DamagedEntry> {
        let chain = self.chain()?;
        let Some(Chain { base, deltas, .. }) = chain.filter(|chain| chain.kind == kind) else {
            return Ok(None);
        };
        let is_large = |stream: &Stream<'_>| stream.size > max_bytes;
        if is_large(&base) || deltas.iter().any(is_large) {
            return Ok(None);
        }
        if !deltas.is_empty() {
            let of = (base, deltas);
            return decoder.push_deltas(of, max_bytes, out, begin, bases);
        }
        begin(out, base.size);
        decoder.made_bytes += base.size;
        base.inflate(&mut decoder.inflater, out)?;
        Ok(Some(base.size))
    }
}

impl<'a> Trees<'a> {
    /// Trees of `packs` and `others`, whose ids are of the kind `hash`.
    pub fn new(packs: &'a Packs, others: &'a dyn Find, hash: gix::hash::Kind) -> Trees<'a> {
        Trees {
            packs,
            others,
            hash,
            decoder: RefCell::default(),
        }
    }
}

impl Find for Trees<'_> {
    fn try_find<'b>(
        &self,
        id: &oid,
        buffer: &'b mut Vec<u8>,
    ) -> gix::error::Result<Option<Data<'b>>> {
        buffer.clear();
        let decoder = &mut *self.decoder.borrow_mut();
        let limit = DECODE_LIMIT_BYTES;
        // What is damaged here is read again by gix, whose error says what is wrong with a tree.
        match self
            .packs
            .push_object(id, Kind::Tree, limit, decoder, buffer, |_, _| ())
        {
            Ok(Some(_)) => Ok(Some(Data {
                kind: Kind::Tree,
                object_hash: self.hash,
                data: buffer,
            })),
            Ok(None) | Err(_) => self.others.try_find(id, buffer),
        }
    }
}

impl Decoder {
    /// A decoder without buffers yet.
    pub fn new() -> Decoder {
        Decoder {
            inflater: Decompressor::new(),
            base: Vec::new(),
            delta: Vec::new(),
            result: Vec::new(),
            made_bytes: 0,
        }
    }

    /// What was inflated and put together since this was asked last: how much work it was.
    pub(crate) fn take_made_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.made_bytes)
    }

    /// Applies `deltas`, the last one first, to what `base` makes; the last result goes to `out`.
    fn push_deltas<'p>(
        &mut self,
        (mut base_of, mut deltas): (Stream<'p>, Vec<Stream<'p>>),
        max_bytes: u64,
        out: &mut Vec<u8>,
        begin: &impl Fn(&mut Vec<u8>, u64),
        mut bases: Option<&mut Bases<'p>>,
    ) -> Result<Option<u64>, DamagedEntry> {
        self.trim();
        let held = bases.as_mut().and_then(|bases| {
            // The first one is the object itself.
            let made = (1..=deltas.len()).find_map(|at| {
                let of = *deltas.get(at).unwrap_or(&base_of);
                Some((at, of, bases.take(of.pack, of.entry)?))
            });
            made.map(|(at, of, made)| {
                deltas.truncate(at);
                base_of = of;
                made
            })
        });
        let mut base_bytes = match held {
            Some(held) => {
                self.base = held;
                self.base.len()
            }
            None => {
                self.made_bytes += base_of.size;
                base_of.fill(&mut self.inflater, &mut self.base)?
            }
        };
        while let Some(stream) = deltas.pop() {
            if (base_bytes as u64).saturating_add(stream.size) > max_bytes {
                return Ok(None);
            }
            let delta_bytes = stream.fill(&mut self.inflater, &mut self.delta)?;
            let damaged = || stream.damaged("its delta is not of what it is made from".into());
            let delta = Delta::parse(&self.delta[..delta_bytes]).ok_or_else(damaged)?;
            let held_bytes = (base_bytes + delta_bytes) as u64;
            if held_bytes.saturating_add(delta.result_bytes) > max_bytes {
                return Ok(None);
            }
            self.made_bytes += delta_bytes as u64 + delta.result_bytes;
            let base = &self.base[..base_bytes];
            if deltas.is_empty() {
                begin(out, delta.result_bytes);
                delta.apply(base, out).ok_or_else(damaged)?;
                let result_bytes = delta.result_bytes;
                self.keep_base(base_of, base_bytes, bases.as_deref_mut());
                return Ok(Some(result_bytes));
            }
            self.result.clear();
            delta.apply(base, &mut self.result).ok_or_else(damaged)?;
            self.keep_base(base_of, base_bytes, bases.as_deref_mut());
            base_bytes = self.result.len();
            std::mem::swap(&mut self.base, &mut self.result);
            base_of = stream;
        }
        Ok(None)
    }

    /// Keeps what `stream` makes, the first so many bytes of the base.
    fn keep_base<'p>(&mut self, stream: Stream<'p>, bytes: usize, bases: Option<&mut Bases<'p>>) {
        if let Some(bases) = bases {
            let mut made = std::mem::take(&mut self.base);
            made.truncate(bytes);
            if made.capacity() / 2 > bytes {
                made.shrink_to_fit();
            }
            let free = bases.keep(stream.pack, stream.entry, made);
            self.base = free.unwrap_or_default();
        }
    }

    /// Lets go of the buffers if they hold more than decoding an object may take.
    fn trim(&mut self) {
        let buffers = [&mut self.base, &mut self.delta, &mut self.result];
        let held_bytes: usize = buffers.iter().map(|b| b.capacity()).sum();
        if held_bytes as u64 > DECODE_LIMIT_BYTES {
            buffers.into_iter().for_each(|b| *b = Vec::new());
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl<'p> Stream<'p> {
    /// The stream's bytes, and whatever follows it in the pack.
    pub fn deflated(&self) -> &'p [u8] {
        self.wire
    }

    /// Refuses a size that no stream of so few bytes makes: memory is taken for it before the
    /// stream is looked at. A byte makes at most 1032 (zlib's technical details, "Maximum
    /// Compression Factor").
    fn check_size(&self) -> Result<(), DamagedEntry> {
        let max = (self.deflated().len() as u64).saturating_mul(1032);
        match self.size <= max {
            true => Ok(()),
            false => Err(self.damaged(format!("it cannot make {} bytes", self.size))),
        }
    }

    fn no_memory(&self, bytes: u64) -> DamagedEntry {
        self.damaged(format!("there is no memory for {bytes} bytes"))
    }

    pub(crate) fn damaged(&self, detail: String) -> DamagedEntry {
        // The name alone: the path is that of a link, which is gone when somebody reads this.
        let pack = self.pack.data.path().file_name().unwrap_or_default();
        DamagedEntry {
            pack: pack.into(),
            offset: self.offset,
            detail,
        }
    }

    /// Appends what it makes to `out`. Allocates as much as the entry's header asks for: the caller
    /// has looked at `size`.
    fn inflate(&self, inflater: &mut Decompressor, out: &mut Vec<u8>) -> Result<(), DamagedEntry> {
        let start = out.len();
        let reserved = out.try_reserve(self.size as usize);
        reserved.map_err(|_| self.no_memory(self.size))?;
        out.resize(start + self.size as usize, 0);
        self.inflate_into(inflater, &mut out[start..])
    }

    /// Puts what it makes at the beginning of `buffer`, which grows if it is too small; returns how
    /// many bytes that are.
    fn fill(
        &self,
        inflater: &mut Decompressor,
        buffer: &mut Vec<u8>,
    ) -> Result<usize, DamagedEntry> {
        let size = self.size as usize;
        if buffer.len() < size {
            let reserved = buffer.try_reserve_exact(size - buffer.len());
            reserved.map_err(|_| self.no_memory(self.size))?;
            buffer.resize(size, 0);
        }
        self.inflate_into(inflater, &mut buffer[..size])?;
        Ok(size)
    }

    /// Makes exactly as many bytes as `out` holds, with zlib's checksum verified.
    fn inflate_into(
        &self,
        inflater: &mut Decompressor,
        out: &mut [u8],
    ) -> Result<(), DamagedEntry> {
        match inflater.zlib_decompress(self.deflated(), out) {
            Ok(made) if made == out.len() => Ok(()),
            Ok(made) => Err(self.damaged(format!("it is {made} bytes, not {}", self.size))),
            Err(e) => Err(self.damaged(e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use gix::ObjectId;

    use super::*;
    use crate::snapshot::tests::Repository;

    const NO_LIMIT: u64 = 1 << 30;

    /// Many versions of one file, each a delta of another: `options` are git's for the pack.
    fn deltas(options: &[&str]) -> Repository {
        let repository = Repository::new();
        let mut lines: Vec<String> = (0..2000).map(|i| format!("line {}", i * 7919)).collect();
        for version in 0..30 {
            lines[version * 60] = format!("version {version} of this line");
            repository.write("dir/file", lines.join("\n"));
            repository.write(&format!("dir/{version}"), version.to_string());
            repository.write("empty", "");
            repository.commit();
        }
        let repack = ["repack", "-adfq", "--depth=40", "--window=80"];
        repository.git(&[options, &repack].concat());
        repository
    }

    fn open(git_dir: &Path) -> Packs {
        let names = fs::read_dir(git_dir.join("objects/pack")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let linked: Vec<Linked> = names
            .map(|name| Linked {
                path: format!("objects/pack/{name}"),
                bytes: 0,
                whole: None,
            })
            .collect();
        Packs::open(git_dir, &linked, gix::hash::Kind::Sha1).unwrap()
    }

    /// Every blob and tree: its id, its kind, and what git says is in it.
    fn objects(repository: &Repository) -> Vec<(ObjectId, Kind, Vec<u8>)> {
        let list = repository.git(&["cat-file", "--batch-all-objects", "--batch-check"]);
        let fields = list.lines().map(|l| l.split(' ').collect::<Vec<_>>());
        let kind = |name: &str| match name {
            "blob" => Some(Kind::Blob),
            "tree" => Some(Kind::Tree),
            _ => None,
        };
        let object = |f: Vec<&str>| {
            let mut git = std::process::Command::new("git");
            git.current_dir(repository.dir.path());
            let content = git.args(["cat-file", f[1], f[0]]).output().unwrap().stdout;
            let id = ObjectId::from_hex(f[0].as_bytes()).unwrap();
            Some((id, kind(f[1])?, content))
        };
        fields.filter_map(object).collect()
    }

    fn push(packs: &Packs, id: &oid, kind: Kind, max_bytes: u64) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        let mut decoder = Decoder::new();
        let pushed = packs.push_object(id, kind, max_bytes, &mut decoder, &mut out, |out, size| {
            out.extend_from_slice(format!("{size}:").as_bytes());
        });
        let pushed = pushed.unwrap();
        assert_eq!(pushed.is_none(), out == b"before");
        let begun = format!("before{}:", pushed?);
        Some(out.strip_prefix(begun.as_bytes()).unwrap().to_vec())
    }

    #[test]
    fn objects_are_what_git_says_they_are() {
        for option in [
            "repack.useDeltaBaseOffset=true",
            "repack.useDeltaBaseOffset=false",
        ] {
            let repository = deltas(&["-c", option]);
            let git_dir = repository.dir.path().join(".git");
            let packs = open(&git_dir);
            let objects = objects(&repository);
            let versions = objects.iter().filter(|(_, _, data)| data.len() > 20_000);
            assert!(versions.clone().count() >= 30);
            let whole = versions.filter(|(id, ..)| packs.find_whole(id).is_some());
            assert!(whole.count() < 10, "there are no deltas to test with");
            for (id, kind, data) in &objects {
                let got = push(&packs, id, *kind, NO_LIMIT);
                assert_eq!(got.as_deref(), Some(&data[..]), "{option} {id}");
                let other = [Kind::Blob, Kind::Tree][usize::from(*kind == Kind::Blob)];
                assert_eq!(push(&packs, id, other, NO_LIMIT), None);
                if !data.is_empty() {
                    assert_eq!(push(&packs, id, *kind, data.len() as u64 - 1), None);
                }
            }
            let absent = ObjectId::null(gix::hash::Kind::Sha1);
            assert_eq!(push(&packs, &absent, Kind::Blob, NO_LIMIT), None);
        }
    }

    #[test]
    fn trees_are_the_same_with_and_without_packs() {
        let repository = deltas(&[]);
        repository.write("loose", "loose");
        repository.commit();
        let git_dir = repository.dir.path().join(".git");
        let packs = open(&git_dir);
        let odb = gix::odb::at(git_dir.join("objects"), gix::hash::Kind::Sha1).unwrap();
        let trees = Trees::new(&packs, &odb, gix::hash::Kind::Sha1);
        for (id, kind, data) in objects(&repository) {
            let mut buffer = b"old".to_vec();
            let found = trees.try_find(&id, &mut buffer).unwrap().unwrap();
            assert_eq!((found.kind, found.data), (kind, &data[..]));
        }
    }

    #[test]
    fn a_changed_byte_is_found_or_does_not_matter() {
        let repository = deltas(&[]);
        let git_dir = repository.dir.path().join(".git");
        let objects = objects(&repository);
        let pack = open(&git_dir).packs[0].data.path().to_owned();
        let sound = fs::read(&pack).unwrap();
        fs::remove_file(&pack).unwrap();
        let mut found = 0;
        for at in (12..sound.len() - 20).step_by(97) {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x41;
            fs::write(&pack, bytes).unwrap();
            let packs = open(&git_dir);
            // Of what lies there and is neither a delta nor what one is made from.
            for (id, kind, data) in &objects {
                let Some(stream) = packs.find_whole(id) else {
                    continue;
                };
                let mut out = Vec::new();
                let mut decoder = Decoder::new();
                let pushed =
                    packs.push_object(id, *kind, NO_LIMIT, &mut decoder, &mut out, |_, _| ());
                match pushed {
                    Err(e) => {
                        assert!(e.to_string().contains(".pack is damaged"), "{e}");
                        assert!(stream.offset <= at as u64, "{e}");
                        found += 1;
                    }
                    Ok(Some(_)) if at as u64 >= stream.offset => assert!(out == *data, "{id}"),
                    Ok(_) => {}
                }
            }
        }
        assert!(found > 10, "only {found} were found");
    }

    #[test]
    fn a_whole_copy_in_another_pack_is_enough() {
        let repository = Repository::new();
        let data = "line\n".repeat(1000);
        repository.write("file", &data);
        repository.commit();
        repository.git(&["repack", "-adq"]);
        let git_dir = repository.dir.path().join(".git");
        let id: ObjectId = repository.git(&["rev-parse", "HEAD:file"]).parse().unwrap();
        let mut packs = open(&git_dir);
        let mut again = open(&git_dir);
        // The same bytes twice, one of them damaged: each in its turn is the first.
        let sound = packs.packs[0].data.path().to_owned();
        let damaged_dir = tempfile::tempdir().unwrap();
        let damaged = damaged_dir.path().join(sound.file_name().unwrap());
        let mut bytes = fs::read(&sound).unwrap();
        let at = packs.find_whole(&id).unwrap().offset as usize;
        bytes[at + 4] ^= 0x55;
        fs::write(&damaged, bytes).unwrap();
        fs::copy(sound.with_extension("idx"), damaged.with_extension("idx")).unwrap();
        let pack = || Pack::open(&damaged, gix::hash::Kind::Sha1).unwrap();
        again.packs.insert(0, pack());
        packs.packs.push(pack());
        for packs in [&packs, &again] {
            let got = push(packs, &id, Kind::Blob, NO_LIMIT);
            assert_eq!(got.as_deref(), Some(data.as_bytes()));
        }
        again.packs.truncate(1);
        let (mut out, mut decoder) = (b"before".to_vec(), Decoder::new());
        let pushed =
            again.push_object(&id, Kind::Blob, NO_LIMIT, &mut decoder, &mut out, |o, _| {
                o.push(b'x');
            });
        assert!(pushed.is_err());
        assert_eq!(out, b"before", "a part of it is left");
    }

    /// In any order, with room for all bases and for few of them.
    #[test]
    fn what_is_made_of_kept_bases_is_the_same() {
        let repository = deltas(&[]);
        let packs = open(&repository.dir.path().join(".git"));
        let ids = repository.git(&["rev-list", "--all", "--objects", "--no-object-names"]);
        let ids: Vec<ObjectId> = ids
            .lines()
            .map(|id| ObjectId::from_hex(id.as_bytes()).unwrap())
            .collect();
        let mut decoder = Decoder::new();
        for room in [0, 60_000, 1 << 30] {
            let mut bases = Bases::new(room);
            let mut blobs = 0;
            for id in ids.iter().chain(ids.iter().rev()) {
                let mut expected = Vec::new();
                let kind = Kind::Blob;
                let pushed =
                    packs.push_object(id, kind, NO_LIMIT, &mut decoder, &mut expected, |_, _| ());
                let is_blob = pushed.unwrap().is_some();
                for found in packs.copies(id) {
                    let mut made = Vec::new();
                    let bases = Some(&mut bases);
                    let begin = |_: &mut Vec<u8>, _| ();
                    let pushed = found.push(kind, NO_LIMIT, &mut decoder, &mut made, &begin, bases);
                    assert_eq!(pushed.unwrap().is_some(), is_blob);
                    assert!(made == expected, "{id} with room for {room}");
                }
                blobs += usize::from(is_blob);
            }
            assert!(blobs > 60, "{blobs}");
        }
    }

    #[test]
    fn sizes_that_cannot_be_take_no_memory() {
        let repository = deltas(&[]);
        let packs = open(&repository.dir.path().join(".git"));
        let pack = &packs.packs[0];
        let sizes = [1 << 40, 1 << 62, u64::MAX];
        for size in sizes {
            let stream = Stream {
                pack,
                entry: 11,
                offset: 12,
                wire: pack
                    .data
                    .entry_slice(12..pack.data.pack_end() as u64)
                    .unwrap(),
                size,
            };
            let refused = stream.check_size().unwrap_err().to_string();
            assert!(refused.contains(&size.to_string()), "{refused}");
            let mut out = Vec::new();
            let mut inflater = Decompressor::new();
            assert!(stream.inflate(&mut inflater, &mut out).is_err());
            assert!(stream.fill(&mut inflater, &mut out).is_err());
        }
    }
}
