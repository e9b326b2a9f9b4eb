//! The content of objects, from packs and loose files, inflated and put together piece by piece: a
//! few bytes of a pack may stand for seconds of work, and between any two pieces that is counted and
//! the end of the restore looked for.
//!
//! Format: git's `Documentation/gitformat-pack.txt`.

use std::cell::Cell;
use std::io::{self, BufRead};

use gix::hash::{Kind, ObjectId, oid};
use gix::odb::pack::data::Entry;
use gix::odb::pack::data::entry::Header;
use zlib_rs::{Inflate, InflateFlush, Status};

use super::error::RestoreError;
use super::formats::READ_BYTES;
use super::sink::Sink;
use super::stop::Stop;
use crate::limits::{DELTA_STEPS_MAX, RESTORED_TREE_BYTES_MAX, WORK_PIECE_BYTES};
use crate::tree::packed::Pack;

/// The largest window of zlib.
const WINDOW_BITS: u8 = 15;
/// So many bytes of a delta hold both of its sizes.
const SIZES_BYTES: usize = 20;
/// So many bytes of a loose object hold its kind and its size.
const LOOSE_HEAD_BYTES: usize = 32;
/// What an instruction to copy copies that says nothing of how much.
const COPY_BYTES: usize = 0x1_0000;

/// Why there is no content.
#[derive(Debug)]
pub(super) enum Fault {
    /// The restore is to stop.
    Stopped,
    Content(&'static str),
    Read(io::Error),
    /// Who takes the content cannot.
    Taken(Box<RestoreError>),
}

impl From<RestoreError> for Fault {
    fn from(error: RestoreError) -> Fault {
        Fault::Taken(Box::new(error))
    }
}

const fn wrong<T>(what: &'static str) -> Result<T, Fault> {
    Err(Fault::Content(what))
}

/// Bytes that may yet be inflated, copied and summed.
#[derive(Debug)]
pub(super) struct Work<'s> {
    stop: &'s Stop,
    left_bytes: Cell<u64>,
}

impl<'s> Work<'s> {
    /// So much, and no more.
    pub(super) fn new(bytes: u64, stop: &'s Stop) -> Work<'s> {
        Work {
            stop,
            left_bytes: Cell::new(bytes),
        }
    }

    /// Counts a piece before it is worked at.
    pub(super) fn take(&self, bytes: usize) -> Result<(), Fault> {
        if self.stop.is_set() {
            return Err(Fault::Stopped);
        }
        let left = self.left_bytes.get().checked_sub(bytes as u64);
        self.left_bytes
            .set(left.ok_or(Fault::Content("its deltas are too much work"))?);
        Ok(())
    }

    /// The id of an object.
    pub(super) fn id(
        &self,
        hash: Kind,
        kind: gix::objs::Kind,
        content: &[u8],
    ) -> Result<ObjectId, Fault> {
        let mut hasher = gix::hash::hasher(hash);
        let head = gix::objs::encode::loose_header(kind, content.len() as u64);
        hasher.update(&head);
        for piece in content.chunks(WORK_PIECE_BYTES) {
            self.take(piece.len())?;
            hasher.update(piece);
        }
        let id = hasher.try_finalize();
        id.map_err(|_| Fault::Content("its content is made to have the sum of another"))
    }
}

/// Inflates what a stream holds.
struct Inflated<'i, R> {
    state: &'i mut Inflate,
    from: R,
    has_ended: bool,
    work: &'i Work<'i>,
}

impl<'i, R: BufRead> Inflated<'i, R> {
    fn new(state: &'i mut Inflate, from: R, work: &'i Work<'i>) -> Inflated<'i, R> {
        state.reset(true);
        Inflated {
            state,
            from,
            has_ended: false,
            work,
        }
    }

    /// Fills `out`, but for what is behind the stream's end; how much that is.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        while done < out.len() && !self.has_ended {
            let wire = self.from.fill_buf().map_err(Fault::Read)?;
            let wire = &wire[..wire.len().min(WORK_PIECE_BYTES)];
            let end = out.len().min(done + WORK_PIECE_BYTES);
            let before = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(wire, &mut out[done..end], InflateFlush::NoFlush);
            let Ok(status) = status else {
                return wrong("it does not inflate");
            };
            let used = (self.state.total_in() - before.0) as usize;
            let made = (self.state.total_out() - before.1) as usize;
            self.from.consume(used);
            done += made;
            self.has_ended = matches!(status, Status::StreamEnd);
            if !self.has_ended && used + made == 0 {
                return wrong("it is cut off");
            }
            self.work.take(used + made)?;
        }
        Ok(done)
    }

    /// Gives `sink` the `left` bytes that are left.
    fn pieces(mut self, mut left: u64, sink: &mut dyn Sink) -> Result<(), Fault> {
        let step = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
        let mut piece = vec![0; step];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(step);
            if self.fill(&mut piece[..want])? < want {
                return wrong("it is shorter than it says");
            }
            sink.piece(&piece[..want])?;
            left -= want as u64;
        }
        match self.fill(&mut [0])? {
            0 => Ok(()),
            _ => wrong("it is longer than it says"),
        }
    }

    /// Adds all that is left to `into`, which has `len` bytes then.
    fn finish(mut self, len: usize, into: &mut Vec<u8>) -> Result<(), Fault> {
        while into.len() < len {
            // Memory follows what comes, not what was said of it.
            let begin = into.len();
            into.resize(len.min(begin + WORK_PIECE_BYTES), 0);
            if self.fill(&mut into[begin..])? < into.len() - begin {
                return wrong("it is shorter than it says");
            }
        }
        match self.fill(&mut [0])? {
            0 => Ok(()),
            _ => wrong("it is longer than it says"),
        }
    }
}

/// Reads the size that a delta begins with.
fn size(delta: &mut &[u8]) -> Result<usize, Fault> {
    let mut size = 0_u64;
    for shift in (0..64).step_by(7) {
        let Some((byte, rest)) = delta.split_first() else {
            break;
        };
        *delta = rest;
        size |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(size).or(wrong("a delta is too large"));
        }
    }
    wrong("a delta has no size")
}

/// Makes of `base` what `delta`, behind its sizes, does of it: `len` bytes.
fn apply(
    base: &[u8],
    mut delta: &[u8],
    len: usize,
    into: &mut Vec<u8>,
    work: &Work<'_>,
) -> Result<(), Fault> {
    into.clear();
    while let Some((&first, rest)) = delta.split_first() {
        delta = rest;
        let piece = match first {
            0 => return wrong("a delta has an instruction that is none"),
            count if count & 0x80 == 0 => {
                let piece = delta.split_at_checked(usize::from(count));
                let (piece, rest) = piece.ok_or(Fault::Content("a delta is cut off"))?;
                delta = rest;
                piece
            }
            which => copied(which, base, &mut delta)?,
        };
        if into.len() + piece.len() > len {
            return wrong("a delta makes more than it says");
        }
        work.take(piece.len())?;
        into.extend_from_slice(piece);
    }
    match into.len() == len {
        true => Ok(()),
        false => wrong("a delta makes less than it says"),
    }
}

/// The piece of `base` that an instruction copies; `which` says which bytes of its offset and size
/// follow.
fn copied<'b>(which: u8, base: &'b [u8], delta: &mut &[u8]) -> Result<&'b [u8], Fault> {
    let mut numbers = [0; 7];
    for (bit, number) in numbers.iter_mut().enumerate() {
        if which & 1 << bit != 0 {
            let Some((byte, rest)) = delta.split_first() else {
                return wrong("a delta is cut off");
            };
            *number = usize::from(*byte);
            *delta = rest;
        }
    }
    let [a, b, c, d, e, f, g] = numbers;
    let offset = a | b << 8 | c << 16 | d << 24;
    let size = match e | f << 8 | g << 16 {
        0 => COPY_BYTES,
        size => size,
    };
    let piece = base.get(offset..offset + size);
    piece.ok_or(Fault::Content("a delta copies what is not there"))
}

/// Reads objects, and keeps what memory it takes for a moderate one.
pub(super) struct Reader {
    state: Inflate,
    delta: Vec<u8>,
    result: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            state: Inflate::new(true, WINDOW_BITS),
            delta: Vec::new(),
            result: Vec::new(),
        }
    }
}

impl Reader {
    /// The kind of the object `id`, whose content is in `into` then; `None` if the pack has it not.
    pub(super) fn packed(
        &mut self,
        pack: &Pack,
        id: &oid,
        into: &mut Vec<u8>,
        work: &Work<'_>,
    ) -> Result<Option<gix::objs::Kind>, Fault> {
        let Some(entry) = find(pack, id)? else {
            return Ok(None);
        };
        let mut deltas = Vec::new();
        let (entry, kind) = way_down(pack, entry, work, |delta| deltas.push(delta))?;
        into.clear();
        self.whole(pack, &entry, into, work)?;
        for entry in deltas.into_iter().rev() {
            let mut delta = std::mem::take(&mut self.delta);
            delta.clear();
            self.whole(pack, &entry, &mut delta, work)?;
            let mut rest = &delta[..];
            let (base_len, len) = (size(&mut rest)?, size(&mut rest)?);
            if base_len != into.len() {
                return wrong("a delta is one of another object");
            }
            if base_len + delta.len() + len.min(RESTORED_TREE_BYTES_MAX) > RESTORED_TREE_BYTES_MAX {
                return wrong("it is too large, or what lies between it and its base");
            }
            apply(into, rest, len, &mut self.result, work)?;
            std::mem::swap(into, &mut self.result);
            self.delta = delta;
        }
        give_back(&mut self.delta);
        give_back(&mut self.result);
        Ok(kind)
    }

    /// What one entry of a pack holds.
    fn whole(
        &mut self,
        pack: &Pack,
        entry: &Entry,
        into: &mut Vec<u8>,
        work: &Work<'_>,
    ) -> Result<(), Fault> {
        let len = usize::try_from(entry.decompressed_size).unwrap_or(usize::MAX);
        if len > RESTORED_TREE_BYTES_MAX {
            return wrong("it is too large");
        }
        let wire = wire(pack, entry)?;
        Inflated::new(&mut self.state, wire, work).finish(len, into)
    }

    /// The kind of the object `id` by what the pack says, without its content; `None` if the pack has
    /// it not.
    pub(super) fn packed_kind(
        &self,
        pack: &Pack,
        id: &oid,
        work: &Work<'_>,
    ) -> Result<Option<gix::objs::Kind>, Fault> {
        work.take(SIZES_BYTES)?;
        let Some(entry) = find(pack, id)? else {
            return Ok(None);
        };
        way_down(pack, entry, work, drop).map(|(_, kind)| kind)
    }

    /// How long the object `id` is; `None` if the pack has it not.
    pub(super) fn packed_size(
        &mut self,
        pack: &Pack,
        id: &oid,
        work: &Work<'_>,
    ) -> Result<Option<u64>, Fault> {
        let Some(entry) = find(pack, id)? else {
            return Ok(None);
        };
        if entry.header.is_base() {
            return Ok(Some(entry.decompressed_size));
        }
        let mut begin = [0; SIZES_BYTES];
        let wire = wire(pack, &entry)?;
        let len = Inflated::new(&mut self.state, wire, work).fill(&mut begin)?;
        let mut delta = &begin[..len];
        size(&mut delta)?;
        Ok(Some(size(&mut delta)? as u64))
    }

    /// The kind of the loose object that `file` holds, whose content is in `into` then.
    pub(super) fn loose(
        &mut self,
        file: impl BufRead,
        into: &mut Vec<u8>,
        work: &Work<'_>,
    ) -> Result<gix::objs::Kind, Fault> {
        let mut inflated = Inflated::new(&mut self.state, file, work);
        let (kind, len) = loose_head(&mut inflated, into)?;
        match usize::try_from(len) {
            Ok(len) if len <= RESTORED_TREE_BYTES_MAX && into.len() <= len => {
                inflated.finish(len, into).map(|()| kind)
            }
            _ => wrong("it is too large, or not as long as it says"),
        }
    }

    /// Gives `sink` the `len` bytes that a stream holds, however many those are.
    pub(super) fn stream(
        &mut self,
        wire: impl BufRead,
        len: u64,
        work: &Work<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        sink.begin(len)?;
        Inflated::new(&mut self.state, wire, work).pieces(len, sink)
    }

    /// The same of a loose blob.
    pub(super) fn loose_blob(
        &mut self,
        file: impl BufRead,
        work: &Work<'_>,
        sink: &mut dyn Sink,
    ) -> Result<(), Fault> {
        let mut inflated = Inflated::new(&mut self.state, file, work);
        let mut first = Vec::new();
        let (kind, len) = loose_head(&mut inflated, &mut first)?;
        let left = len.checked_sub(first.len() as u64);
        match (kind, left) {
            (gix::objs::Kind::Blob, Some(left)) => {
                sink.begin(len)?;
                sink.piece(&first)?;
                inflated.pieces(left, sink)
            }
            (gix::objs::Kind::Blob, None) => wrong("it is longer than it says"),
            _ => wrong("it is no blob"),
        }
    }

    /// What such an object says that it is, and how long.
    pub(super) fn loose_head(
        &mut self,
        file: impl BufRead,
        work: &Work<'_>,
    ) -> Result<(gix::objs::Kind, u64), Fault> {
        let mut inflated = Inflated::new(&mut self.state, file, work);
        loose_head(&mut inflated, &mut Vec::new())
    }
}

/// The kind and length of a loose object, of whose content some is in `into` then.
fn loose_head<R: BufRead>(
    inflated: &mut Inflated<'_, R>,
    into: &mut Vec<u8>,
) -> Result<(gix::objs::Kind, u64), Fault> {
    let mut head = [0; LOOSE_HEAD_BYTES];
    let len = inflated.fill(&mut head)?;
    let decoded = gix::objs::decode::loose_header(&head[..len]);
    let Ok((kind, size, used)) = decoded else {
        return wrong("it is no loose object");
    };
    into.clear();
    into.extend_from_slice(&head[used..len]);
    Ok((kind, size))
}

/// Keeps no more memory than a piece takes.
fn give_back(buffer: &mut Vec<u8>) {
    if buffer.capacity() > WORK_PIECE_BYTES {
        *buffer = Vec::new();
    }
}

/// Where the pack has an object.
fn find(pack: &Pack, id: &oid) -> Result<Option<Entry>, Fault> {
    let offset = pack.offset(id);
    offset.map(|offset| entry(pack, offset)).transpose()
}

fn entry(pack: &Pack, offset: u64) -> Result<Entry, Fault> {
    let entry = pack.entry(offset);
    entry.ok_or(Fault::Content(
        "there is no entry of a pack where one should be",
    ))
}

/// What an entry is a delta on; `None` if it is none.
fn base(pack: &Pack, delta: &Entry) -> Result<Option<Entry>, Fault> {
    let gone = Fault::Content("the base of a delta is not in its pack");
    match delta.header {
        Header::OfsDelta { base_distance } => {
            let offset = delta.checked_base_pack_offset(base_distance);
            entry(pack, offset.ok_or(gone)?).map(Some)
        }
        Header::RefDelta { base_id } => find(pack, &base_id)?.ok_or(gone).map(Some),
        _ => Ok(None),
    }
}

/// The entry that `entry` builds upon, and its kind, which is that of both. `each` gets the deltas
/// on the way.
fn way_down(
    pack: &Pack,
    mut entry: Entry,
    work: &Work<'_>,
    mut each: impl FnMut(Entry),
) -> Result<(Entry, Option<gix::objs::Kind>), Fault> {
    let mut deltas = 0;
    while let Some(below) = base(pack, &entry)? {
        work.take(SIZES_BYTES)?;
        each(std::mem::replace(&mut entry, below));
        deltas += 1;
        if deltas > DELTA_STEPS_MAX {
            return wrong("it has too many deltas");
        }
    }
    let kind = entry.header.as_kind();
    Ok((entry, kind))
}

/// What there is of the pack from an entry's data on.
fn wire<'b>(pack: &'b Pack, entry: &Entry) -> Result<&'b [u8], Fault> {
    pack.wire(entry)
        .ok_or(Fault::Content("an entry is behind the end of its pack"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    fn git(directory: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("git");
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
        let mut child = command
            .arg("-C")
            .arg(directory)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{args:?}");
        out.stdout
    }

    /// Versions of one text, as blobs: what they are, and their ids.
    fn versions(directory: &Path) -> Vec<(ObjectId, Vec<u8>)> {
        git(directory, &["init", "-q", "--object-format=sha1"], b"");
        let version = |number: usize| {
            let line = |n: usize| match n % 40 == number % 40 {
                true => format!("{n} is new in {number}\n"),
                false => format!("line {n} {}\n", n * n),
            };
            let text: String = (0..400 + number).map(line).collect();
            let id = git(
                directory,
                &["hash-object", "-w", "--stdin"],
                text.as_bytes(),
            );
            let id = ObjectId::from_hex(id.trim_ascii()).unwrap();
            (id, text.into_bytes())
        };
        (0..60).map(version).collect()
    }

    /// Packs them, with what deltas are on by its id or by its place.
    fn pack(directory: &Path, all: &[(ObjectId, Vec<u8>)], by_place: bool) -> PathBuf {
        let ids: String = all.iter().map(|(id, _)| format!("{id}\n")).collect();
        let name = format!(".git/objects/pack/{by_place}");
        let place = if by_place {
            "--delta-base-offset"
        } else {
            "-q"
        };
        let args = [
            "pack-objects",
            "-q",
            "--depth=50",
            "--window=60",
            place,
            &name,
        ];
        let sum = git(directory, &args, ids.as_bytes());
        let sum = String::from_utf8(sum).unwrap();
        directory.join(format!("{name}-{}.pack", sum.trim()))
    }

    #[test]
    fn objects_are_what_git_has_packed_and_its_rubbish_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        let all = versions(directory);
        let stop = Stop::default();
        let work = Work::new(u64::MAX, &stop);
        let mut reader = Reader::default();
        let mut into = Vec::new();
        for by_place in [false, true] {
            let path = pack(directory, &all, by_place);
            let open = || Pack::open(&path, Kind::Sha1).unwrap();
            let pack = open();
            let mut deltas = 0;
            for (id, text) in &all {
                let kind = reader.packed(&pack, id, &mut into, &work).unwrap();
                assert_eq!(kind, Some(gix::objs::Kind::Blob));
                assert!(into == *text, "{id}");
                assert_eq!(
                    work.id(Kind::Sha1, gix::objs::Kind::Blob, &into).unwrap(),
                    *id
                );
                let size = reader.packed_size(&pack, id, &work).unwrap();
                assert_eq!(size, Some(text.len() as u64));
                deltas += usize::from(find(&pack, id).unwrap().unwrap().header.is_delta());
            }
            assert!(deltas > 30, "{deltas}");
            let none = ObjectId::null(Kind::Sha1);
            assert!(
                reader
                    .packed(&pack, &none, &mut into, &work)
                    .unwrap()
                    .is_none()
            );
            drop(pack);
            let sound = std::fs::read(&path).unwrap();
            for at in (12..sound.len() - 20).step_by(sound.len() / 150) {
                let mut bad = sound.clone();
                bad[at] ^= 0xff;
                std::fs::remove_file(&path).unwrap();
                std::fs::write(&path, bad).unwrap();
                let pack = open();
                let is_other = |(id, text): &(ObjectId, Vec<u8>)| {
                    let read = reader.packed(&pack, id, &mut into, &work);
                    let _ = reader.packed_size(&pack, id, &work);
                    !read.is_ok_and(|kind| kind.is_some() && into == *text)
                };
                assert!(all.iter().any(is_other), "byte {at} is of no object");
            }
        }
    }

    #[test]
    fn loose_objects_are_what_git_has_written() {
        let directory = tempfile::tempdir().unwrap();
        let all = versions(directory.path());
        let stop = Stop::default();
        let work = Work::new(u64::MAX, &stop);
        let (mut reader, mut into) = (Reader::default(), Vec::new());
        for (id, text) in &all {
            let hex = id.to_string();
            let path = format!(".git/objects/{}/{}", &hex[..2], &hex[2..]);
            let file = std::fs::read(directory.path().join(path)).unwrap();
            // However small the pieces are.
            let slow = || io::BufReader::with_capacity(7, &file[..]);
            let kind = reader.loose(slow(), &mut into, &work).unwrap();
            assert_eq!(kind, gix::objs::Kind::Blob);
            assert!(into == *text, "{id}");
            assert_eq!(
                reader.loose_head(slow(), &work).unwrap().1,
                text.len() as u64
            );
            for len in 0..file.len() {
                reader.loose(&file[..len], &mut into, &work).unwrap_err();
            }
        }
    }

    /// An object of a few bytes that is many: its pieces are looked between, and counted.
    #[test]
    fn work_ends_in_the_middle_of_an_object() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        git(directory, &["init", "-q", "--object-format=sha1"], b"");
        let zeros = vec![0; 20 << 20];
        let id = git(directory, &["hash-object", "-w", "--stdin"], &zeros);
        let id = ObjectId::from_hex(id.trim_ascii()).unwrap();
        let path = pack(directory, &[(id, zeros)], true);
        let pack = Pack::open(&path, Kind::Sha1).unwrap();
        let (mut reader, mut into) = (Reader::default(), Vec::new());
        let stop = Stop::default();
        let little = Work::new(5 << 20, &stop);
        let error = reader.packed(&pack, &id, &mut into, &little).unwrap_err();
        assert!(matches!(error, Fault::Content(_)), "{error:?}");
        assert!(into.len() < 8 << 20, "{}", into.len());
        stop.set();
        let work = Work::new(u64::MAX, &stop);
        let error = reader.packed(&pack, &id, &mut into, &work).unwrap_err();
        assert!(matches!(error, Fault::Stopped), "{error:?}");
        assert!(into.len() < 2 << 20, "{}", into.len());
        let error = work
            .id(Kind::Sha1, gix::objs::Kind::Blob, &into)
            .unwrap_err();
        assert!(matches!(error, Fault::Stopped), "{error:?}");
    }

    #[test]
    fn deltas_lead_nowhere_else() {
        let stop = Stop::default();
        let work = Work::new(u64::MAX, &stop);
        let mut into = Vec::new();
        let base = b"0123456789";
        let mut made = |delta: &[u8], len: usize| {
            apply(base, delta, len, &mut into, &work).ok()?;
            Some(into.clone())
        };
        assert_eq!(made(b"\x91\x02\x03\x02ab", 5).unwrap(), b"234ab");
        for (delta, len) in [
            (&b"\x91\x02\x03\x02ab"[..], 4),
            (b"\x91\x02\x03\x02ab", 6),
            (b"\x91\x09\x02", 2),
            (b"\x80", 0x1_0000),
            (b"\x91\x02", 3),
            (b"\x02a", 2),
            (b"\0", 0),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", 1),
        ] {
            assert_eq!(made(delta, len), None, "{delta:?}");
        }
        for bad in [&b"\x80"[..], b"", &[0xff; 30]] {
            assert!(size(&mut &bad[..]).is_err(), "{bad:?}");
        }
    }
}
