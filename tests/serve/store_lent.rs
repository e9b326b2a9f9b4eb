//! Behind a balancer: what one server has begun to send somebody gets to its end at another one, which does not know it.

use std::fs;

use tarpon::manifest::parts::Manifest;

use super::bucket_server::BucketServer;
use super::shared_store::{count, on_bucket, other, parts, store_of, wait_shared};
use super::support::client::Response;
use super::support::lab::{self, Lab};
use super::support::repos::Shape;
use super::support::server::Server;
use super::support::wait;
use super::{hit, new_lab, push_and_fetch};

const BYTES: u64 = 12 << 20;

fn large_lab() -> Lab {
    let lab = new_lab();
    lab.generate("small", Shape::FewLarge, BYTES);
    lab
}

fn manifest(server: &Server) -> Manifest {
    let sent = server.get(&lab::endpoint("small", "manifest")).expect(200);
    Manifest::unpack(&sent.body).unwrap_or_else(|e| panic!("{e}"))
}

fn part(server: &Server, name: &str, fields: &[&str]) -> Response {
    let target = lab::endpoint("small", &format!("parts/{name}"));
    server.fetch("GET", &target, fields)
}

/// A push that this server has built and shared.
fn push(lab: &Lab, server: &Server, name: &str, shared: u64) -> Response {
    push_and_fetch(lab, server, "small", name, name.as_bytes());
    let fresh = ["Cache-Control: max-age=0"];
    let newest = server
        .fetch("GET", &lab::target("small"), &fresh)
        .expect(200);
    wait_shared(server, shared);
    newest
}

/// One whose disk is empty gives out each part of a manifest that another one has given out, and reads of it what is asked for
/// alone, once.
#[test]
fn parts_are_had_at_any_server() {
    let lab = large_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let first = on_bucket(&lab, &bucket, "first");
    hit(&first, "small");
    wait_shared(&first, 1);
    let manifest = manifest(&first);
    let second = on_bucket(&lab, &bucket, "second");
    let before = bucket.read_bytes();
    let large = manifest.parts.iter().max_by_key(|part| part.bytes).unwrap();
    let name = &*large.name;
    let range = format!("Range: bytes={}-{}", large.bytes / 2, large.bytes / 2 + 999);
    let expected = part(&first, name, &[&range]).expect(206);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let (second, range, expected) = (&second, &range, &expected);
            scope.spawn(move || {
                let got = part(second, name, &[range]).expect(206);
                assert_eq!(got.head.etag(), expected.head.etag());
                assert!(got.body == expected.body, "other bytes");
            });
        }
    });
    let read = |name: &str| {
        let sum = |all: &std::collections::HashMap<String, u64>| -> u64 {
            let of_it = all.iter().filter(|(key, _)| key.contains(name));
            of_it.map(|(_, bytes)| bytes).sum()
        };
        sum(&bucket.read_bytes()) - sum(&before)
    };
    let read_bytes = read(name);
    assert!(
        (1000..large.bytes / 2).contains(&read_bytes),
        "{read_bytes} of {}",
        large.bytes
    );
    for one in &manifest.parts {
        let (expected, got) = (part(&first, &one.name, &[]), part(&second, &one.name, &[]));
        assert!(
            got.expect(200).body == expected.expect(200).body,
            "{}",
            one.name
        );
    }
    assert_eq!(read(name), large.bytes, "each byte once");
    assert_eq!(
        (count(&second, "imports", "done"), second.builds("complete")),
        (0, 0)
    );
    part(&second, &"0".repeat(32), &[]).expect(404);
}

/// A download of what was replaced an hour ago goes on at a server that has nothing but what came after it, by its tag and
/// by its parts; what has expired does not.
#[test]
fn what_was_replaced_goes_on_at_any_server() {
    let lab = large_lab();
    let url = store_of(&lab);
    let soon = [
        "--store",
        &*url,
        "--maintenance-idle",
        "1s",
        "--unreachable-expiry",
        "3s",
    ];
    let often = "store-look-ms=200,store-kept-ms=60000";
    let first = lab.settings().with(&soon).with_fault(often).start();
    let old = hit(&first, "small");
    wait_shared(&first, 1);
    let old_manifest = manifest(&first);
    let newest = push(&lab, &first, "secret", 2);
    assert_ne!(newest.head.etag(), old.head.etag());
    let second = super::shared_store::in_state(&lab, "second");
    let second = second.with(&["--store", &url]).with_fault(often).start();
    let target = lab::target("small");
    assert_eq!(
        second.get(&target).expect(200).head.etag(),
        newest.head.etag()
    );
    let middle = old.body.len() / 2;
    let (same, from) = (
        format!("If-Range: {}", old.head.etag()),
        format!("Range: bytes={middle}-"),
    );
    let rest = second.fetch("GET", &target, &[&same, &from]).expect(206);
    assert_eq!(rest.head.etag(), old.head.etag());
    assert!(rest.body == old.body[middle..], "other bytes");
    let all = second.fetch("GET", &target, &[&format!("If-Match: {}", old.head.etag())]);
    assert!(all.expect(200).body == old.body, "other bytes");
    for one in &old_manifest.parts {
        let (expected, got) = (part(&first, &one.name, &[]), part(&second, &one.name, &[]));
        assert!(
            got.expect(200).body == expected.expect(200).body,
            "{}",
            one.name
        );
    }
    // An unknown one is answered as ever.
    let unknown = format!("If-Range: \"{}\"", "0".repeat(32));
    let whole = second.fetch("GET", &target, &[&unknown, &from]).expect(200);
    assert_eq!(whole.head.etag(), newest.head.etag());

    // It is forced away, and expires.
    let upstream = lab.upstream("small");
    super::git::run(&upstream, &["update-ref", "refs/heads/main", "HEAD~1"]);
    super::git::run(&upstream, &["gc", "--quiet", "--prune=now"]);
    push(&lab, &first, "fixed", 3);
    let gone = format!("If-Match: {}", newest.head.etag());
    wait::until_true("it is lent no more", || {
        // All of it each time would leave the others no time.
        let third = second.fetch("GET", &target, &[&gone, "Range: bytes=0-0"]);
        std::thread::sleep(std::time::Duration::from_millis(100));
        third.head.status == 412
    });
}

/// What is damaged in the store is not lent.
#[test]
fn nothing_wrong_is_lent() {
    let lab = large_lab();
    let url = store_of(&lab);
    let first = lab.settings().with(&["--store", &url]).start();
    hit(&first, "small");
    wait_shared(&first, 1);
    let manifest = manifest(&first);
    let large = manifest.parts.iter().max_by_key(|part| part.bytes).unwrap();
    let is_it = |path: &&std::path::PathBuf| path.to_string_lossy().contains(&*large.name);
    let path = parts(&lab).iter().find(is_it).unwrap().clone();
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    fs::write(&path, bytes).unwrap();
    let second = other(&lab, "second", &["--store", &url, "--store-readonly"]);
    let sound = part(&second, &large.name, &["Range: bytes=0-999"]).expect(206);
    assert_eq!(sound.body.len(), 1000);
    let broken = part(&second, &large.name, &[]);
    assert!(
        (broken.body.len() as u64) < large.bytes,
        "{:?}",
        broken.head
    );
    second.wait_logged("lent no more");
}
