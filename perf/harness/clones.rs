//! `git clone --bare` through the server's git endpoint beside the same from `git http-backend`, of the same
//! mirror, which the server has repacked.

use super::gitcgi::Bridge;
use super::site::{Repository, Site, State, remove_tree, target};
use super::support::server::Server;
use super::support::{git, wait};
use super::usage::{Meter, Usage};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the server's side may take for a clone of git.git, in seconds of CPU.
const CPU_S_MAX: f64 = 1.0;
/// What the client may take, compared with the other.
const TIME_RATIO_MAX: f64 = 1.05;

/// What both cost, each round.
#[derive(Debug, Default)]
pub struct Outcome {
    tarpon: Vec<Clone>,
    backend: Vec<Clone>,
}

#[derive(Debug, Clone, Copy)]
struct Clone {
    total: Duration,
    cpu_s: f64,
}

fn median(of: &[Clone], value: impl Fn(&Clone) -> f64) -> f64 {
    let mut values: Vec<f64> = of.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Clones in turn, so that neither has the better half of the time.
pub fn run(site: &Site, repository: &Repository, rounds: u32) -> Outcome {
    let state = site
        .state("clone", repository)
        .with(&["--maintenance-idle", "1s"]);
    let name = &repository.name;
    let mirror = state.mirror(name);
    // The server clones it, and so sees to its upkeep.
    remove_tree(&mirror);
    let server = state.start();
    let is_maintained = || {
        let packs = std::fs::read_dir(mirror.join("objects/pack")).unwrap();
        let mut names = packs.flatten().map(|file| file.file_name());
        names.any(|name| name.to_string_lossy().ends_with(".bitmap"))
            && mirror.join("objects/info/commit-graph").exists()
    };
    wait::until_true("the mirror has its upkeep", is_maintained);
    let bridge = Bridge::start(mirror.parent().unwrap_or(Path::new("/")));
    let directory = site.run_path("cloned.git");
    let mut outcome = Outcome::default();
    for round in 0..rounds {
        let mut tarpon = || outcome.tarpon.push(through(&server, name, &directory));
        let mut backend = || {
            let (measured, usage) = bridge.clone_once(name, &["--bare"], &directory);
            outcome.backend.push(Clone {
                total: measured.total,
                cpu_s: usage.cpu_s,
            });
        };
        match round % 2 {
            0 => (tarpon(), backend()),
            _ => {
                backend();
                (tarpon(), ())
            }
        };
    }
    server.stop();
    State::remove(state);
    outcome
}

fn through(server: &Server, name: &str, directory: &Path) -> Clone {
    let path = target(name);
    let path = path.trim_end_matches("/snapshot.tar.zst");
    let url = format!("http://{}{path}", server.address());
    let parent = directory.parent().unwrap_or(Path::new("/"));
    let into = directory.to_string_lossy();
    let meter = Meter::start(server.pid());
    let started = Instant::now();
    git::run(parent, &["clone", "--quiet", "--bare", &url, &into]);
    let total = started.elapsed();
    // Its git has ended, and is counted as soon as the server has seen that.
    std::thread::sleep(Duration::from_millis(200));
    let Usage { cpu_s, .. } = meter.stop();
    remove_tree(directory);
    Clone { total, cpu_s }
}

impl Outcome {
    /// What is printed.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (what, of) in [
            ("tarpon", &self.tarpon),
            ("git http-backend", &self.backend),
        ] {
            let _ = writeln!(
                text,
                "git clone --bare from {what}: {:.2} s, server {:.2} s of CPU (medians of {})",
                median(of, |clone| clone.total.as_secs_f64()),
                median(of, |clone| clone.cpu_s),
                of.len()
            );
        }
        let verdict = if self.is_within() { "PASS" } else { "FAIL" };
        let _ = writeln!(
            text,
            "{verdict}: at most {CPU_S_MAX} s of CPU, and {:.3} of the client's time (at most {TIME_RATIO_MAX})",
            self.ratio()
        );
        text
    }

    fn ratio(&self) -> f64 {
        let seconds = |of| median(of, |clone: &Clone| clone.total.as_secs_f64());
        seconds(&self.tarpon) / seconds(&self.backend)
    }

    /// Whether it is what git.git's is to be.
    pub fn is_within(&self) -> bool {
        median(&self.tarpon, |clone| clone.cpu_s) <= CPU_S_MAX && self.ratio() <= TIME_RATIO_MAX
    }
}
