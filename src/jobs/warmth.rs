//! Whether a server is to be sent requests: see `warm`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether what is to be here before anybody is sent here is.
#[derive(Debug, Clone)]
pub(crate) struct Warmth(Arc<AtomicBool>);

impl Warmth {
    /// As it is at the start.
    pub(crate) fn new(is_warm: bool) -> Warmth {
        Warmth(Arc::new(AtomicBool::new(is_warm)))
    }

    /// Whether it is.
    pub(crate) fn is_there(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// It is there when this is dropped, however that comes.
pub(super) struct Warming(Warmth);

impl Warming {
    /// Of that.
    pub(super) fn new(warmth: &Warmth) -> Warming {
        Warming(warmth.clone())
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
