//! Parsing of request heads.

use criterion::{Criterion, Throughput};
use std::hint::black_box;
use tarpon::http::wire::Method;
use tarpon::http::wire::head::{Parse, Scan, parse, parse_from};
use tarpon::limits::{HEAD_BYTES_MAX, HEADERS_MAX};

const TARGET: &str = "/git/github.com/rust-lang/log/snapshot.tar.zst";

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("head");
    for (name, bytes) in [
        ("curl", head(&["User-Agent: curl/8.5.0", "Accept: */*"])),
        ("resume", resume()),
        ("largest", largest()),
    ] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| expect(parse(black_box(&bytes)), bytes.len()));
        });
    }
    let bytes = head(&["User-Agent: curl/8.5.0", "Accept: */*"]);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("curl_byte_by_byte", |bencher| {
        bencher.iter(|| {
            let mut scan = Scan::default();
            for end in 1..bytes.len() {
                let parsed = parse_from(black_box(&bytes[..end]), &mut scan);
                assert_eq!(parsed, Ok(Parse::Partial));
            }
            expect(parse_from(&bytes, &mut scan), bytes.len());
        });
    });
    group.finish();
}

/// Panics unless the whole head was understood.
fn expect(parsed: Result<Parse<'_>, tarpon::http::wire::Reject>, len: usize) {
    let Ok(Parse::Complete { head, head_bytes }) = parsed else {
        panic!("{parsed:?}");
    };
    assert_eq!((head.method, head.target), (Method::Get, TARGET));
    assert_eq!(head_bytes, len);
}

fn head(fields: &[&str]) -> Vec<u8> {
    let fields = fields.join("\r\n");
    format!("GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{fields}\r\n\r\n").into_bytes()
}

fn resume() -> Vec<u8> {
    head(&[
        "User-Agent: curl/8.5.0",
        "Accept: */*",
        "Range: bytes=123456789-",
        "If-Range: \"0123456789abcdef0123456789abcdef\"",
        "Accept-Encoding: identity",
        "Connection: keep-alive",
    ])
}

/// As many headers as are allowed, and nearly as many bytes.
fn largest() -> Vec<u8> {
    let value = "x".repeat(HEAD_BYTES_MAX / HEADERS_MAX - 20);
    let fields: Vec<String> = (1..HEADERS_MAX)
        .map(|number| format!("X-Field-{number:03}: {value}"))
        .collect();
    head(&fields.iter().map(String::as_str).collect::<Vec<_>>())
}
