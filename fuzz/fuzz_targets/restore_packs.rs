//! What `restore` takes of a pack's files (`.pack`, `.idx`, `.rev`, `.mtimes`), against a plain
//! reading of git's formats, and against gix: what is taken leads nowhere but into the pack.
//!
//! An input is a recipe for the files, and a list of changes to them.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};

use gix::ObjectId;
use gix::hash::Kind;
use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{Running, Stop, Sums, check_packs};
use tarpon_fuzz::{Input, place};

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| place::directory("restore-packs"));

const ENDINGS: [&str; 4] = ["pack", "idx", "rev", "mtimes"];
const LONG: u32 = 1 << 31;

/// The files of a pack; one that is not there is `None`.
type Files = [Option<Vec<u8>>; 4];

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let kind = match input.u8() & 1 {
        0 => Kind::Sha1,
        _ => Kind::Sha256,
    };
    let files = files(&mut input, kind);
    let sum = input.u16();
    let taken = is_taken(&files, kind, sum);
    let expected = expected(&files, kind);
    assert_eq!(taken, expected.is_some());
    if let (true, Some(objects)) = (taken, expected) {
        assert_eq!(by_gix(kind), objects);
    }
});

fn path(ending: &str) -> String {
    format!(".git/objects/pack/pack-{}.{ending}", "1".repeat(40))
}

/// Whether restore takes them; with a sum from when the pack came in parts, if there is to be one.
fn is_taken(files: &Files, kind: Kind, sum: u16) -> bool {
    fs::create_dir_all(PLACE.join(".git/objects/pack")).expect("a place for a pack");
    let paths = ENDINGS.map(path);
    let (mut sizes, mut sums) = (BTreeMap::new(), Sums::new());
    for (path, bytes) in paths.iter().zip(files) {
        let whole = PLACE.join(path);
        // Another file: what is mapped must not change.
        let _ = fs::remove_file(&whole);
        if let Some(bytes) = bytes {
            fs::write(&whole, bytes).expect("a file is written");
            sizes.insert(path.as_bytes(), bytes.len() as u64);
        }
    }
    if let (Some(pack), true) = (&files[0], sum & 1 > 0) {
        let running = in_parts(pack, kind, usize::from(sum >> 1));
        sums.insert(paths[0].as_bytes().to_vec(), Arc::new(Mutex::new(running)));
    }
    let taken = check_packs(&PLACE, &sizes, &sums, kind, &Stop::default()).is_ok();
    let order = PLACE.join(&paths[2]);
    if taken && files[2].is_some() {
        let has_long = files[1].as_deref().and_then(|idx| index(idx, kind));
        let has_long = has_long.is_some_and(|index| !index.long.is_empty());
        assert_eq!(order.exists(), !has_long, "only what was looked at stays");
    }
    taken
}

/// The sum of a pack that came in parts; now and then not all of them.
fn in_parts(pack: &[u8], kind: Kind, choice: usize) -> Running {
    let mut running = Running::new(pack.len() as u64, kind);
    let parts = pack.chunks(1 + choice % 61);
    let count = if choice > 30_000 { 1 } else { parts.len() };
    parts.take(count).for_each(|part| running.add(part));
    running
}

/// Makes the end of a file the sum of what stands before.
fn seal(file: &mut Vec<u8>, kind: Kind) {
    let end = file.len().saturating_sub(kind.len_in_bytes());
    file.truncate(end);
    let sum = sum(file, kind);
    file.extend_from_slice(&sum);
}

fn sum(bytes: &[u8], kind: Kind) -> Vec<u8> {
    let mut hasher = gix::hash::hasher(kind);
    hasher.update(bytes);
    let sum = hasher.try_finalize().expect("a sum of any bytes");
    sum.as_bytes().to_vec()
}

fn files(input: &mut Input<'_>, kind: Kind) -> Files {
    let (choice, count) = (input.u8(), usize::from(input.u8()) % 24);
    let (is_old, has_order, has_times) = (choice & 1 > 0, choice & 2 > 0, choice & 4 > 0);
    let mut entries = Vec::new();
    let mut offset = 12_u64;
    for number in 0..count {
        // Two of them may be the same.
        let mut id = vec![number as u8 / 2; kind.len_in_bytes()];
        id[..2].copy_from_slice(&input.u16().to_be_bytes());
        entries.push((id, offset));
        offset += 1 + u64::from(input.u8());
    }
    let mut pack = b"PACK\0\0\0\x02".to_vec();
    pack.extend_from_slice(&(count as u32).to_be_bytes());
    pack.resize(offset as usize + kind.len_in_bytes(), 7);
    seal(&mut pack, kind);
    let end = pack[pack.len() - kind.len_in_bytes()..].to_vec();
    entries.sort();
    // Now and then all of them are in the table of long ones.
    let long_from = if choice & 8 > 0 {
        u64::from(input.u8()) * 16
    } else {
        u64::MAX
    };
    let idx = index_of(&entries, is_old, long_from, &end, kind);
    let table = |magic: &[u8], numbers: &[u32]| {
        let mut file = magic.to_vec();
        let hash = if kind == Kind::Sha256 { 2 } else { 1 };
        for number in [&[1, hash], numbers].concat() {
            file.extend_from_slice(&number.to_be_bytes());
        }
        file.extend_from_slice(&end);
        file.resize(file.len() + kind.len_in_bytes(), 0);
        seal(&mut file, kind);
        file
    };
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.sort_by_key(|place| entries[*place as usize].1);
    let order = has_order.then(|| table(b"RIDX", &order));
    let times = has_times.then(|| table(b"MTME", &vec![9; count]));
    let mut files = [Some(pack), Some(idx), order, times];
    for _ in 0..input.u8() % 4 {
        change(&mut files, input, kind);
    }
    files
}

fn index_of(
    entries: &[(Vec<u8>, u64)],
    is_old: bool,
    long_from: u64,
    pack_sum: &[u8],
    kind: Kind,
) -> Vec<u8> {
    let mut idx = if is_old {
        Vec::new()
    } else {
        b"\xfftOc\0\0\0\x02".to_vec()
    };
    for first in 0..=255 {
        let below = entries.iter().filter(|(id, _)| id[0] <= first).count() as u32;
        idx.extend_from_slice(&below.to_be_bytes());
    }
    let mut long = Vec::new();
    if is_old {
        for (id, offset) in entries {
            idx.extend_from_slice(&(*offset as u32).to_be_bytes());
            idx.extend_from_slice(id);
        }
    } else {
        entries.iter().for_each(|(id, _)| idx.extend_from_slice(id));
        idx.resize(idx.len() + 4 * entries.len(), 5);
        for (_, offset) in entries {
            let mut short = *offset as u32;
            if *offset >= long_from {
                short = LONG | long.len() as u32 / 8;
                long.extend_from_slice(&offset.to_be_bytes());
            }
            idx.extend_from_slice(&short.to_be_bytes());
        }
    }
    idx.extend(long);
    idx.extend_from_slice(pack_sum);
    idx.resize(idx.len() + kind.len_in_bytes(), 0);
    seal(&mut idx, kind);
    idx
}

/// Changes a file, as if it were meant if the sum is made anew.
fn change(files: &mut Files, input: &mut Input<'_>, kind: Kind) {
    let (which, how) = (input.u8() % 4, input.u8());
    let file = &mut files[usize::from(which)];
    if how == 255 {
        *file = None;
    }
    let Some(bytes) = file else {
        return;
    };
    let at = usize::from(input.u16()) % (bytes.len() + 1);
    // From the end, where there is more to find.
    let at = if how & 8 > 0 { at } else { bytes.len() - at };
    match how & 3 {
        0 => {
            let text = input.text();
            let end = (at + text.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&text[..end - at]);
        }
        1 => {
            let end = (at + usize::from(input.u8())).min(bytes.len());
            bytes.drain(at..end);
        }
        2 => {
            let text = input.text().to_vec();
            bytes.splice(at..at, text);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (how >> 5);
            }
        }
    }
    if how & 4 > 0 {
        seal(bytes, kind);
    }
}

/// What is between the beginning of a file and its sum, if that is right.
fn summed(file: &[u8], kind: Kind) -> Option<&[u8]> {
    let end = file.len().checked_sub(kind.len_in_bytes())?;
    (sum(&file[..end], kind) == file[end..]).then_some(&file[..end])
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().expect("four bytes")))
}

/// An `.idx`, read plainly.
struct Index {
    objects: Vec<(ObjectId, u64)>,
    /// The table of long offsets.
    long: Vec<u64>,
    pack_sum: Vec<u8>,
}

fn index(file: &[u8], kind: Kind) -> Option<Index> {
    let id_bytes = kind.len_in_bytes();
    let all = summed(file, kind)?;
    let is_new = all.starts_with(b"\xfftOc");
    let begin = if is_new { 8 } else { 0 };
    (!is_new || number(all, 4)? == 2).then_some(())?;
    let fanout: Option<Vec<u32>> = (0..256).map(|n| number(all, begin + 4 * n)).collect();
    let fanout = fanout?;
    let count = fanout[255] as usize;
    let entries = begin + 1024;
    let entry_bytes = id_bytes + if is_new { 8 } else { 4 };
    let table = entries + count * entry_bytes;
    let end = all
        .len()
        .checked_sub(id_bytes)
        .filter(|end| *end >= table)?;
    (is_new && (end - table).is_multiple_of(8) || end == table).then_some(())?;
    let long = all[table..end].chunks(8);
    let long = long.map(|eight| u64::from_be_bytes(eight.try_into().expect("eight bytes")));
    let long: Vec<u64> = long.collect();
    let (mut objects, mut asked) = (Vec::new(), 0);
    for n in 0..count {
        let (id_at, offset_at) = match is_new {
            true => (
                entries + n * id_bytes,
                entries + count * (id_bytes + 4) + 4 * n,
            ),
            false => (entries + n * entry_bytes + 4, entries + n * entry_bytes),
        };
        let id = ObjectId::from_bytes_or_panic(&all[id_at..id_at + id_bytes]);
        let mut offset = u64::from(number(all, offset_at)?);
        if is_new && offset >= u64::from(LONG) {
            asked += 1;
            offset = *long.get(offset as usize - LONG as usize)?;
        }
        objects.push((id, offset));
    }
    // As many long ones as are asked for.
    (asked == long.len()).then_some(())?;
    let is_below = |n: usize| {
        let below = objects
            .iter()
            .filter(|(id, _)| usize::from(id.as_bytes()[0]) <= n);
        below.count() as u32 == fanout[n]
    };
    let is_sorted = objects.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let is_sound = is_sorted && (0..256).all(is_below);
    is_sound.then(|| Index {
        objects,
        long,
        pack_sum: all[end..].to_vec(),
    })
}

/// The objects of a pack whose files all are what they should be: ids and offsets.
fn expected(files: &Files, kind: Kind) -> Option<Vec<(ObjectId, u64)>> {
    let [pack, idx, order, times] = files;
    let Some(pack) = pack else {
        // Then there may be nothing else of it.
        let is_none = idx.is_none() && order.is_none() && times.is_none();
        return is_none.then(Vec::new);
    };
    let content = summed(pack, kind)?;
    let is_pack = content.starts_with(b"PACK") && matches!(number(content, 4)?, 2 | 3);
    let count = number(content, 8)?;
    let index = index(idx.as_deref()?, kind)?;
    let offsets = index.objects.iter().map(|(_, offset)| offset);
    let mut offsets = offsets.chain(&index.long);
    let is_sound = is_pack
        && index.objects.len() == count as usize
        && index.pack_sum == pack[content.len()..]
        && offsets.all(|offset| (12..content.len() as u64).contains(offset));
    is_sound.then_some(())?;
    let table = |file: &[u8], magic: &[u8]| {
        let all = summed(file, kind)?;
        let hash = if kind == Kind::Sha256 { 2 } else { 1 };
        let numbers = all.strip_suffix(&*index.pack_sum)?.strip_prefix(magic)?;
        let (version, of, numbers) = (number(numbers, 0)?, number(numbers, 4)?, &numbers[8..]);
        let is_sound = version == 1 && of == hash;
        (is_sound && numbers.len() == 4 * count as usize).then(|| numbers.to_vec())
    };
    if let Some(times) = times {
        table(times, b"MTME")?;
    }
    if let Some(order) = order.as_ref().filter(|_| index.long.is_empty()) {
        let order = table(order, b"RIDX")?;
        let mut last = 0;
        for place in order.chunks(4) {
            let (_, offset) = index.objects.get(number(place, 0)? as usize)?;
            (*offset > last).then_some(())?;
            last = *offset;
        }
    }
    Some(index.objects)
}

/// What gix finds in the index.
fn by_gix(kind: Kind) -> Vec<(ObjectId, u64)> {
    let path = PLACE.join(path("idx"));
    if !path.exists() {
        return Vec::new();
    }
    let index = gix::odb::pack::index::File::at(&path, kind).expect("gix takes it, too");
    for entry in index.iter() {
        let place = index.lookup(entry.oid).expect("each is found");
        assert_eq!(index.pack_offset_at_index(place), entry.pack_offset);
    }
    index
        .iter()
        .map(|entry| (entry.oid, entry.pack_offset))
        .collect()
}
