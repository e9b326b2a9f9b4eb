//! Packs, put together from the description of the format (gitformat-pack(5)), and what is in them.

use gix::hash::Kind;
use gix::{ObjectId, oid};

use crate::input::Input;

/// Kinds of entries as a pack writes them.
const BLOB: u8 = 3;
const TREE: u8 = 2;
const OFS_DELTA: u8 = 6;
const REF_DELTA: u8 = 7;

/// An object of a pack.
#[derive(Debug, Clone)]
pub struct Object {
    /// A number, and not a hash: nothing that reads a pack compares it.
    pub id: ObjectId,
    pub kind: gix::objs::Kind,
    /// What is in it; `None` if its delta does not fit.
    pub data: Option<Vec<u8>>,
    offset: u64,
    crc: u32,
}

/// A pack, its index, and its objects.
#[derive(Debug)]
pub struct Pack {
    pub data: Vec<u8>,
    pub index: Vec<u8>,
    pub objects: Vec<Object>,
}

impl Pack {
    /// The pack that an input means: for each entry its kind, and what is in it.
    pub fn of(input: &mut Input<'_>) -> Pack {
        let mut data = b"PACK\0\0\0\x02\0\0\0\0".to_vec();
        let mut objects: Vec<Object> = Vec::new();
        let count = 1 + input.u8() % 8;
        for number in 0..count {
            let offset = data.len() as u64;
            let object = push_entry(input, number, &objects, &mut data);
            let crc = crc32fast::hash(&data[offset as usize..]);
            objects.push(Object {
                offset,
                crc,
                ..object
            });
        }
        data[8..12].copy_from_slice(&u32::from(count).to_be_bytes());
        seal(&mut data);
        let index = index(&objects, &data);
        Pack {
            data,
            index,
            objects,
        }
    }
}

/// Appends the checksum that every file of a pack ends with.
fn seal(file: &mut Vec<u8>) {
    let sum = sum(file);
    file.extend_from_slice(&sum);
}

fn sum(bytes: &[u8]) -> Vec<u8> {
    let mut hasher = gix::hash::hasher(Kind::Sha1);
    hasher.update(bytes);
    let sum: ObjectId = hasher.try_finalize().expect("a sum of any bytes");
    sum.as_bytes().to_vec()
}

fn id(number: u8) -> ObjectId {
    // Spread over the fan-out, some in one bucket.
    let mut bytes = [number + 1; 20];
    bytes[0] = number / 3 * 0x55;
    ObjectId::from_bytes_or_panic(&bytes)
}

/// Appends an entry; its offset and checksum are filled in by the caller.
fn push_entry(input: &mut Input<'_>, number: u8, before: &[Object], out: &mut Vec<u8>) -> Object {
    let choice = input.u8();
    let base = match before.len() {
        0 => None,
        count => before.get(usize::from(input.u8()) % count),
    };
    let object = |kind, data| Object {
        id: id(number),
        kind,
        data,
        offset: 0,
        crc: 0,
    };
    let Some(base) = base.filter(|_| choice % 3 > 0) else {
        let (code, kind) = match choice & 4 {
            0 => (BLOB, gix::objs::Kind::Blob),
            _ => (TREE, gix::objs::Kind::Tree),
        };
        let data = input.text().to_vec();
        push_header(out, code, data.len() as u64);
        push_deflated(out, &data);
        return object(kind, Some(data));
    };
    let delta = delta(input, base.data.as_deref().unwrap_or_default());
    match choice % 3 {
        1 => {
            let start = out.len() as u64;
            push_header(out, OFS_DELTA, delta.len() as u64);
            push_distance(out, start - base.offset);
        }
        _ => {
            push_header(out, REF_DELTA, delta.len() as u64);
            out.extend_from_slice(base.id.as_bytes());
        }
    }
    push_deflated(out, &delta);
    let made = base.data.as_deref().and_then(|base| apply(base, &delta));
    object(base.kind, made)
}

fn push_header(out: &mut Vec<u8>, code: u8, mut bytes: u64) {
    let mut byte = code << 4 | (bytes & 15) as u8;
    bytes >>= 4;
    while bytes > 0 {
        out.push(byte | 0x80);
        byte = (bytes & 0x7f) as u8;
        bytes >>= 7;
    }
    out.push(byte);
}

fn push_distance(out: &mut Vec<u8>, mut distance: u64) {
    let mut bytes = vec![(distance & 0x7f) as u8];
    while distance > 0x7f {
        distance = (distance >> 7) - 1;
        bytes.push((distance & 0x7f) as u8 | 0x80);
    }
    out.extend(bytes.iter().rev());
}

fn push_deflated(out: &mut Vec<u8>, data: &[u8]) {
    let level = libdeflater::CompressionLvl::fastest();
    let mut compressor = libdeflater::Compressor::new(level);
    let mut deflated = vec![0; compressor.zlib_compress_bound(data.len())];
    let made = compressor.zlib_compress(data, &mut deflated);
    out.extend_from_slice(&deflated[..made.expect("there is room")]);
}

/// A delta: right for `base`, or any bytes.
fn delta(input: &mut Input<'_>, base: &[u8]) -> Vec<u8> {
    if input.u8() % 8 == 0 {
        return input.text().to_vec();
    }
    let (mut instructions, mut made) = (Vec::new(), 0u64);
    for _ in 0..input.u8() % 6 {
        let (choice, a, b) = (input.u8(), input.u16(), input.u16());
        if choice % 2 == 0 || base.is_empty() {
            let data = input.bytes(usize::from(choice % 127) + 1);
            if !data.is_empty() {
                instructions.push(data.len() as u8);
                instructions.extend_from_slice(data);
                made += data.len() as u64;
            }
            continue;
        }
        let offset = usize::from(a) % base.len();
        let len = 1 + usize::from(b) % (base.len() - offset);
        // As much as fits, now and then: that is written as nothing.
        let (offset, len) = match choice & 4 {
            4 if base.len() >= offset + 0x1_0000 => (offset as u32, 0),
            _ => (offset as u32, (len as u32).min(0xffff)),
        };
        let at = instructions.len();
        instructions.push(0x80);
        for (bit, byte) in offset.to_le_bytes().into_iter().enumerate() {
            if byte > 0 {
                instructions[at] |= 1 << bit;
                instructions.push(byte);
            }
        }
        for (bit, byte) in len.to_le_bytes()[..3].iter().enumerate() {
            if *byte > 0 {
                instructions[at] |= 0x10 << bit;
                instructions.push(*byte);
            }
        }
        made += if len == 0 { 0x1_0000 } else { u64::from(len) };
    }
    // Now and then it promises something else.
    let wrong = u64::from(input.u8() % 16 == 1);
    let mut delta = Vec::new();
    for mut size in [base.len() as u64, made + wrong] {
        while size > 0x7f {
            delta.push((size & 0x7f) as u8 | 0x80);
            size >>= 7;
        }
        delta.push(size as u8);
    }
    delta.extend(instructions);
    delta
}

/// What a delta makes, read as slowly and plainly as can be.
fn apply(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = delta.iter().copied();
    let mut size = || {
        let (mut size, mut shift) = (0u128, 0);
        loop {
            let byte = bytes.next()?;
            size |= u128::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(size);
            }
            shift += 7;
            if shift > 63 {
                return None;
            }
        }
    };
    let (of, makes) = (size()?, size()?);
    if of != base.len() as u128 {
        return None;
    }
    let mut out = Vec::new();
    while let Some(instruction) = bytes.next() {
        if instruction & 0x80 == 0 {
            if instruction == 0 {
                return None;
            }
            for _ in 0..instruction {
                out.push(bytes.next()?);
            }
            continue;
        }
        let mut number = |bits: std::ops::Range<u8>| {
            let mut number = 0usize;
            for (place, bit) in bits.enumerate() {
                if instruction & 1 << bit != 0 {
                    number |= usize::from(bytes.next()?) << (8 * place);
                }
            }
            Some(number)
        };
        let (offset, len) = (number(0..4)?, number(4..7)?);
        let len = if len == 0 { 0x10000 } else { len };
        out.extend_from_slice(base.get(offset..offset + len)?);
    }
    (out.len() as u128 == makes).then_some(out)
}

/// The index of version 2.
fn index(objects: &[Object], pack: &[u8]) -> Vec<u8> {
    let mut sorted: Vec<&Object> = objects.iter().collect();
    sorted.sort_by_key(|object| object.id);
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    for first in 0..=255u8 {
        let is_below = |o: &&&Object| first_byte(&o.id) <= first;
        let below = sorted.iter().filter(is_below).count() as u32;
        index.extend_from_slice(&below.to_be_bytes());
    }
    for object in &sorted {
        index.extend_from_slice(object.id.as_bytes());
    }
    for object in &sorted {
        index.extend_from_slice(&object.crc.to_be_bytes());
    }
    for object in &sorted {
        index.extend_from_slice(&(object.offset as u32).to_be_bytes());
    }
    index.extend_from_slice(&pack[pack.len() - 20..]);
    seal(&mut index);
    index
}

fn first_byte(id: &oid) -> u8 {
    id.as_bytes().first().copied().unwrap_or_default()
}
