//! What a push costs a running server, on a repository from a fixed seed: CPU, bytes written, and
//! the time from refs moved to published. A real server takes over real pushes; that it serves what
//! was pushed is seen by its answers, and compared with git's own at the end.

#[path = "../perf/harness/columns.rs"]
mod columns;
#[path = "../perf/harness/probe.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod probe;
#[path = "../perf/harness/push.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod push;
#[path = "../perf/harness/refresh.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod refresh;
#[path = "../perf/harness/site.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the performance harness uses the rest and runs the tests"
)]
mod site;
#[path = "../tests/support/mod.rs"]
mod support;

use refresh::{Case, Stage};
use site::Site;
use std::path::Path;
use std::time::Duration;
use support::bench::is_quick;

/// How much is measured.
struct Effort {
    repository: &'static str,
    rounds: u32,
    settle: Duration,
}

const FULL: Effort = Effort {
    repository: "generate:many_small:1G",
    rounds: 10,
    settle: refresh::SETTLE,
};
/// The figures say little, but everything runs.
const QUICK: Effort = Effort {
    repository: "generate:many_small:10M",
    rounds: 2,
    settle: Duration::from_millis(200),
};

/// Only `cargo bench` says `--bench`: `cargo test --benches` is to see that it works.
fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_bench = arguments.iter().any(|one| one == "--bench");
    let effort = if is_quick() || !is_bench { QUICK } else { FULL };
    let filter = arguments.iter().find(|one| !one.starts_with('-'));
    let is_wanted = |case: &Case| {
        let name = format!("refresh/{case}");
        filter.is_none_or(|filter| name.contains(filter.as_str()))
    };
    let cases: Vec<Case> = Case::ALL.into_iter().filter(is_wanted).collect();
    if cases.is_empty() {
        return;
    }
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-refresh");
    let site = Site::new(&root, Path::new(env!("CARGO_BIN_EXE_tarpon")));
    let repository = site.repository(effort.repository);
    let repository = repository.unwrap_or_else(|e| panic!("{e}"));
    let mut stage = Stage::new(&site, &repository, 1, effort.settle);
    let measured = cases.iter().map(|case| stage.series(*case, effort.rounds));
    let measured = measured.collect();
    println!("{}: {} files", repository.name, repository.files);
    print!("{}", stage.refreshes(&repository.name, measured).table());
    stage.stop(&site);
    site.clean();
}
