//! What a signal does.

use std::sync::Arc;
use std::time::Duration;

use super::error::RestoreError;
use super::stop::Stop;
use crate::io::signal::StopSignals;
use crate::limits::SAME_WISH_MS;

/// Takes SIGINT and SIGTERM from now on: the first ends the restore tidily, the second at once, unless it
/// is the same wish.
pub(super) fn watch(stop: &Arc<Stop>) -> Result<(), RestoreError> {
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
