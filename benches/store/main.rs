//! Servers over an object store, of which each request is delayed by 20 ms, with 60 MB/s for one request and 200 MB/s
//! for all: what is to be kept, and what is measured, a line each. It ends with 1 if a bound is missed.
//!
//! `cargo bench --bench store -- [--quick] [--refreshes=N] [--down=SECONDS] [REPOSITORY]`: a path, a URL, or
//! `generate:SHAPE:SIZE`.

#[path = "../../tests/serve/bucket_server.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod bucket_server;
mod empty;
mod farm;
mod figures;
mod follow;
mod link;
#[path = "../../perf/harness/probe.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod probe;
#[path = "../../perf/harness/push.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod push;
mod sent;
#[path = "../../perf/harness/site.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod site;
#[path = "../../tests/support/mod.rs"]
mod support;

use farm::Farm;
use figures::Figures;
use follow::Effort;
use site::Site;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use support::bench::is_quick;

/// How often an empty server is asked for its first byte.
const ROUNDS: usize = 100;
const FULL: Effort = Effort {
    refreshes: 200,
    hits: 2000,
    down: Duration::from_secs(300),
};
/// The figures say little, but everything runs.
const QUICK: Effort = Effort {
    refreshes: 3,
    hits: 50,
    down: Duration::from_secs(5),
};

/// Only `cargo bench` says `--bench`: `cargo test --benches` is to see that it works.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|one| one == "--bench");
    let is_full = is_bench && !is_quick();
    let (effort, rounds, repository) = match is_full {
        true => (FULL, ROUNDS, "generate:many_small:1G"),
        false => (QUICK, 3, "generate:many_small:10M"),
    };
    let given_number = |name: &str| {
        let mut values = arguments.iter().filter_map(|one| one.strip_prefix(name));
        values.next().and_then(|value| value.parse().ok())
    };
    let effort = Effort {
        refreshes: given_number("--refreshes=").map_or(effort.refreshes, |it: u64| it as u32),
        down: given_number("--down=").map_or(effort.down, Duration::from_secs),
        ..effort
    };
    let given = arguments.iter().find(|one| !one.starts_with('-'));
    let repository = given.map_or(repository, String::as_str);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-store");
    let binary = Path::new(env!("CARGO_BIN_EXE_tarpon"));
    let site = Site::new(&root, binary);
    let repository = site.repository(repository);
    let repository = repository.unwrap_or_else(|e| panic!("{e}"));
    println!("{}: {} files", repository.name, repository.files);
    let mut figures = Figures::default();
    empty::measure(
        &mut Farm::new(&site, &repository, "empty"),
        &mut figures,
        rounds,
    );
    sent::measure(
        &mut Farm::new(&site, &repository, "sent"),
        &mut figures,
        binary,
    );
    follow::measure(
        &mut Farm::new(&site, &repository, "follow"),
        &mut figures,
        effort,
    );
    follow::expired(&mut Farm::new(&site, &repository, "expired"), &mut figures);
    site.clean();
    // Small ones on a machine that does something else keep no bounds of time.
    match is_full && figures.missed() > 0 {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}
