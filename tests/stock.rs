//! What the encoders make, read by the `tar` and the `zstd` that clients have: GNU tar lists and
//! unpacks what went in, and the stock decoder gives back each byte. `fuzz/` compares far more
//! archives with readers of its own; here the real ones read its seeds, and cases from a seed.
//! (That whole archives of real repositories unpack is for `tests/parity`.)

#[path = "../fuzz/src/entries.rs"]
mod entries;
#[path = "../fuzz/src/input.rs"]
#[allow(dead_code)] // Fuzz targets read other things.
mod input;
#[path = "support/rng.rs"]
#[allow(dead_code)]
mod rng;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use entries::{Entry, What, encode};
use input::Input;
use rng::Rng;
use tarpon::extent::{Layout, Segment, content_checksum};
use tarpon::tree::frames::Compressor;
use tarpon::tree::tar as encoder;

/// Archives that are generated.
const SEEDS: u64 = 48;
/// Content of a frame of a raw run, at most.
const RAW_FRAME_BYTES: usize = 4 << 20;

/// Runs a program in the C locale and at UTC, so that what it prints depends on nothing else.
fn stock(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").env("TZ", "UTC0");
    command
}

/// Runs it with `input`, from a thread of its own: both sides may wait for the other.
fn run(command: &mut Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = piped.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It fails when the program wants no more; its output says whether that was right.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

#[track_caller]
fn expect_success(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

fn archive_of(entries: &[Entry]) -> Vec<u8> {
    let mut archive = Vec::new();
    for entry in entries {
        encode(entry, &mut archive);
    }
    if !entries.last().is_some_and(Entry::is_huge) {
        encoder::push_end(&mut archive);
    }
    archive
}

/// `tar` that lists an archive: mode, owner, size, time and name of each entry.
fn list() -> Command {
    let mut tar = stock("tar");
    tar.args(["-tv", "-P", "--numeric-owner", "--full-time"]);
    tar.arg("--quoting-style=escape");
    tar
}

/// What it prints of these entries, but for the blanks before a size.
fn listing_of(entries: &[Entry]) -> Vec<String> {
    // A column that grows with what it holds.
    let mut time_width = 0;
    let line = |entry: &Entry| {
        let time = time(entry.mtime_s);
        time_width = time_width.max(time.len());
        let path = escaped(&entry.path);
        let (mode, size, name) = match &entry.what {
            What::File { data, executable } => (mode(*executable), data.len() as u64, path),
            What::Huge { size, executable } => (mode(*executable), *size, path),
            What::Symlink { target } => ("lrwxrwxrwx", 0, format!("{path} -> {}", escaped(target))),
            What::Directory => ("drwxr-xr-x", 0, format!("{path}/")),
        };
        format!("{mode} 0/0 {size} {time:<time_width$} {name}")
    };
    entries.iter().map(line).collect()
}

fn mode(executable: bool) -> &'static str {
    match executable {
        true => "-rwxr-xr-x",
        false => "-rw-r--r--",
    }
}

/// GNU's "escape" style in the C locale.
fn escaped(name: &[u8]) -> String {
    let escape = |byte: &u8| match byte {
        7 => "\\a".to_owned(),
        8 => "\\b".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'\n' => "\\n".to_owned(),
        11 => "\\v".to_owned(),
        12 => "\\f".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(*byte).to_string(),
        other => format!("\\{other:03o}"),
    };
    name.iter().map(escape).collect()
}

/// Date and time; the plain number where the year is beyond those of the C library.
fn time(unix_s: i64) -> String {
    let (days, second) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400));
    // Days from 1 March of year 0, in eras of 400 years.
    let shifted = i128::from(days) + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i128::from(month <= 2);
    if i32::try_from(year - 1900).is_err() {
        return unix_s.to_string();
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The lines that `tar` printed, with one blank before a size.
fn lines(output: &Output) -> Vec<String> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    let line = |line: &str| {
        let (before, rest) = line.split_once(" 0/0 ").unwrap();
        format!("{before} 0/0 {}", rest.trim_start())
    };
    text.lines().map(line).collect()
}

#[track_caller]
fn check_listing(entries: &[Entry], what: &str) {
    let output = run(&mut list(), &archive_of(entries));
    let said = String::from_utf8_lossy(&output.stderr);
    let (found, expected) = (lines(&output), listing_of(entries));
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected, "{what}: {said}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: {said}");
    let is_open = entries.last().is_some_and(Entry::is_huge);
    assert_eq!(output.status.success(), !is_open, "{what}: {said}");
    if is_open {
        assert!(said.contains("Unexpected EOF"), "{what}: {said}");
    } else {
        assert_eq!(said, "", "{what}");
    }
}

#[test]
fn tar_lists_the_seeds_of_the_fuzz_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/tar");
    let mut count = 0;
    for seed in fs::read_dir(&corpus).unwrap() {
        let path = seed.unwrap().path();
        let entries = entries::entries(&mut Input::new(&fs::read(&path).unwrap()));
        check_listing(&entries, &path.display().to_string());
        count += entries.len();
    }
    assert!(count >= 20, "only {count} entries in {}", corpus.display());
}

/// Any names, targets, times and sizes, those included that no file system takes.
#[test]
fn tar_lists_whatever_went_in() {
    for seed in 0..SEEDS {
        let mut rng = Rng::new(seed);
        let count = 1 + rng.below(30);
        let mut entries: Vec<Entry> = (0..count).map(|_| any_entry(&mut rng)).collect();
        let mut last = any_entry(&mut rng);
        if rng.below(2) == 0 {
            last.what = What::Huge {
                // Around the edges of the octal field, and anywhere.
                size: match rng.below(3) {
                    0 => (8 << 30) + rng.below(2000) - 1000,
                    1 => 1 + (rng.next_u64() >> (1 + rng.below(40))),
                    _ => i64::MAX as u64,
                },
                executable: rng.below(2) == 0,
            };
            // Data that comes all the same would be followed by more headers.
            if let What::Huge { size, .. } = &mut last.what {
                *size = (*size).max(1);
            }
        }
        entries.push(last);
        check_listing(&entries, &format!("seed {seed}"));
    }
}

fn any_entry(rng: &mut Rng) -> Entry {
    let what = match rng.below(3) {
        0 => What::File {
            data: data(rng, 2_000),
            executable: rng.below(2) == 0,
        },
        1 => What::Symlink {
            target: any_name(rng),
        },
        _ => What::Directory,
    };
    Entry {
        path: any_name(rng),
        what,
        mtime_s: match rng.below(4) {
            0 => rng.next_u64() as i64,
            1 => (1 << 33) + rng.below(100) as i64 - 50,
            2 => rng.below(100) as i64 - 50,
            _ => rng.below(1 << 31) as i64,
        },
    }
}

/// No NUL and no slash at the end, as of everything that git can hold; around the 100 bytes of
/// the field, short or long.
fn any_name(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(3) {
        0 => 96 + rng.below(8),
        1 => 1 + rng.below(40),
        _ => 1 + rng.below(5_000),
    };
    let mut name = any_bytes(rng, len);
    if name.last() == Some(&b'/') {
        name.pop();
        name.push(b'x');
    }
    name
}

fn any_bytes(rng: &mut Rng, len: u64) -> Vec<u8> {
    let is_text = rng.below(2) == 0;
    let byte = |rng: &mut Rng| match is_text {
        true => b"ab/ -.\\>\"'%*?\n"[rng.below(14) as usize],
        false => 1 + rng.below(255) as u8,
    };
    (0..len).map(|_| byte(rng)).collect()
}

fn data(rng: &mut Rng, max: u64) -> Vec<u8> {
    let len = match rng.below(3) {
        0 => rng.below(4) * 512,
        _ => rng.below(max),
    } as usize;
    match rng.below(2) {
        0 => rng.bytes(len),
        _ => vec![b'z'; len],
    }
}

/// Names and targets of any bytes that a file system takes; each path once, and all directories
/// before what is in them.
fn tree(rng: &mut Rng) -> Vec<Entry> {
    let mut directories = vec![Vec::new()];
    let mut entries: BTreeMap<Vec<u8>, Entry> = BTreeMap::new();
    for _ in 0..10 + rng.below(30) {
        let mut path: Vec<u8> = directories[rng.below(directories.len() as u64) as usize].clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        let max = [8, 8, 110, 255][rng.below(4) as usize];
        let len = 1 + rng.below(max);
        let name = any_bytes(rng, len).into_iter();
        let name: Vec<u8> = name
            .map(|byte| if byte == b'/' { b'_' } else { byte })
            .collect();
        path.extend(if matches!(&name[..], b"." | b"..") {
            b"dots".to_vec()
        } else {
            name
        });
        if path.len() > 2_000 || entries.contains_key(&path) {
            continue;
        }
        let what = match rng.below(4) {
            0 => {
                directories.push(path.clone());
                What::Directory
            }
            1 => What::Symlink {
                target: any_name(rng).into_iter().take(4_000).collect(),
            },
            _ => What::File {
                data: data(rng, 300_000),
                executable: rng.below(2) == 0,
            },
        };
        let mtime_s = 1 + rng.below((1 << 31) - 1) as i64;
        entries.insert(
            path.clone(),
            Entry {
                path,
                what,
                mtime_s,
            },
        );
    }
    entries.into_values().collect()
}

/// The wire of an archive: compressed frames of any size, and raw runs of a linked file.
fn wire_of(archive: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut compressor = Compressor::new().unwrap();
    let (mut layout, mut spool) = (Layout::default(), Vec::new());
    let mut at = 0;
    while at < archive.len() {
        let max = [10, 2_000, 700_000][rng.below(3) as usize];
        let len = 1 + rng.below(max) as usize;
        let piece = &archive[at..archive.len().min(at + len)];
        if rng.below(3) == 0 {
            // The linked file is the archive itself.
            let checksums = piece.chunks(RAW_FRAME_BYTES).map(content_checksum);
            let checksums: Vec<u32> = checksums.collect();
            layout.push_raw(0, at as u64, piece.len() as u64, &checksums);
        } else {
            let before = spool.len();
            let level = 1 + rng.below(3) as i32;
            compressor.push_frame(level, piece, &mut spool).unwrap();
            layout.push_spool((spool.len() - before) as u64);
        }
        at += piece.len();
    }
    let mut wire = Vec::new();
    while let Some(segment) = layout.segment_at(wire.len() as u64) {
        let (source, offset, len) = match &segment {
            Segment::Inline(inline) => {
                wire.extend_from_slice(inline.as_slice());
                continue;
            }
            Segment::Spool { offset, len } => (&spool[..], *offset, *len),
            Segment::File { offset, len, .. } => (archive, *offset, *len),
        };
        wire.extend_from_slice(&source[offset as usize..][..len as usize]);
    }
    wire
}

/// What is at each path below `root`, as an entry.
fn entries_below(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        for item in fs::read_dir(root.join(&directory)).unwrap() {
            let relative = directory.join(item.unwrap().file_name());
            let full = root.join(&relative);
            let metadata = fs::symlink_metadata(&full).unwrap();
            let what = match (metadata.file_type(), metadata.mode() & 0o7777) {
                (kind, 0o755) if kind.is_dir() => {
                    left.push(relative.clone());
                    What::Directory
                }
                (kind, mode @ (0o644 | 0o755)) if kind.is_file() => What::File {
                    data: fs::read(&full).unwrap(),
                    executable: mode == 0o755,
                },
                (kind, _) if kind.is_symlink() => What::Symlink {
                    target: fs::read_link(&full).unwrap().into_os_string().into_vec(),
                },
                other => panic!("{relative:?}: {other:?}"),
            };
            let path = relative.into_os_string().into_vec();
            let mtime_s = metadata.mtime();
            found.insert(
                path.clone(),
                Entry {
                    path,
                    what,
                    mtime_s,
                },
            );
        }
    }
    found
}

/// As the README has clients do it: every path, mode, time, target and byte comes out.
#[test]
fn what_goes_in_is_unpacked() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("archive.tar.zst");
    let (mut names, mut frames) = (0, 0);
    for seed in 0..SEEDS {
        let mut rng = Rng::new(1_000 + seed);
        let entries = tree(&mut rng);
        let archive = archive_of(&entries);
        let wire = wire_of(&archive, &mut rng);
        fs::write(&file, &wire).unwrap();

        let decoded = run(stock("zstd").args(["-dcq", "-"]), &wire);
        expect_success(&decoded);
        assert!(decoded.stdout == archive, "seed {seed}: other bytes");
        let tested = run(stock("zstd").arg("-tq").arg(&file), b"");
        expect_success(&tested);

        let into = directory.path().join(seed.to_string());
        fs::create_dir(&into).unwrap();
        let mut tar = stock("tar");
        tar.args(["--zstd", "-xp", "--no-same-owner", "-f"])
            .arg(&file);
        expect_success(&run(tar.arg("-C").arg(&into), b""));
        let expected = entries
            .iter()
            .map(|entry| (entry.path.clone(), entry.clone()));
        let expected: BTreeMap<Vec<u8>, Entry> = expected.collect();
        let found = entries_below(&into);
        let differs = |path: &&Vec<u8>| expected.get(*path) != found.get(*path);
        let wrong = expected.keys().chain(found.keys()).find(differs);
        assert_eq!(
            wrong.map(|path| OsStr::from_bytes(path)),
            None,
            "seed {seed}"
        );
        names += found.len();
        frames += wire
            .windows(4)
            .filter(|bytes| bytes == b"\x28\xb5\x2f\xfd")
            .count();
        fs::remove_dir_all(&into).unwrap();
    }
    assert!(
        names > 500 && frames > 500,
        "{names} names in {frames} frames"
    );
}

/// Sizes on both sides of 8 GiB, where octal digits end: `tar` finds what comes after each. The
/// data are holes of a sparse file, over which it seeks.
#[test]
fn tar_finds_what_follows_huge_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("huge.tar");
    let mut file = File::create_new(&path).unwrap();
    let edge = 8u64 << 30;
    let sizes = [edge - 1, edge, edge + 1, edge + 513, 9 << 30];
    let mut entries = Vec::new();
    for (index, size) in sizes.into_iter().enumerate() {
        let header = Entry {
            path: format!("huge-{index}").into_bytes(),
            what: What::Huge {
                size,
                executable: false,
            },
            mtime_s: 7,
        };
        let after = Entry {
            path: format!("after-{index}").into_bytes(),
            what: What::File {
                data: format!("data {index}").into_bytes(),
                executable: true,
            },
            mtime_s: 8,
        };
        let mut block = Vec::new();
        encode(&header, &mut block);
        file.write_all(&block).unwrap();
        let padded = size.next_multiple_of(encoder::BLOCK_BYTES as u64);
        file.seek(SeekFrom::Current(padded as i64)).unwrap();
        block.clear();
        encode(&after, &mut block);
        file.write_all(&block).unwrap();
        entries.extend([header, after]);
    }
    let mut end = Vec::new();
    encoder::push_end(&mut end);
    file.write_all(&end).unwrap();
    drop(file);

    let listed = run(list().arg("-f").arg(&path), b"");
    expect_success(&listed);
    assert_eq!(lines(&listed), listing_of(&entries));
    for index in 0..sizes.len() {
        let name = OsString::from(format!("after-{index}"));
        let read = run(stock("tar").arg("-xOf").arg(&path).arg(name), b"");
        expect_success(&read);
        assert_eq!(read.stdout, format!("data {index}").into_bytes());
    }
}
