//! What the files of objects say: a pack's own, its `.idx`, `.rev` and `.mtimes`, as git's formats have
//! them. Each is read once, from the beginning to the end, and summed meanwhile.
//!
//! Formats: git's `Documentation/gitformat-pack.txt`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use gix::hash::Kind;

use super::stop::Stop;
use crate::tree::pack::{HEADER_BYTES, Header};
use crate::tree::sum::Sum;

/// Bytes read at a time: what was written a moment ago is in memory.
pub(super) const READ_BYTES: usize = 128 << 10;
const FANOUT: usize = 256;
/// Of an `.idx` of version 2, and the bit of an offset that is in the table of long ones.
const INDEX_MAGIC: [u8; 4] = *b"\xfftOc";
const LONG: u32 = 1 << 31;

/// What a pack's file says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pack {
    pub bytes: u64,
    pub objects: u32,
    pub sum: Vec<u8>,
}

/// What an `.idx` says of its pack.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Index {
    pub objects: u32,
    pub offset_min: u64,
    pub offset_max: u64,
    pub has_long: bool,
    pub pack_sum: Vec<u8>,
}

/// What is wrong with a file, or that it cannot be read.
#[derive(Debug)]
pub(super) enum Fault {
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

pub(super) fn ensure(is_right: bool, else_what: &'static str) -> Result<(), Fault> {
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

/// What a pack says at its beginning and its end: between, nothing is read.
pub(super) fn pack(file: BufReader<Reading<'_>>, bytes: u64, hash: Kind) -> Result<Pack, Fault> {
    let mut file = Summed::new(file, bytes, hash)?;
    let mut header = [0; HEADER_BYTES];
    file.take(&mut header)?;
    let Header { objects, .. } = Header::parse(&header).map_err(Fault::Content)?;
    let end = bytes - hash.len_in_bytes() as u64;
    let mut sum = vec![0; hash.len_in_bytes()];
    file.inner.get_ref().file.read_exact_at(&mut sum, end)?;
    Ok(Pack {
        bytes,
        objects,
        sum,
    })
}

/// Reads an `.idx`; `each` gets the offsets in the order of the ids, with those that are long as 0.
pub(super) fn index(
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
    let mut asked = 0;
    file.pieces(objects, 4, |piece| match number(piece) {
        offset if offset & LONG == 0 => {
            found.offset(u64::from(offset));
            each(offset);
            Ok(())
        }
        place => {
            asked += 1;
            each(0);
            ensure(
                u64::from(place & !LONG) < long,
                "an offset leads out of its table",
            )
        }
    })?;
    // Git takes no other, and so does gix.
    ensure(
        asked == long,
        "its table of long offsets is of other objects",
    )?;
    file.pieces(long, 8, |piece| {
        found.offset(u64::from(number(piece)) << 32 | u64::from(number(&piece[4..])));
        Ok(())
    })
}

/// Reads a `.rev` or an `.mtimes`: `each` gets its numbers, one for each object.
pub(super) fn table(
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
pub(super) struct Order<'o> {
    pub offsets: &'o [u32],
    pub last: Option<u32>,
}

impl Order<'_> {
    /// Takes the next object.
    pub(super) fn accept(&mut self, place: u32) -> Result<(), Fault> {
        let offset = self.offsets.get(place as usize).copied();
        let offset = offset.ok_or(Fault::Content("it has an object that is not there"))?;
        let follows = self.last.is_none_or(|last| last < offset);
        self.last = Some(offset);
        ensure(follows, "its order is not that of its pack")
    }
}

/// A file that is read until the restore is to stop.
pub(super) struct Reading<'c> {
    pub file: File,
    pub at: u64,
    pub stop: &'c Stop,
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
