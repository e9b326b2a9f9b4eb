//! One commit without its history, as packs made of the packs that have it.
//!
//! What these store whole is taken over as it is, and so is a delta to something that comes along; a delta to
//! something that does not is decoded, and its object compressed with less effort than is usual: two thirds of the
//! time for 4 % more bytes. Nothing is searched for. Whoever cannot be read so, for it is loose, or damaged in the
//! first pack that has it, or larger than this decodes, is left to git, and all with it: there is one way that is fast,
//! and one that always works.
//!
//! Formats: gitformat-pack(5), "pack-*.pack files have the following format" and "Version 2 pack-*.idx files".

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use gix::ObjectId;
use gix::hash::Kind as Hash;
use gix::objs::tree::EntryKind;
use gix::objs::{CommitRefIter, Kind, TagRefIter};
use gix::odb::pack::data::entry::Header;
use libdeflater::{CompressionLvl, Compressor};
use tempfile::NamedTempFile;

use crate::io::sched;
use crate::limits::{
    DELTA_CHAIN_MAX, ENCODER_NICE, TIP_DECODED_BYTES_MAX, TIP_DECODED_SMALL_BYTES,
    TIP_DEFLATE_LEVEL, TIP_RUN_OBJECTS,
};
use crate::refs::{Ref, RefsError, read_packed_where};
use crate::tree::decoder::{Decoder, Packs, Trees};
use crate::tree::stored::{Entries, Form, Stored};
use crate::tree::sum::Sum;
use crate::tree::walk::{self, Go, Start, Step, WalkError};

/// Why there are no packs, and git would not make any either.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}: {source}", .path.display())]
pub(crate) struct TipPackError {
    pub op: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Why something is not done here.
enum Stop {
    /// It is for git.
    ForGit,
    Failed(TipPackError),
}

impl From<WalkError> for Stop {
    /// git says better what is wrong with a tree.
    fn from(_: WalkError) -> Stop {
        Stop::ForGit
    }
}

impl From<RefsError> for Stop {
    fn from(_: RefsError) -> Stop {
        Stop::ForGit
    }
}

/// What is to be packed, and of what.
pub(crate) struct Tip<'t> {
    /// A repository, all of whose packs stay as they are meanwhile, and whose annotated tags of what is packed are in
    /// its `packed-refs`.
    pub from: &'t Path,
    /// Where the packs appear.
    pub into: &'t Path,
    pub commit: ObjectId,
    /// Most packs, which are made at the same time.
    pub packs_max: usize,
    /// Set once nobody wants them any more.
    pub is_given_up: &'t AtomicBool,
}

/// One at a time decodes what is large.
static LARGE: Mutex<()> = Mutex::new(());

/// Packs a commit, and gives the names of the packs without what their files end with. They are not on the disk yet
/// when this returns. `None`, and nothing is there, if git must do it.
pub(crate) fn pack(tip: &Tip<'_>) -> Result<Option<Vec<String>>, TipPackError> {
    match pack_all(tip) {
        Ok(stems) => Ok(Some(stems)),
        Err(Stop::ForGit) => Ok(None),
        Err(Stop::Failed(why)) => Err(why),
    }
}

fn pack_all(tip: &Tip<'_>) -> Result<Vec<String>, Stop> {
    let hash = tip.commit.kind();
    let packs = Packs::open_all(tip.from, hash).map_err(|_| Stop::ForGit)?;
    let objects = list(tip, &packs)?;
    let count = objects.len().div_ceil(TIP_RUN_OBJECTS).min(tip.packs_max);
    let mut lists = vec![Vec::new(); count.max(1)];
    for (run, objects) in objects.chunks(TIP_RUN_OBJECTS).enumerate() {
        // What is beside each other in a tree may be deltas of each other.
        let list = run % lists.len();
        lists[list].extend_from_slice(objects);
    }
    let entries = Entries::of(&packs);
    let made: Vec<_> = thread::scope(|scope| {
        let (packs, entries) = (&packs, &entries);
        let begun = lists.iter().map(|list| {
            scope.spawn(move || {
                sched::be_nice(ENCODER_NICE);
                Writer::new(tip, list).and_then(|writer| writer.write(packs, entries, list))
            })
        });
        // All of them, before one is waited for.
        let begun = Vec::from_iter(begun);
        let ended = begun.into_iter().map(thread::ScopedJoinHandle::join);
        ended.collect()
    });
    let made = made.into_iter().map(|one| one.unwrap_or(Err(Stop::ForGit)));
    let made = made.collect::<Result<Vec<Made>, Stop>>()?;
    made.into_iter().map(|made| made.keep(tip.into)).collect()
}

/// What is packed: the commit, annotated tags of it, its trees and its blobs.
fn list(tip: &Tip<'_>, packs: &Packs) -> Result<Vec<(ObjectId, Kind)>, Stop> {
    let (hash, mut decoder) = (tip.commit.kind(), Decoder::new());
    let mut read = |id: ObjectId, kind| {
        let mut bytes = Vec::new();
        let limit = TIP_DECODED_SMALL_BYTES;
        let read = packs.push_object(&id, kind, limit, &mut decoder, &mut bytes, |_, _| ());
        match read {
            Ok(Some(_)) => Ok(bytes),
            Ok(None) | Err(_) => Err(Stop::ForGit),
        }
    };
    let commit = read(tip.commit, Kind::Commit)?;
    let mut fields = CommitRefIter::from_bytes(&commit, hash);
    let root = fields.tree_id().map_err(|_| Stop::ForGit)?;
    let mut objects = vec![(tip.commit, Kind::Commit)];
    let nothing = gix::objs::find::Never;
    let trees = Trees::new(packs, &nothing, hash);
    let mut met = HashSet::new();
    walk::walk(&trees, hash, &Start::root(&root), |step| {
        match step {
            Step::Enter { id, .. } if !met.insert(id) => return Ok(Go::Past),
            Step::Enter { id, .. } => objects.push((id, Kind::Tree)),
            Step::Entry(entry) if entry.kind == EntryKind::Commit || !met.insert(entry.id) => {}
            Step::Entry(entry) => objects.push((entry.id, Kind::Blob)),
            Step::Leave => {}
        }
        match tip.is_given_up.load(Ordering::Relaxed) {
            true => Err(Stop::ForGit),
            false => Ok(Go::On),
        }
    })?;
    met.insert(tip.commit);
    let (tags, _) = read_packed_where(tip.from, |name| name.starts_with(b"refs/tags/"))?;
    if !tags.fully_peeled {
        return Err(Stop::ForGit);
    }
    let is_of_it = |tag: &&Ref| tag.peeled.is_some_and(|target| met.contains(&target));
    let tags = Vec::from_iter(tags.refs.iter().filter(is_of_it).map(|tag| tag.target));
    for mut id in tags {
        // A tag of a tag of it brings both.
        while met.insert(id) {
            objects.push((id, Kind::Tag));
            let tag = read(id, Kind::Tag)?;
            let fields = TagRefIter::from_bytes(&tag, hash);
            id = fields.target_id().map_err(|_| Stop::ForGit)?;
        }
    }
    Ok(objects)
}

/// A pack in the making.
struct Writer<'t> {
    tip: &'t Tip<'t>,
    out: BufWriter<NamedTempFile>,
    sum: Sum,
    at: u64,
    /// What is to be in it.
    all: HashSet<ObjectId>,
    /// What is, with the sums of the entries and where they begin.
    written: HashMap<ObjectId, (u32, u64)>,
    decoder: Decoder,
    compressor: Compressor,
    decoded: Vec<u8>,
    deflated: Vec<u8>,
}

/// A pack that is made and has no name yet.
struct Made {
    pack: NamedTempFile,
    index: NamedTempFile,
    name: String,
}

impl<'t> Writer<'t> {
    fn new(tip: &'t Tip<'t>, list: &[(ObjectId, Kind)]) -> Result<Writer<'t>, Stop> {
        let level = CompressionLvl::new(TIP_DEFLATE_LEVEL).map_err(|_| Stop::ForGit)?;
        let mut writer = Writer {
            tip,
            out: BufWriter::with_capacity(1 << 18, temporary(tip.into)?),
            sum: Sum::new(tip.commit.kind()),
            at: 0,
            all: list.iter().map(|(id, _)| *id).collect(),
            written: HashMap::with_capacity(list.len()),
            decoder: Decoder::new(),
            compressor: Compressor::new(level),
            decoded: Vec::new(),
            deflated: Vec::new(),
        };
        let count = u32::try_from(list.len()).map_err(|_| Stop::ForGit)?;
        let header = [&b"PACK\0\0\0\x02"[..], &count.to_be_bytes()].concat();
        writer.put(&header)?;
        Ok(writer)
    }

    fn write(
        mut self,
        packs: &Packs,
        entries: &Entries<'_>,
        list: &[(ObjectId, Kind)],
    ) -> Result<Made, Stop> {
        let mut waiting = Vec::new();
        for (id, kind) in list {
            waiting.push(*id);
            while let Some(id) = waiting.last().copied() {
                if self.tip.is_given_up.load(Ordering::Relaxed) {
                    return Err(Stop::ForGit);
                }
                if !self.written.contains_key(&id) {
                    let stored = entries.find(&id).ok_or(Stop::ForGit)?;
                    match stored.form {
                        Form::Whole(stored_kind) if stored_kind == *kind => {
                            self.take_over(id, stored)?;
                        }
                        Form::Whole(_) => return Err(Stop::ForGit),
                        Form::Delta(base) => match self.written.get(&base) {
                            Some((_, at)) => self.take_delta(id, stored, *at)?,
                            // A base has the kind of its deltas.
                            None if self.all.contains(&base) && waiting.len() < DELTA_CHAIN_MAX => {
                                waiting.push(base);
                                continue;
                            }
                            None => self.decode(packs, id, *kind)?,
                        },
                    }
                }
                waiting.pop();
            }
        }
        self.finish()
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.sum.update(bytes);
        self.at += bytes.len() as u64;
        let written = self.out.write_all(bytes);
        written.map_err(|e| failed("write a pack in", self.tip.into, e))
    }

    fn take_over(&mut self, id: ObjectId, stored: Stored<'_>) -> Result<(), Stop> {
        self.written.insert(id, (stored.crc32, self.at));
        self.put(stored.bytes)
    }

    /// A delta to what begins at `base_at`.
    fn take_delta(&mut self, id: ObjectId, stored: Stored<'_>, base_at: u64) -> Result<(), Stop> {
        let base_distance = self.at - base_at;
        let header = header(&Header::OfsDelta { base_distance }, stored.size)?;
        // As it is, for it may be of any length.
        let stream = &stored.bytes[stored.header_bytes..];
        self.put_made(id, [&header, stream])
    }

    /// An entry with another header than it had, or none before.
    fn put_made(&mut self, id: ObjectId, parts: [&[u8]; 2]) -> Result<(), Stop> {
        let mut crc32 = crc32fast::Hasher::new();
        parts.iter().for_each(|part| crc32.update(part));
        self.written.insert(id, (crc32.finalize(), self.at));
        parts.iter().try_for_each(|part| self.put(part))
    }

    fn decode(&mut self, packs: &Packs, id: ObjectId, kind: Kind) -> Result<(), Stop> {
        if self.decode_within(packs, id, kind, TIP_DECODED_SMALL_BYTES)? {
            return Ok(());
        }
        let large = LARGE.lock().unwrap_or_else(PoisonError::into_inner);
        let is_done = self.decode_within(packs, id, kind, TIP_DECODED_BYTES_MAX)?;
        (self.decoded, self.deflated, self.decoder) = Default::default();
        drop(large);
        is_done.then_some(()).ok_or(Stop::ForGit)
    }

    /// Whether that was enough.
    fn decode_within(
        &mut self,
        packs: &Packs,
        id: ObjectId,
        kind: Kind,
        max_bytes: u64,
    ) -> Result<bool, Stop> {
        let (decoder, decoded) = (&mut self.decoder, &mut self.decoded);
        decoded.clear();
        let pushed = packs.push_object(&id, kind, max_bytes, decoder, decoded, |_, _| ());
        let Some(size) = pushed.map_err(|_| Stop::ForGit)? else {
            return Ok(false);
        };
        let header = match kind {
            Kind::Commit => Header::Commit,
            Kind::Tree => Header::Tree,
            Kind::Blob => Header::Blob,
            Kind::Tag => Header::Tag,
        };
        let header = self::header(&header, size)?;
        let mut deflated = std::mem::take(&mut self.deflated);
        deflated.resize(self.compressor.zlib_compress_bound(decoded.len()), 0);
        let made = self.compressor.zlib_compress(decoded, &mut deflated);
        let made = made.map_err(|_| Stop::ForGit)?;
        self.put_made(id, [&header, &deflated[..made]])?;
        self.deflated = deflated;
        Ok(true)
    }

    fn finish(mut self) -> Result<Made, Stop> {
        let into = self.tip.into;
        let sum = self.sum.clone().finish();
        self.put(&sum)?;
        let pack = self.out.into_inner();
        let pack = pack.map_err(|e| failed("write a pack in", into, e.into_error()))?;
        let index = write_index(into, &self.written, &sum, self.tip.commit.kind())?;
        let hex = sum.iter().map(|byte| format!("{byte:02x}"));
        Ok(Made {
            pack,
            index,
            name: format!("pack-{}", hex.collect::<String>()),
        })
    }
}

/// What an entry begins with.
fn header(header: &Header, size: u64) -> Result<Vec<u8>, Stop> {
    let mut bytes = Vec::new();
    let written = header.write_to(size, &mut bytes);
    written.map_err(|_| Stop::ForGit).map(|_| bytes)
}

impl Made {
    fn keep(self, into: &Path) -> Result<String, Stop> {
        // The index last: what has one is a pack.
        for (file, end) in [(self.pack, "pack"), (self.index, "idx")] {
            let path = into.join(format!("{}.{end}", self.name));
            let kept = file.persist(&path);
            kept.map_err(|e| failed("name a pack in", into, e.error))?;
        }
        Ok(self.name)
    }
}

/// Writes the index of a pack with this sum.
fn write_index(
    into: &Path,
    written: &HashMap<ObjectId, (u32, u64)>,
    pack_sum: &[u8],
    hash: Hash,
) -> Result<NamedTempFile, Stop> {
    let mut entries = Vec::from_iter(written.iter());
    entries.sort_unstable();
    let mut bytes = b"\xfftOc\0\0\0\x02".to_vec();
    let mut from = 0;
    for first in 0..=u8::MAX {
        from += entries[from..].partition_point(|(id, _)| id.first_byte() <= first);
        bytes.extend((from as u32).to_be_bytes());
    }
    entries
        .iter()
        .for_each(|(id, _)| bytes.extend(id.as_bytes()));
    let crcs = entries.iter().map(|(_, (crc32, _))| crc32.to_be_bytes());
    bytes.extend(crcs.flatten());
    for (_, (_, at)) in &entries {
        // What is further behind has another table, which no worktree comes to.
        let at = i32::try_from(*at).map_err(|_| Stop::ForGit)?;
        bytes.extend(at.to_be_bytes());
    }
    bytes.extend(pack_sum);
    let mut sum = Sum::new(hash);
    sum.update(&bytes);
    bytes.extend(sum.finish());
    let mut file = temporary(into)?;
    let put = file.write_all(&bytes).and_then(|()| file.flush());
    put.map_err(|e| failed("write an index in", into, e))?;
    Ok(file)
}

/// A file of which git knows by its name that it can be removed.
fn temporary(into: &Path) -> Result<NamedTempFile, Stop> {
    let made = tempfile::Builder::new()
        .prefix("tmp_pack_")
        .permissions(fs::Permissions::from_mode(0o444))
        .tempfile_in(into);
    made.map_err(|e| failed("create a file in", into, e))
}

fn failed(op: &'static str, path: &Path, source: io::Error) -> Stop {
    Stop::Failed(TipPackError {
        op,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests;
