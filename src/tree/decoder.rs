//! Objects, read straight from the packs of a build, and blobs into their place in the archive.
//!
//! A pack entry says how many bytes its zlib stream makes (gitformat-pack(5)), so it can be
//! inflated in one call, which is what libdeflate is made for: with gix's reader, which inflates
//! in steps and into a buffer of its own, that is where a third of a build's time went. Loose
//! objects, what takes much memory and what looks odd are left to gix.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use gix::objs::{Data, Find, Kind};
use gix::odb::pack::data::Entry;
use gix::odb::pack::data::entry::Header;
use gix::odb::pack::{data, index};
use gix::oid;
use libdeflater::Decompressor;

use super::map::MappedFile;
use crate::io::shortage::Detail;
use crate::limits::{DECODE_LIMIT_BYTES, DELTA_CHAIN_MAX, DELTA_UNCHECKED_BYTES};
use crate::manifest::record::Linked;

/// A pack that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {detail}", .path.display())]
pub struct OpenError {
    pub(super) path: PathBuf,
    #[source]
    pub(super) detail: Detail,
}

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

pub(super) struct Pack {
    pub(super) index: index::File<MappedFile>,
    pub(super) data: data::File<MappedFile>,
}

/// A zlib stream in a pack: where it begins, and how many bytes it makes.
#[derive(Clone, Copy)]
pub struct Stream<'p> {
    pack: &'p Pack,
    offset: u64,
    /// Bytes that it makes, as the entry's header has it.
    pub size: u64,
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

    /// The entries of `id`: one for each pack that has it.
    fn find<'p>(&'p self, id: &oid) -> impl Iterator<Item = (&'p Pack, Entry)> {
        self.packs.iter().filter_map(move |pack| {
            let index = pack.index.lookup(id)?;
            let offset = pack.index.pack_offset_at_index(index);
            Some((pack, pack.data.entry(offset).ok()?))
        })
    }

    /// The blob `id`, if it is stored whole.
    pub fn find_whole(&self, id: &oid) -> Option<Stream<'_>> {
        let (pack, entry) = self.find(id).next()?;
        matches!(entry.header, Header::Blob).then_some(Stream::of(pack, &entry))
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
        for (pack, entry) in self.find(id) {
            match Packs::push_entry(pack, entry, kind, max_bytes, decoder, out, &begin) {
                Err(e) => {
                    out.truncate(start);
                    damaged.get_or_insert(e);
                }
                pushed => return pushed,
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// What [`Packs::push_object`] does with the entry of one pack.
    fn push_entry(
        pack: &Pack,
        entry: Entry,
        kind: Kind,
        max_bytes: u64,
        decoder: &mut Decoder,
        out: &mut Vec<u8>,
        begin: &impl Fn(&mut Vec<u8>, u64),
    ) -> Result<Option<u64>, DamagedEntry> {
        let (mut base, mut deltas) = (entry, Vec::new());
        loop {
            let stream = Stream::of(pack, &base);
            stream.check_size()?;
            if stream.size > max_bytes || deltas.len() > DELTA_CHAIN_MAX {
                return Ok(None);
            }
            let at = match base.header {
                Header::OfsDelta { base_distance } => base.checked_base_pack_offset(base_distance),
                Header::RefDelta { base_id } => {
                    let index = pack.index.lookup(base_id);
                    index.map(|index| pack.index.pack_offset_at_index(index))
                }
                whole if whole.as_kind() != Some(kind) => None,
                _ if deltas.is_empty() => {
                    begin(out, stream.size);
                    stream.inflate(&mut decoder.inflater, out)?;
                    return Ok(Some(stream.size));
                }
                _ => {
                    return decoder.push_deltas(stream, deltas, max_bytes, out, begin);
                }
            };
            let Some(next) = at.and_then(|at| pack.data.entry(at).ok()) else {
                return Ok(None);
            };
            deltas.push(stream);
            base = next;
        }
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
        }
    }

    /// Applies `deltas`, the last one first, to what `base` makes; the last result goes to `out`.
    fn push_deltas(
        &mut self,
        base: Stream<'_>,
        mut deltas: Vec<Stream<'_>>,
        max_bytes: u64,
        out: &mut Vec<u8>,
        begin: &impl Fn(&mut Vec<u8>, u64),
    ) -> Result<Option<u64>, DamagedEntry> {
        self.trim();
        let mut base_bytes = base.fill(&mut self.inflater, &mut self.base)?;
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
            let base = &self.base[..base_bytes];
            if deltas.is_empty() {
                begin(out, delta.result_bytes);
                delta.apply(base, out).ok_or_else(damaged)?;
                return Ok(Some(delta.result_bytes));
            }
            self.result.clear();
            delta.apply(base, &mut self.result).ok_or_else(damaged)?;
            base_bytes = self.result.len();
            std::mem::swap(&mut self.base, &mut self.result);
        }
        Ok(None)
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

impl Pack {
    /// Opens a pack by the path of its index or of its data.
    pub(super) fn open(path: &Path, hash: gix::hash::Kind) -> Result<Pack, OpenError> {
        Ok(Pack {
            index: open_part(path.with_extension("idx"), hash, index::File::from_data)?,
            data: open_part(path.with_extension("pack"), hash, data::File::from_data)?,
        })
    }
}

/// Maps a file of a pack and has `parse` look at it.
fn open_part<P>(
    path: PathBuf,
    hash: gix::hash::Kind,
    parse: fn(MappedFile, PathBuf, gix::hash::Kind) -> gix::error::Result<P>,
) -> Result<P, OpenError> {
    let opened = MappedFile::open(&path).map_err(|e| Detail::of(&e));
    let parsed = opened.and_then(|file| {
        let parsed = parse(file, path.clone(), hash);
        parsed.map_err(|e| Detail::of(&e))
    });
    parsed.map_err(|detail| OpenError { path, detail })
}

impl<'p> Stream<'p> {
    fn of(pack: &'p Pack, entry: &Entry) -> Stream<'p> {
        Stream {
            pack,
            offset: entry.data_offset,
            size: entry.decompressed_size,
        }
    }

    /// The stream's bytes, and whatever follows it in the pack.
    pub fn deflated(&self) -> &'p [u8] {
        let end = self.pack.data.pack_end() as u64;
        let deflated = self.pack.data.entry_slice(self.offset..end);
        deflated.unwrap_or_default()
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

    fn damaged(&self, detail: String) -> DamagedEntry {
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

/// A delta (gitformat-pack(5), "Deltified representation").
struct Delta<'d> {
    base_bytes: u64,
    result_bytes: u64,
    instructions: &'d [u8],
}

impl Delta<'_> {
    fn parse(delta: &[u8]) -> Option<Delta<'_>> {
        let (base_bytes, rest) = take_size(delta)?;
        let (result_bytes, instructions) = take_size(rest)?;
        Some(Delta {
            base_bytes,
            result_bytes,
            instructions,
        })
    }

    /// How many bytes the instructions make.
    fn made_bytes(&self) -> Option<u64> {
        let (mut made, mut rest) = (0u64, self.instructions);
        while let Some((&instruction, tail)) = rest.split_first() {
            let len;
            (len, rest) = match instruction {
                0 => return None,
                1..0x80 => (instruction.into(), tail.get(instruction.into()..)?),
                _ => {
                    let (_, tail) = take_bytes(instruction, 0..4, tail)?;
                    let (len, tail) = take_bytes(instruction, 4..7, tail)?;
                    (if len == 0 { 0x10000 } else { len }, tail)
                }
            };
            made = made.checked_add(len as u64)?;
        }
        Some(made)
    }

    /// Appends the result to `out`; `None` if the delta does not fit `base` or makes anything but
    /// as many bytes as it says.
    fn apply(&self, base: &[u8], out: &mut Vec<u8>) -> Option<()> {
        if self.base_bytes != base.len() as u64 {
            return None;
        }
        let mut left = usize::try_from(self.result_bytes).ok()?;
        if left > DELTA_UNCHECKED_BYTES && self.made_bytes() != Some(self.result_bytes) {
            return None;
        }
        // No more than is needed: what is kept is counted by what was allocated.
        out.try_reserve_exact(left).ok()?;
        let mut rest = self.instructions;
        while let Some((&instruction, tail)) = rest.split_first() {
            let (data, tail) = match instruction {
                0 => return None,
                1..0x80 => tail.split_at_checked(instruction.into())?,
                _ => {
                    let (offset, tail) = take_bytes(instruction, 0..4, tail)?;
                    let (len, tail) = take_bytes(instruction, 4..7, tail)?;
                    let len = if len == 0 { 0x10000 } else { len };
                    (base.get(offset..offset.checked_add(len)?)?, tail)
                }
            };
            left = left.checked_sub(data.len())?;
            out.extend_from_slice(data);
            rest = tail;
        }
        (left == 0).then_some(())
    }
}

/// Reads a size: seven bits a byte, the lowest first, as long as the highest bit is set.
fn take_size(mut bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (mut size, mut shift) = (0u64, 0);
    loop {
        let (&byte, rest) = bytes.split_first()?;
        let bits = u64::from(byte & 0x7f);
        if shift >= u64::BITS || bits << shift >> shift != bits {
            return None;
        }
        size |= bits << shift;
        shift += 7;
        bytes = rest;
        if byte < 0x80 {
            return Some((size, rest));
        }
    }
}

/// Reads the number whose bytes are there if the `bits` of `instruction` are set, lowest first.
fn take_bytes(
    instruction: u8,
    bits: std::ops::Range<u32>,
    mut bytes: &[u8],
) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (place, bit) in bits.enumerate() {
        if instruction & 1 << bit != 0 {
            let (&byte, rest) = bytes.split_first()?;
            number |= usize::from(byte) << (8 * place);
            bytes = rest;
        }
    }
    Some((number, bytes))
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

    #[test]
    fn sizes_that_cannot_be_take_no_memory() {
        let repository = deltas(&[]);
        let packs = open(&repository.dir.path().join(".git"));
        let pack = &packs.packs[0];
        let sizes = [1 << 40, 1 << 62, u64::MAX];
        for size in sizes {
            let stream = Stream {
                pack,
                offset: 12,
                size,
            };
            let refused = stream.check_size().unwrap_err().to_string();
            assert!(refused.contains(&size.to_string()), "{refused}");
            let mut out = Vec::new();
            let mut inflater = Decompressor::new();
            assert!(stream.inflate(&mut inflater, &mut out).is_err());
            assert!(stream.fill(&mut inflater, &mut out).is_err());
        }
        for result_bytes in sizes {
            let delta = Delta {
                base_bytes: 4,
                result_bytes,
                instructions: &[0x90, 4, 1, b'a'],
            };
            assert_eq!(delta.made_bytes(), Some(5));
            assert_eq!(delta.apply(b"base", &mut Vec::new()), None);
        }
    }

    #[test]
    fn deltas_that_do_not_fit_are_refused() {
        let apply = |bytes: &[u8], base: &[u8]| {
            let mut out = b"x".to_vec();
            Delta::parse(bytes)?.apply(base, &mut out)?;
            Some(out)
        };
        let base = b"0123456789";
        assert_eq!(apply(&[10, 3, 0x91, 4, 2, 1, b'a'], base).unwrap(), b"x45a");
        // A length of zero means 64 KiB.
        let long = vec![7; 0x10000];
        let whole = apply(&[0x80, 0x80, 4, 0x80, 0x80, 4, 0x80], &long).unwrap();
        assert_eq!(whole[1..], long);
        for (what, delta) in [
            ("empty", &[][..]),
            ("no result size", &[10]),
            ("base of another size", &[9, 1, 1, b'a']),
            ("reserved instruction", &[10, 1, 0]),
            ("insert cut short", &[10, 3, 3, b'a', b'b']),
            ("copy without its offset", &[10, 1, 0x91]),
            ("copy from behind the base", &[10, 3, 0x91, 8, 3]),
            ("result too long", &[10, 1, 2, b'a', b'b']),
            ("result too short", &[10, 3, 2, b'a', b'b']),
            ("size of more than 64 bits", &[0xff; 12]),
        ] {
            assert_eq!(apply(delta, base), None, "{what}");
        }
    }
}
