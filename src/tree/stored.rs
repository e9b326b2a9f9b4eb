//! Objects as packs store them: the bytes of an entry, which another pack can take over, and what it is a delta of.
//!
//! An entry ends where the next one begins, and only a pack's reverse index tells which one that is
//! (gitformat-pack(5), "pack-*.rev files have the format").

use std::path::Path;

use gix::objs::Kind;
use gix::odb::pack::data::entry::Header;
use gix::{ObjectId, oid};

use super::decoder::Packs;
use super::map::MappedFile;
use super::packed::{OpenError, Pack};
use crate::io::shortage::Detail;

/// So many entries are compared between two looks whether that is to go on.
const ENTRIES_AT_ONCE: u32 = 1024;
const REVERSE_SIGNATURE: &[u8] = b"RIDX\0\0\0\x01";
/// The signature and the kind of ids.
const REVERSE_HEADER_BYTES: usize = 12;

/// The entries of a build's packs.
pub(crate) struct Entries<'p> {
    packs: Vec<(&'p Pack, Order)>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Whole(Kind),
    /// To this object, which is in the same pack.
    Delta(ObjectId),
}

/// An entry, whose bytes are as the pack's index sums them up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored<'p> {
    pub form: Form,
    /// All of it, its header included.
    pub bytes: &'p [u8],
    pub header_bytes: usize,
    /// Bytes that its zlib stream makes.
    pub size: u64,
    pub crc32: u32,
}

/// The numbers of a pack's entries in its index, in the order of their offsets.
enum Order {
    Mapped(MappedFile),
    Made(Vec<u32>),
}

impl Order {
    fn of(pack: &Pack) -> Order {
        let count = pack.index.num_objects();
        let ids = 2 * pack.index.object_hash().len_in_bytes();
        let mapped = MappedFile::open(&pack.data.path().with_extension("rev"));
        let is_sound = |map: &MappedFile| {
            map.starts_with(REVERSE_SIGNATURE)
                && map.len() == REVERSE_HEADER_BYTES + 4 * count as usize + ids
        };
        if let Some(map) = mapped.ok().filter(is_sound) {
            return Order::Mapped(map);
        }
        let mut order = Vec::from_iter(0..count);
        order.sort_unstable_by_key(|number| pack.index.pack_offset_at_index(*number));
        Order::Made(order)
    }

    /// The number of the entry at this place.
    fn number(&self, place: u32) -> Option<u32> {
        match self {
            Order::Mapped(map) => {
                let at = REVERSE_HEADER_BYTES + 4 * place as usize;
                map.get(at..)?
                    .first_chunk()
                    .copied()
                    .map(u32::from_be_bytes)
            }
            Order::Made(order) => order.get(place as usize).copied(),
        }
    }
}

impl Packs {
    /// Opens all packs of a repository.
    pub(crate) fn open_all(git_dir: &Path, hash: gix::hash::Kind) -> Result<Packs, OpenError> {
        let directory = git_dir.join("objects/pack");
        let unread = |e: std::io::Error| OpenError {
            path: directory.clone(),
            detail: Detail::of(&e),
        };
        let files = std::fs::read_dir(&directory).map_err(unread)?;
        let paths = files.map(|file| Ok(file.map_err(unread)?.path()));
        let mut paths = paths.collect::<Result<Vec<_>, OpenError>>()?;
        paths.retain(|path| path.extension().is_some_and(|end| end == "idx"));
        paths.sort_unstable();
        let packs = paths.iter().map(|index| Pack::open(index, hash));
        Ok(Packs {
            packs: packs.collect::<Result<_, _>>()?,
        })
    }
}

impl<'p> Entries<'p> {
    pub(crate) fn of(packs: &'p Packs) -> Entries<'p> {
        let packs = packs.packs.iter().map(|pack| (pack, Order::of(pack)));
        Entries {
            packs: packs.collect(),
        }
    }

    /// Compares each entry with the sum that its index has of it; says what is wrong. `is_over` is asked now and then.
    pub(crate) fn check(&self, is_over: impl Fn() -> bool) -> Result<(), String> {
        for (pack, order) in &self.packs {
            let name = pack.data.path().file_name().unwrap_or_default().display();
            for place in 0..pack.index.num_objects() {
                if place % ENTRIES_AT_ONCE == 0 && is_over() {
                    return Err("the look at it was ended".into());
                }
                let is_sound = order.number(place).and_then(|number| {
                    let bytes = bytes_of(pack, order, place, offset_of(pack, number)?)?;
                    // An old index has no sums.
                    let sum = pack.index.crc32_at_index(number);
                    Some(sum.is_none_or(|sum| crc32fast::hash(bytes) == sum))
                });
                if is_sound != Some(true) {
                    return Err(format!(
                        "entry {place} of {name} is not what its index sums up"
                    ));
                }
            }
        }
        Ok(())
    }

    /// The entry of `id` in the first pack that has it. `None` if there is none, or not one that can be taken
    /// over as it is: because it is damaged, or its index has no sums.
    pub(crate) fn find(&self, id: &oid) -> Option<Stored<'p>> {
        self.packs.iter().find_map(|(pack, order)| {
            let number = pack.index.lookup(id)?;
            Some(stored(pack, order, number))
        })?
    }
}

/// The entry of this number in a pack's index.
fn stored<'p>(pack: &'p Pack, order: &Order, number: u32) -> Option<Stored<'p>> {
    let offset = offset_of(pack, number)?;
    let place = place_of(pack, order, offset)?;
    let bytes = bytes_of(pack, order, place, offset)?;
    let crc32 = pack.index.crc32_at_index(number)?;
    if crc32fast::hash(bytes) != crc32 {
        return None;
    }
    let entry = pack.data.entry(offset).ok()?;
    let form = match entry.header {
        Header::RefDelta { base_id } => Form::Delta(base_id),
        Header::OfsDelta { base_distance } => {
            let base = entry.checked_base_pack_offset(base_distance)?;
            let base = order.number(place_of(pack, order, base)?)?;
            Form::Delta(id_of(pack, base)?)
        }
        whole => Form::Whole(whole.as_kind()?),
    };
    Some(Stored {
        form,
        bytes,
        header_bytes: entry.header_size(),
        size: entry.decompressed_size,
        crc32,
    })
}

/// All of the entry at a place, which begins at `offset`.
fn bytes_of<'p>(pack: &'p Pack, order: &Order, place: u32, offset: u64) -> Option<&'p [u8]> {
    let end = match place + 1 < pack.index.num_objects() {
        true => offset_of(pack, order.number(place + 1)?)?,
        false => pack.data.pack_end() as u64,
    };
    pack.data.entry_slice(offset..end)
}

fn is_number(pack: &Pack, number: u32) -> bool {
    number < pack.index.num_objects()
}

fn offset_of(pack: &Pack, number: u32) -> Option<u64> {
    is_number(pack, number).then(|| pack.index.pack_offset_at_index(number))
}

fn id_of(pack: &Pack, number: u32) -> Option<ObjectId> {
    is_number(pack, number).then(|| pack.index.oid_at_index(number).to_owned())
}

/// Where the entry at this offset stands in the order of all.
fn place_of(pack: &Pack, order: &Order, offset: u64) -> Option<u32> {
    let (mut from, mut to) = (0, pack.index.num_objects());
    while from < to {
        let middle = from + (to - from) / 2;
        match offset_of(pack, order.number(middle)?)?.cmp(&offset) {
            std::cmp::Ordering::Less => from = middle + 1,
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Greater => to = middle,
        }
    }
    None
}
