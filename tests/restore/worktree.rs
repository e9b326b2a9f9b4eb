//! What a worktree is made of where that is left to `restore`: whichever is there sooner, over links of any rate.

use crate::lab::{clone, expect, expect_files, restore};
use crate::support::git;
use crate::support::lab::{self, Lab};
use crate::support::relay::paced;
use crate::support::repos;
use crate::support::rng::Rng;
use crate::support::server::Server;
use crate::support::steps::hit;
use std::net::SocketAddr;
use std::path::Path;

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
fn restored(server: SocketAddr, target: &Path, clone: &Path) -> (String, u64) {
    let output = restore(server, &format!("test/{NAME}"), target, &["--json"]);
    expect(&output, 0);
    expect_files(clone, target, "restored");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let way = said["worktree"].as_str().unwrap_or_default().to_owned();
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
        let (way, bytes) = restored(link, &lab.scratch(name), &clone);
        println!("{name}: {way}, {bytes} of {all} bytes");
        let is_by_packs = way == "packs";
        assert!(is_by_packs || bytes_s != Some(12_500_000), "{name}: {way}");
        assert_eq!(bytes < all / 2, is_by_packs, "{name}: {bytes}");
    }
}

/// A link that becomes slow while frames come: the rest of them is left off, and nothing of them is seen.
#[test]
fn frames_are_left_off_once_their_link_is_slow() {
    let (lab, server, clone) = alike();
    let all = archive_bytes(&server);
    let after = 3 * FILE_BYTES as u64;
    let all_s = (all - after) / SLOW_BYTES_S;
    for round in 0..20 {
        let link = paced(server.address(), move |sent| {
            (sent > after).then_some(SLOW_BYTES_S)
        });
        let target = lab.scratch(&format!("slow{round}"));
        let began = std::time::Instant::now();
        let (way, bytes) = restored(link, &target, &clone);
        let took = began.elapsed();
        assert_eq!(way, "packs");
        if bytes > after {
            println!("{took:?} instead of {all_s} s, {bytes} of {all} bytes, round {round}");
            assert!(bytes < all, "{bytes} of {all}");
            assert!(took.as_secs() < all_s / 2, "{took:?}");
            return;
        }
        // Packs were sooner from the first byte on.
        std::fs::remove_dir_all(&target).unwrap();
    }
    // With many cores they always are, and beside what keeps the relay slow.
    println!("skipped: frames were never chosen");
}
