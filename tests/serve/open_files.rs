//! The files of snapshots: each is open once, however many snapshots share it, and what happens when there
//! may be no more.

use super::support::lab;
use super::support::repos::Shape;
use super::support::server::Server;
use super::support::steps::{hit, push_and_fetch, wait_published};
use super::support::wait;
use super::{begin, expect_clone, finish, large_lab, small_lab};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;

fn open_files(server: &Server) -> f64 {
    let open = server.metrics().sum("tarpon_open_files", &[]);
    open.unwrap_or_else(|| panic!("there is no such metric"))
}

/// Descriptors of the server that lead into its snapshots, and how many files these are.
fn in_snapshots(server: &Server) -> (usize, usize) {
    let mut inodes = HashSet::new();
    let mut descriptors = 0;
    for descriptor in fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap() {
        let path = descriptor.unwrap().path();
        let is_inside = fs::read_link(&path).is_ok_and(|to| {
            let to = to.to_string_lossy().into_owned();
            to.contains("/snapshots/")
        });
        if is_inside && let Ok(found) = fs::metadata(&path) {
            descriptors += 1;
            inodes.insert(found.ino());
        }
    }
    (descriptors, inodes.len())
}

/// A snapshot that is read, and the one that replaces it: their packs are open once.
#[test]
fn snapshots_that_share_files_have_them_open_once() {
    let lab = large_lab();
    let server = lab.start();
    hit(&server, "large");
    let (mut old, _, old_start) = begin(&server, "large", 1000);
    push_and_fetch(&lab, &server, "large", "new.txt", b"new");
    wait::until_true("the new snapshot is there", || {
        server.builds("complete") == 2
    });
    let (mut new, _, new_start) = begin(&server, "large", 1000);
    let (descriptors, files) = in_snapshots(&server);
    assert_eq!(descriptors, files, "one is open twice");
    assert!(open_files(&server) >= files as f64);
    assert!(files >= 5, "two spools, and two packs with their indices");
    finish(&mut old, old_start);
    let new = finish(&mut new, new_start);
    expect_clone(&lab, "large", &new);
    // Nobody reads them any more.
    wait::until_true("idle snapshots hold no file", || {
        open_files(&server) == 0.0 && in_snapshots(&server) == (0, 0)
    });
}

/// Whoever would need more files than may be open is asked to come again: a hit and a build alike. What
/// is being sent is sent to its end.
#[test]
fn without_places_downloads_go_on_and_new_ones_wait() {
    let lab = large_lab();
    lab.generate("small", Shape::ManySmall, 300_000);
    lab.generate("other", Shape::ManySmall, 300_000);
    let server = lab.settings().with_fault("open-files-max=5").start();
    let small = hit(&server, "small").body;
    hit(&server, "large");
    let (mut conn, _, start) = begin(&server, "large", 1000);
    for name in ["small", "other"] {
        let refused = server.get(&lab::target(name)).expect(503);
        assert!(
            refused.text().contains("places for open files"),
            "{}",
            refused.text()
        );
        assert!(
            refused.head.get("retry-after").is_some(),
            "{:?}",
            refused.head
        );
    }
    assert_eq!(server.builds("failed"), 0, "that is no failure of a build");
    let large = finish(&mut conn, start);
    expect_clone(&lab, "large", &large);
    // The one that was read last makes room at once.
    assert!(server.get(&lab::target("small")).expect(200).body == small);
    server.get(&lab::target("other")).expect(200);
    wait_published(&server, "other");
    expect_clone(&lab, "other", &hit(&server, "other").body);
}

/// Many more snapshots than there are places for: each makes room for the next.
#[test]
fn more_snapshots_than_places_are_served_in_turn() {
    let lab = small_lab();
    for number in 0..4 {
        lab.generate(&format!("s{number}"), Shape::ManySmall, 50_000);
    }
    let server = lab.settings().with_fault("open-files-max=8").start();
    for _ in 0..3 {
        for number in 0..4 {
            hit(&server, &format!("s{number}"));
            assert!(open_files(&server) <= 8.0);
        }
    }
    assert_eq!(server.builds("complete"), 4);
}
