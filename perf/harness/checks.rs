//! What must be shown: each figure with its bound, and whether it holds.

use super::record::{Contestant, Record, Summary};
use super::refresh::Case;
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
/// Files of a worktree from which on the shares of a refresh are to be shown: of a small one, ten
/// files are too large a part.
const REFRESH_FILES: u64 = 50_000;

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
        judge.wants();
        judge.refreshes();
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

impl Judge<'_> {
    fn wants(&mut self) {
        let commit = self.summary(Contestant::Commit);
        let depth_1 = self.summary(Contestant::Depth1);
        let at = |of: &Option<Summary>, percentile| of.as_ref()?.first_ms(percentile);
        let last = |of: &Option<Summary>| of.as_ref().map(Summary::total_ms);
        let share = |of: &Option<Summary>, whole: Contestant| {
            let whole = self.summary(whole)?.total_ms();
            Some(last(of)? / whole)
        };
        let cold = self.summary(Contestant::ColdDepth1);
        let of_build =
            share(&commit, Contestant::Miss).filter(|_| self.repository.files >= REFRESH_FILES);
        let shallow = share(&depth_1, Contestant::GitShallow);
        let cold = share(&cold, Contestant::GitShallow);
        for (what, unit, value, limit) in [
            (
                "exact commit, first byte p50",
                " ms",
                at(&commit, 50.0),
                5.0,
            ),
            (
                "exact commit, first byte p99",
                " ms",
                at(&commit, 99.0),
                25.0,
            ),
            (
                "exact commit's last byte / a first build's",
                "",
                of_build,
                0.10,
            ),
            ("depth 1, first byte p50", " ms", at(&depth_1, 50.0), 5.0),
            (
                "depth 1's last byte / git clone --depth 1's",
                "",
                shallow,
                0.35,
            ),
            (
                "cold depth 1's last byte / git clone --depth 1's",
                "",
                cold,
                1.15,
            ),
        ] {
            self.add(what, unit, value, Bound::AtMost(limit));
        }
    }

    fn refreshes(&mut self) {
        let name = &self.repository.name;
        let mut all = self.record.refreshes.iter();
        let Some(refreshes) = all.find(|one| one.repository == *name) else {
            return;
        };
        if self.repository.files < REFRESH_FILES {
            return;
        }
        let ten = refreshes.find(Case::Files(10));
        let percent = |share: Option<f64>| share.map(|share| share * 100.0);
        let cpu = |case| percent(refreshes.cpu_share(refreshes.find(case)?));
        let written = ten.and_then(|ten| refreshes.written_share(ten));
        let at = |percentile| ten.and_then(|ten| ten.published_ms(percentile));
        let beside = refreshes.find(Case::OtherBranch);
        let beside = beside.and_then(|one| one.mean(|cost| cost.cpu_s * 1e3));
        for (what, unit, value, limit) in [
            ("refresh of 10 files, CPU", " %", cpu(Case::Files(10)), 3.0),
            ("refresh of 10 files, written", " %", percent(written), 2.0),
            ("refresh of 10 files, p50", " ms", at(50.0), 150.0),
            ("refresh of 10 files, p95", " ms", at(95.0), 500.0),
            ("rename of a directory, CPU", " %", cpu(Case::Rename), 6.0),
            ("push to another branch, CPU", " ms", beside, 20.0),
        ] {
            self.add(what, unit, value, Bound::AtMost(limit));
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

#[cfg(test)]
mod tests {
    use super::super::record::{Measured, Run};
    use super::super::refresh::{Cost, Refreshes, Series};
    use super::super::usage::Usage;
    use super::*;
    use std::time::Duration;

    fn repository(name: &str) -> Repository {
        Repository {
            name: name.to_owned(),
            mirror: "/nonexistent".into(),
            public: None,
            files: 1,
            worktree_bytes: 2,
            pack_bytes: 1,
        }
    }

    fn run(contestant: Contestant, first_ms: u64, total_ms: u64, cpu_s: f64) -> Run {
        Run {
            repository: "r".to_owned(),
            contestant,
            round: 0,
            clients: vec![Measured {
                first: Some(Duration::from_millis(first_ms)),
                total: Duration::from_millis(total_ms),
                bytes: 1_000_000,
            }],
            wall: Duration::from_millis(total_ms),
            usage: Some(Usage {
                cpu_s,
                rss_anon_bytes: 300_000_000,
                written_bytes: 103,
            }),
        }
    }

    fn verdict(checks: &[Check], what: &str) -> Verdict {
        let found = checks.iter().find(|check| check.what.starts_with(what));
        found.unwrap_or_else(|| panic!("no '{what}'")).verdict
    }

    #[test]
    fn bounds_hold_or_not() {
        let mut record = Record::default();
        record.fact("r", "archive_bytes", 1_060_000);
        record.fact("r", "compressed_worktree_bytes", 100);
        record.runs = vec![
            run(Contestant::Pipeline, 1900, 3000, 1.0),
            run(Contestant::MissFirst, 4, 4, 1.0),
            run(Contestant::MissFirst, 26, 26, 1.0),
            run(Contestant::MissFirst, 4, 4, 1.0),
            run(Contestant::Miss, 5, 890, 1.0),
            run(Contestant::Hit, 1, 100, 0.5),
            run(Contestant::Nginx, 1, 101, 0.4),
            run(Contestant::HitCrowd, 1, 101, 0.4),
        ];
        let checks = all(&record, &[repository("r")]);
        for (what, expected) in [
            ("miss, first byte p50", Verdict::Pass),
            ("miss, first byte p99", Verdict::Fail),
            ("pipeline's first byte", Verdict::Fail),
            ("miss's last byte", Verdict::Pass),
            ("archive size", Verdict::Pass),
            ("bytes written on a miss", Verdict::Fail),
            ("bytes the entry owns", Verdict::Unknown),
            ("hit throughput / nginx's, 1", Verdict::Pass),
            ("hit CPU s/GB / nginx's, 1", Verdict::Fail),
            ("hit throughput / nginx's, 4", Verdict::Unknown),
            ("tarpon hit, crowd of 1", Verdict::Fail),
            ("tarpon busy, miss", Verdict::Unknown),
        ] {
            assert_eq!(verdict(&checks, what), expected, "{what}");
        }
    }

    /// Of the mean of what was measured, and only where the worktree is large enough.
    #[test]
    fn refreshes_of_large_worktrees_have_bounds() {
        let cost = |cpu_s: f64, written_bytes: u64, ms: u64| Cost {
            cpu_s,
            written_bytes,
            published: Duration::from_millis(ms),
            ..Cost::default()
        };
        let series = |case: Case, costs: Vec<Cost>| Series {
            name: case.to_string(),
            costs,
        };
        let ten = vec![cost(0.01, 10, 100), cost(0.04, 32, 501)];
        let mut record = Record::default();
        record.refreshes.push(Refreshes {
            repository: "r".to_owned(),
            first: cost(1.0, 1_000, 1_000),
            frames_bytes: 1_000,
            series: vec![
                series(Case::Files(10), ten),
                series(Case::OtherBranch, vec![cost(0.021, 0, 1)]),
            ],
        });
        let mut large = repository("r");
        assert!(
            all(&record, std::slice::from_ref(&large))
                .iter()
                .all(|check| !check.what.contains("refresh"))
        );
        large.files = REFRESH_FILES;
        let checks = all(&record, &[large]);
        for (what, expected) in [
            ("refresh of 10 files, CPU", Verdict::Pass),
            ("refresh of 10 files, written", Verdict::Fail),
            ("refresh of 10 files, p50", Verdict::Pass),
            ("refresh of 10 files, p95", Verdict::Fail),
            ("rename of a directory, CPU", Verdict::Unknown),
            ("push to another branch, CPU", Verdict::Fail),
        ] {
            assert_eq!(verdict(&checks, what), expected, "{what}");
        }
    }

    #[test]
    fn memory_is_compared_on_repositories_of_different_sizes() {
        let mut record = Record::default();
        for (name, archive_bytes) in [("r", 10), ("s", 90)] {
            record.fact(name, "archive_bytes", archive_bytes);
            let mut crowd = run(Contestant::MissCrowd, 1, 1, 1.0);
            crowd.repository = name.to_owned();
            record.runs.push(crowd);
        }
        let checks = all(&record, &[repository("r"), repository("s")]);
        assert_eq!(verdict(&checks, "RssAnon, 9 times"), Verdict::Fail);
    }
}
