//! Tar headers, and whole entries of small files.

use super::hash::hash;
use super::support::rng::Rng;
use criterion::{Criterion, Throughput};
use std::io::Read;
use tarpon::tree::tar::{self, Kind};

const MTIME_S: i64 = 1_700_000_000;
/// Entries in one iteration.
const ENTRIES: usize = 1000;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tar");
    let content = Rng::new(1).text(4096);
    let cases: [(&str, usize, &[u8]); 3] = [
        ("headers", 40, b""),
        ("headers_of_long_names", 160, b""),
        ("files_of_4_KiB", 40, &content),
    ];
    for (name, path_bytes, content) in cases {
        let paths: Vec<Vec<u8>> = (0..ENTRIES).map(|n| path(n, path_bytes)).collect();
        let mut out = Vec::new();
        write(&mut out, &paths, content);
        expect(&out, &paths, content);
        let expected = hash(&out);
        group.throughput(Throughput::Elements(ENTRIES as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                write(&mut out, &paths, content);
                out.len()
            });
        });
        assert_eq!(hash(&out), expected, "{name}: other bytes");
    }
    group.finish();
}

fn path(number: usize, len: usize) -> Vec<u8> {
    let mut path = format!("src/part{number:06}/").into_bytes();
    path.resize(len, b'x');
    path
}

fn write(out: &mut Vec<u8>, paths: &[Vec<u8>], content: &[u8]) {
    for path in paths {
        if content.is_empty() {
            tar::push_header(out, path, Kind::Directory, MTIME_S);
        } else {
            tar::push_file(out, path, content, false, MTIME_S);
        }
    }
}

/// Panics unless the `tar` crate reads back what was written.
fn expect(out: &[u8], paths: &[Vec<u8>], content: &[u8]) {
    let mut archive = ::tar::Archive::new(out);
    let entries = archive.entries().unwrap_or_else(|e| panic!("tar: {e}"));
    let mut count = 0;
    for (entry, path) in entries.zip(paths) {
        let mut entry = entry.unwrap_or_else(|e| panic!("tar: {e}"));
        let name = entry.path_bytes().into_owned();
        assert_eq!(name.strip_suffix(b"/").unwrap_or(&name), &path[..]);
        let mut data = Vec::new();
        let read = entry.read_to_end(&mut data);
        assert!(read.is_ok() && data == content, "{read:?}");
        count += 1;
    }
    assert_eq!(count, paths.len());
}
