//! Reading Prometheus text.

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Takes the text of `/metrics`.
    pub fn new(text: String) -> Self {
        Metrics { text }
    }

    /// The sum of all samples called `name` that carry every label of `labels`; `None` when
    /// there is no such sample.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = None;
        for line in self.text.lines() {
            if let Some(value) = sample(line, name, labels) {
                found = Some(found.unwrap_or(0.0) + value);
            }
        }
        found
    }

    /// Like [`Metrics::sum`], 0 where a counter has not appeared yet.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).unwrap_or(0.0) as u64
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

fn sample(line: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (held, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once('}')?,
        None => ("", rest.strip_prefix(' ')?),
    };
    for (key, value) in labels {
        if !held.contains(&format!("{key}=\"{value}\"")) {
            return None;
        }
    }
    value.split_whitespace().next()?.parse().ok()
}
