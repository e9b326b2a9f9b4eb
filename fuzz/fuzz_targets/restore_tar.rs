//! What `restore` reads in a tar archive: the same whatever pieces it arrives in, and where it takes
//! the archive, the same as the `tar` crate.
//!
//! An input is the size of a piece (2 bytes) and a list of entries, each with its kind, format,
//! names and data. Headers get their right checksum here, or nothing would come past it.

#![no_main]

use std::io::Read;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{Event, Meta, Parser, Quota};
use tarpon_fuzz::Input;

const BLOCK: usize = 512;
const KINDS: &[u8] = b"0\0250LKxg15x7SL20";
const KEYS: [&str; 8] = [
    "path",
    "linkpath",
    "size",
    "mtime",
    "atime",
    "uid",
    "comment",
    "GNU.sparse.size",
];

/// What an entry is, however its data arrived.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    File {
        path: Vec<u8>,
        executable: bool,
        mtime_s: i64,
        data: Vec<u8>,
    },
    Symlink {
        path: Vec<u8>,
        target: Vec<u8>,
    },
    Directory {
        path: Vec<u8>,
    },
}

/// An archive, and whether the crate can be asked about it: it does not know what holds for all
/// entries, splits records at newlines, takes back nothing that is empty, and has no times.
struct Made {
    bytes: Vec<u8>,
    is_comparable: bool,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let step = 1 + usize::from(input.u16());
    let made = made(&mut input);
    let whole = restored(&made.bytes, usize::MAX);
    for step in [step, 1] {
        let pieces = restored(&made.bytes, step);
        assert_eq!(pieces, whole, "pieces of {step} change what is read");
    }
    if let (found, None) = whole
        && made.is_comparable
    {
        assert_eq!(by_the_crate(&made.bytes), found);
    }
});

fn made(input: &mut Input<'_>) -> Made {
    let mut made = Made {
        bytes: Vec::new(),
        is_comparable: true,
    };
    let mut end = 0;
    while !input.is_empty() {
        match input.u8() {
            255 => made.bytes.extend_from_slice(input.text()),
            254 => end = usize::from(input.u16()),
            253 => made
                .bytes
                .resize(made.bytes.len().next_multiple_of(BLOCK) + BLOCK, 0),
            how => push_entry(how, input, &mut made),
        }
    }
    made.bytes
        .resize(made.bytes.len() + 2 * BLOCK + end % 12_000, 0);
    made
}

/// Bits of `how`: POSIX's format, executable, size in base 256, a size of its own.
fn push_entry(how: u8, input: &mut Input<'_>, made: &mut Made) {
    let kind = KINDS[usize::from(input.u8()) % KINDS.len()];
    let mut header = match how & 1 {
        0 => tar::Header::new_gnu(),
        _ => tar::Header::new_ustar(),
    };
    let fill = |field: &mut [u8], text: &[u8]| {
        let len = text.len().min(field.len());
        field[..len].copy_from_slice(&text[..len]);
    };
    fill(&mut header.as_old_mut().name, input.text());
    fill(&mut header.as_old_mut().linkname, input.text());
    if let Some(ustar) = header.as_ustar_mut() {
        fill(&mut ustar.prefix, input.text());
    }
    let data = match kind {
        b'x' | b'g' => records(kind, input, made),
        _ => input.text().to_vec(),
    };
    header.set_mode(if how & 2 == 0 { 0o644 } else { 0o755 });
    header.set_mtime(u64::from(input.u32()));
    header.set_entry_type(tar::EntryType::new(kind));
    header.set_size(match how & 8 {
        0 => data.len() as u64,
        _ => input.u64() >> (input.u8() & 63),
    });
    if how & 4 != 0 {
        header.as_old_mut().size[0] |= 0x80;
    }
    header.set_cksum();
    if matches!(how, 240 | 252) {
        fill(&mut header.as_mut_bytes()[148..156], input.text());
    }
    made.bytes.extend_from_slice(header.as_bytes());
    made.bytes.extend_from_slice(&data);
    made.bytes
        .resize(made.bytes.len().next_multiple_of(BLOCK), 0);
}

/// The records of a PAX header, of the right length, and now and then something else.
fn records(kind: u8, input: &mut Input<'_>, made: &mut Made) -> Vec<u8> {
    let mut records = Vec::new();
    let count = input.u8() & 3;
    for _ in 0..=count {
        let (key, value) = (input.u8(), input.text());
        if key == 255 {
            records.extend_from_slice(value);
            made.is_comparable = false;
            continue;
        }
        let key = KEYS[usize::from(key) % KEYS.len()];
        let is_plain = !value.is_empty() && !value.contains(&b'\n') && key != "mtime";
        made.is_comparable &= is_plain && kind != b'g';
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut len = rest.len() + 1;
        while len.to_string().len() + rest.len() != len {
            len += 1;
        }
        records.extend_from_slice(len.to_string().as_bytes());
        records.extend_from_slice(&rest);
    }
    records
}

/// All entries up to an error, and that without its place.
fn restored(archive: &[u8], step: usize) -> (Vec<Found>, Option<String>) {
    let quota = Quota::new(Some(u64::MAX), Path::new("/")).expect("a given limit needs no disk");
    let mut parser = Parser::new(&quota);
    let mut found = Vec::new();
    for piece in archive.chunks(step) {
        let pushed = parser.push(piece, &mut |event| {
            add(&mut found, event, piece);
            Ok(())
        });
        if let Err(error) = pushed {
            return (found, Some(without_place(&error.to_string())));
        }
    }
    let end = parser.finish().err();
    (found, end.map(|error| without_place(&error.to_string())))
}

fn add(found: &mut Vec<Found>, event: Event<'_>, piece: &[u8]) {
    let file = |meta: Meta<'_>, data: &[u8]| Found::File {
        path: meta.path.to_vec(),
        executable: meta.executable,
        mtime_s: meta.mtime_s,
        data: data.to_vec(),
    };
    match event {
        Event::Whole { meta, data } => found.push(file(meta, &piece[data])),
        Event::Begin { meta, size } => {
            assert!(size > 0, "an empty file is whole");
            found.push(file(meta, b""));
        }
        Event::Data { offset, data } => match found.last_mut() {
            Some(Found::File { data: so_far, .. }) => {
                assert_eq!(so_far.len() as u64, offset, "data follows data");
                so_far.extend_from_slice(&piece[data]);
            }
            other => panic!("data of {other:?}"),
        },
        Event::Symlink { path, target } => found.push(Found::Symlink {
            path: path.to_vec(),
            target: target.to_vec(),
        }),
        Event::Directory { path } => found.push(Found::Directory {
            path: path.to_vec(),
        }),
    }
}

fn without_place(error: &str) -> String {
    match error.split_once("at byte ") {
        Some((before, after)) => {
            let digits = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}{digits}")
        }
        None => error.to_owned(),
    }
}

fn by_the_crate(archive: &[u8]) -> Vec<Found> {
    let mut archive = tar::Archive::new(archive);
    let mut found = Vec::new();
    for entry in archive.entries().expect("an archive from memory") {
        let mut entry = entry.expect("restore takes it, the crate does not");
        let path = entry.path_bytes().into_owned();
        let path = path.strip_prefix(b"./").unwrap_or(&path).to_vec();
        let header = entry.header();
        match header.entry_type() {
            tar::EntryType::Regular => {
                let executable = header.mode().is_ok_and(|mode| mode & 0o100 != 0);
                let mtime_s = header.mtime().expect("a time was set") as i64;
                let mut data = Vec::new();
                entry.read_to_end(&mut data).expect("its data is there");
                found.push(Found::File {
                    path,
                    executable,
                    mtime_s,
                    data,
                });
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().expect("a link has a target");
                let target = target.into_owned();
                found.push(Found::Symlink { path, target });
            }
            tar::EntryType::Directory => {
                let path = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
                if !matches!(&path[..], b"" | b".") {
                    found.push(Found::Directory { path });
                }
            }
            other => panic!("restore passes over {other:?}"),
        }
    }
    found
}
