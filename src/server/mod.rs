//! The process: starts the planes, binds the listeners, runs the cores, stops in order.
//!
//! Threads: one core for each CPU (monoio, own listener), the encoders, prefetch threads, one
//! for the background plane, one for the request log, one for the scrub, a builder for each running
//! build; the main thread waits for signals.

use std::time::Instant;

use tokio::sync::watch;

use self::cores::start_cores;
use self::descriptors::{carried, raise_descriptor_limit};
use self::error::start;
use self::reload::Reloads;
use self::start::{choose_driver, prepare};
use self::threads::{Background, end_of};
use crate::config::Config;
use crate::faults::Faults;
use crate::io::heap;
use crate::io::signal::{HANGUP, Heard, StopSignals};
use crate::jobs::scrub::Scrub;
use crate::jobs::state;
use crate::telemetry::log::RequestLogThread;

mod check;
mod cores;
mod descriptors;
mod error;
mod exposed;
mod found;
mod issuers;
mod listeners;
mod permissions;
mod reload;
mod socket_files;
mod start;
mod taken;
mod threads;

pub use check::check_settings;
pub use error::{FAILED_CODE, ServerError};

/// Runs the server until one of `signals`, which every thread of the process blocks; `faults` are
/// for tests.
pub fn run(config: Config, faults: Faults, signals: &StopSignals) -> Result<(), ServerError> {
    heap::give_back_large();
    let uring = choose_driver(config.io_driver)?;
    let carried = carried(raise_descriptor_limit(), &config)?;
    let prepared = prepare(config, faults, carried)?;
    for line in check::warnings(&prepared.config, &prepared.in_force) {
        tracing::warn!("{line}");
    }
    let log = RequestLogThread::start()?;
    let (stop, stopped) = watch::channel(false);
    let (for_jobs, for_cores) = (
        prepared.for_jobs(),
        prepared.for_cores(log.handle(), stopped),
    );
    let meter = prepared.meter();
    let (config, catalog, (way, queue)) = (prepared.config, prepared.catalog, prepared.plane);
    let in_force = prepared.in_force;
    in_force.show_certificates(&meter);
    let (handle, offers, grace) = (way.clone(), way.clone(), config.shutdown_grace);
    let mut plane = Background::start_thread(move |stop, ready| {
        state::run(for_jobs, (handle, queue), stop, uring, ready)
    })?;
    let (cores, socket_files) = start_cores(&for_cores, in_force.keys.as_ref(), uring)?;
    let scrub = Scrub::start(
        catalog.state.root(),
        config.scrub_interval,
        meter.clone(),
        way,
    );
    let scrub = scrub.map_err(start("start the scrub"))?;
    let reloads = Reloads::start(in_force, config, meter);
    let reloads = reloads.map_err(start("start the thread that reads files anew"))?;
    let signal = loop {
        match signals.hear().map_err(start("wait for signals"))? {
            Heard::Reload => reloads.begin(),
            Heard::Stop(signal) => break signal,
        }
    };
    signals.end_at_second();
    let why = match signal {
        HANGUP => " of the terminal that it was started from",
        _ => "",
    };
    tracing::info!("{signal}{why}: letting running responses finish");
    // The cores stop first: responses that run may still need their builds.
    stop.send_replace(true);
    let deadline = Instant::now() + grace;
    let mut result = Ok(());
    for core in cores {
        result = result.and(end_of(core).map_err(ServerError::Core));
    }
    drop(socket_files);
    // Others are not to build once more what only this server has.
    offers.wait_offered(deadline.saturating_duration_since(Instant::now()));
    result = result.and(plane.end_thread());
    if result.is_ok() {
        scrub.end();
    }
    log.finish();
    result
}
