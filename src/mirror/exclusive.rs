//! The lock of a mirror's packs, taken for writing without a queue behind it.
//!
//! Who reads packs where they are, because nothing can be kept, may do so for hours at the pace of a
//! client. A writer that waited in the lock's queue would keep everybody who comes after it waiting,
//! too. So writers only try, now and then, and give up.

use std::time::{Duration, Instant};

use tokio::sync::{RwLock, RwLockWriteGuard};

use crate::limits::{PACKS_LOCK_SOON_MS, PACKS_LOCK_TRY_MS, PACKS_LOCK_WAIT_MS};

const WAIT: Duration = Duration::from_millis(PACKS_LOCK_WAIT_MS);

fn is_over(began: Instant) -> bool {
    began.elapsed() >= WAIT
}

fn pause() -> Duration {
    Duration::from_millis(PACKS_LOCK_TRY_MS)
}

/// The lock, once nobody has it; `None` if somebody always does.
pub(super) async fn exclusive(lock: &RwLock<()>) -> Option<RwLockWriteGuard<'_, ()>> {
    exclusive_within(lock, WAIT).await
}

/// The same for whom somebody waits: who reads for long is not waited for.
pub(crate) async fn exclusive_soon(lock: &RwLock<()>) -> Option<RwLockWriteGuard<'_, ()>> {
    exclusive_within(lock, Duration::from_millis(PACKS_LOCK_SOON_MS)).await
}

async fn exclusive_within(lock: &RwLock<()>, wait: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
    let began = Instant::now();
    loop {
        match lock.try_write() {
            Ok(exclusive) => return Some(exclusive),
            Err(_) if began.elapsed() >= wait => return None,
            Err(_) => tokio::time::sleep(pause()).await,
        }
    }
}

/// Two locks, once nobody has either: while it waits it has none.
pub(super) async fn exclusive_both<'l>(
    first: &'l RwLock<()>,
    second: &'l RwLock<()>,
) -> Option<(RwLockWriteGuard<'l, ()>, RwLockWriteGuard<'l, ()>)> {
    let began = Instant::now();
    loop {
        if let (Ok(first), Ok(second)) = (first.try_write(), second.try_write()) {
            return Some((first, second));
        }
        if is_over(began) {
            return None;
        }
        tokio::time::sleep(pause()).await;
    }
}

/// The same for a thread that may wait.
pub(crate) fn blocking_exclusive(lock: &RwLock<()>) -> Option<RwLockWriteGuard<'_, ()>> {
    let began = Instant::now();
    loop {
        match lock.try_write() {
            Ok(exclusive) => return Some(exclusive),
            Err(_) if is_over(began) => return None,
            Err(_) => std::thread::sleep(pause()),
        }
    }
}
