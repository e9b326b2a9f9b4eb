//! Whether a core's timers still run.
//!
//! Under epoll the runtime looks at its timers only when no task is ready. Connections that
//! always have something to do would keep it from that for ever, and no time limit of any
//! connection would hold. So a timer beats, and when it is late, busy tasks wait for a timer of
//! their own: then none is ready soon, and the timers run. (With io_uring a busy task waits for
//! the ring after each share of work, which is enough.)

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::limits::{PULSE_LATE_MS, PULSE_MS};

/// The beating timer of one core.
#[derive(Debug)]
pub(crate) struct Pulse {
    last: Cell<Instant>,
}

impl Pulse {
    /// Starts a pulse on the calling core; it beats as long as somebody else has it.
    pub(crate) fn start() -> Rc<Pulse> {
        let pulse = Rc::new(Pulse {
            last: Cell::new(Instant::now()),
        });
        let beating = Rc::downgrade(&pulse);
        monoio::spawn(async move {
            while let Some(pulse) = beating.upgrade() {
                pulse.last.set(Instant::now());
                drop(pulse);
                monoio::time::sleep(Duration::from_millis(PULSE_MS)).await;
            }
        });
        pulse
    }

    /// Whether the timers have not run for too long.
    pub(crate) fn is_late(&self) -> bool {
        self.last.get().elapsed() >= Duration::from_millis(PULSE_LATE_MS)
    }

    /// Waits until they have run.
    pub(crate) async fn rest(&self) {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}
