//! Whether a clone of a mirror's upstream is known to work, noted in the mirror: it was cloned from there by
//! a tarpon, or compared with it successfully. A mirror without that note was put there by an operator, and
//! nothing else may have what it has.

use std::fs;
use std::io;
use std::path::Path;

use super::error::without_password;

/// Holds the upstream's URL.
const NOTE_NAME: &str = "tarpon-upstream";

/// Notes it. It need not last: without it the mirror only stays until the next comparison.
pub(crate) fn note_upstream(mirror: &Path, url: &str) -> io::Result<()> {
    fs::write(mirror.join(NOTE_NAME), without_password(url))
}

/// Whether it is noted of this upstream.
pub(crate) fn is_upstream_noted(mirror: &Path, url: &str) -> bool {
    let noted = fs::read(mirror.join(NOTE_NAME));
    noted.is_ok_and(|noted| noted == without_password(url).as_bytes())
}
