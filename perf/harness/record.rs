//! What was measured, and the figures that are made of it.

use super::refresh::Refreshes;
use super::usage::Usage;
use hdrhistogram::Histogram;
use std::fmt;
use std::time::Duration;

/// Longest time that a histogram holds: 1 h.
const HISTOGRAM_MAX_US: u64 = 3_600_000_000;

/// Who was measured, doing what. The order is that of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contestant {
    /// `git clone && tar | pzstd` of the mirror.
    Pipeline,
    /// `git clone` over HTTP from `git http-backend`.
    GitHttp,
    /// A miss with the mirror present, to the last byte.
    Miss,
    /// Misses on a server that was restarted before each, to the first byte.
    MissFirst,
    /// Several clients of one miss.
    Followers,
    /// A crowd of clients of one miss.
    MissCrowd,
    /// A hit.
    Hit,
    /// Several hits at once.
    HitSeveral,
    /// Hits to the first byte.
    HitFirst,
    /// A crowd of hits at once.
    HitCrowd,
    /// nginx sends a file of the same content.
    Nginx,
    /// nginx sends it to several clients at once.
    NginxSeveral,
    /// nginx, to the first byte.
    NginxFirst,
    /// A commit that the mirror has and of which nothing is cached.
    Commit,
    /// `git clone --depth 1` over HTTP from `git http-backend`.
    GitShallow,
    /// The worktree without its history, from a mirror.
    Depth1,
    /// A server that has no mirror.
    Cold,
    /// The same without history.
    ColdDepth1,
    /// First byte of another repository's miss on a busy server.
    BusyMiss,
    /// First byte of another repository's hit on a busy server.
    BusyHit,
    /// Another server.
    Peer(String),
}

impl fmt::Display for Contestant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Contestant::Pipeline => "clone+tar+pzstd",
            Contestant::GitHttp => "git clone over HTTP",
            Contestant::Miss => "tarpon miss",
            Contestant::MissFirst => "tarpon miss, first byte",
            Contestant::Followers => "tarpon miss, followers",
            Contestant::MissCrowd => "tarpon miss, crowd",
            Contestant::Hit => "tarpon hit",
            Contestant::HitSeveral => "tarpon hit, several",
            Contestant::HitFirst => "tarpon hit, first byte",
            Contestant::HitCrowd => "tarpon hit, crowd",
            Contestant::Nginx => "nginx",
            Contestant::NginxSeveral => "nginx, several",
            Contestant::NginxFirst => "nginx, first byte",
            Contestant::Commit => "tarpon exact commit",
            Contestant::GitShallow => "git clone --depth 1",
            Contestant::Depth1 => "tarpon depth 1",
            Contestant::Cold => "tarpon cold",
            Contestant::ColdDepth1 => "tarpon cold, depth 1",
            Contestant::BusyMiss => "tarpon busy, miss",
            Contestant::BusyHit => "tarpon busy, hit",
            Contestant::Peer(name) => name,
        })
    }
}

/// One client of a run. Times count from before its connection was opened.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// First byte of content; `None` where there is no such thing.
    pub first: Option<Duration>,
    /// All that the client wanted.
    pub total: Duration,
    /// Bytes received.
    pub bytes: u64,
}

/// One run of a contestant.
#[derive(Debug, Clone)]
pub struct Run {
    /// Short name of the repository.
    pub repository: String,
    /// Who.
    pub contestant: Contestant,
    /// Round, from 0.
    pub round: u32,
    /// Its clients.
    pub clients: Vec<Measured>,
    /// From the first client's start to the last one's end.
    pub wall: Duration,
    /// What it cost the server's side; `None` where that is not ours to see.
    pub usage: Option<Usage>,
}

impl Run {
    /// Bytes of all clients.
    pub fn bytes(&self) -> u64 {
        self.clients.iter().map(|client| client.bytes).sum()
    }
}

/// A number that is not a run's, such as the size of an archive.
#[derive(Debug, Clone)]
pub struct Fact {
    /// Short name of the repository.
    pub repository: String,
    /// What, with its unit.
    pub what: &'static str,
    /// How much.
    pub value: u64,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Record {
    /// In the order of measuring.
    pub runs: Vec<Run>,
    /// In the order of measuring.
    pub facts: Vec<Fact>,
    /// Of each repository.
    pub refreshes: Vec<Refreshes>,
    /// What could not be measured and why.
    pub skipped: Vec<String>,
}

impl Record {
    /// Notes, once, what could not be measured and why.
    pub fn skip(&mut self, word: String) {
        if !self.skipped.contains(&word) {
            self.skipped.push(word);
        }
    }

    /// Keeps a number.
    pub fn fact(&mut self, repository: &str, what: &'static str, value: u64) {
        self.facts.push(Fact {
            repository: repository.to_owned(),
            what,
            value,
        });
    }

    /// The kept number.
    pub fn find_fact(&self, repository: &str, what: &str) -> Option<u64> {
        let found = |fact: &&Fact| fact.repository == repository && fact.what == what;
        self.facts.iter().find(found).map(|fact| fact.value)
    }

    /// The figures of a contestant; `None` if it did not run.
    pub fn summary(&self, repository: &str, contestant: &Contestant) -> Option<Summary> {
        let wanted = |run: &&Run| run.repository == repository && run.contestant == *contestant;
        Summary::of(&self.runs.iter().filter(wanted).collect::<Vec<_>>())
    }

    /// The repositories in the order of measuring.
    pub fn repositories(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for run in &self.runs {
            if !names.contains(&run.repository) {
                names.push(run.repository.clone());
            }
        }
        names
    }

    /// The contestants that ran on a repository, in the order of the table.
    pub fn contestants(&self, repository: &str) -> Vec<Contestant> {
        let of_it = self.runs.iter().filter(|run| run.repository == repository);
        let mut found: Vec<Contestant> = of_it.map(|run| run.contestant.clone()).collect();
        found.sort();
        found.dedup();
        found
    }
}

/// The figures of all runs of one contestant on one repository.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Clients in all runs.
    pub clients: usize,
    /// Times to the first byte; `None` where there is no such thing.
    pub first_us: Option<Histogram<u64>>,
    /// Times to the last byte.
    pub total_us: Histogram<u64>,
    /// Median over the runs of bytes per second of all clients together.
    pub bytes_per_s: f64,
    /// Server's CPU seconds for 10^9 bytes.
    pub cpu_s_per_gb: Option<f64>,
    /// Largest peak.
    pub rss_anon_bytes: Option<u64>,
    /// Median over the runs.
    pub written_bytes: Option<u64>,
    /// Most bytes that one client received.
    pub bytes: u64,
}

impl Summary {
    fn of(runs: &[&Run]) -> Option<Summary> {
        let clients: Vec<&Measured> = runs.iter().flat_map(|run| &run.clients).collect();
        let first: Vec<Duration> = clients.iter().filter_map(|client| client.first).collect();
        let usage: Vec<Usage> = runs.iter().filter_map(|run| run.usage).collect();
        let bytes: u64 = runs.iter().map(|run| run.bytes()).sum();
        let cpu_s: f64 = usage.iter().map(|usage| usage.cpu_s).sum();
        let rates = runs
            .iter()
            .map(|run| run.bytes() as f64 / run.wall.as_secs_f64());
        let written = usage.iter().map(|usage| usage.written_bytes as f64);
        Some(Summary {
            clients: clients.len(),
            first_us: (!first.is_empty()).then(|| histogram(first)),
            total_us: histogram(clients.iter().map(|client| client.total)),
            bytes_per_s: median(rates)?,
            cpu_s_per_gb: (!usage.is_empty()).then(|| cpu_s / (bytes as f64 / 1e9)),
            rss_anon_bytes: usage.iter().map(|usage| usage.rss_anon_bytes).max(),
            written_bytes: median(written).map(|bytes| bytes as u64),
            bytes: clients.iter().map(|client| client.bytes).max()?,
        })
    }

    /// A percentile of the time to the first byte in milliseconds.
    pub fn first_ms(&self, percentile: f64) -> Option<f64> {
        let first = self.first_us.as_ref()?;
        Some(first.value_at_percentile(percentile) as f64 / 1e3)
    }

    /// Median time to the last byte in milliseconds.
    pub fn total_ms(&self) -> f64 {
        self.total_us.value_at_percentile(50.0) as f64 / 1e3
    }
}

/// A histogram of times in microseconds, exact to four digits and never rounded down.
pub fn histogram(times: impl IntoIterator<Item = Duration>) -> Histogram<u64> {
    let made = Histogram::new_with_bounds(1, HISTOGRAM_MAX_US, 4);
    let mut histogram = made.unwrap_or_else(|e| panic!("histogram: {e}"));
    for time in times {
        histogram.saturating_record((time.as_micros() as u64).max(1));
    }
    histogram
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}
