//! Pictures for a browser: percentiles of latencies as lines, throughput as bars. Plain SVG 1.1
//! without scripts or fonts of its own.

use super::record::{Contestant, Record};
use super::table::ends_early;
use hdrhistogram::Histogram;
use std::fmt::Write as _;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 220.0;
const RIGHT: f64 = 30.0;
const PLOT_HEIGHT: f64 = 260.0;
const BAR_HEIGHT: f64 = 22.0;
/// Between two charts, room for a title included.
const GAP: f64 = 60.0;
/// Told apart by people who see red and green alike, and dark enough for white paper.
const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07000", "#56b4e9", "#000000", "#7f3c8d",
];

/// Percentiles on the horizontal axis.
const PERCENTILES: [f64; 5] = [0.0, 50.0, 90.0, 99.0, 99.9];

/// One line of a latency chart.
pub struct Series {
    /// What the line is.
    pub name: String,
    /// In microseconds.
    pub latency_us: Histogram<u64>,
}

/// A picture that grows downwards.
pub struct Picture {
    body: String,
    height: f64,
}

/// The picture of a comparison.
pub fn comparison(record: &Record) -> String {
    let mut picture = Picture::new();
    for repository in record.repositories() {
        let summaries: Vec<_> = record
            .contestants(&repository)
            .into_iter()
            .filter_map(|who| Some((who.clone(), record.summary(&repository, &who)?)))
            .collect();
        let series = summaries.iter().filter_map(|(who, summary)| {
            let latency_us = summary.first_us.clone()?;
            let shown = ends_early(who) || *who == Contestant::Pipeline;
            let name = who.to_string();
            shown.then_some(Series { name, latency_us })
        });
        picture.latencies(
            &format!("{repository}: time to the first byte, ms"),
            &series.collect::<Vec<_>>(),
        );
        let whole = summaries.iter().filter(|(who, _)| !ends_early(who));
        let rates = whole
            .clone()
            .map(|(who, s)| (who.to_string(), s.bytes_per_s / 1e9));
        picture.bars(
            &format!("{repository}: throughput, GB/s, all clients together"),
            &rates.collect::<Vec<_>>(),
        );
        let cpu = whole.filter_map(|(who, s)| Some((who.to_string(), s.cpu_s_per_gb?)));
        picture.bars(
            &format!("{repository}: CPU seconds of the server's side for a GB"),
            &cpu.collect::<Vec<_>>(),
        );
    }
    picture.finish()
}

impl Default for Picture {
    fn default() -> Self {
        Picture::new()
    }
}

impl Picture {
    /// An empty picture.
    pub fn new() -> Picture {
        Picture {
            body: String::new(),
            height: 20.0,
        }
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let height = self.height;
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>",
            escape(text)
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn title(&mut self, title: &str) {
        self.height += 30.0;
        let y = self.height;
        let _ = writeln!(
            self.body,
            "<text x=\"20\" y=\"{y:.1}\" font-size=\"15\" font-weight=\"bold\">{}</text>",
            escape(title)
        );
        self.height += 18.0;
    }

    /// Lines over percentiles; both axes are logarithmic, the horizontal one in 1 / (1 - p), so
    /// that the tail is as wide as the rest.
    pub fn latencies(&mut self, title: &str, series: &[Series]) {
        if series.is_empty() {
            return;
        }
        self.title(title);
        let top = self.height;
        let largest = series.iter().map(|s| s.latency_us.max()).max().unwrap_or(1);
        let smallest = series.iter().map(|s| s.latency_us.min()).min().unwrap_or(1);
        let low = (smallest.max(1) as f64).log10().floor();
        let high = (largest.max(1) as f64).log10().ceil().max(low + 1.0);
        let y_of = |us: f64| {
            let share = (us.max(1.0).log10() - low) / (high - low);
            top + PLOT_HEIGHT * (1.0 - share)
        };
        self.axes(top, low as i32, high as i32, &y_of);
        for (number, one) in series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let points: Vec<String> = steps(one.latency_us.len())
                .map(|percentile| {
                    let us = one.latency_us.value_at_percentile(percentile) as f64;
                    format!("{:.1},{:.1}", x_of(percentile), y_of(us))
                })
                .collect();
            let _ = writeln!(
                self.body,
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
                points.join(" ")
            );
            let legend = top + 14.0 * (number as f64 + 1.0);
            let name = format!("{} (n = {})", one.name, one.latency_us.len());
            self.text(10.0, legend, "start", colour, &name);
        }
        self.height = top + PLOT_HEIGHT + GAP;
    }

    fn axes(&mut self, top: f64, low: i32, high: i32, y_of: &dyn Fn(f64) -> f64) {
        let (right, bottom) = (WIDTH - RIGHT, top + PLOT_HEIGHT);
        for power in low..=high {
            let us = 10f64.powi(power);
            let y = y_of(us);
            self.line((LEFT, y), (right, y), "#dddddd");
            self.text(
                LEFT - 6.0,
                y + 4.0,
                "end",
                "#333333",
                &format!("{}", us / 1e3),
            );
        }
        for percentile in PERCENTILES {
            let x = x_of(percentile);
            self.line((x, top), (x, bottom), "#dddddd");
            let label = match percentile {
                0.0 => "min".to_owned(),
                other => format!("p{other}"),
            };
            self.text(x, bottom + 16.0, "middle", "#333333", &label);
        }
    }

    /// Horizontal bars from zero.
    pub fn bars(&mut self, title: &str, bars: &[(String, f64)]) {
        let largest = bars.iter().map(|(_, value)| *value).fold(0.0, f64::max);
        if largest <= 0.0 {
            return;
        }
        self.title(title);
        for (number, (name, value)) in bars.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let y = self.height;
            // Room for the number behind the longest bar.
            let width = (WIDTH - LEFT - RIGHT - 60.0) * value / largest;
            self.text(LEFT - 6.0, y + 15.0, "end", "#333333", name);
            let _ = writeln!(
                self.body,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\" \
                 fill=\"{colour}\"/>",
                BAR_HEIGHT - 4.0
            );
            let shown = format!("{value:.3}");
            self.text(LEFT + width + 6.0, y + 15.0, "start", "#333333", &shown);
            self.height += BAR_HEIGHT;
        }
        self.height += GAP / 2.0;
    }
}

fn x_of(percentile: f64) -> f64 {
    let nines = |percentile: f64| -(1.0 - percentile / 100.0).log10();
    let last = PERCENTILES[PERCENTILES.len() - 1];
    let share = nines(percentile.min(last)) / nines(last);
    LEFT + (WIDTH - LEFT - RIGHT) * share
}

/// Percentiles that `samples` can tell apart, evenly spaced on the axis.
fn steps(samples: u64) -> impl Iterator<Item = f64> {
    let last = PERCENTILES[PERCENTILES.len() - 1];
    let finest = (100.0 * (1.0 - 1.0 / samples.max(2) as f64)).min(last);
    let nines = -(1.0 - finest / 100.0).log10();
    (0..=100).map(move |step| {
        let here = nines * f64::from(step) / 100.0;
        100.0 * (1.0 - 10f64.powf(-here))
    })
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;")
}
