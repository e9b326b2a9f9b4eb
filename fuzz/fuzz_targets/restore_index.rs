//! An index that others have written: which files a target to be overwritten tracks, against a plain
//! reading of the format and against gix; and what the real stat data changes in one.
//!
//! An input is a recipe for an index of any version, and a list of changes to it.

#![no_main]

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::LazyLock;

use gix::hash::Kind;
use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{Dates, Expected, Stale, Stop, Tracked, refresh};
use tarpon_fuzz::{Input, place};

static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let place = place::directory("restore-index");
    fs::create_dir_all(place.join(".git")).expect("a place for an index");
    fs::create_dir_all(place.join("d/e")).expect("a directory");
    for name in ["a", "b.txt", "d/a", "d/e/a", "z"] {
        fs::write(place.join(name), name).expect("a file");
    }
    std::os::unix::fs::symlink("a", place.join("link")).expect("a link");
    place
});

const STAT_BYTES: usize = 40;
const MODES: [u32; 8] = [
    0o100_644, 0o100_755, 0o120_000, 0o160_000, 0o040_000, 0o100_600, 0o010_000, 0,
];
const PATHS: [&[u8]; 8] = [
    b"a", b"b.txt", b"d/a", b"d/e/a", b"link", b"z", b"d", b"d/e",
];
/// Most that an index may have.
const BYTES_MAX: u64 = 3000;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let kind = match input.u8() & 1 {
        0 => Kind::Sha1,
        _ => Kind::Sha256,
    };
    let index = match input.u8() {
        255 => data.to_vec(),
        choice => index(choice, &mut input, kind),
    };
    let file = PLACE.join(".git/index");
    fs::write(&file, &index).expect("an index is written");
    check_tracked(&index);
    // Those that are refreshed are made by the client or by git, and lead nowhere else.
    let has = |text: &[u8]| index.windows(text.len()).any(|window| window == text);
    if !has(b"..") && !has(b".git") {
        check_refresh(&index, kind, input.u8());
    }
});

fn check_tracked(index: &[u8]) {
    let Ok(found) = tracked() else {
        assert!(index.len() as u64 > BYTES_MAX);
        return;
    };
    assert!(index.len() as u64 <= BYTES_MAX);
    // Ids of the first length that makes sense.
    let mut readings = [Kind::Sha1, Kind::Sha256].map(|kind| (kind, Reading::new(index, kind)));
    let plain = readings.iter_mut().find_map(|(kind, reading)| {
        let paths = reading.paths.take()?;
        Some((*kind, paths, reading.is_unclear))
    });
    match plain {
        Some((_, _, true)) => {}
        Some((kind, paths, _)) => {
            assert_eq!(found, paths);
            if let Some(by_gix) = by_gix(kind) {
                assert_eq!(found, by_gix);
            }
        }
        None => assert!(found.is_empty(), "{found:?}"),
    }
}

/// What a checkout without files would have stale, which is all; each is known to be tracked.
fn tracked() -> Result<Vec<Vec<u8>>, String> {
    let stop = Stop::default();
    let old = Tracked::open(&PLACE, BYTES_MAX, &stop)?;
    let new = Tracked::open(&PLACE.join("d"), BYTES_MAX, &stop)?;
    let mut paths = Vec::new();
    let stale = Stale { old, new };
    let Ok(()) = stale.each(|path| {
        paths.push(path.to_vec());
        Ok::<(), std::convert::Infallible>(())
    });
    assert!(paths.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(stale.old.first_other(&paths), None);
    if let Some(last) = paths.last() {
        let mut more = paths.clone();
        more.push([&last[..], b"\x01"].concat());
        assert_eq!(stale.old.first_other(&more), more.last());
        more.swap_remove(0);
        more.sort();
        let other = more.iter().find(|path| paths.binary_search(path).is_err());
        assert_eq!(stale.old.first_other(&more), other);
    }
    Ok(paths)
}

/// A plain reading, by gitformat-index(5).
#[derive(Default)]
struct Reading {
    /// Files and places of submodules, each once.
    paths: Option<Vec<Vec<u8>>>,
    /// The length of a path is not what its entry says: git takes another end for its own.
    is_unclear: bool,
}

impl Reading {
    fn new(index: &[u8], kind: Kind) -> Reading {
        let mut reading = Reading::default();
        reading.paths = reading.paths(index, kind);
        reading
    }

    fn paths(&mut self, index: &[u8], kind: Kind) -> Option<Vec<Vec<u8>>> {
        let number = |at: usize| Some(u32::from_be_bytes(index.get(at..at + 4)?.try_into().ok()?));
        let version = number(4).filter(|version| (2..=4).contains(version))?;
        index.starts_with(b"DIRC").then_some(())?;
        let all = &index[..index.len().checked_sub(kind.len_in_bytes())?];
        let (mut at, mut last, mut paths) = (12, Vec::new(), Vec::new());
        for _ in 0..number(8)? {
            let mode = number(at + 24)?;
            let flags_at = at + STAT_BYTES + kind.len_in_bytes();
            let flags = u16::from_be_bytes(index.get(flags_at..flags_at + 2)?.try_into().ok()?);
            let name_at = flags_at + if flags & 0x4000 > 0 { 4 } else { 2 };
            let mut rest = all.get(name_at..)?;
            let mut path = Vec::new();
            if version == 4 {
                let dropped = dropped(&mut rest)?;
                path.extend_from_slice(&last[..usize::checked_sub(last.len(), dropped)?]);
            }
            let end = rest.iter().position(|byte| *byte == 0)?;
            path.extend_from_slice(&rest[..end]);
            let name_end = all.len() - rest.len() + end;
            at = match version {
                4 => name_end + 1,
                // One to eight zeros, so that an entry has a multiple of eight bytes.
                _ => at + (name_end - at) / 8 * 8 + 8,
            };
            (!path.is_empty() && path.len() < 4096 && path >= last).then_some(())?;
            self.is_unclear |= usize::from(flags & 0xfff) != path.len().min(0xfff);
            match (mode & 0o170_000) >> 12 {
                0o10 | 0o12 | 0o16 if path != last => paths.push(path.clone()),
                0o10 | 0o12 | 0o16 | 0o4 => {}
                _ => return None,
            }
            last = path;
        }
        (at <= all.len()).then_some(paths)
    }
}

/// How much of the last path is not in this one.
fn dropped(rest: &mut &[u8]) -> Option<usize> {
    let mut dropped = 0_usize;
    loop {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        dropped = dropped
            .checked_mul(128)?
            .checked_add(usize::from(byte & 127))?;
        if *byte < 128 {
            return Some(dropped);
        }
        dropped = dropped.checked_add(1).filter(|number| *number < 1 << 32)?;
    }
}

/// What gix finds; `None` if there is something else in it that gix does not take.
fn by_gix(kind: Kind) -> Option<Vec<Vec<u8>>> {
    let options = gix::index::decode::Options {
        thread_limit: Some(1),
        alloc_limit_bytes: Some(1 << 24),
        ..Default::default()
    };
    let index = gix::index::File::at(PLACE.join(".git/index"), kind, true, options).ok()?;
    let (mut paths, mut last) = (Vec::new(), Vec::new());
    for entry in index.entries() {
        let path = entry.path(&index).to_vec();
        if entry.mode.bits() >> 12 != 0o4 && path != last {
            paths.push(path.clone());
        }
        last = path;
    }
    Some(paths)
}

/// Puts the stat data in: nothing else of a version 2 is changed, and its sum is right.
fn check_refresh(index: &[u8], kind: Kind, choice: u8) {
    static DATES: LazyLock<Dates> = LazyLock::new(Dates::now);
    let root = File::open(&*PLACE).expect("it is there");
    let expected = match choice % 3 {
        0 => Expected::There,
        which => Expected::OfTheirKind {
            executable: which == 1,
        },
    };
    let refreshed = refresh(
        root.as_fd(),
        kind == Kind::Sha256,
        *DATES,
        expected,
        &Stop::default(),
    );
    let file = PLACE.join(".git/index");
    let after = fs::read(&file).expect("it is there");
    assert!(!PLACE.join(".git/index.restore").exists());
    if refreshed.is_err() {
        assert_eq!(after, index, "a failure leaves it as it is");
        return;
    }
    assert_eq!(after.len(), index.len());
    let end = index.len() - kind.len_in_bytes();
    let mut hasher = gix::hash::hasher(kind);
    hasher.update(&after[..end]);
    let sum = hasher.try_finalize().expect("a sum of any bytes");
    assert_eq!(*sum.as_bytes(), after[end..]);
    let (mut at, count) = (
        12,
        u32::from_be_bytes(index[8..12].try_into().expect("four bytes")),
    );
    assert_eq!(index[..12], after[..12]);
    for _ in 0..count {
        let name_at = at + STAT_BYTES + kind.len_in_bytes() + 2;
        let name = index[name_at..end].split(|byte| *byte == 0).next();
        let name = name.expect("there is a first");
        let next = at + (name_at + name.len() - at) / 8 * 8 + 8;
        assert_eq!(index[at + STAT_BYTES..next], after[at + STAT_BYTES..next]);
        check_stat(&index[at..], &after[at..], name, expected);
        at = next;
    }
    assert_eq!(index[at..end], after[at..end]);
}

/// The stat data of one entry, whose mode stays.
fn check_stat(before: &[u8], after: &[u8], name: &[u8], expected: Expected) {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let mode = u32::from_be_bytes(before[24..28].try_into().expect("four bytes"));
    if mode == 0o160_000 {
        assert_eq!(before[..STAT_BYTES], after[..STAT_BYTES]);
        return;
    }
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let meta = PLACE
        .join(std::ffi::OsStr::from_bytes(name))
        .symlink_metadata();
    let meta = meta.expect("what is not there is refused");
    let size = meta.len() as u32;
    let dates = [meta.mtime() as u32, meta.mtime_nsec() as u32];
    let place = [meta.dev() as u32, meta.ino() as u32];
    let rest = [mode, meta.uid(), meta.gid(), size];
    let fields = [&dates[..], &place, &rest].concat();
    let fields: Vec<u8> = fields
        .iter()
        .flat_map(|field| field.to_be_bytes())
        .collect();
    assert_eq!(fields, after[8..STAT_BYTES]);
    if let Expected::OfTheirKind { executable } = expected {
        let kind = (mode & 0o170_000) >> 12;
        let is_file = kind == 0o10;
        assert_eq!(meta.mode() >> 12, kind);
        assert!(!is_file || !executable || (meta.mode() ^ mode) & 0o100 == 0);
    }
}

/// The index that an input means.
fn index(choice: u8, input: &mut Input<'_>, kind: Kind) -> Vec<u8> {
    let version = 2 + u32::from(choice % 3);
    let mut entries: Vec<(Vec<u8>, u32, u16)> = Vec::new();
    for _ in 0..input.u8() % 12 {
        let which = usize::from(input.u8());
        let path = match PATHS.get(which) {
            Some(path) => path.to_vec(),
            None => input
                .text()
                .iter()
                .copied()
                .filter(|byte| *byte > 0)
                .collect(),
        };
        let mode = MODES[usize::from(input.u8()) % MODES.len()];
        entries.push((path, mode, u16::from(input.u8()) << 8));
    }
    // Now and then in another order.
    if choice & 0x40 == 0 {
        entries.sort();
    }
    let mut out = b"DIRC".to_vec();
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&(entries.len() as u32).to_be_bytes());
    let mut last: Vec<u8> = Vec::new();
    for (path, mode, flags) in entries {
        push_entry(&mut out, version, &last, &path, mode, flags, kind);
        last = path;
    }
    if choice & 0x80 > 0 {
        out.extend_from_slice(input.text());
    }
    out.resize(out.len() + kind.len_in_bytes(), 0);
    for _ in 0..input.u8() % 4 {
        let at = usize::from(input.u16()) % out.len();
        match input.u8() {
            255 => out.truncate(at.max(1)),
            byte => out[at] = byte,
        }
    }
    out
}

fn push_entry(
    out: &mut Vec<u8>,
    version: u32,
    last: &[u8],
    path: &[u8],
    mode: u32,
    flags: u16,
    kind: Kind,
) {
    let begin = out.len();
    out.resize(begin + STAT_BYTES + kind.len_in_bytes(), 3);
    out[begin + 24..begin + 28].copy_from_slice(&mode.to_be_bytes());
    // Extended ones are not in a version 2.
    let flags = (flags & if version == 2 { 0xb000 } else { 0xf000 }) | path.len().min(0xfff) as u16;
    out.extend_from_slice(&flags.to_be_bytes());
    if flags & 0x4000 > 0 {
        out.extend_from_slice(&[0x20, 0]);
    }
    if version == 4 {
        let same = last.iter().zip(path).take_while(|(a, b)| a == b).count();
        let mut dropped = last.len() - same;
        let mut digits = vec![(dropped & 127) as u8];
        while dropped > 127 {
            dropped = (dropped >> 7) - 1;
            digits.push((dropped & 127) as u8 | 128);
        }
        out.extend(digits.iter().rev());
        out.extend_from_slice(&path[same..]);
        out.push(0);
    } else {
        out.extend_from_slice(path);
        let bytes = (out.len() - begin) / 8 * 8 + 8;
        out.resize(begin + bytes, 0);
    }
}
