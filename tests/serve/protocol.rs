//! The HTTP surface: statuses, conditions, ranges, connections.

use super::support::client::{self, Conn, End, Response};
use super::support::lab::{self, Lab};
use super::support::server::Server;
use super::support::wait;
use super::{begin, expect_clone, finish, hit, large_lab, small_lab, wait_published};
use std::net::TcpListener;

/// A lab, its server, and the published snapshot of `small`.
fn published() -> (Lab, Server, Response) {
    let lab = small_lab();
    let server = lab.start();
    let response = hit(&server, "small");
    (lab, server, response)
}

fn small(server: &Server, method: &str, fields: &[&str]) -> Response {
    server.fetch(method, &lab::target("small"), fields)
}

#[test]
fn head_never_builds() {
    let lab = small_lab();
    let server = lab.start();
    small(&server, "HEAD", &[]).expect(404);
    lab.expect_no_orphans();
    assert_eq!(lab.entries(), Vec::<String>::new());
    assert!(!lab.mirror("small").exists(), "HEAD made a mirror");

    let body = small(&server, "GET", &[]).expect(200).body;
    let published = wait_published(&server, "small");
    let head = small(&server, "HEAD", &[]).expect(200);
    assert_eq!(head.head.content_length(), Some(body.len() as u64));
    assert_eq!(head.head.etag(), published.etag());
    assert_eq!(server.builds("complete"), 1);
    // Ranges are a matter of GET alone.
    let ranged = small(&server, "HEAD", &["Range: bytes=0-9"]).expect(200);
    assert_eq!(ranged.head.content_length(), Some(body.len() as u64));
}

#[test]
fn fields_of_a_snapshot() {
    let (lab, server, cached) = published();
    let commit = super::git::text(&lab.upstream("small"), &["rev-parse", "HEAD"]);
    for head in [&cached.head, &small(&server, "HEAD", &[]).expect(200).head] {
        assert_eq!(head.get("content-type"), Some("application/zstd"));
        assert_eq!(head.get("accept-ranges"), Some("bytes"));
        assert_eq!(head.get("x-cachew-snapshot-commit"), Some(commit.as_str()));
        let disposition = head.get("content-disposition").unwrap_or_default();
        assert!(disposition.starts_with("attachment"), "{head:?}");
        assert!(
            head.get("cache-status").is_some_and(|s| s.contains("hit")),
            "{head:?}"
        );
        let tag = head.etag();
        assert!(
            tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10,
            "{tag}"
        );
    }
    let tags = cached
        .head
        .fields
        .iter()
        .filter(|(name, _)| name == "etag")
        .count();
    assert_eq!(tags, 1, "{:?}", cached.head);
}

#[test]
fn ranges() {
    let (_lab, server, cached) = published();
    let total = cached.body.len();
    let satisfied = [
        ("0-0".to_owned(), 0..1),
        ("0-99".to_owned(), 0..100),
        ("100-199".to_owned(), 100..200),
        ("100-".to_owned(), 100..total),
        (format!("{}-", total - 1), total - 1..total),
        (format!("5-{total}"), 5..total),
        ("5-99999999999999999".to_owned(), 5..total),
        ("-1".to_owned(), total - 1..total),
        ("-50".to_owned(), total - 50..total),
        (format!("-{}", total * 2), 0..total),
    ];
    for (range, expected) in satisfied {
        let answer = small(&server, "GET", &[&format!("Range: bytes={range}")]).expect(206);
        let (first, last) = (expected.start, expected.end - 1);
        let wanted = format!("bytes {first}-{last}/{total}");
        assert_eq!(
            answer.head.get("content-range"),
            Some(wanted.as_str()),
            "{range}"
        );
        assert!(
            answer.body == cached.body[expected],
            "other bytes for {range}"
        );
        assert_eq!(answer.head.etag(), cached.head.etag());
    }
    for range in [
        format!("{total}-"),
        format!("{total}-{total}"),
        "-0".to_owned(),
    ] {
        let answer = small(&server, "GET", &[&format!("Range: bytes={range}")]).expect(416);
        let wanted = format!("bytes */{total}");
        assert_eq!(
            answer.head.get("content-range"),
            Some(wanted.as_str()),
            "{range}"
        );
    }
    // What is no range of bytes is as if it were not there.
    for range in [
        "bytes=9-5",
        "bytes=",
        "bytes=x-",
        "bytes=-",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes 1-2",
    ] {
        let answer = small(&server, "GET", &[&format!("Range: {range}")]).expect(200);
        assert!(answer.body == cached.body, "{range}");
    }
}

#[test]
fn conditions() {
    let (_lab, server, cached) = published();
    let tag = cached.head.etag().to_owned();
    let cases: &[(&[&str], u16)] = &[
        (&["If-Match: *"], 200),
        (&["If-Match: TAG"], 200),
        (&["If-Match: \"other\", TAG"], 200),
        (&["If-Match: \"other\""], 412),
        (&["If-Match: W/TAG"], 412),
        (&["If-None-Match: TAG"], 304),
        (&["If-None-Match: W/TAG"], 304),
        (&["If-None-Match: \"a\", TAG"], 304),
        (&["If-None-Match: *"], 304),
        (&["If-None-Match: \"other\""], 200),
        (&["If-Match: \"other\"", "If-None-Match: TAG"], 412),
        (&["If-Match: TAG", "Range: bytes=0-9"], 206),
        (&["If-Match: \"other\"", "Range: bytes=0-9"], 412),
        (&["If-None-Match: TAG", "Range: bytes=0-9"], 304),
        (&["If-Range: TAG", "Range: bytes=0-9"], 206),
        (&["If-Range: \"other\"", "Range: bytes=0-9"], 200),
        (&["If-Range: W/TAG", "Range: bytes=0-9"], 200),
        (&["If-Range: \"other\"", "Range: bytes=99999999999-"], 200),
        (&["If-Range: TAG", "Range: bytes=99999999999-"], 416),
        (&["If-Range: TAG"], 200),
    ];
    for (fields, status) in cases {
        let fields: Vec<String> = fields.iter().map(|f| f.replace("TAG", &tag)).collect();
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let answer = small(&server, "GET", &fields);
        assert_eq!(answer.head.status, *status, "{fields:?}: {:?}", answer.head);
        let answer = answer.expect(*status);
        if matches!(status, 200 | 206 | 304) {
            assert_eq!(answer.head.etag(), tag, "{fields:?}");
        }
        match status {
            200 => assert!(answer.body == cached.body, "{fields:?}"),
            206 => assert!(answer.body == cached.body[..10], "{fields:?}"),
            304 => assert!(answer.body.is_empty()),
            _ => assert!(answer.body.len() < 1000),
        }
        let head = small(&server, "HEAD", &fields).head.status;
        let expected = if matches!(status, 206 | 416) {
            200
        } else {
            *status
        };
        assert_eq!(head, expected, "HEAD {fields:?}");
    }
}

/// The tag is that of the finished entry from the first byte on, and a download that broke
/// while the entry was being written goes on afterwards, and even meanwhile.
#[test]
fn a_broken_download_resumes() {
    let lab = large_lab();
    let server = lab.start();
    let (broken, head, start) = begin(&server, "large", 1 << 20);
    let tag = head.etag().to_owned();
    drop(broken);
    let if_range = format!("If-Range: {tag}");
    let target = lab::target("large");
    let closed = server.fetch("GET", &target, &["Range: bytes=1000-1999", &if_range]);
    let open = server.fetch("GET", &target, &["Range: bytes=1000-", &if_range]);

    let cached = hit(&server, "large");
    assert_eq!(cached.head.etag(), tag, "the tag changed");
    let range = format!("Range: bytes={}-", start.len());
    let rest = server
        .fetch("GET", &target, &[&range, &if_range])
        .expect(206)
        .body;
    assert!(
        [start, rest].concat() == cached.body,
        "the resumed download differs"
    );
    for (answer, last) in [(closed, 2000), (open, cached.body.len())] {
        assert_eq!(answer.end, End::Complete);
        assert_eq!(answer.head.etag(), tag);
        let expected = match answer.head.status {
            206 => &cached.body[1000..last],
            200 => &cached.body[..],
            other => panic!("{other}: {:?}", answer.head),
        };
        assert!(answer.body == expected, "other bytes: {:?}", answer.head);
    }
    assert_eq!(server.builds("complete"), 1);
}

#[test]
fn what_is_not_there() {
    let lab = small_lab();
    let unused = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let unused = unused.unwrap_or_else(|e| panic!("no port: {e}"));
    let mut settings = lab.settings();
    settings.upstreams.push(format!("dead=http://{unused}/"));
    let server = settings.start();
    let cases = [
        ("/git/unknown/small/snapshot.tar.zst", 403),
        ("/git/test/absent/snapshot.tar.zst", 404),
        ("/git/test/absent/deeper/snapshot.tar.zst", 404),
        ("/git/test/../small/snapshot.tar.zst", 400),
        ("/git/test/small/../../x/snapshot.tar.zst", 400),
        ("/git/test/./small/snapshot.tar.zst", 400),
        ("/git/test//small/snapshot.tar.zst", 400),
        ("/git/test/%2e%2e/small/snapshot.tar.zst", 400),
        ("/git/test/a%2fb/snapshot.tar.zst", 400),
        ("/git/test/a%00b/snapshot.tar.zst", 400),
        ("/git/dead/small/snapshot.tar.zst", 502),
        ("/nothing", 404),
        ("/", 404),
    ];
    for (target, status) in cases {
        let answer = server.get(target);
        assert_eq!(
            answer.head.status,
            status,
            "{target}: {:?} {}",
            answer.head,
            answer.text()
        );
        let text = answer.expect(status).text();
        let line = text.strip_suffix('\n').unwrap_or(&text);
        assert!(
            !line.is_empty() && !line.contains('\n'),
            "{target}: not one line: {text:?}"
        );
        let kind = server.get(target).head;
        assert!(
            kind.get("content-type")
                .is_some_and(|t| t.starts_with("text/plain")),
            "{kind:?}"
        );
    }
    lab.expect_no_orphans();
    assert!(!lab.mirror("absent").exists());
    let ready = small(&server, "GET", &[]).expect(200);
    expect_clone(&lab, "small", &ready.body);
}

#[test]
fn one_connection_many_requests() {
    let (_lab, server, cached) = published();
    let target = lab::target("small");
    let mut conn = Conn::open(server.address());
    for _ in 0..5 {
        conn.request("GET", &target, &[]);
        assert!(conn.response("GET").expect(200).body == cached.body);
        conn.request("HEAD", &target, &[]);
        conn.response("HEAD").expect(200);
        conn.request("GET", "/git/test/absent/snapshot.tar.zst", &[]);
        conn.response("GET").expect(404);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_lab, server, cached) = published();
    let target = lab::target("small");
    let mut all = String::new();
    for number in 0..20 {
        all += &format!("GET {target} HTTP/1.1\r\nHost: t\r\nRange: bytes={number}-\r\n\r\n");
        all += &format!("HEAD {target} HTTP/1.1\r\nHost: t\r\n\r\n");
        all += "GET /git/unknown/x/snapshot.tar.zst HTTP/1.1\r\nHost: t\r\n\r\n";
        all += "GET /_liveness HTTP/1.1\r\nHost: t\r\n\r\n";
    }
    let mut conn = Conn::open(server.address());
    let writer = conn.writer();
    let sender = std::thread::spawn(move || {
        use std::io::Write;
        writer.and_then(|mut writer| writer.write_all(all.as_bytes()))
    });
    for number in 0..20 {
        let ranged = conn.response("GET");
        let expected = if number == 0 {
            &cached.body[..]
        } else {
            &cached.body[number..]
        };
        assert!(ranged.expect(206).body == expected, "request {number}");
        conn.response("HEAD").expect(200);
        conn.response("GET").expect(403);
        conn.response("GET").expect(200);
    }
    assert!(sender.join().is_ok_and(|sent| sent.is_ok()));
}

/// A miss in the middle of a pipeline: its chunks end where the next response begins.
#[test]
fn a_miss_in_a_pipeline() {
    let lab = small_lab();
    let server = lab.start();
    let target = lab::target("small");
    let mut conn = Conn::open(server.address());
    conn.request("GET", "/_liveness", &[]);
    conn.request("GET", &target, &[]);
    conn.request("GET", "/_readiness", &[]);
    conn.response("GET").expect(200);
    let miss = conn.response("GET").expect(200);
    conn.response("GET").expect(200);
    expect_clone(&lab, "small", &miss.body);
}

#[test]
fn http_1_0() {
    let lab = small_lab();
    let server = lab.start();
    let old = |fields: &str| {
        let mut conn = Conn::open(server.address());
        let request = format!("GET {} HTTP/1.0\r\n{fields}\r\n", lab::target("small"));
        assert!(conn.send(request.as_bytes()).is_ok());
        let response = conn.response("GET").expect(200);
        assert!(
            !response.head.is_chunked(),
            "chunks in 1.0: {:?}",
            response.head
        );
        (conn, response)
    };
    let (mut conn, miss) = old("");
    assert!(
        conn.closes_within(wait::DEADLINE),
        "the connection stays open"
    );
    let cached = hit(&server, "small");
    assert!(miss.body == cached.body, "the miss differs");
    let (mut conn, response) = old("");
    assert_eq!(
        response.head.content_length(),
        Some(cached.body.len() as u64)
    );
    assert!(response.body == cached.body, "the hit differs");
    assert!(
        conn.closes_within(wait::DEADLINE),
        "the connection stays open"
    );
    expect_clone(&lab, "small", &miss.body);
}

#[test]
fn connection_close() {
    let (_lab, server, cached) = published();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("small"), &["Connection: close"]);
    let response = conn.response("GET").expect(200);
    assert!(response.body == cached.body);
    let says = response
        .head
        .get("connection")
        .unwrap_or_default()
        .to_ascii_lowercase();
    assert_eq!(says, "close");
    assert!(
        conn.closes_within(wait::DEADLINE),
        "the connection stays open"
    );
}

/// A client that is done sending (half-closed) still gets its response.
#[test]
fn a_half_closed_client_is_answered() {
    let lab = small_lab();
    let server = lab.start();
    let mut conn = Conn::open(server.address());
    conn.request("GET", &lab::target("small"), &[]);
    conn.finish_sending();
    let response = conn.response("GET").expect(200);
    expect_clone(&lab, "small", &response.body);
}

/// What RFC 9112 has every server accept: the absolute form, whose host counts, and later minor
/// versions.
#[test]
fn requests_as_a_proxy_sends_them() {
    let (_lab, server, cached) = published();
    let target = lab::target("small");
    let head = |line: &str| format!("{line}\r\nHost: unknown.example\r\n\r\n");
    let mut conn = Conn::open(server.address());
    for line in [
        format!("GET http://{}{target} HTTP/1.1", server.address()),
        format!("GET HTTPS://cache.example{target} HTTP/1.1"),
        format!("GET {target} HTTP/1.2"),
        format!("GET http://cache.example:80{target} HTTP/1.9"),
    ] {
        assert!(conn.send(head(&line).as_bytes()).is_ok());
        let answer = conn.response("GET").expect(200);
        assert_eq!(answer.head.version, "HTTP/1.1", "{line}");
        assert!(answer.body == cached.body, "{line}");
    }
    assert!(conn.send(head("OPTIONS * HTTP/1.1").as_bytes()).is_ok());
    conn.response("OPTIONS").expect(501);
    conn.request("GET", "/_liveness", &[]);
    conn.response("GET").expect(200);
}

/// A client that waits for leave to send a body gets it, or its answer at once.
#[test]
fn expect_100_continue() {
    let (_lab, server, cached) = published();
    let mut conn = Conn::open(server.address());
    let fields = ["Expect: 100-continue", "Content-Length: 4"];
    conn.request("GET", &lab::target("small"), &fields);
    let first = conn
        .read_head("GET")
        .unwrap_or_else(|e| panic!("no answer: {e}"));
    if first.status == 100 {
        assert!(conn.send(b"body").is_ok());
        assert!(conn.response("GET").expect(200).body == cached.body);
    } else {
        assert!(matches!(first.status, 200 | 400 | 413 | 417), "{first:?}");
        assert!(
            conn.copy_body(&mut std::io::sink())
                .is_ok_and(|(end, _)| end == End::Complete)
        );
        let sent = conn.send(b"body");
        if sent.is_err() || conn.closes_within(std::time::Duration::from_secs(2)) {
            return;
        }
    }
    conn.request("GET", "/_liveness", &[]);
    conn.response("GET").expect(200);
}

/// A body where none is expected is read or refused, and never taken for the next request.
#[test]
fn bodies_where_none_is_expected() {
    let (_lab, server, _) = published();
    let smuggled = "GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n";
    let length = format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len());
    let chunked = format!(
        "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{smuggled}\r\n0\r\n\r\n",
        smuggled.len()
    );
    for framed in [length, chunked] {
        for target in ["/_liveness", &lab::target("small")] {
            let mut conn = Conn::open(server.address());
            let request = format!("GET {target} HTTP/1.1\r\nHost: t\r\n{framed}");
            assert!(conn.send(request.as_bytes()).is_ok());
            let first = conn.response("GET");
            assert!(
                matches!(first.head.status, 200 | 400 | 413),
                "{:?}",
                first.head
            );
            // It may be closed by now; then nothing was confused.
            if conn
                .send(b"GET /_readiness HTTP/1.1\r\nHost: t\r\n\r\n")
                .is_err()
            {
                continue;
            }
            let Ok(second) = conn.read_head("GET") else {
                continue;
            };
            assert_eq!(second.status, 200, "{second:?}");
            let body = conn.read_some(1000).unwrap_or_default();
            let text = String::from_utf8_lossy(&body).into_owned();
            assert!(
                !text.contains("tarpon_"),
                "the body was taken for a request"
            );
        }
    }
}

/// Many connections at a time, more than cores, on one small snapshot.
#[test]
fn many_connections() {
    let (_lab, server, cached) = published();
    let address = server.address();
    let bodies = super::at_once(100, |_| client::get(address, &lab::target("small")));
    for response in bodies {
        assert!(response.expect(200).body == cached.body);
    }
    let (mut conn, _, start) = begin(&server, "small", 10);
    assert!(finish(&mut conn, start) == cached.body);
}

/// Whoever looks for why something is not found sees in the log what was asked for: not the query, where
/// secrets are, and not without end.
#[test]
fn what_is_not_found_is_logged() {
    let lab = small_lab();
    let server = lab.start();
    let long = format!("/git/{}", "a".repeat(5000));
    for target in ["/nothing/here\"?token=secret", "/git/host/x/y?z", &long] {
        server.get(target).expect(404);
    }
    server.wait_logged(r#""repository":"","path":"/nothing/here\"","reason":"unknown path; "#);
    server.wait_logged(r#""path":"/git/host/x/y","reason""#);
    let cut = format!(r#""path":"/git/{}…""#, "a".repeat(251));
    server.wait_logged(&cut);
    server.get("/_liveness").expect(200);
    server.wait_logged(r#""repository":"","method":"GET","outcome":"admin""#);
    assert!(!server.log().contains("secret"), "{}", server.log());
}
