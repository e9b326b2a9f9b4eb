//! Archives from elsewhere: broken off, damaged, hostile.

use crate::lab::{clone, expect, expect_files, expect_nothing, new_lab, restore, serve, served};
use crate::support::rng::Rng;
use std::fs;
use tar::{EntryType, Header};

#[test]
fn a_connection_that_breaks_again_and_again_gives_the_same_files() {
    let (lab, _server, whole) = served();
    let expected = clone(&lab, "app", "clone");
    for seed in 0..6 {
        let cuts = move |asked: &crate::lab::Asked| {
            let mut rng = Rng::new(seed * 1000 + asked.number as u64);
            (rng.below(3) > 0).then(|| rng.below(3 << 20) as usize)
        };
        let address = serve(whole.clone(), cuts);
        let target = lab.scratch(&format!("cut{seed}"));
        let out = restore(address, "test/app", &target, &["--json"]);
        expect(&out, 0);
        expect_files(&expected, &target, &format!("seed {seed}"));
    }
}

#[test]
fn a_server_that_sends_nothing_more_is_given_up_with_a_clean_error() {
    let (lab, _server, whole) = served();
    let half = whole.len() / 2;
    let address = serve(whole, move |asked| {
        let from = asked.range.map_or(0, |(from, _)| from);
        Some(half.saturating_sub(from))
    });
    let target = lab.scratch("broken");
    expect(&restore(address, "test/app", &target, &[]), 3);
    expect_nothing(&target);
}

#[test]
fn one_changed_byte_anywhere_is_found() {
    let (lab, _server, whole) = served();
    let mut rng = Rng::new(0xBAD);
    for _ in 0..24 {
        let mut bad = whole.clone();
        let at = rng.below(bad.len() as u64) as usize;
        bad[at] ^= 1 << rng.below(8);
        let address = serve(bad, |_| None);
        let target = lab.scratch("damaged");
        let errors = expect(&restore(address, "test/app", &target, &[]), 5);
        assert!(
            errors.contains("corrupt") || errors.contains("refused"),
            "{at}: {errors}"
        );
        expect_nothing(&target);
    }
}

/// The one byte of a frame that no checksum covers says how large a window a decoder needs. A frame
/// is decoded at once here, so it has a meaning only where it limits blocks: what comes of another
/// one is refused or the same files, never others.
#[test]
fn a_changed_window_changes_nothing_or_is_found() {
    let (lab, _server, whole) = served();
    let expected = clone(&lab, "app", "clone");
    let magic = 0xFD2F_B528u32.to_le_bytes();
    let frames = whole.windows(6).enumerate();
    let mut windows = frames.filter(|(_, w)| w.starts_with(&magic) && w[4] & 0x20 == 0);
    let (at, _) = windows
        .next()
        .unwrap_or_else(|| panic!("no frame has a window"));
    for bit in 0..8 {
        let mut bad = whole.clone();
        bad[at + 5] ^= 1 << bit;
        let target = lab.scratch(&format!("window{bit}"));
        let out = restore(serve(bad, |_| None), "test/app", &target, &[]);
        if out.status.code() == Some(0) {
            expect_files(&expected, &target, &format!("bit {bit}"));
        } else {
            expect(&out, 5);
            expect_nothing(&target);
        }
    }
}

#[test]
fn a_short_archive_is_no_archive() {
    let (lab, _server, whole) = served();
    for keep in [1, whole.len() / 3, whole.len() - 1] {
        let address = serve(whole[..keep].to_vec(), |_| None);
        let target = lab.scratch("short");
        expect(&restore(address, "test/app", &target, &[]), 5);
        expect_nothing(&target);
    }
}

/// An archive of a `.git/config`, a HEAD without commits and `entries`, in one frame.
fn made(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
    let mut tar = Vec::new();
    let config: (&[u8], EntryType, &[u8]) = (b".git/config", EntryType::Regular, b"[core]\n");
    let head: (&[u8], EntryType, &[u8]) =
        (b".git/HEAD", EntryType::Regular, b"ref: refs/heads/main\n");
    for (path, kind, data) in [config, head].iter().chain(entries) {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_mtime(1);
        let is_file = *kind == EntryType::Regular;
        if !is_file {
            header.as_old_mut().linkname[..data.len()].copy_from_slice(data);
        }
        header.set_size(if is_file { data.len() as u64 } else { 0 });
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        if is_file {
            tar.extend_from_slice(data);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
    }
    tar.resize(tar.len() + 1024, 0);
    let mut context = zstd_safe::CCtx::create();
    let checksum = zstd_safe::CParameter::ChecksumFlag(true);
    assert!(context.set_parameter(checksum).is_ok());
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(tar.len()));
    assert!(context.compress2(&mut out, &tar).is_ok());
    out
}

#[test]
fn no_entry_leaves_the_target() {
    use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let lab = new_lab();
    let outside = lab.scratch("outside");
    fs::create_dir(&outside).unwrap_or_else(|e| panic!("{e}"));
    let to = outside.to_string_lossy().into_owned();
    let absolute = format!("{to}/x");
    type Case<'a> = (&'a str, Vec<(&'a [u8], EntryType, &'a [u8])>);
    let cases: Vec<Case<'_>> = vec![
        ("outside/x", vec![(absolute.as_bytes(), Regular, b"x")]),
        ("../outside/x", vec![(b"../outside/x", Regular, b"x")]),
        ("a/../../x", vec![(b"a/../../x", Regular, b"x")]),
        (
            "s",
            vec![(b"s", Symlink, to.as_bytes()), (b"s/x", Regular, b"x")],
        ),
        (
            "s",
            vec![(b"s/x", Regular, b"x"), (b"s", Symlink, to.as_bytes())],
        ),
        (
            "f",
            vec![(b"f", Symlink, absolute.as_bytes()), (b"f", Regular, b"x")],
        ),
        (
            "twice",
            vec![(b"twice", Regular, b"x"), (b"twice", Regular, b"y")],
        ),
        (".GIT/config", vec![(b".GIT/config", Regular, b"x")]),
        ("a/.git/config", vec![(b"a/.git/config", Regular, b"x")]),
        (".git/../x", vec![(b".git/../x", Regular, b"x")]),
        (
            ".git/refs/x",
            vec![(b".git/refs/x", Symlink, to.as_bytes())],
        ),
        ("hard", vec![(b"hard", Link, b"/etc/passwd")]),
        ("c", vec![(b"c", Char, b"")]),
        ("b", vec![(b"b", Block, b"")]),
        ("p", vec![(b"p", Fifo, b"")]),
        ("PAX header", vec![(b"pax", EntryType::XHeader, b"")]),
        ("PAX header", vec![(b"pax", EntryType::XGlobalHeader, b"")]),
        ("..", vec![(b"..", Directory, b"")]),
    ];
    for (named, entries) in cases {
        let target = lab.scratch("hostile");
        let out = restore(serve(made(&entries), |_| None), "test/app", &target, &[]);
        let errors = expect(&out, 5);
        assert!(errors.contains(named), "{named}: {errors}");
        expect_nothing(&target);
        let count = fs::read_dir(&outside).map(Iterator::count);
        assert_eq!(count.ok(), Some(0), "{named} wrote outside");
    }
}
