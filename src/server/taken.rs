//! What another server may have: the address, the state directory.

use std::time::{Duration, Instant};

use crate::limits::{TAKEN_RETRY_MS, TAKEN_WAIT_MS};

/// Takes what another server may have. If one `has_it`, tries again for a little: one that was killed
/// has it until the kernel has closed its files, some time after its parent has heard of its end.
pub(super) fn wait_for<T, E>(
    take: impl Fn() -> Result<T, E>,
    has_it: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + Duration::from_millis(TAKEN_WAIT_MS);
    loop {
        match take() {
            Err(e) if has_it(&e) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(TAKEN_RETRY_MS));
            }
            taken => return taken,
        }
    }
}
