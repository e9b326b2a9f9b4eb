//! What was measured, each beside the bound that it is to keep.

use std::time::Duration;

/// See the module's text.
#[derive(Default)]
pub struct Figures {
    missed: Vec<String>,
}

impl Figures {
    /// A figure without a bound.
    pub fn note(&self, what: &str, figure: f64, unit: &str) {
        println!("{what:<66} {figure:>12.3} {unit}");
    }

    /// One that is to be no more than that.
    pub fn at_most(&mut self, what: &str, figure: f64, bound: f64, unit: &str) {
        self.bound(what, figure, unit, ("<=", bound, figure <= bound));
    }

    /// One that is to be no less than that.
    pub fn at_least(&mut self, what: &str, figure: f64, bound: f64, unit: &str) {
        self.bound(what, figure, unit, (">=", bound, figure >= bound));
    }

    fn bound(&mut self, what: &str, figure: f64, unit: &str, kept: (&str, f64, bool)) {
        let (sign, bound, is_kept) = kept;
        let word = if is_kept { "kept" } else { "MISSED" };
        println!("{what:<66} {figure:>12.3} {unit:<4} {sign} {bound} {word}");
        if !is_kept {
            self.missed.push(what.to_owned());
        }
    }

    /// How many bounds were not kept.
    pub fn missed(&self) -> usize {
        self.missed.len()
    }
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Of so many of a hundred it is no more than this.
pub fn quantile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    let at = (times.len() * percent).div_ceil(100).max(1) - 1;
    times[at]
}
