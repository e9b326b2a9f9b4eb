//! What a worktree is made of where that is left to `restore`: whichever is there sooner, over links of any rate.

use crate::lab::{clone, expect, expect_files, restore, staged};
use crate::support::git;
use crate::support::lab::{self, Lab};
use crate::support::relay::paced;
use crate::support::repos;
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::hit;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const NAME: &str = "alike";
const FILES: usize = 12;
const FILE_BYTES: usize = 4 << 20;
/// Of a link that has become slow.
const SLOW_BYTES_S: u64 = 500_000;

/// A repository whose files are nearly the same: its pack is as large as one of them, its frames are as large as all.
fn alike() -> (Lab, Server, std::path::PathBuf) {
    let lab = Lab::new(crate::lab::BINARY);
    let path = lab.upstream(NAME);
    repos::init_bare(&path, "main", "sha1");
    let mut import = repos::Importer::start(&path, repos::Layout::Packed);
    import.commit("refs/heads/main", "first");
    let content = Rng::new(5).bytes(FILE_BYTES);
    for number in 0..FILES {
        let mut content = content.clone();
        content[..8].copy_from_slice(&[number as u8; 8]);
        let name = format!("d{}/{number}.bin", number % 3);
        import.file(repos::FILE, name.as_bytes(), &content);
    }
    import.finish();
    git::run(&path, &["repack", "-adfq"]);
    let server = lab.start();
    hit(&server, NAME);
    let clone = clone(&lab, NAME, "clone");
    (lab, server, clone)
}

/// How a restore made the worktree, and how many bytes came.
fn restored(server: SocketAddr, target: &Path, clone: &Path, more: &[&str]) -> (String, u64) {
    let more = [&["--json"], more].concat();
    let output = restore(server, &format!("test/{NAME}"), target, &more);
    expect(&output, 0);
    expect_files(clone, target, "restored");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let way = said["worktree"].as_str().unwrap_or_default().to_owned();
    // Each is counted once, however it was made in the end; those of `.git` are few.
    let (entries, files) = (said["entries"].as_u64().unwrap(), FILES as u64);
    assert!((files..files + 64).contains(&entries), "{entries}");
    (way, said["bytes"].as_u64().unwrap_or_default())
}

/// All that the snapshot has.
fn archive_bytes(server: &Server) -> u64 {
    let head = server.fetch("HEAD", &lab::target(NAME), &[]).head;
    head.content_length().unwrap()
}

/// Over a slow link only what has to come comes; what is made is the same at any rate.
#[test]
fn the_link_says_what_a_worktree_is_made_of() {
    let (lab, server, clone) = alike();
    let all = archive_bytes(&server);
    assert!(all > (FILES * FILE_BYTES) as u64, "{all}");
    for (name, bytes_s) in [
        ("100 Mbit/s", Some(12_500_000)),
        ("1 Gbit/s", Some(125_000_000)),
        ("unlimited", None),
    ] {
        let link = paced(server.address(), move |_| bytes_s);
        let (way, bytes) = restored(link, &lab.scratch(name), &clone, &[]);
        println!("{name}: {way}, {bytes} of {all} bytes");
        let is_by_packs = way == "packs";
        assert!(is_by_packs || bytes_s != Some(12_500_000), "{name}: {way}");
        assert_eq!(bytes < all / 2, is_by_packs, "{name}: {bytes}");
    }
}

/// What a seed has need not come, and only that decides: one that has nothing, or can keep nothing, changes nothing.
#[test]
fn what_a_seed_lacks_is_weighed_as_without_one() {
    let (lab, server, clone) = alike();
    let all = archive_bytes(&server);
    let link = paced(server.address(), |_| Some(12_500_000));
    let seed = |name: &str| lab.scratch(name).display().to_string();
    let of = |name: &str, seed: &str, more: &[&str]| {
        let seed = ["--seed", seed, "--seed-free-floor", "0"];
        let more = [&seed[..], more].concat();
        let made = restored(link, &lab.scratch(name), &clone, &more);
        println!("{name}: {}, {} of {all} bytes", made.0, made.1);
        made
    };
    let empty = seed("empty seed");
    let (way, bytes) = of("empty", &empty, &[]);
    assert!(way == "packs" && bytes < all / 2, "{way}: {bytes}");
    // Its packs are there then, and nothing large has to come.
    let (way, bytes) = of("packs are there", &empty, &[]);
    assert!(way == "packs" && bytes < 1 << 20, "{way}: {bytes}");
    let useless = seed("useless seed");
    for round in ["useless", "still useless"] {
        let (way, bytes) = of(round, &useless, &["--seed-limit", "1K"]);
        assert!(way == "packs" && bytes < all / 2, "{way}: {bytes}");
    }
    let warm = seed("warm seed");
    let (way, bytes) = of("filled", &warm, &["--worktree", "frames"]);
    assert!(way == "frames" && bytes > all / 2, "{way}: {bytes}");
    let (way, bytes) = of("warm", &warm, &[]);
    assert_eq!((&*way, bytes), ("frames", 0));
}

/// Frames that are chosen because they come fast are kept, as what is asked for is.
#[test]
fn frames_that_were_chosen_are_kept() {
    let (lab, server, clone) = alike();
    let seed = lab.scratch("seed").display().to_string();
    let seed = ["--seed", &seed, "--seed-free-floor", "0"];
    let (way, _) = restored(server.address(), &lab.scratch("cold"), &clone, &seed);
    let (again, bytes) = restored(server.address(), &lab.scratch("warm"), &clone, &seed);
    println!("{way}, then {again}: {bytes} bytes");
    assert_eq!(way, again);
    if way == "frames" {
        assert_eq!(bytes, 0);
    }
}

/// Files in `directory` that have the date of a restore, by their paths below `root`, each with what says that it is the same.
fn dated(root: &Path, directory: &Path, found: &mut BTreeMap<PathBuf, (u64, i64, i64)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && entry.file_name() != ".git" {
            dated(root, &path, found);
        } else if meta.is_file() && meta.mtime_nsec() == 0 {
            let name = path.strip_prefix(root).unwrap_or(&path).to_owned();
            found.insert(name, (meta.ino(), meta.ctime(), meta.ctime_nsec()));
        }
    }
}

/// Does something while it is looked which files of a worktree are finished; gives those that were the first time that
/// there were any, and what was done.
fn watched<T>(parent: &Path, does: impl FnOnce() -> T) -> (BTreeMap<PathBuf, (u64, i64, i64)>, T) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut found = BTreeMap::new();
            while found.is_empty() && !is_over.load(Relaxed) {
                for staged in staged(parent) {
                    dated(&staged.join("tree"), &staged.join("tree"), &mut found);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            found
        });
        let done = does();
        is_over.store(true, Relaxed);
        (looks.join().unwrap(), done)
    })
}

/// A link that becomes slow while frames come: the rest of them is left off, and files that are whole by then stay.
#[test]
fn frames_are_left_off_once_their_link_is_slow() {
    let (lab, server, clone) = alike();
    let all = archive_bytes(&server);
    let after = 6 * FILE_BYTES as u64;
    let all_s = (all - after) / SLOW_BYTES_S;
    for round in 0..20 {
        let link = paced(server.address(), move |sent| {
            (sent > after).then_some(SLOW_BYTES_S)
        });
        let target = lab.scratch(&format!("slow{round}"));
        let began = std::time::Instant::now();
        let parent = target.parent().unwrap();
        let run = || restored(link, &target, &clone, &[]);
        let (seen, (way, bytes)) = watched(parent, run);
        let took = began.elapsed();
        assert_eq!(way, "packs");
        if bytes > after {
            println!("{took:?} instead of {all_s} s, {bytes} of {all} bytes, round {round}");
            assert!(bytes < all, "{bytes} of {all}");
            assert!(took.as_secs() < all_s / 2, "{took:?}");
            let mut there = BTreeMap::new();
            dated(&target, &target, &mut there);
            assert!(
                !seen.is_empty(),
                "no file was whole before the link was slow"
            );
            for (path, same) in seen {
                assert_eq!(there.get(&path), Some(&same), "{}", path.display());
            }
            return;
        }
        // Packs were sooner from the first byte on.
        std::fs::remove_dir_all(&target).unwrap();
    }
    // With many cores they always are, and beside what keeps the relay slow.
    println!("skipped: frames were never chosen");
}
