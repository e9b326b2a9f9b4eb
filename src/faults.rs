//! Faults that tests inject into a running server, or a restore, through the environment variable
//! `TARPON_FAULT`: a comma-separated list of `build-fail-after-bytes=N` (the first build fails
//! once its archive has N bytes), `cold-retry-ms=N` (a clone that failed behind a single commit is tried again
//! after so long), `cold-wait-ms=N` (an answer begins before its archive after so long),
//! `core-panic-at-connection=N` (the core that accepts the server's
//! Nth connection panics), `encoder-panic-at-job=N` (the first build's Nth job panics),
//! `issuer-apart-ms=N` (an issuer of `--oidc` is asked at most so often), `issuer-young-ms=N` (its keys are asked
//! for again after so long), `live-only-wait-ms=N` (nobody waits longer for the end of a build that is not kept),
//! `mirror-wait-ms=N` (whoever waits for a mirror and cannot be told so is to come again after so long),
//! `open-files-max=N` (no more files of archives are open), `order-quiet-ms=N` (scattered frames are put in
//! order once a snapshot is as old), `scattered-at=N` (which more than N stretches are),
//! `spool-enospc-after-bytes=N` (every spool file is full at N bytes), `step-ends-at=N` (an update is killed before
//! its Nth change to the working copy; it says how many there were if there are less), `step-fails-at=N` (the disk is full
//! for the Nth), `steps-fail-from=N` (and for all that follow), `store-expiry-ms=N` (what nobody uses there is looked for
//! this often), `store-kept-ms=N` (what nothing names stays in an
//! object store for so long), `store-lease-ms=N` (a lease there lasts so long), `store-look-ms=N` (heads there are looked at so often),
//! `store-stall-ms=N` (a download from there that stands still is left after so long), `store-turn-ms=N` (packs are
//! taken over from there for so long in a turn), `store-used-ms=N` (others are told there what is used
//! this often), `taking-slow-ms=N` (a client
//! that takes a response is slow after so long), `upload-slow-ms=N` (the same of git's endpoint) and `young-ms=N`
//! (what an upstream has said of who may read counts for so long, and what was compared with it).

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The environment variable.
pub const VARIABLE: &str = "TARPON_FAULT";

/// The variable's value is not understood.
#[derive(Debug, thiserror::Error)]
#[error(
    "{VARIABLE} = {value:?} is not valid because of {fault:?}; allowed: \
     build-fail-after-bytes=N, cold-retry-ms=N, cold-wait-ms=N, core-panic-at-connection=N, \
     encoder-panic-at-job=N, issuer-apart-ms=N, issuer-young-ms=N, live-only-wait-ms=N, mirror-wait-ms=N, open-files-max=N, \
     order-quiet-ms=N, scattered-at=N, \
     spool-enospc-after-bytes=N, step-ends-at=N, step-fails-at=N, steps-fail-from=N, store-expiry-ms=N, \
     store-kept-ms=N, store-lease-ms=N, store-look-ms=N, store-stall-ms=N, store-turn-ms=N, store-used-ms=N, taking-slow-ms=N, \
     upload-slow-ms=N \
     and young-ms=N, joined by commas, \
     where N is a whole number"
)]
pub struct FaultError {
    value: String,
    fault: String,
}

/// What to break; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    build_fails_at_bytes: Option<u64>,
    core_panics_at_connection: Option<u64>,
    encoder_panics_at_job: Option<u64>,
    step_ends_at: Option<u64>,
    step_fails_at: Option<u64>,
    steps_fail_from: Option<u64>,
    /// How long it takes until a clone that failed behind a single commit is tried again.
    pub cold_retry_ms: Option<u64>,
    /// How long an archive's first byte is waited for before an answer begins without it.
    pub cold_wait_ms: Option<u64>,
    /// How often an issuer of tokens is asked for its keys at most.
    pub issuer_apart_ms: Option<u64>,
    /// How old its keys are when they are asked for again.
    pub issuer_young_ms: Option<u64>,
    /// How long a request waits for the end of a build that is not kept.
    pub live_only_wait_ms: Option<u64>,
    /// How long a bundle, or git, waits for a mirror.
    pub mirror_wait_ms: Option<u64>,
    /// No more files of archives than this are open.
    pub open_files_max: Option<usize>,
    /// A snapshot that was current for so long has its frames put in order.
    pub order_quiet_ms: Option<u64>,
    /// Frames in more stretches than these are scattered.
    pub stretches_max: Option<usize>,
    /// Spool files take no more than this.
    pub spool_bytes_max: Option<u64>,
    /// How often is looked for what leaves an object store.
    pub store_expiry_ms: Option<u64>,
    /// How long what no head names stays in an object store.
    pub store_kept_ms: Option<u64>,
    /// How long a lease in an object store lasts.
    pub store_lease_ms: Option<u64>,
    /// How often heads in an object store are looked at.
    pub store_look_ms: Option<u64>,
    /// How long a download from an object store may stand still.
    pub store_stall_ms: Option<u64>,
    /// How long packs from an object store are taken over in a turn.
    pub store_turn_ms: Option<u64>,
    /// How often others are told through an object store what is used.
    pub store_used_ms: Option<u64>,
    /// How long a client may take too little of a response when places are short.
    pub taking_slow_ms: Option<u64>,
    /// How long a client of git's endpoint may take too little.
    pub upload_slow_ms: Option<u64>,
    /// For how long an upstream's yes counts, and its no at most.
    pub young_ms: Option<u64>,
    connections: Arc<AtomicU64>,
    spent: Arc<AtomicBool>,
}

impl Faults {
    /// What [`VARIABLE`] asks for; `env` looks up one environment variable.
    ///
    /// # Errors
    /// A value that is not understood whole, with what is allowed.
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>) -> Result<Faults, FaultError> {
        let value = env(VARIABLE).unwrap_or_default();
        let value = value.to_string_lossy();
        let mut faults = Faults::default();
        for fault in value.split(',').filter(|fault| !fault.is_empty()) {
            let known = fault.split_once('=').and_then(|(name, number)| {
                let number = Some(number.parse().ok()?);
                match name {
                    "build-fail-after-bytes" => faults.build_fails_at_bytes = number,
                    "cold-retry-ms" => faults.cold_retry_ms = number,
                    "cold-wait-ms" => faults.cold_wait_ms = number,
                    "core-panic-at-connection" => faults.core_panics_at_connection = number,
                    "encoder-panic-at-job" => faults.encoder_panics_at_job = number,
                    "issuer-apart-ms" => faults.issuer_apart_ms = number,
                    "issuer-young-ms" => faults.issuer_young_ms = number,
                    "live-only-wait-ms" => faults.live_only_wait_ms = number,
                    "mirror-wait-ms" => faults.mirror_wait_ms = number,
                    "open-files-max" => {
                        faults.open_files_max = number.and_then(|n| usize::try_from(n).ok());
                    }
                    "order-quiet-ms" => faults.order_quiet_ms = number,
                    "scattered-at" => {
                        faults.stretches_max = number.and_then(|n| usize::try_from(n).ok());
                    }
                    "spool-enospc-after-bytes" => faults.spool_bytes_max = number,
                    "step-ends-at" => faults.step_ends_at = number,
                    "step-fails-at" => faults.step_fails_at = number,
                    "steps-fail-from" => faults.steps_fail_from = number,
                    "store-expiry-ms" => faults.store_expiry_ms = number,
                    "store-kept-ms" => faults.store_kept_ms = number,
                    "store-lease-ms" => faults.store_lease_ms = number,
                    "store-look-ms" => faults.store_look_ms = number,
                    "store-stall-ms" => faults.store_stall_ms = number,
                    "store-turn-ms" => faults.store_turn_ms = number,
                    "store-used-ms" => faults.store_used_ms = number,
                    "taking-slow-ms" => faults.taking_slow_ms = number,
                    "upload-slow-ms" => faults.upload_slow_ms = number,
                    "young-ms" => faults.young_ms = number,
                    _ => return None,
                }
                Some(())
            });
            known.ok_or_else(|| FaultError {
                value: value.clone().into_owned(),
                fault: fault.to_owned(),
            })?;
        }
        Ok(faults)
    }

    /// Whether the build whose archive has `bytes` fails now. True once.
    pub fn build_fails_at(&self, bytes: u64) -> bool {
        let due = self.build_fails_at_bytes.is_some_and(|at| bytes >= at);
        due && !self.spent.swap(true, Ordering::Relaxed)
    }

    /// Whether the core that has accepted a connection panics now. True once.
    pub fn core_panics(&self) -> bool {
        self.core_panics_at_connection
            .is_some_and(|at| self.connections.fetch_add(1, Ordering::Relaxed) + 1 == at)
    }

    /// Whether job number `job` of a build panics. True once.
    pub fn encoder_panics_at(&self, job: u64) -> bool {
        let due = self.encoder_panics_at_job == Some(job);
        due && !self.spent.swap(true, Ordering::Relaxed)
    }

    /// Whether anybody asks for faults of an update's steps.
    pub fn has_steps(&self) -> bool {
        let all = [self.step_ends_at, self.step_fails_at, self.steps_fail_from];
        all.iter().any(Option::is_some)
    }

    /// Whether an update ends before this step.
    pub fn ends_at_step(&self, step: u64) -> bool {
        self.step_ends_at == Some(step)
    }

    /// Whether this step of an update fails.
    pub fn fails_at_step(&self, step: u64) -> bool {
        self.step_fails_at == Some(step) || self.steps_fail_from.is_some_and(|from| step >= from)
    }
}
