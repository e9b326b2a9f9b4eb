//! A snapshot is produced once, whoever asks, and no client paces another.

use super::support::client::{Conn, Paced};
use super::support::compare;
use super::support::lab::{self, Lab, copy_tree};
use super::support::repos::Shape;
use super::{at_once, begin, expect_clone, finish, hit, large_lab, new_lab, wait_published};
use std::fs::File;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// The bytes of an archive depend on commit, references and packs, not on threads. The packs
/// are made once and copied, as two clones may pack differently.
#[test]
fn same_bytes_with_one_and_four_encoders() {
    let lab = new_lab();
    lab.generate("mixed", Shape::ManySmall, 12 * MIB);
    lab.place_mirror("mixed");
    let other = lab.scratch("other-state");
    copy_tree(&lab.state(), &other);
    let mut bodies = Vec::new();
    for (state, encoders) in [(lab.state(), "1"), (other, "4")] {
        let mut settings = lab.settings().with(&["--encoders", encoders]);
        settings.state = state;
        let server = settings.start();
        bodies.push(server.get(&lab::target("mixed")).expect(200).body);
        server.stop();
    }
    assert!(bodies[0].len() as u64 > MIB, "too small to say anything");
    assert!(
        bodies[0] == bodies[1],
        "the archive depends on the number of encoders"
    );
    expect_clone(&lab, "mixed", &bodies[0]);
}

#[test]
fn thirty_two_requests_are_one_build() {
    let lab = new_lab();
    lab.generate("mixed", Shape::ManySmall, 4 * MIB);
    let server = lab.start();
    let target = lab::target("mixed");
    let mut bodies = at_once(32, |_| server.get(&target).expect(200).body);
    let first = bodies.remove(0);
    assert!(bodies.iter().all(|body| *body == first), "bodies differ");
    wait_published(&server, "mixed");
    assert!(hit(&server, "mixed").body == first, "the cache differs");
    assert_eq!(server.builds("complete"), 1);
    assert_eq!(lab.entries().len(), 1);
    expect_clone(&lab, "mixed", &first);
}

/// The client that started the build goes away: nobody else notices.
#[test]
fn the_first_client_leaves() {
    let lab = large_lab();
    let server = lab.start();
    let (first, head, start) = begin(&server, "large", MIB as usize);
    assert!(
        head.is_chunked(),
        "the first client must meet a running build: {head:?}"
    );
    let followers: Vec<_> = (0..3).map(|_| begin(&server, "large", 1000)).collect();
    drop(first);
    let mut bodies = Vec::new();
    for (mut conn, followed, start) in followers {
        assert_eq!(followed.etag(), head.etag());
        bodies.push(finish(&mut conn, start));
    }
    let cached = hit(&server, "large");
    assert_eq!(cached.head.etag(), head.etag());
    assert!(
        bodies.iter().all(|body| *body == cached.body),
        "a follower differs from the cache"
    );
    assert!(
        cached.body.starts_with(&start),
        "the first client got something else"
    );
    assert_eq!(server.builds("complete"), 1);
    expect_clone(&lab, "large", &cached.body);
}

/// Nobody is left: the build goes on, for the cache.
#[test]
fn everybody_leaves() {
    let lab = large_lab();
    let server = lab.start();
    let (only, _, start) = begin(&server, "large", 1000);
    drop(only);
    wait_published(&server, "large");
    let cached = hit(&server, "large").body;
    assert!(
        cached.starts_with(&start),
        "the first client got something else"
    );
    assert_eq!(server.builds("complete"), 1);
    expect_clone(&lab, "large", &cached);
}

/// A reader at 1 MB/s of an archive of 400 MB: the entry is published while the reader has
/// hardly begun, and the server does not hold for it what it has not read.
#[test]
fn a_slow_reader_delays_nothing_and_costs_no_memory() {
    const RATE_BYTES_PER_S: u64 = 1_000_000;
    const RSS_LIMIT_BYTES: u64 = 200 * MIB;
    const GROWTH_LIMIT_BYTES: u64 = 16 * MIB;
    let lab = new_lab();
    lab.generate("huge", Shape::FewLarge, 200 * MIB);
    let server = lab.start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("huge"), &[]);
    let head = conn
        .read_head("GET")
        .unwrap_or_else(|e| panic!("no response: {e}"));
    assert_eq!(head.status, 200, "{head:?}");
    let slow = lab.scratch("slow.tar.zst");
    let mut file = File::create(&slow).unwrap_or_else(|e| panic!("{}: {e}", slow.display()));

    let mut rss_peak_bytes = 0;
    let mut published: Option<(Instant, u64)> = None;
    let started = Instant::now();
    let mut paced = Paced::new(&mut conn, RATE_BYTES_PER_S);
    while published.is_none_or(|(since, _)| since.elapsed() < Duration::from_secs(3)) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "the slow reader delays the build"
        );
        assert!(
            paced.step(&mut file).is_ok_and(|more| more),
            "the body ended"
        );
        let rss_bytes = server.rss_anon_bytes();
        rss_peak_bytes = rss_peak_bytes.max(rss_bytes);
        if published.is_none() && !lab.entries().is_empty() {
            published = Some((Instant::now(), rss_bytes));
        }
        if let Some((_, then)) = published {
            assert!(
                rss_bytes < then + GROWTH_LIMIT_BYTES,
                "grew from {then} to {rss_bytes}"
            );
        }
    }
    assert!(
        rss_peak_bytes < RSS_LIMIT_BYTES,
        "RssAnon was {rss_peak_bytes}"
    );
    drop(file);
    lab::finish_download(&mut conn, &slow, true);
    expect_same_as_hit(&lab, &server, &slow);
}

fn expect_same_as_hit(lab: &Lab, server: &super::Server, file: &std::path::Path) {
    let cached = lab.scratch("cached.tar.zst");
    let head = lab::download(server.address(), &lab::target("huge"), &cached);
    assert!(
        head.content_length().is_some_and(|len| len > 300 * MIB),
        "{head:?}"
    );
    assert_eq!(compare::first_difference(&cached, file), None);
    assert_eq!(server.builds("complete"), 1);
}
