//! Faults that tests inject into a running server through the environment variable
//! `TARPON_FAULT`: a comma-separated list of `build-fail-after-bytes=N` (the first build fails
//! once its archive has N bytes), `encoder-panic-at-job=N` (the first build's Nth job panics)
//! and `spool-enospc-after-bytes=N` (every spool file is full at N bytes).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The environment variable.
pub const VARIABLE: &str = "TARPON_FAULT";

/// What to break; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    build_fails_at_bytes: Option<u64>,
    encoder_panics_at_job: Option<u64>,
    /// Spool files take no more than this.
    pub spool_bytes_max: Option<u64>,
    spent: Arc<AtomicBool>,
}

impl Faults {
    /// Reads the variable's value; what it does not know is an error that names it.
    pub fn parse(value: &str) -> Result<Faults, String> {
        let mut faults = Faults::default();
        for fault in value.split(',').filter(|f| !f.is_empty()) {
            let (name, number) = fault.split_once('=').unwrap_or((fault, ""));
            let number = number
                .parse()
                .map_err(|_| format!("{VARIABLE}: '{fault}' needs a number"))?;
            match name {
                "build-fail-after-bytes" => faults.build_fails_at_bytes = Some(number),
                "encoder-panic-at-job" => faults.encoder_panics_at_job = Some(number),
                "spool-enospc-after-bytes" => faults.spool_bytes_max = Some(number),
                _ => return Err(format!("{VARIABLE}: '{name}' is unknown")),
            }
        }
        Ok(faults)
    }

    /// Whether the build whose archive has `bytes` fails now. True once.
    pub fn build_fails_at(&self, bytes: u64) -> bool {
        let due = self.build_fails_at_bytes.is_some_and(|at| bytes >= at);
        due && !self.spent.swap(true, Ordering::Relaxed)
    }

    /// Whether job number `job` of a build panics. True once.
    pub fn encoder_panics_at(&self, job: u64) -> bool {
        let due = self.encoder_panics_at_job == Some(job);
        due && !self.spent.swap(true, Ordering::Relaxed)
    }
}
