//! When a mirror was last looked through for what nothing reaches: an empty file, by its date.
//!
//! The journal says what refs have left. What came and was never in a ref it does not know: objects of a
//! fetch that was killed, of an operator's, or what a mirror had in it when it was put there. So whatever
//! has changed is looked through once an expiry, whether or not anybody has noted something.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::packs::{Pack, PackKind};

/// The file's name.
const NAME: &str = "tarpon-looked";

/// All of it was looked through, just now.
pub(super) fn note(mirror: &Path) -> io::Result<()> {
    let file = File::create(mirror.join(NAME))?;
    // The date that the file system gives is that of packs, too.
    file.set_len(1)?;
    file.set_len(0)
}

/// It is as if it had never been.
pub(super) fn forget(mirror: &Path) -> io::Result<()> {
    match std::fs::remove_file(mirror.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// When it was last; `None` if that is not known or lies ahead of `now`.
pub(super) fn at(mirror: &Path, now: SystemTime) -> Option<SystemTime> {
    let found = std::fs::metadata(mirror.join(NAME)).ok()?;
    found.modified().ok().filter(|at| *at <= now)
}

/// When it is to be looked through again at the latest; `None` if nothing can have become due since.
pub(super) fn next(
    mirror: &Path,
    packs: &[Pack],
    expiry: Duration,
    now: SystemTime,
) -> Option<SystemTime> {
    if packs.is_empty() {
        return None;
    }
    let Some(at) = at(mirror, now) else {
        return Some(now);
    };
    // What was young then was not due then.
    let before = at.checked_sub(expiry).unwrap_or(SystemTime::UNIX_EPOCH);
    let has_come = |pack: &Pack| {
        let found = std::fs::metadata(pack.index.with_extension("pack"));
        let changed_s = found.map_or(i64::MAX, |found| found.ctime());
        let before_s = before.duration_since(SystemTime::UNIX_EPOCH);
        // Its `.keep` can go without a trace.
        pack.kind == PackKind::Kept || changed_s >= before_s.map_or(0, |b| b.as_secs() as i64)
    };
    packs.iter().any(has_come).then(|| at + expiry)
}
