//! Servers that show the same archive come to the same files of it: what the next one shares is what is new, whoever that is.

use std::collections::BTreeSet;

use tarpon::manifest::parts::Manifest;

use super::bucket_server::BucketServer;
use super::shared_store::wait_shared;
use super::support::lab::{self, Lab};
use super::support::repos::{self, Shape};
use super::support::server::{Server, Settings};
use super::support::wait;
use super::{expect_clone, hit, new_lab};

const BYTES: u64 = 12 << 20;
const SOON: &str = "store-look-ms=100,store-lease-ms=3000,store-kept-ms=60000";

fn settings(lab: &Lab, bucket: &BucketServer, name: &str) -> Settings {
    let settings = Settings {
        state: lab.scratch(name),
        environment: bucket.environment(),
        ..lab.settings()
    };
    settings
        .with(&["--ref-check-interval", "200ms"])
        .with_fault(SOON)
}

/// The names of the files of which a server has made what it serves.
fn files(server: &Server) -> BTreeSet<String> {
    let sent = server.get(&lab::endpoint("small", "manifest")).expect(200);
    let manifest = Manifest::unpack(&sent.body).unwrap_or_else(|e| panic!("{e}"));
    let names = manifest.parts.into_iter().map(|part| part.name);
    names.collect()
}

#[test]
fn servers_come_to_the_files_that_are_shared() {
    let lab = new_lab();
    lab.generate("small", Shape::FewLarge, BYTES);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    for name in ["first", "second"] {
        let alone = settings(&lab, &bucket, name).start();
        hit(&alone, "small");
        alone.stop();
    }
    let store = ["--store", "s3://farm"];
    let first = settings(&lab, &bucket, "first").with(&store).start();
    let built = hit(&first, "small");
    wait_shared(&first, 1);
    let second = settings(&lab, &bucket, "second").with(&store).start();
    let own = files(&second);
    let expected = files(&first);
    assert_ne!(own, expected, "it has built it by itself");
    wait::until_true("it has the files that are shared", || {
        // Somebody has to use it.
        let answer = first.get(&lab::target("small")).expect(200);
        assert_eq!(answer.head.etag(), built.head.etag());
        files(&second) == expected
    });
    let same = second.get(&lab::target("small")).expect(200);
    assert!(same.head.etag() == built.head.etag() && same.body == built.body);
    // It is an entry as any other, and what comes next is made on top of it.
    second.stop();
    first.stop();
    let second = settings(&lab, &bucket, "second").with(&store).start();
    assert_eq!(files(&second), expected);
    let before = bucket_bytes(&lab);
    repos::add_commit(&lab.upstream("small"), "main", "new.txt", b"new\n");
    let fresh = ["Cache-Control: max-age=0"];
    let newest = second
        .fetch("GET", &lab::target("small"), &fresh)
        .expect(200);
    assert_ne!(newest.head.etag(), built.head.etag());
    wait_shared(&second, 1);
    let uploaded = bucket_bytes(&lab) - before;
    assert!(uploaded < BYTES / 10, "{uploaded} bytes for one small file");
    expect_clone(&lab, "small", &newest.body);
}

/// How much there is in the bucket.
fn bucket_bytes(lab: &Lab) -> u64 {
    let mut bytes = 0;
    let mut dirs = vec![lab.scratch("s3/farm")];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        for entry in entries.map(|entry| entry.unwrap()) {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    bytes
}
