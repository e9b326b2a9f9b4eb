//! Which names `restore` takes, and what for, against git's rules put plainly: none leads out of the
//! target, none is `.git` in any of its spellings, and what is taken of `.git` is files of objects
//! and what is looked at in memory.
//!
//! An input counts twice: as a path, and as a list of the pieces that such paths are made of.

#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use tarpon::limits::PATH_BYTES_MAX;
use tarpon::restore::layers::{Kind, Place, check_path, place};
use tarpon_fuzz::names::is_component;

const PIECES: [&[u8]; 32] = [
    b"/",
    b".git",
    b".",
    b"..",
    b" ",
    b":",
    b"\\",
    b"\xe2\x80\x8c",
    b"git~1",
    b"modules",
    b"gi7eba",
    b"~1",
    b"G",
    b"i",
    b"T",
    b"HEAD",
    b"config",
    b"refs",
    b"packed-refs",
    b"shallow",
    b"objects",
    b"pack",
    b"pack-",
    b"0123456789abcdef0123456789abcdef01234567",
    b"0123456789abcdef0123456789abcdef01234567890123456789abcdef0123456789",
    b"23456789abcdef0123456789abcdef01234567",
    b"01",
    b"idx",
    b"mtimes",
    b"GITMOD",
    b"\xef\xbb\xbf",
    b"0",
];

fuzz_target!(|data: &[u8]| {
    let made: Vec<u8> = data
        .iter()
        .flat_map(|byte| match PIECES.get(usize::from(*byte)) {
            Some(piece) => *piece,
            None => std::slice::from_ref(byte),
        })
        .copied()
        .collect();
    for path in [data, &made] {
        for kind in [Kind::File, Kind::Symlink, Kind::Directory] {
            check(path, kind);
        }
    }
});

fn check(path: &[u8], kind: Kind) {
    let taken = check_path(path, kind).ok();
    let found = taken.map(|taken| (taken, place(taken)));
    assert_eq!(
        found,
        expected(path, kind),
        "{kind:?} {:?}",
        path.escape_ascii()
    );
    let Some((taken, place)) = found else {
        return;
    };
    assert_eq!(
        check_path(taken, kind).ok(),
        Some(taken),
        "it is not stable"
    );
    let parts: Vec<Component<'_>> = Path::new(OsStr::from_bytes(taken)).components().collect();
    assert!(
        parts
            .iter()
            .all(|part| matches!(part, Component::Normal(_)))
    );
    assert_eq!(
        parts.len(),
        1 + taken.iter().filter(|byte| **byte == b'/').count()
    );
    let first = parts[0].as_os_str().as_bytes();
    assert!(place != Place::Worktree || is_component(first, false));
}

/// What git would write, and of `.git` what the client has a use for.
fn expected(path: &[u8], kind: Kind) -> Option<(&[u8], Place)> {
    let path = match kind {
        Kind::Directory if path.ends_with(b"/") => &path[..path.len() - 1],
        _ => path,
    };
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let is_part = |part: &&[u8]| !matches!(*part, b"" | b"." | b"..");
    if path.contains(&0) || path.len() > PATH_BYTES_MAX || !parts.iter().all(is_part) {
        return None;
    }
    if parts[0] == b".git" {
        let place = inside(&parts[1..], kind)?;
        return Some((path, place));
    }
    let last = parts.len() - 1;
    let mut parts = parts.iter().enumerate();
    let is_sound = parts.all(|(at, part)| is_component(part, at == last && kind == Kind::Symlink));
    is_sound.then_some((path, Place::Worktree))
}

/// A path below `.git`, or that itself.
fn inside(parts: &[&[u8]], kind: Kind) -> Option<Place> {
    let is_hex = |text: &[u8], lens: [usize; 2]| {
        let is_digit = |byte: &u8| b"0123456789abcdef".contains(byte);
        lens.contains(&text.len()) && text.iter().all(is_digit)
    };
    let place = match parts {
        [] => return (kind == Kind::Directory).then_some(Place::Skipped),
        [b"HEAD" | b"config" | b"packed-refs" | b"shallow"] => Place::Captured,
        // Directories are made with their files.
        [b"refs", _, ..] if kind == Kind::Directory => return Some(Place::Captured),
        [b"refs", _, ..] => Place::Captured,
        [b"objects", b"pack", file] => {
            let mut halves = file.splitn(2, |byte| *byte == b'.');
            let stem = halves.next()?.strip_prefix(b"pack-").unwrap_or_default();
            let ending = halves.next().unwrap_or_default();
            match ending {
                b"pack" | b"idx" | b"rev" | b"mtimes" if is_hex(stem, [40, 64]) => Place::Objects,
                _ => Place::Skipped,
            }
        }
        [b"objects", begin, rest] if is_hex(begin, [2, 2]) && is_hex(rest, [38, 62]) => {
            Place::Objects
        }
        _ => Place::Skipped,
    };
    (place == Place::Skipped || kind == Kind::File).then_some(place)
}
