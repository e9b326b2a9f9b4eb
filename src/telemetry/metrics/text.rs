//! Prometheus' text format 0.0.4 of what was counted.
use super::{BASES, FAMILIES, Family, Gauges, Id, Kind, Metrics};
use crate::limits::METRICS_REPOSITORIES_MAX;
use std::fmt::Write;
use std::time::Duration;

impl Metrics {
    /// Appends all metrics in Prometheus' text format 0.0.4. `mirrors` gives each repository's
    /// name and the age of its mirror; only the first [`METRICS_REPOSITORIES_MAX`] are shown.
    /// Blocks: no. Allocates: only in `out`.
    pub(crate) fn render<'a>(
        &self,
        gauges: &Gauges,
        mirrors: impl IntoIterator<Item = (&'a str, Duration)>,
        out: &mut String,
    ) {
        let mut mirrors = mirrors.into_iter().take(METRICS_REPOSITORIES_MAX);
        for family in &FAMILIES {
            push_head(out, family);
            match family.id {
                Id::CacheBytes => push_sample(out, family.name, None, gauges.cache_bytes),
                Id::CacheLimitBytes => {
                    push_sample(out, family.name, None, gauges.cache_limit_bytes);
                }
                Id::CachePartBytes => {
                    for (part, bytes) in family.values.iter().zip(gauges.cache_part_bytes) {
                        push_sample(out, family.name, Some((family.label, *part)), bytes);
                    }
                }
                Id::CacheLowBytes => push_sample(out, family.name, None, gauges.cache_low_bytes),
                Id::Mirrors => push_sample(out, family.name, None, gauges.mirrors),
                Id::CacheEntries => push_sample(out, family.name, None, gauges.cache_entries),
                Id::CacheWants => push_sample(out, family.name, None, gauges.cache_wants),
                Id::OpenFiles => push_sample(out, family.name, None, gauges.open_files),
                Id::OpenFilesLimit => push_sample(out, family.name, None, gauges.open_files_limit),
                Id::ConnectionsLimit => {
                    push_sample(out, family.name, None, gauges.connections_limit);
                }
                Id::BodyBytes => push_sample(out, family.name, None, gauges.body_bytes),
                Id::BuildInfo => {
                    let version = family.values.first().map(|value| (family.label, *value));
                    push_sample(out, family.name, version, 1);
                }
                Id::MirrorAge => {
                    for (repository, age) in mirrors.by_ref() {
                        let label = Some((family.label, repository));
                        push_sample(out, family.name, label, age.as_secs_f64());
                    }
                }
                Id::CertificateEnds => {
                    let ends = self.certificates().clone();
                    for (pair, ends_unix_s) in (1..).zip(ends) {
                        let label = format!("{pair}");
                        let label = Some((family.label, label.as_str()));
                        push_sample(out, family.name, label, ends_unix_s);
                    }
                }
                _ => self.push_counted(out, family),
            }
        }
    }

    fn push_counted(&self, out: &mut String, family: &Family) {
        let base = BASES[family.id as usize];
        if let Kind::Histogram(bounds) = family.kind {
            return self.push_histogram(out, family.name, base, bounds);
        }
        if family.values.is_empty() {
            return self.push_sum(out, family, None, base);
        }
        for (offset, value) in family.values.iter().enumerate() {
            self.push_sum(out, family, Some((family.label, value)), base + offset);
        }
    }

    fn push_sum(
        &self,
        out: &mut String,
        family: &Family,
        label: Option<(&str, &str)>,
        slot: usize,
    ) {
        let sum = self.sum(slot);
        match family.kind {
            // Read block by block while others write, a gauge's end may be seen before its
            // beginning.
            Kind::Gauge => push_sample(out, family.name, label, sum.cast_signed().max(0)),
            Kind::Counter | Kind::Histogram(_) => push_sample(out, family.name, label, sum),
        }
    }

    /// `_count` is the last cumulative bucket and not a counter of its own, so that the two agree
    /// even when read in the middle of an observation.
    fn push_histogram(&self, out: &mut String, name: &str, base: usize, bounds: &[u64]) {
        let mut count = 0;
        for (offset, bound_us) in bounds.iter().enumerate() {
            count += self.sum(base + offset);
            push(
                out,
                format_args!("{name}_bucket{{le=\"{}\"}} {count}\n", seconds(*bound_us)),
            );
        }
        count += self.sum(base + bounds.len());
        let sum_us = self.sum(base + bounds.len() + 1);
        push(out, format_args!("{name}_bucket{{le=\"+Inf\"}} {count}\n"));
        push(
            out,
            format_args!("{name}_sum {}\n{name}_count {count}\n", seconds(sum_us)),
        );
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String never fails.
    let _ = out.write_fmt(text);
}

fn push_head(out: &mut String, family: &Family) {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let Family { name, help, .. } = family;
    push(
        out,
        format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
    );
}

fn push_sample(
    out: &mut String,
    name: &str,
    label: Option<(&str, &str)>,
    value: impl std::fmt::Display,
) {
    out.push_str(name);
    if let Some((label, text)) = label {
        push(out, format_args!("{{{label}=\""));
        push_escaped(out, text);
        out.push_str("\"}");
    }
    push(out, format_args!(" {value}\n"));
}

/// Label values: the format gives a meaning to these three only.
fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
