//! Whether a restore is to end early: one flag that every thread looks at.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::error::RestoreError;
use crate::io::signal::StopSignals;
use crate::limits::SAME_WISH_MS;

/// Set once by a signal, or by the thread whose step failed.
#[derive(Debug, Default)]
pub struct Stop {
    set: AtomicBool,
    signal: OnceLock<&'static str>,
}

impl Stop {
    /// Ends the work because a step failed.
    pub fn set(&self) {
        self.set.store(true, Relaxed);
    }

    /// Ends the work because of a signal.
    pub fn interrupt(&self, signal: &'static str) {
        let _ = self.signal.set(signal);
        self.set();
    }

    /// Whether the work is to end.
    pub fn is_set(&self) -> bool {
        self.set.load(Relaxed)
    }

    /// The signal that ends it.
    pub fn signal(&self) -> Option<&'static str> {
        self.signal.get().copied()
    }

    /// Lets the work begin again after a failed step; not after a signal.
    pub fn clear(&self) {
        self.set.store(false, Relaxed);
        if self.signal().is_some() {
            self.set();
        }
    }
}

/// Takes SIGINT and SIGTERM from now on: the first ends the restore tidily, the second at once, unless it
/// is the same wish.
pub(super) fn watch_signals(stop: &Arc<Stop>) -> Result<(), RestoreError> {
    let failed = |e: std::io::Error| RestoreError::Usage(format!("signals: {e}"));
    let signals = StopSignals::block().map_err(failed)?;
    let stop = stop.clone();
    let watch = move || {
        while let Ok(signal) = signals.wait() {
            if stop.signal().is_some() {
                std::process::exit(130);
            }
            stop.interrupt(signal);
            signals.ignore_for(Duration::from_millis(SAME_WISH_MS));
        }
    };
    let started = std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch);
    started.map(|_| ()).map_err(failed)
}
