//! The table on standard output.

use super::checks::Check;
use super::columns::columns;
use super::record::{Contestant, Record, Summary};
use super::refresh::Refreshes;

const HEADINGS: [&str; 10] = [
    "",
    "n",
    "first p50 ms",
    "first p99 ms",
    "last p50 ms",
    "GB/s",
    "CPU s/GB",
    "RssAnon MB",
    "written MB",
    "received MB",
];

/// All repositories, their contestants, and what must be shown.
pub fn text(record: &Record, checks: &[Check]) -> String {
    let mut out = String::new();
    for repository in record.repositories() {
        out.push_str(&facts(record, &repository));
        out.push_str(&columns(&contestants(record, &repository), 1));
        out.push('\n');
        let of_it = |one: &&Refreshes| one.repository == repository;
        for refreshes in record.refreshes.iter().filter(of_it) {
            out.push_str(&refreshes.table());
            out.push('\n');
        }
    }
    if !checks.is_empty() {
        out.push_str("What must be shown\n");
        let row = |check: &Check| {
            vec![
                check.repository.clone(),
                check.what.clone(),
                check.measured.clone(),
                check.bound.clone(),
                check.verdict.word().to_owned(),
            ]
        };
        out.push_str(&columns(&checks.iter().map(row).collect::<Vec<_>>(), 2));
    }
    for word in &record.skipped {
        out.push_str(&format!("skipped: {word}\n"));
    }
    out
}

fn facts(record: &Record, repository: &str) -> String {
    let megabytes = |what: &str| match record.find_fact(repository, what) {
        Some(bytes) => format!("{:.1} MB", bytes as f64 / 1e6),
        None => "-".to_owned(),
    };
    format!(
        "{repository}: {} files, worktree {}, packs {}; archive {}, of which the entry owns {}; \
         worktree through zstd -1 {}\n",
        record.find_fact(repository, "files").unwrap_or(0),
        megabytes("worktree_bytes"),
        megabytes("pack_bytes"),
        megabytes("archive_bytes"),
        megabytes("entry_owned_bytes"),
        megabytes("compressed_worktree_bytes"),
    )
}

fn contestants(record: &Record, repository: &str) -> Vec<Vec<String>> {
    let mut rows = vec![HEADINGS.map(str::to_owned).to_vec()];
    for contestant in record.contestants(repository) {
        if let Some(summary) = record.summary(repository, &contestant) {
            rows.push(row(&contestant, &summary));
        }
    }
    rows
}

/// Whether its runs end with the first byte, so that only that time says something.
pub fn ends_early(contestant: &Contestant) -> bool {
    matches!(
        contestant,
        Contestant::MissFirst
            | Contestant::HitFirst
            | Contestant::NginxFirst
            | Contestant::BusyMiss
            | Contestant::BusyHit
    )
}

fn row(contestant: &Contestant, summary: &Summary) -> Vec<String> {
    let shown = |value: Option<f64>, digits: usize| match value {
        Some(value) => format!("{value:.digits$}"),
        None => "-".to_owned(),
    };
    let megabytes = |bytes: Option<u64>| shown(bytes.map(|bytes| bytes as f64 / 1e6), 1);
    let whole = (!ends_early(contestant)).then_some(());
    vec![
        contestant.to_string(),
        summary.clients.to_string(),
        shown(summary.first_ms(50.0), 3),
        shown(summary.first_ms(99.0), 3),
        shown(whole.map(|()| summary.total_ms()), 1),
        shown(whole.map(|()| summary.bytes_per_s / 1e9), 3),
        shown(summary.cpu_s_per_gb, 3),
        megabytes(summary.rss_anon_bytes),
        megabytes(summary.written_bytes),
        megabytes(whole.map(|()| summary.bytes)),
    ]
}
