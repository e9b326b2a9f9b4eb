//! The tar encoder against two readers: that of the `tar` crate, and one written here from GNU
//! tar's manual ("Basic Tar Format", "Storing Sparse Files" left out), which also sees what a
//! tolerant reader passes over: padding, terminators, checksums, magic.
//!
//! `tests/stock.rs` has GNU tar itself read the same seeds.

#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use tarpon::tree::tar as encoder;
use tarpon_fuzz::Input;
use tarpon_fuzz::entries::{Entry, What, encode, entries};

const BLOCK: usize = 512;

fuzz_target!(|data: &[u8]| {
    let entries = entries(&mut Input::new(data));
    let mut archive = Vec::new();
    for entry in &entries {
        encode(entry, &mut archive);
    }
    if !entries.last().is_some_and(Entry::is_huge) {
        encoder::push_end(&mut archive);
    }
    assert_eq!(archive.len() % BLOCK, 0);
    assert_eq!(read_by_the_rules(&archive), entries);
    assert_eq!(read_by_the_crate(&archive), entries);
});

fn read_by_the_crate(archive: &[u8]) -> Vec<Entry> {
    let mut archive = tar::Archive::new(archive);
    let mut read = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        let mode = header.mode().unwrap();
        let size = header.entry_size().unwrap();
        let mtime_field = header.as_old().mtime;
        let mut path = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(|name| name.into_owned());
        let kind = header.entry_type();
        let what = match (kind, mode) {
            (tar::EntryType::Regular, 0o644 | 0o755) => {
                let executable = mode == 0o755;
                let mut data = Vec::new();
                let whole = entry.read_to_end(&mut data).is_ok() && data.len() as u64 == size;
                if whole {
                    What::File { data, executable }
                } else {
                    What::Huge { size, executable }
                }
            }
            (tar::EntryType::Symlink, 0o777) => What::Symlink {
                target: link.unwrap(),
            },
            (tar::EntryType::Directory, 0o755) => {
                assert_eq!(path.pop(), Some(b'/'));
                What::Directory
            }
            other => panic!("{other:?}"),
        };
        read.push(Entry {
            path,
            what,
            mtime_s: number(&mtime_field) as i64,
        });
        if read.last().is_some_and(Entry::is_huge) {
            break;
        }
    }
    read
}

/// Reads an archive block by block and refuses whatever the rules do not allow.
fn read_by_the_rules(archive: &[u8]) -> Vec<Entry> {
    let mut blocks = archive;
    let mut read = Vec::new();
    let (mut long_path, mut long_link) = (None, None);
    while !blocks.is_empty() {
        let header = take(&mut blocks, BLOCK);
        if header.iter().all(|byte| *byte == 0) {
            assert_eq!(blocks, [0; BLOCK], "two blocks of zeros end an archive");
            break;
        }
        check_fixed_fields(header);
        let mode = octal(&header[100..108]);
        let size = number(&header[124..136]) as u64;
        let mtime_s = number(&header[136..148]) as i64;
        let kind = header[156];
        if matches!(kind, b'L' | b'K') {
            assert_eq!((text(&header[..100]), mode), (&b"././@LongLink"[..], 0o644));
            let value = data(&mut blocks, size).expect("a long name is whole");
            let (end, value) = value.split_last().expect("its NUL counts");
            assert!(
                *end == 0 && value.len() > 100,
                "only what is long stands apart"
            );
            let slot = if kind == b'L' {
                &mut long_path
            } else {
                &mut long_link
            };
            assert_eq!(slot.replace(value.to_vec()), None, "one long name each");
            continue;
        }
        let mut path = long_or(long_path.take(), &header[..100]);
        let target = long_or(long_link.take(), &header[157..257]);
        assert_eq!(kind == b'2', !target.is_empty(), "links have targets");
        let executable = mode == 0o755;
        let what = match (kind, mode, size) {
            (b'0', 0o644 | 0o755, _) => match data(&mut blocks, size) {
                Some(data) => What::File {
                    data: data.to_vec(),
                    executable,
                },
                None => What::Huge { size, executable },
            },
            (b'2', 0o777, 0) => What::Symlink { target },
            (b'5', 0o755, 0) => {
                assert_eq!(path.pop(), Some(b'/'), "a directory's name ends in a slash");
                What::Directory
            }
            other => panic!("{other:?}"),
        };
        read.push(Entry {
            path,
            what,
            mtime_s,
        });
    }
    assert_eq!(
        (long_path, long_link),
        (None, None),
        "a long name belongs to an entry"
    );
    read
}

/// Owner 0:0, GNU's magic, the checksum, and nothing in the fields that are not used.
fn check_fixed_fields(header: &[u8]) {
    assert_eq!((octal(&header[108..116]), octal(&header[116..124])), (0, 0));
    assert_eq!(&header[257..265], b"ustar  \0");
    assert!(
        header[265..].iter().all(|byte| *byte == 0),
        "unused fields are empty"
    );
    // As if the checksum itself were spaces.
    let others = header[..148].iter().chain(&header[156..]);
    let sum: u64 = others.map(|byte| u64::from(*byte)).sum::<u64>() + 8 * u64::from(b' ');
    assert_eq!(octal(&header[148..156]), sum, "checksum");
}

/// What the long entry said, whose beginning the field must then hold, or the field.
fn long_or(long: Option<Vec<u8>>, field: &[u8]) -> Vec<u8> {
    match long {
        Some(long) => {
            assert!(long.starts_with(text(field)));
            long
        }
        None => text(field).to_vec(),
    }
}

/// Data and its padding of zeros; `None` when it is not there.
fn data<'a>(blocks: &mut &'a [u8], size: u64) -> Option<&'a [u8]> {
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= blocks.len())?;
    let data = take(blocks, size);
    let padding = take(blocks, size.next_multiple_of(BLOCK) - size);
    assert!(padding.iter().all(|byte| *byte == 0), "padding");
    Some(data)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(len);
    *bytes = rest;
    taken
}

/// Up to the first NUL; behind it is nothing else. A full field has none.
fn text(field: &[u8]) -> &[u8] {
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    assert!(
        field[end..].iter().all(|byte| *byte == 0),
        "only zeros follow a NUL"
    );
    &field[..end]
}

/// Octal digits, then NULs and spaces.
fn octal(field: &[u8]) -> u64 {
    let end = field.iter().position(|byte| matches!(byte, 0 | b' '));
    let (digits, rest) = field.split_at(end.expect("a number ends inside of its field"));
    assert!(rest.iter().all(|byte| matches!(byte, 0 | b' ')));
    u64::from_str_radix(std::str::from_utf8(digits).unwrap(), 8).unwrap()
}

/// Octal, or GNU's base 256: the first byte says the sign, the others are two's complement.
fn number(field: &[u8]) -> i128 {
    let start = match field[0] {
        0x80 => 0,
        0xff => -1,
        _ => return octal(field).into(),
    };
    field[1..]
        .iter()
        .fold(start, |value, byte| value << 8 | i128::from(*byte))
}
