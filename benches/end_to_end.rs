//! Time to the first and to the last byte of a snapshot, on a miss and on a hit: a real server,
//! a real socket, repositories from a fixed seed. Every body is hashed and compared with one
//! whose files were compared with what git says of them.

#[path = "../perf/harness/probe.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod probe;
#[path = "../perf/harness/site.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod site;
#[path = "../tests/support/mod.rs"]
mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use criterion::{criterion_group, criterion_main};
use probe::{Manners, Transfer};
use site::{Repository, Site, State, target};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::bench::is_quick;
use support::git;
use support::repos::Shape;
use support::server::Server;
use xxhash_rust::xxh64::Xxh64;

/// Sizes; the first one alone when it has to be quick.
const SIZES: [&str; 3] = ["10M", "100M", "1G"];
/// How much of an archive's beginning is kept to compare first bytes with.
const PREFIX_BYTES: usize = 1 << 20;

/// What an archive must be.
struct Expected {
    bytes: u64,
    hash: u64,
    prefix: Vec<u8>,
}

impl Expected {
    /// Panics unless the whole archive came.
    fn check_whole(&self, transfer: &Transfer, hash: &Xxh64) {
        assert_eq!(transfer.bytes, self.bytes, "{:?}", transfer.head);
        assert_eq!(hash.digest(), self.hash, "another archive");
    }

    /// Panics unless these are the first bytes of the archive.
    fn check_start(&self, start: &[u8]) {
        let len = start.len().min(self.prefix.len());
        assert!(len > 0 && start[..len] == self.prefix[..len], "other bytes");
    }
}

fn end_to_end(criterion: &mut Criterion) {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench");
    let site = Site::new(&root, Path::new(env!("CARGO_BIN_EXE_tarpon")));
    let sizes = if is_quick() { 1 } else { SIZES.len() };
    for size in &SIZES[..sizes] {
        for shape in Shape::ALL {
            let name = format!("{}-{size}", shape.name());
            let repository = site.repository(&format!("generate:{}:{size}", shape.name()));
            let repository = repository.unwrap_or_else(|e| panic!("{name}: {e}"));
            let state = site.state("state", &repository).without_request_log();
            let mut group = criterion.benchmark_group(format!("end_to_end/{name}"));
            // A run of a server is long and much the same each time: few samples, no warm-up.
            group.sample_size(10).sampling_mode(SamplingMode::Flat);
            group.warm_up_time(Duration::from_millis(1));
            group.measurement_time(Duration::from_secs(3));
            let expected = expected(&site, &state, &repository);
            misses(&mut group, &state, &repository.name, &expected);
            hits(&mut group, &state, &repository.name, &expected);
            group.finish();
            state.remove();
        }
    }
    site.clean();
}

/// Builds the archive once and compares its files with the repository's.
fn expected(site: &Site, state: &State, repository: &Repository) -> Expected {
    let path = site.run_path("archive.tar.zst");
    let mut file = File::create(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (mut hash, mut prefix) = (Xxh64::new(0), Vec::new());
    let server = state.start();
    let transfer = get(&server, &repository.name, Manners::EAGER, &mut |block| {
        hash.update(block);
        let room = PREFIX_BYTES - prefix.len();
        prefix.extend_from_slice(&block[..room.min(block.len())]);
        file.write_all(block)
            .unwrap_or_else(|e| panic!("save: {e}"));
    });
    server.stop();
    state.forget_snapshots();
    assert_eq!(files_of_archive(&path), files_of_head(&repository.mirror));
    Expected {
        bytes: transfer.bytes,
        hash: hash.digest(),
        prefix,
    }
}

/// Ids of the worktree's files, as git has them.
fn files_of_head(mirror: &Path) -> BTreeMap<String, String> {
    let listing = git::text(mirror, &["ls-tree", "-r", "HEAD"]);
    let file = |line: &str| {
        let (object, path) = line.split_once('\t')?;
        let id = object.split(' ').nth(2)?;
        Some((path.to_owned(), id.to_owned()))
    };
    listing.lines().filter_map(file).collect()
}

/// Ids of the worktree's files, computed from what `zstd` and the `tar` crate unpack.
fn files_of_archive(path: &Path) -> BTreeMap<String, String> {
    let mut zstd = Command::new("zstd");
    zstd.arg("-dcq").arg(path).stdout(Stdio::piped());
    let mut zstd = zstd.spawn().unwrap_or_else(|e| panic!("zstd: {e}"));
    let stdout = zstd.stdout.take().unwrap_or_else(|| panic!("no stdout"));
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(stdout);
    let entries = archive.entries().unwrap_or_else(|e| panic!("tar: {e}"));
    for entry in entries {
        let mut entry = entry.unwrap_or_else(|e| panic!("tar: {e}"));
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if path.starts_with(".git/") || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut data = Vec::new();
        let read = entry.read_to_end(&mut data);
        read.unwrap_or_else(|e| panic!("{path}: {e}"));
        let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Blob, &data);
        let id = id.unwrap_or_else(|e| panic!("{path}: {e}"));
        files.insert(path, id.to_string());
    }
    // The end of the tar is not the end of the stream; the decoder must see that too.
    let rest = std::io::copy(&mut archive.into_inner(), &mut std::io::sink());
    rest.unwrap_or_else(|e| panic!("zstd: {e}"));
    let status = zstd.wait().unwrap_or_else(|e| panic!("zstd: {e}"));
    assert!(status.success(), "zstd: {status}");
    files
}

fn get(server: &Server, name: &str, manners: Manners, each: &mut dyn FnMut(&[u8])) -> Transfer {
    let transfer = probe::get(server.address(), &target(name), manners, &mut |block| {
        each(block);
        true
    });
    let transfer = transfer.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(transfer.head.status, 200, "{:?}", transfer.head);
    transfer
}

/// Time to the first byte.
fn first(server: &Server, name: &str, expected: &Expected) -> Duration {
    let mut start = Vec::new();
    let transfer = get(server, name, Manners::CURIOUS, &mut |block| {
        start.extend_from_slice(block);
    });
    expected.check_start(&start);
    let first = transfer.first;
    first.unwrap_or_else(|| panic!("{name}: nothing could be decoded"))
}

/// Time to the last byte.
fn last(server: &Server, name: &str, expected: &Expected) -> Duration {
    let mut hash = Xxh64::new(0);
    let transfer = get(server, name, Manners::EAGER, &mut |block| {
        hash.update(block)
    });
    expected.check_whole(&transfer, &hash);
    transfer.total
}

type Timed = fn(&Server, &str, &Expected) -> Duration;

/// Each on a server of its own with an empty cache.
fn misses(
    group: &mut BenchmarkGroup<'_, WallTime>,
    state: &State,
    name: &str,
    expected: &Expected,
) {
    let timed: [(&str, Timed); 2] = [("miss_first_byte", first), ("miss_last_byte", last)];
    for (what, timed) in timed {
        if what.ends_with("last_byte") {
            group.throughput(Throughput::Bytes(expected.bytes));
        }
        group.bench_function(what, |bencher| {
            bencher.iter_custom(|iterations| {
                let one = |_| {
                    let mut server = state.start();
                    let time = timed(&server, name, expected);
                    // A build whose client has left would go on.
                    server.kill();
                    state.forget_snapshots();
                    time
                };
                (0..iterations).map(one).sum()
            });
        });
    }
}

fn hits(group: &mut BenchmarkGroup<'_, WallTime>, state: &State, name: &str, expected: &Expected) {
    let server = state.start();
    last(&server, name, expected);
    site::wait_published(&server, name);
    let timed: [(&str, Timed); 2] = [("hit_last_byte", last), ("hit_first_byte", first)];
    for (what, timed) in timed {
        if what.ends_with("first_byte") {
            // Criterion has no way to take a throughput back; one element is no nonsense.
            group.throughput(Throughput::Elements(1));
        }
        group.bench_function(what, |bencher| {
            bencher.iter_custom(|iterations| {
                (0..iterations)
                    .map(|_| timed(&server, name, expected))
                    .sum()
            });
        });
    }
    server.stop();
    state.forget_snapshots();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
