use super::*;
use crate::limits::METRICS_REPOSITORIES_MAX;
use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Duration;

/// Name with labels to value, as a scraper reads it; fails on anything malformed.
fn scrape_with(metrics: &Metrics, gauges: &Gauges, mirrors: &[(&str, u64)]) -> Samples {
    let mut out = String::new();
    let ages = mirrors
        .iter()
        .map(|(name, age_s)| (*name, Duration::from_secs(*age_s)));
    metrics.render(gauges, ages, &mut out);
    assert!(out.ends_with('\n'));
    let (mut samples, mut family) = (Samples::new(), String::new());
    let mut seen = BTreeSet::new();
    for line in out.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split_once(' ').unwrap().0.to_owned();
            assert!(seen.insert(family.clone()), "{family} twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').unwrap();
            assert!(name.starts_with(&family), "{line} is not below its TYPE");
            assert!(
                samples
                    .insert(name.into(), value.parse().unwrap())
                    .is_none(),
                "{line}"
            );
        }
    }
    samples
}

type Samples = BTreeMap<String, f64>;

fn scrape(metrics: &Metrics) -> Samples {
    scrape_with(metrics, &Gauges::default(), &[])
}

#[test]
fn the_table_is_sound() {
    let plain = |c: char| c.is_ascii_lowercase() || c == '_';
    for family in &FAMILIES {
        assert!(family.name.starts_with("tarpon_") && family.name.chars().all(plain));
        assert!(family.help.ends_with('.') && !family.help.contains(['\\', '\n']));
        assert_eq!(
            family.kind == Kind::Counter,
            family.name.ends_with("_total"),
            "{}: counters and only they end in _total",
            family.name
        );
        assert!(
            family.values.is_empty() || !family.label.is_empty(),
            "{}",
            family.name
        );
        if let Kind::Histogram(bounds) = family.kind {
            assert!(bounds.is_sorted_by(|a, b| a < b), "{}", family.name);
        }
    }
    let mut out = String::new();
    Metrics::new(1).render(&Gauges::default(), [], &mut out);
    for family in &FAMILIES {
        assert!(
            out.contains(&format!("# TYPE {} ", family.name)),
            "{}",
            family.name
        );
    }
}

#[test]
fn every_event_has_a_series_of_its_own() {
    let metrics = Metrics::new(2);
    let events = [
        (
            Event::Request(Outcome::Hit),
            "tarpon_requests_total{outcome=\"hit\"}",
        ),
        (
            Event::Request(Outcome::Error),
            "tarpon_requests_total{outcome=\"error\"}",
        ),
        (
            Event::Response(206),
            "tarpon_responses_total{status=\"2xx\"}",
        ),
        (
            Event::Response(502),
            "tarpon_responses_total{status=\"5xx\"}",
        ),
        (Event::SentBytes, "tarpon_sent_bytes_total"),
        (Event::Connection, "tarpon_connections_total"),
        (Event::ConnectionRefused, "tarpon_connections_refused_total"),
        (
            Event::ClientDropped(DropReason::Idle),
            "tarpon_clients_dropped_total{reason=\"idle\"}",
        ),
        (
            Event::Build(BuildResult::LiveOnly),
            "tarpon_builds_total{result=\"live_only\"}",
        ),
        (Event::JobsEncoded, "tarpon_jobs_encoded_total"),
        (Event::JobsReused, "tarpon_jobs_reused_total"),
        (Event::SpooledBytes, "tarpon_spooled_bytes_total"),
        (
            Event::SpoolFailure(SpoolFailure::DiskFull),
            "tarpon_spool_failures_total{reason=\"disk_full\"}",
        ),
        (
            Event::Prefault(Prefault::Read),
            "tarpon_prefault_total{result=\"read\"}",
        ),
        (
            Event::Clone(CloneResult::TimedOut),
            "tarpon_clones_total{result=\"timed_out\"}",
        ),
        (
            Event::Fetch(FetchResult::Unchanged),
            "tarpon_fetches_total{result=\"unchanged\"}",
        ),
        (
            Event::Annex(AnnexResult::Refused),
            "tarpon_annex_fetches_total{result=\"refused\"}",
        ),
        (
            Event::Eviction(Evicted::Mirror),
            "tarpon_evictions_total{what=\"mirror\"}",
        ),
        (Event::EvictedBytes, "tarpon_evicted_bytes_total"),
        (Event::DiskFull, "tarpon_disk_full_total"),
        (Event::PackCopied, "tarpon_packs_copied_total"),
        (Event::ScrubbedBytes, "tarpon_scrub_bytes_total"),
        (Event::LogRecordDropped, "tarpon_log_records_dropped_total"),
    ];
    each_counts_alone(&metrics, &events);
}

#[test]
fn events_of_upstreams_have_series_of_their_own() {
    let hooks = r#"tarpon_webhooks_total{result="refused"}"#;
    let comparisons = r#"tarpon_comparisons_total{cause="webhook"}"#;
    let events = [
        (Event::Comparison(Cause::Webhook), comparisons),
        (Event::UpstreamPause, "tarpon_upstream_pauses_total"),
        (Event::Webhook(WebhookResult::Refused), hooks),
    ];
    each_counts_alone(&Metrics::new(2), &events);
}

fn each_counts_alone(metrics: &Arc<Metrics>, events: &[(Event, &str)]) {
    for (count, (event, name)) in (1..).zip(events) {
        let before = scrape(metrics);
        metrics.meter(1).add(*event, count);
        let mut expected = before;
        *expected.get_mut(*name).unwrap() += count as f64;
        assert_eq!(scrape(metrics), expected, "{event:?}");
    }
}

#[test]
fn odd_statuses_count_in_the_nearest_class() {
    let metrics = Metrics::new(1);
    metrics.meter(0).add(Event::Response(0), 1);
    metrics.meter(0).add(Event::Response(999), 1);
    let samples = scrape(&metrics);
    assert_eq!(samples["tarpon_responses_total{status=\"1xx\"}"], 1.0);
    assert_eq!(samples["tarpon_responses_total{status=\"5xx\"}"], 1.0);
}

#[test]
fn writers_are_summed_and_extra_ones_lose_nothing() {
    let metrics = Metrics::new(3);
    for writer in 0..7 {
        metrics.meter(writer).add(Event::SentBytes, 10);
    }
    assert_eq!(scrape(&metrics)["tarpon_sent_bytes_total"], 70.0);
    let none = Metrics::new(0);
    none.meter(5).add(Event::SentBytes, 1);
    assert_eq!(scrape(&none)["tarpon_sent_bytes_total"], 1.0);
}

#[test]
fn a_level_may_rise_on_one_thread_and_fall_on_another() {
    let metrics = Metrics::new(2);
    metrics.meter(0).up(Level::BuildsRunning);
    metrics.meter(0).up(Level::BuildsRunning);
    metrics.meter(1).down(Level::BuildsRunning);
    metrics.meter(1).up(Level::ConnectionsOpen);
    let samples = scrape(&metrics);
    assert_eq!(samples["tarpon_builds_running"], 1.0);
    assert_eq!(samples["tarpon_connections_open"], 1.0);
    metrics.meter(1).down(Level::BuildsRunning);
    metrics.meter(1).down(Level::BuildsRunning);
    assert_eq!(
        scrape(&metrics)["tarpon_builds_running"],
        0.0,
        "never shown below zero"
    );
}

#[test]
fn histogram_buckets_are_cumulative_and_bounds_belong_to_them() {
    let metrics = Metrics::new(2);
    for (writer, us) in [(0, 0), (1, 500), (0, 501), (1, 60_000_000), (0, 60_000_001)] {
        metrics.meter(writer).observe_us(Timing::Ttfb, us);
    }
    let samples = scrape(&metrics);
    let bucket = |le: &str| samples[&format!("tarpon_ttfb_seconds_bucket{{le=\"{le}\"}}")];
    assert_eq!(bucket("0.0005"), 2.0);
    assert_eq!(bucket("0.001"), 3.0);
    assert_eq!(bucket("30"), 3.0);
    assert_eq!(bucket("60"), 4.0);
    assert_eq!(bucket("+Inf"), 5.0);
    assert_eq!(samples["tarpon_ttfb_seconds_count"], 5.0);
    assert!((samples["tarpon_ttfb_seconds_sum"] - 120.001_002).abs() < 1e-9);
    assert_eq!(samples["tarpon_request_duration_seconds_count"], 0.0);
}

#[test]
fn buckets_never_fall() {
    let metrics = Metrics::new(1);
    (0..40).for_each(|bits| metrics.meter(0).observe_us(Timing::Duration, 1 << bits));
    let mut out = String::new();
    metrics.render(&Gauges::default(), [], &mut out);
    let start = "tarpon_request_duration_seconds_bucket";
    let lines = out.lines().filter(|line| line.starts_with(start));
    let counts: Vec<u64> = lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
        .collect();
    assert_eq!(counts.len(), DURATION_BOUNDS_US.len() + 1);
    assert!(counts.is_sorted());
    assert_eq!(counts.last(), Some(&40));
}

#[test]
fn gauges_and_mirrors_are_shown_and_escaped() {
    let gauges = Gauges {
        cache_bytes: u64::MAX,
        cache_part_bytes: [1, 2, 3],
        cache_limit_bytes: 7,
        cache_low_bytes: 6,
        mirrors: 5,
        cache_entries: 2,
        cache_wants: 1,
        open_files: 4,
        open_files_limit: 5,
        connections_limit: 6,
        body_bytes: 8,
    };
    let mirrors = [("github.com/a/b", 90), ("x/\"q\"\\\n", 0)];
    let samples = scrape_with(&Metrics::new(1), &gauges, &mirrors);
    assert_eq!(samples["tarpon_cache_bytes"], u64::MAX as f64);
    assert_eq!(samples["tarpon_cache_limit_bytes"], 7.0);
    assert_eq!(samples["tarpon_cache_low_bytes"], 6.0);
    assert_eq!(samples["tarpon_mirrors"], 5.0);
    let part = "tarpon_cache_part_bytes{part=\"snapshots\"}";
    assert_eq!(samples[part], 2.0);
    assert_eq!(samples["tarpon_cache_entries"], 2.0);
    assert_eq!(samples["tarpon_cache_wants"], 1.0);
    assert_eq!(samples["tarpon_open_files"], 4.0);
    assert_eq!(samples["tarpon_open_files_limit"], 5.0);
    assert_eq!(samples["tarpon_connections_limit"], 6.0);
    let age = "tarpon_mirror_age_seconds{repository=\"github.com/a/b\"}";
    assert_eq!(samples[age], 90.0);
    let odd = "tarpon_mirror_age_seconds{repository=\"x/\\\"q\\\"\\\\\\n\"}";
    assert!(samples.contains_key(odd), "{samples:?}");
}

#[test]
fn the_number_of_repositories_is_bounded() {
    let names: Vec<String> = (0..METRICS_REPOSITORIES_MAX + 5)
        .map(|n| format!("h/{n}"))
        .collect();
    let mirrors: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let samples = scrape_with(&Metrics::new(1), &Gauges::default(), &mirrors);
    let shown = samples
        .keys()
        .filter(|name| name.starts_with("tarpon_mirror_age"))
        .count();
    assert_eq!(shown, METRICS_REPOSITORIES_MAX);
}

#[test]
fn adds_from_many_threads_are_all_counted_and_only_ever_grow() {
    const EACH: u64 = 20_000;
    let metrics = Metrics::new(3);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let meter = metrics.meter(writer);
                scope.spawn(move || {
                    for _ in 0..EACH {
                        meter.add(Event::Request(Outcome::Hit), 1);
                        meter.observe_us(Timing::Ttfb, 700);
                    }
                })
            })
            .collect();
        let mut last = 0.0;
        while !writers.iter().all(|writer| writer.is_finished()) {
            let samples = scrape(&metrics);
            let now = samples["tarpon_requests_total{outcome=\"hit\"}"];
            assert!(now >= last);
            last = now;
            let all = samples["tarpon_ttfb_seconds_bucket{le=\"+Inf\"}"];
            assert_eq!(samples["tarpon_ttfb_seconds_count"], all);
        }
    });
    let samples = scrape(&metrics);
    let total = (4 * EACH) as f64;
    assert_eq!(samples["tarpon_requests_total{outcome=\"hit\"}"], total);
    assert_eq!(samples["tarpon_ttfb_seconds_bucket{le=\"0.001\"}"], total);
    assert_eq!(samples["tarpon_ttfb_seconds_bucket{le=\"0.0005\"}"], 0.0);
}

/// The documents say of every metric what its help says, with its label and all values, and name no other.
#[test]
fn the_documents_have_every_metric_label_and_value() {
    let text = include_str!("../../../docs/metrics.md");
    let (_, text) = text.split_once("\n## Metrics\n").unwrap();
    let rows = |columns: usize| -> BTreeSet<String> {
        let rows = text.lines().filter(|line| line.starts_with("| `tarpon_"));
        let has = |row: &&str| row.matches(" | ").count() + 1 == columns;
        // Code is marked in the documents only.
        rows.filter(has).map(|row| row.replace('`', "")).collect()
    };
    let help = |family: &Family| format!("| {} | {} |", family.name, family.help);
    assert_eq!(rows(2), FAMILIES.iter().map(help).collect::<BTreeSet<_>>());
    let values = |family: &Family| match family.name {
        "tarpon_mirror_age_seconds" => "HOST/PATH".to_owned(),
        "tarpon_tls_certificate_not_after_seconds" => "its number, from 1".to_owned(),
        "tarpon_build_info" => "that".to_owned(),
        _ => family.values.join(", "),
    };
    let labelled = FAMILIES.iter().filter(|family| !family.label.is_empty());
    let labels = labelled.map(|family| {
        format!(
            "| {} | {} | {} |",
            family.name,
            family.label,
            values(family)
        )
    });
    assert_eq!(rows(3), labels.collect::<BTreeSet<_>>());
}
