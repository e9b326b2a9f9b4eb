//! Parts that clients get from the store by themselves.

use std::path::PathBuf;
use std::process::Output;

use super::bucket_server::{BucketServer, Signed};
use super::parity;
use super::shared_store::wait_shared;
use super::support::lab::{self, Lab};
use super::support::repos::Shape;
use super::support::restore;
use super::support::server::{Server, Settings};
use super::support::tokens::{self, Token};
use super::{git, hit};

const BINARY: &str = env!("CARGO_BIN_EXE_tarpon");

/// A server that sends clients to a bucket in which all of `large` is.
fn sending(lab: &Lab, bucket: &BucketServer, origin: &str, arguments: &[&str]) -> Server {
    let settings = Settings {
        environment: bucket.environment(),
        ..lab.settings()
    };
    let store = ["--store", "s3://farm", "--store-redirect", origin];
    settings.with(&store).with(arguments).start()
}

fn restored(lab: &Lab, server: &Server, name: &str, token: Option<&Token>) -> (Output, PathBuf) {
    restored_with(lab, server, name, (token, &[]))
}

fn restored_with(
    lab: &Lab,
    server: &Server,
    name: &str,
    (token, more): (Option<&Token>, &[&str]),
) -> (Output, PathBuf) {
    let into = lab.scratch(name);
    let mut command = restore::command(BINARY, server.address(), "test/large", &into, more);
    if let Some(token) = token {
        command.env("TARPON_TOKEN", &token.token);
    }
    (command.output().unwrap(), into)
}

fn sent_bytes(server: &Server) -> u64 {
    server.metrics().count("tarpon_sent_bytes_total", &[])
}

/// One that sends those there who have a token, and that token.
fn asking(lab: &Lab, bucket: &BucketServer) -> (Server, Token) {
    let reader = Token::new(BINARY, "reader", &[]);
    let file = lab.scratch("tokens");
    tokens::write(&file, &[&reader]);
    let access = ["--no-default-upstreams", "--access", "test=token"];
    let access = [&access[..], &["--tokens", file.to_str().unwrap()]].concat();
    (sending(lab, bucket, &bucket.origin(), &access), reader)
}

fn redirects(server: &Server) -> u64 {
    let outcome = [("outcome", "redirect")];
    server.metrics().count("tarpon_requests_total", &outcome)
}

fn cloned(lab: &Lab) -> PathBuf {
    let clone = lab.scratch("clone");
    git::run(
        &lab.scratch(""),
        &["clone", "-q", &lab.url("large"), clone.to_str().unwrap()],
    );
    clone
}

/// The server sends next to nothing, and the store is told nothing of who asks.
#[test]
fn a_restore_takes_parts_from_the_store() {
    let lab = super::new_lab();
    lab.generate("large", Shape::FewLarge, 40 << 20);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (server, reader) = asking(&lab, &bucket);
    let authorization = reader.bearer();
    let target = lab::target("large");
    let built = server.fetch("GET", &target, &[&authorization]).expect(200);
    wait_shared(&server, 1);
    let clone = cloned(&lab);
    let before = sent_bytes(&server);
    let (output, into) = restored(&lab, &server, "restored", Some(&reader));
    restore::expect(&output, 0);
    parity::expect_same_clones(&clone, &into, "from the store");
    let sent = sent_bytes(&server) - before;
    assert!(
        sent * 100 <= built.body.len() as u64,
        "{sent} bytes were sent"
    );
    let reads = bucket.take_signed_reads();
    assert!(!reads.is_empty() && reads.len() as u64 == redirects(&server));
    for read in reads {
        assert!(read.starts_with("GET /farm/v1/repos/"), "{read}");
        let read = read.to_ascii_lowercase();
        assert!(read.contains("x-amz-expires=60&"), "{read}");
        assert!(
            !read.contains("authorization") && !read.contains("bearer"),
            "{read}"
        );
    }
}

/// Of which part a read is, and up to where.
fn stretch(read: &str) -> (&str, &str) {
    let key = read.split(['?', ' ']).nth(1).unwrap();
    let range = read.split("bytes=").nth(1).unwrap();
    let end = range.split(['-', '"']).nth(1).unwrap();
    (key, end)
}

/// Whatever the store does with a request the server has the part.
#[test]
fn what_the_store_does_not_give_the_server_does() {
    let lab = super::new_lab();
    lab.generate("large", Shape::FewLarge, 24 << 20);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let server = sending(&lab, &bucket, &bucket.origin(), &[]);
    hit(&server, "large");
    wait_shared(&server, 1);
    let clone = cloned(&lab);
    let expect = |what: &str| {
        let (output, into) = restored(&lab, &server, what, None);
        restore::expect(&output, 0);
        parity::expect_same_clones(&clone, &into, what);
        let reads = bucket.take_signed_reads();
        assert!(
            reads.len() > 2,
            "{what}: what follows is not asked for: {reads:?}"
        );
        let stretches = reads.iter().map(|read| stretch(read));
        let stretches = std::collections::BTreeSet::from_iter(stretches);
        assert_eq!(
            stretches.len(),
            reads.len(),
            "{what}: asked for twice: {reads:?}"
        );
    };
    for signed in [Signed::Whole, Signed::Denied, Signed::Cut, Signed::Flipped] {
        bucket.treat_signed(signed);
        expect(&format!("{signed:?}"));
    }
    server.stop();
    // Nobody listens at that port any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let server = sending(&lab, &bucket, &origin, &[]);
    let (output, into) = restored(&lab, &server, "unreached", None);
    restore::expect(&output, 0);
    parity::expect_same_clones(&clone, &into, "unreached");
    assert!(redirects(&server) > 0);
}

/// Only who says so is sent there, who may have the part here, and nobody else is to keep that answer.
#[test]
fn nobody_is_sent_to_the_store_who_has_not_asked_for_it() {
    let lab = super::new_lab();
    lab.generate("large", Shape::FewLarge, 8 << 20);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (server, reader) = asking(&lab, &bucket);
    let shows = reader.bearer();
    server
        .fetch("GET", &lab::target("large"), &[&shows])
        .expect(200);
    wait_shared(&server, 1);
    let manifest = lab::endpoint("large", "manifest");
    let answer = server.fetch("GET", &manifest, &[&shows]).expect(200);
    assert_eq!(answer.head.get("tarpon-store"), Some(&*bucket.origin()));
    let unpacked = tarpon::manifest::parts::Manifest::unpack(&answer.body).unwrap();
    let part = unpacked.parts.iter().max_by_key(|part| part.bytes).unwrap();
    let target = lab::endpoint("large", &format!("parts/{}", part.name));
    let goes = format!("Tarpon-Store: {}", bucket.origin());
    let elsewhere = "Tarpon-Store: http://127.0.0.1:1";

    for (method, fields, status) in [
        ("GET", &[&*shows, &*goes][..], 307),
        ("GET", &[&*shows], 200),
        ("GET", &[&*shows, elsewhere], 200),
        ("HEAD", &[&*shows, &*goes], 200),
        ("GET", &[&*goes], 401),
    ] {
        let answer = server.fetch(method, &target, fields).expect(status);
        let location = answer.head.get("location");
        assert_eq!(location.is_some(), status == 307, "{method} {fields:?}");
        if let Some(url) = location {
            assert!(url.starts_with(&bucket.origin()), "{url}");
            let kept = answer.head.get("cache-control").unwrap_or_default();
            assert!(kept.contains("no-store"), "{kept}");
        }
    }
    // What is short is not worth the way.
    let short = unpacked.parts.iter().min_by_key(|part| part.bytes).unwrap();
    let target = lab::endpoint("large", &format!("parts/{}", short.name));
    server.fetch("GET", &target, &[&shows, &goes]).expect(200);
}

/// A server that sends to a bucket which treats those so who are sent there, and a clone to compare with.
fn treating(
    lab: &Lab,
    bucket: &BucketServer,
    signed: Signed,
    arguments: &[&str],
) -> (Server, PathBuf) {
    lab.generate("large", Shape::FewLarge, 24 << 20);
    let server = sending(lab, bucket, &bucket.origin(), arguments);
    hit(&server, "large");
    wait_shared(&server, 1);
    bucket.treat_signed(signed);
    (server, cloned(lab))
}

/// Files of frames have no sums for each piece: the store is left, and all that came of it is asked for again. That is no
/// fault of what the server has.
#[test]
fn frames_that_are_damaged_in_the_store_come_from_the_server() {
    let lab = super::new_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (server, clone) = treating(&lab, &bucket, Signed::FlippedFrames, &[]);
    let frames = ["--worktree", "frames"];
    let (output, into) = restored_with(&lab, &server, "frames", (None, &frames));
    let said = restore::expect(&output, 0);
    assert!(
        said.contains("is asked for again, from the server"),
        "{said}"
    );
    parity::expect_same_clones(&clone, &into, "frames");
    assert!(!bucket.take_signed_reads().is_empty());
    assert!(!server.log().contains("corrupt"), "{}", server.log());
}

/// The first time-out on each connection is the last.
#[test]
fn a_store_that_stalls_is_left() {
    let lab = super::new_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (server, clone) = treating(&lab, &bucket, Signed::Stalled, &[]);
    let patience = ["--stall-timeout", "1", "--connections", "2"];
    let (output, into) = restored_with(&lab, &server, "stalled", (None, &patience));
    restore::expect(&output, 0);
    parity::expect_same_clones(&clone, &into, "stalled");
    let reads = bucket.take_signed_reads();
    assert!((1..=2).contains(&reads.len()), "{reads:?}");
}

/// Wherever the store sends somebody he does not go.
#[test]
fn what_the_store_sends_elsewhere_the_server_gives() {
    let lab = super::new_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let (server, clone) = treating(&lab, &bucket, Signed::Moved, &[]);
    let (output, into) = restored(&lab, &server, "moved", None);
    restore::expect(&output, 0);
    parity::expect_same_clones(&clone, &into, "moved");
    let reads = bucket.take_signed_reads();
    assert!(
        !reads.is_empty() && !reads.iter().any(|read| read.contains("&moved")),
        "{reads:?}"
    );
}

/// Meanwhile the server closes its own connections, which costs no try.
#[test]
fn a_server_that_is_idle_meanwhile_is_asked_again() {
    let lab = super::new_lab();
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let idle = ["--idle-timeout", "100ms"];
    let (server, clone) = treating(&lab, &bucket, Signed::Late, &idle);
    let (output, into) = restored_with(
        &lab,
        &server,
        "late",
        (None, &["--json", "--connections", "2"]),
    );
    restore::expect(&output, 0);
    parity::expect_same_clones(&clone, &into, "late");
    assert!(bucket.take_signed_reads().len() > 2);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["resumes"], 0, "{told}");
}

/// An address that is nobody's leads to this machine where somebody connects to it.
#[test]
fn nobody_is_sent_to_an_address_that_only_he_can_reach() {
    let lab = super::new_lab();
    lab.generate("large", Shape::FewLarge, 24 << 20);
    let bucket = BucketServer::start(&lab.scratch("s3"));
    let origin = format!("http://0.0.0.0:{}", bucket.address().port());
    let server = sending(&lab, &bucket, &origin, &[]);
    hit(&server, "large");
    wait_shared(&server, 1);
    let clone = cloned(&lab);
    // So it is as little on this machine as the store.
    let anywhere = format!("0.0.0.0:{}", server.address().port());
    let into = lab.scratch("nobody");
    let mut command = restore::command(BINARY, anywhere.parse().unwrap(), "test/large", &into, &[]);
    let output = command.output().unwrap();
    restore::expect(&output, 0);
    parity::expect_same_clones(&clone, &into, "nobody");
    assert!(redirects(&server) > 0);
    assert_eq!(bucket.take_signed_reads(), Vec::<String>::new());
}
