//! How much a clone or a fetch brings onto the disk, looked at while it runs.
use crate::io::growth::{Meter, pause};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A directory that may grow, and by how much.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    /// It need not be there yet.
    pub dir: PathBuf,
    pub limit_bytes: u64,
    /// Who is told of it.
    pub arrived: Arc<Arrived>,
}

/// How much has come of what is being cloned or fetched, for those who wait for it.
#[derive(Debug)]
pub struct Arrived(AtomicU64);

/// Nothing is on its way.
const NOTHING: u64 = u64::MAX;

impl Default for Arrived {
    fn default() -> Self {
        Arrived(AtomicU64::new(NOTHING))
    }
}

impl Arrived {
    /// So much has come.
    pub(crate) fn note(&self, bytes: u64) {
        self.0.store(bytes.min(NOTHING - 1), Ordering::Relaxed);
    }

    /// All is there, or will not come.
    pub(crate) fn end(&self) {
        self.0.store(NOTHING, Ordering::Relaxed);
    }

    /// How much has come, while something is on its way.
    pub(crate) fn bytes(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes != NOTHING)
    }
}

/// Why a command has to end.
pub(super) struct Over {
    pub limit_bytes: u64,
    /// What cannot be measured.
    pub error: Option<(PathBuf, io::Error)>,
}

/// Ready when the directory has grown by more than it may; never without one.
pub(super) async fn over(growth: Option<Growth>) -> Over {
    let Some(Growth {
        dir,
        limit_bytes,
        arrived,
    }) = growth
    else {
        return std::future::pending().await;
    };
    let mut meter = Meter::new(dir.clone());
    loop {
        let began = Instant::now();
        let look = move || {
            let grown = meter.look();
            (meter, grown)
        };
        let looked = tokio::task::spawn_blocking(look).await;
        let grown_bytes = match looked.map_err(io::Error::other) {
            Ok((back, Ok(grown_bytes))) => {
                meter = back;
                grown_bytes
            }
            Ok((_, Err(source))) | Err(source) => {
                let error = Some((dir, source));
                return Over { limit_bytes, error };
            }
        };
        arrived.note(grown_bytes);
        if grown_bytes > limit_bytes {
            let error = None;
            return Over { limit_bytes, error };
        }
        tokio::time::sleep(pause(began.elapsed())).await;
    }
}
