//! What must be shown: each figure with its bound, and whether it holds.

use super::record::{Contestant, Record, Summary};
use super::site::Repository;

/// Whether a figure keeps its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Pass,
    /// It does not.
    Fail,
    /// It was not measured.
    Unknown,
}

impl Verdict {
    /// As printed.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "PASS",
            Verdict::Fail => "FAIL",
            Verdict::Unknown => "not measured",
        }
    }
}

/// One figure.
#[derive(Debug, Clone)]
pub struct Check {
    /// Short name of the repository.
    pub repository: String,
    /// What the figure is.
    pub what: String,
    /// As printed.
    pub measured: String,
    /// The bound, as printed.
    pub bound: String,
    /// Whether it holds.
    pub verdict: Verdict,
}

/// Bounds of the anonymous memory, in bytes.
const RSS_ANON_BYTES_MAX: f64 = 200e6;
/// How many times larger a repository has to be for its memory to be compared.
const TENFOLD: u64 = 8;

/// Every check of every repository, and of pairs of them.
pub fn all(record: &Record, repositories: &[Repository]) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for repository in repositories {
        let mut judge = Judge {
            record,
            repository,
            checks: &mut checks,
        };
        judge.misses();
        judge.sizes();
        judge.hits();
        judge.memory();
        judge.busy();
    }
    for small in repositories {
        for large in repositories {
            checks.extend(growth(record, small, large));
        }
    }
    checks
}

struct Judge<'a> {
    record: &'a Record,
    repository: &'a Repository,
    checks: &'a mut Vec<Check>,
}

/// A bound.
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Judge<'_> {
    fn summary(&self, contestant: Contestant) -> Option<Summary> {
        self.record.summary(&self.repository.name, &contestant)
    }

    fn fact(&self, what: &str) -> Option<f64> {
        let found = self.record.find_fact(&self.repository.name, what)?;
        Some(found as f64)
    }

    fn add(&mut self, what: &str, unit: &str, value: Option<f64>, bound: Bound) {
        let (sign, limit) = match bound {
            Bound::AtMost(limit) => ("<=", limit),
            Bound::AtLeast(limit) => (">=", limit),
        };
        let holds = value.map(|value| match bound {
            Bound::AtMost(limit) => value <= limit,
            Bound::AtLeast(limit) => value >= limit,
        });
        self.checks.push(Check {
            repository: self.repository.name.clone(),
            what: what.to_owned(),
            measured: value.map_or("-".to_owned(), |value| format!("{value:.3}{unit}")),
            bound: format!("{sign} {limit}{unit}"),
            verdict: match holds {
                Some(true) => Verdict::Pass,
                Some(false) => Verdict::Fail,
                None => Verdict::Unknown,
            },
        });
    }

    fn misses(&mut self) {
        let first = self.summary(Contestant::MissFirst);
        let at = |percentile| first.as_ref().and_then(|first| first.first_ms(percentile));
        let (half, most) = (at(50.0), at(99.0));
        self.add("miss, first byte p50", " ms", half, Bound::AtMost(5.0));
        self.add("miss, first byte p99", " ms", most, Bound::AtMost(25.0));
        let pipeline = self.summary(Contestant::Pipeline);
        let (ours, theirs) = (self.summary(Contestant::Miss), pipeline.as_ref());
        let their_first = theirs.and_then(|summary| summary.first_ms(50.0));
        let large_worktree = self.repository.is_large_worktree();
        if large_worktree {
            let times = their_first.zip(half).map(|(theirs, ours)| theirs / ours);
            let what = "pipeline's first byte / miss's";
            self.add(what, "", times, Bound::AtLeast(500.0));
        }
        let share = ours.as_ref().zip(theirs);
        let share = share.map(|(ours, theirs)| ours.total_ms() / theirs.total_ms());
        let limit = if large_worktree { 0.3 } else { 0.35 };
        let what = "miss's last byte / pipeline's";
        self.add(what, "", share, Bound::AtMost(limit));
    }

    fn sizes(&mut self) {
        let theirs = self.summary(Contestant::Pipeline).map(|s| s.bytes as f64);
        let ratio = self.fact("archive_bytes").zip(theirs);
        let ratio = ratio.map(|(ours, theirs)| ours / theirs);
        self.add("archive size / pipeline's", "", ratio, Bound::AtMost(1.06));
        let worktree = self.fact("compressed_worktree_bytes");
        let written = self.summary(Contestant::Miss).and_then(|s| s.written_bytes);
        let per_worktree = |bytes: Option<f64>| {
            let ratio = bytes.zip(worktree);
            ratio.map(|(bytes, worktree)| bytes / worktree)
        };
        let ratio = per_worktree(written.map(|bytes| bytes as f64));
        let what = "bytes written on a miss / worktree through zstd -1";
        self.add(what, "", ratio, Bound::AtMost(1.02));
        let ratio = per_worktree(self.fact("entry_owned_bytes"));
        let what = "bytes the entry owns / worktree through zstd -1";
        self.add(what, "", ratio, Bound::AtMost(1.02));
    }

    fn hits(&mut self) {
        let pairs = [
            ("1 client", Contestant::Hit, Contestant::Nginx),
            (
                "4 clients",
                Contestant::HitSeveral,
                Contestant::NginxSeveral,
            ),
        ];
        for (clients, ours, theirs) in pairs {
            let pair = self.summary(ours).zip(self.summary(theirs));
            let rate = pair.as_ref().map(|(a, b)| a.bytes_per_s / b.bytes_per_s);
            let what = format!("hit throughput / nginx's, {clients}");
            self.add(&what, "", rate, Bound::AtLeast(1.0));
            let cpu = pair.and_then(|(a, b)| Some(a.cpu_s_per_gb? / b.cpu_s_per_gb?));
            let what = format!("hit CPU s/GB / nginx's, {clients}");
            self.add(&what, "", cpu, Bound::AtMost(1.0));
        }
    }

    fn memory(&mut self) {
        for contestant in [Contestant::MissCrowd, Contestant::HitCrowd] {
            let summary = self.summary(contestant.clone());
            let clients = summary.as_ref().map_or(0, |summary| summary.clients);
            let peak = summary.and_then(|summary| summary.rss_anon_bytes);
            let what = format!("{contestant} of {clients}, RssAnon");
            let megabytes = peak.map(|bytes| bytes as f64 / 1e6);
            self.add(
                &what,
                " MB",
                megabytes,
                Bound::AtMost(RSS_ANON_BYTES_MAX / 1e6),
            );
        }
    }

    fn busy(&mut self) {
        for contestant in [Contestant::BusyMiss, Contestant::BusyHit] {
            let summary = self.summary(contestant.clone());
            let most = summary.and_then(|summary| summary.first_ms(99.0));
            let what = format!("{contestant}, first byte p99");
            self.add(&what, " ms", most, Bound::AtMost(25.0));
        }
    }
}

/// Memory on a repository that is about ten times larger than another.
fn growth(record: &Record, small: &Repository, large: &Repository) -> Option<Check> {
    let size = |name: &str| record.find_fact(name, "archive_bytes");
    let (less, more) = (size(&small.name)?, size(&large.name)?);
    if less == 0 || more / less < TENFOLD {
        return None;
    }
    let peak = |name: &str| record.summary(name, &Contestant::MissCrowd)?.rss_anon_bytes;
    let (small_peak, large_peak) = (peak(&small.name)? as f64, peak(&large.name)? as f64);
    Some(Check {
        repository: large.name.clone(),
        what: format!(
            "RssAnon, {} times the archive of {}",
            more / less,
            small.name
        ),
        measured: format!(
            "{:.1} MB after {:.1} MB",
            large_peak / 1e6,
            small_peak / 1e6
        ),
        bound: format!("<= {} MB", RSS_ANON_BYTES_MAX / 1e6),
        verdict: match large_peak <= RSS_ANON_BYTES_MAX {
            true => Verdict::Pass,
            false => Verdict::Fail,
        },
    })
}
