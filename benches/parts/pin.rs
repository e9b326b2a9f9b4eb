//! Pinning and opening a mirror: what happens before the first byte of a miss.

use super::support::repos::{self, Shape};
use super::support::{git, lab};
use criterion::{BatchSize, BenchmarkId, Criterion};
use std::fs;
use std::path::{Path, PathBuf};
use tarpon::refs::Recent;
use tarpon::snapshot::produce::Head;
use tarpon::snapshot::view::{self, AsItIs, View};
use tempfile::TempDir;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pin");
    for refs in [10, 1_000, 50_000] {
        let mirror = mirror(refs);
        let head = git::text(&mirror, &["rev-parse", "HEAD"]);
        group.bench_function(BenchmarkId::new("refs", refs), |bencher| {
            bencher.iter_batched(
                entry,
                |entry| {
                    let view = pin(&mirror);
                    assert_eq!(view.refs.refs.len(), refs);
                    assert!(!view.packs.is_empty());
                    entry
                },
                BatchSize::PerIteration,
            );
        });
        group.bench_function(BenchmarkId::new("and_read_head", refs), |bencher| {
            bencher.iter_batched(
                entry,
                |entry| {
                    let view = pin(&mirror);
                    let commit = view.checkout.commit.map(|commit| commit.to_string());
                    assert_eq!(commit.as_deref(), Some(&head[..]));
                    let head = Head::read(&view, "file:///bench", &mirror.join("objects"));
                    let head = head.unwrap_or_else(|e| panic!("head: {e}"));
                    (head, entry)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// A directory as a new entry has it.
fn entry() -> TempDir {
    let entry = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"));
    let entry = entry.unwrap_or_else(|e| panic!("entry: {e}"));
    lab::create_dir(&entry.path().join("objects/pack"));
    entry
}

fn pin(mirror: &Path) -> View {
    let length = &mut |source: &Path, _: &str| Ok(fs::metadata(source)?.len());
    let pinned = view::pin(
        mirror,
        &Recent::default(),
        AsItIs::Yes,
        &|_, _, _| true,
        length,
    );
    pinned.unwrap_or_else(|e| panic!("pin: {e}"))
}

/// A mirror with so many branches and tags, made once.
fn mirror(refs: usize) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pin");
    lab::create_dir(&root);
    let path = root.join(format!("refs-{refs}-v1.git"));
    if path.exists() {
        return path;
    }
    let source = repos::cached(&root, Shape::ManySmall, 1 << 20);
    let staging = root.join(format!("refs-{refs}.{}", std::process::id()));
    repos::link_mirror(&source, &staging);
    let head = git::text(&staging, &["rev-parse", "HEAD"]);
    // One is there: the branch that HEAD names.
    repos::add_refs(&staging, refs - 1, &head, |number| match number % 2 {
        0 => format!("refs/heads/topic/{number}"),
        _ => format!("refs/tags/v{number}"),
    });
    git::run(&staging, &["pack-refs", "--all"]);
    fs::rename(&staging, &path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}
