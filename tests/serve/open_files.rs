//! The files of snapshots: each is open once, however many snapshots share it, and what happens when there
//! may be no more.

use super::support::client::End;
use super::support::lab;
use super::support::repos::Shape;
use super::support::server::Server;
use super::support::steps::{hit, push_and_fetch, wait_published};
use super::support::wait;
use super::{begin, expect_clone, finish, large_lab, small_lab};
use std::collections::HashSet;

fn open_files(server: &Server) -> f64 {
    let open = server.metrics().sum("tarpon_open_files", &[]);
    open.unwrap_or_else(|| panic!("there is no such metric"))
}

/// Descriptors of the server that lead into its snapshots, and how many files these are.
fn in_snapshots(server: &Server) -> (usize, usize) {
    let open = server.descriptors_with_inodes();
    let inside = open.iter().filter(|(path, _)| path.contains("/snapshots/"));
    let inodes = Vec::from_iter(inside.map(|(_, inode)| inode));
    let files = HashSet::<_>::from_iter(inodes.iter());
    (inodes.len(), files.len())
}

/// A snapshot that is read, and the one that replaces it: their packs are open once.
#[test]
fn snapshots_that_share_files_have_them_open_once() {
    let lab = large_lab();
    let server = lab.start();
    let before = hit(&server, "large");
    let (mut old, _, old_start) = begin(&server, "large", 1000);
    push_and_fetch(&lab, &server, "large", "new.txt", b"new");
    // It is counted before it is shown.
    wait::until_true("the new snapshot is shown", || {
        hit(&server, "large").head.etag() != before.head.etag()
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

/// Who takes too little of a download keeps no file open that others need.
#[test]
fn slow_downloads_give_up_their_files() {
    let lab = large_lab();
    lab.generate("small", Shape::ManySmall, 300_000);
    let faults = "open-files-max=5,taking-slow-ms=1500";
    let server = lab.settings().with_fault(faults).start();
    let small = hit(&server, "small").body;
    hit(&server, "large");
    let (mut slow, ..) = begin(&server, "large", 1000);
    server.get(&lab::target("small")).expect(503);
    let served = wait::until("the slow one is ended", || {
        let answer = server.get(&lab::target("small"));
        (answer.head.status == 200).then_some(answer.body)
    });
    assert!(served == small);
    let mut rest = Vec::new();
    let end = slow.copy_body(&mut rest);
    assert!(!matches!(end, Ok((End::Complete, _))), "it looks whole");
    let ended = [("reason", "slow")];
    assert_eq!(
        server
            .metrics()
            .count("tarpon_clients_dropped_total", &ended),
        1
    );
}
