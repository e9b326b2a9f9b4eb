//! The test harness itself: a comparison that finds nothing and a client that accepts anything
//! would let every other test pass.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::client::{self, Conn, End, Paced};
use support::lab::Lab;
use support::metrics::Metrics;
use support::repos::{self, Shape};
use support::{compare, git, lab, parity};

/// What a snapshot should be, made the slow way: a clone whose files and index are dated as
/// the server dates them, packed by `tar` and `zstd`.
fn pack_clone(lab: &Lab, name: &str) -> PathBuf {
    let source = lab.scratch("source");
    git::clone(&lab.url(name), &source);
    shell(
        &source,
        "find . -path ./.git -prune -o -exec touch -h -d @1600000000 {} +",
    );
    git::run(&source, &["config", "core.checkStat", "minimal"]);
    git::run(&source, &["config", "core.trustctime", "false"]);
    git::run(&source, &["update-index", "-q", "--refresh"]);
    shell(&source, "touch -d @1600000001 .git/index");
    shell(&source, "tar -cf - . | zstd -q -1 -o ../slow.tar.zst");
    lab.scratch("slow.tar.zst")
}

fn shell(directory: &Path, script: &str) {
    let status = Command::new("sh")
        .arg("-ec")
        .arg(script)
        .current_dir(directory)
        .status();
    assert!(status.is_ok_and(|s| s.success()), "{script}");
}

fn new_lab() -> Lab {
    let lab = Lab::new("/nonexistent");
    lab.generate("small", Shape::ManySmall, 300_000);
    lab
}

#[test]
fn a_packed_clone_equals_a_clone() {
    let lab = new_lab();
    let archive = pack_clone(&lab, "small");
    let (clone, unpacked) = (lab.scratch("clone"), lab.scratch("unpacked"));
    git::clone(&lab.url("small"), &clone);
    lab::unpack_file(&archive, &unpacked);
    parity::expect_same(&clone, &unpacked, "packed clone");
    assert!(compare::count(&clone, &[".git"]) > 20);
}

/// Every kind of difference is found.
#[test]
fn parity_notices_differences() {
    let lab = new_lab();
    let archive = pack_clone(&lab, "small");
    let clone = lab.scratch("clone");
    git::clone(&lab.url("small"), &clone);
    let first = "src/part000/unit00/file0.c";
    let changes = [
        (
            "a byte",
            format!("printf X | dd of={first} conv=notrunc status=none"),
        ),
        ("a mode", format!("chmod +x {first}")),
        ("a missing file", format!("rm {first}")),
        ("one more file", "touch extra".to_owned()),
        (
            "one more reference",
            "git update-ref refs/tags/extra HEAD".to_owned(),
        ),
        ("another HEAD", "git checkout -q --detach".to_owned()),
        (
            "another origin",
            "git config remote.origin.url /elsewhere".to_owned(),
        ),
        ("a lost object", "rm .git/objects/pack/*".to_owned()),
        (
            "an index that is not trusted",
            "rm .git/index; git read-tree HEAD".to_owned(),
        ),
        ("a racy index", "touch -d @1600000000 .git/index".to_owned()),
        (
            "a strict configuration",
            "git config core.checkStat default".to_owned(),
        ),
        ("no index", "rm .git/index".to_owned()),
    ];
    for (what, script) in changes {
        let unpacked = lab.scratch("unpacked");
        lab::unpack_file(&archive, &unpacked);
        shell(&unpacked, &script);
        let noticed = std::panic::catch_unwind(|| parity::expect_same(&clone, &unpacked, what));
        assert!(noticed.is_err(), "not noticed: {what}");
        fs::remove_dir_all(&unpacked).unwrap_or_else(|e| panic!("{}: {e}", unpacked.display()));
    }
}

#[test]
fn the_same_seed_gives_the_same_repository() {
    let lab = Lab::new("/nonexistent");
    for shape in [Shape::ManySmall, Shape::FewLarge, Shape::BigPack] {
        let tips = [1, 1, 2].map(|seed| {
            let path = lab.upstream(&format!("{shape:?}-{seed}"));
            if path.exists() {
                fs::remove_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            }
            repos::generate(&path, shape, 1 << 20, seed);
            git::text(&path, &["rev-parse", "main"])
        });
        assert_eq!(tips[0], tips[1], "{shape:?}");
        assert_ne!(tips[0], tips[2], "{shape:?}");
    }
}

/// Answers every connection with the same bytes and closes it.
fn canned(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
    let address = listener
        .local_addr()
        .unwrap_or_else(|e| panic!("address: {e}"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            let received = stream.read(&mut request);
            assert!(
                received.is_ok_and(|count| count > 0),
                "a connection without a request"
            );
            // A client that left early is part of some tests.
            drop(stream.write_all(response));
        }
    });
    address
}

#[test]
fn the_client_knows_whole_from_truncated() {
    let cases: &[(&[u8], &[u8], End)] = &[
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", b"abc", End::Complete),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", b"abc", End::Truncated),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", End::Complete),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc", End::Complete),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", End::Complete),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
            b"abc0123456789",
            End::Complete,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"abc",
            End::Truncated,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
            b"abc",
            End::Truncated,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
            b"abc",
            End::Truncated,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"", End::Truncated),
    ];
    for (bytes, body, end) in cases {
        let response = client::get(canned(bytes), "/");
        let shown = bytes.escape_ascii();
        assert_eq!(response.body, *body, "{shown}");
        assert_eq!(response.end, *end, "{shown}");
    }
}

/// A server may send a chunk's line ending together with the next chunk. Bytes that came are
/// given at once: a client that waited would take its own patience for the server's latency.
#[test]
fn the_client_gives_a_chunk_before_its_line_ending() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("bind: {e}"));
    let address = listener
        .local_addr()
        .unwrap_or_else(|e| panic!("address: {e}"));
    let (got, was_got) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap_or_else(|e| panic!("accept: {e}"));
        let mut send = |bytes: &[u8]| stream.write_all(bytes).is_ok();
        assert!(send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc"
        ));
        assert!(was_got.recv().is_ok(), "the client did not give the chunk");
        assert!(send(b"\r\n0\r\n\r\n"));
    });
    let mut conn = Conn::open(address);
    conn.limit_silence(std::time::Duration::from_secs(10));
    assert!(conn.read_head("GET").is_ok());
    assert_eq!(conn.read_some(3).unwrap_or_default(), b"abc");
    assert!(got.send(()).is_ok());
    let end = conn.copy_body(&mut Vec::new());
    assert!(matches!(end, Ok((End::Complete, 0))), "{end:?}");
    assert!(server.join().is_ok());
}

#[test]
fn the_client_reads_responses_in_a_row() {
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let mut conn = Conn::open(canned(two));
    conn.request("GET", "/", &[]);
    let first = conn.response("GET").expect(200);
    let second = conn.response("GET").expect(404);
    assert_eq!(
        (first.body.as_slice(), second.body.as_slice()),
        (&b"hi"[..], &b"x"[..])
    );
    assert!(conn.read_head("GET").is_err(), "nothing more comes");
}

#[test]
fn a_paced_reader_keeps_its_rate() {
    let mut conn = Conn::open(canned(
        b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n01234567890123456789",
    ));
    conn.request("GET", "/", &[]);
    assert!(conn.read_head("GET").is_ok());
    let started = std::time::Instant::now();
    let mut paced = Paced::new(&mut conn, 100);
    let mut body = Vec::new();
    while paced
        .step(&mut body)
        .unwrap_or_else(|e| panic!("body: {e}"))
    {}
    assert_eq!(body.len(), 20);
    assert!(
        started.elapsed().as_millis() >= 190,
        "20 bytes at 100 bytes/s take 0.2 s"
    );
}

#[test]
fn metrics_are_summed_by_label() {
    let text = "# HELP a_total x\na_total{result=\"complete\",core=\"0\"} 2\n\
                a_total{result=\"complete\",core=\"1\"} 3\na_total{result=\"failed\"} 7\n\
                a_total_more 100\nplain 1.5\n";
    let metrics = Metrics::new(text.to_owned());
    assert_eq!(metrics.count("a_total", &[("result", "complete")]), 5);
    assert_eq!(metrics.count("a_total", &[]), 12);
    assert_eq!(metrics.sum("plain", &[]), Some(1.5));
    assert_eq!(metrics.sum("absent", &[]), None);
}
