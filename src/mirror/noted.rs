//! What is noted in a mirror.
//!
//! Whether a clone of its upstream is known to work: it was cloned from there by a tarpon, or compared with it
//! successfully. A mirror without that note was put there by an operator, and nothing else may have what it has.
//!
//! And how its repository's name was spelled first, which its directory does not say where the host ignores case.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::error::without_password;
use crate::limits;

/// Holds the upstream's URL.
const NOTE_NAME: &str = "tarpon-upstream";

/// Holds the URL that archives of it name as their origin.
const ORIGIN_NAME: &str = "tarpon-origin";

/// Notes how the repository is spelled in the URL that its archives name as their origin.
pub(crate) fn note_origin(mirror: &Path, url: &str) -> io::Result<()> {
    fs::write(mirror.join(ORIGIN_NAME), without_password(url))
}

/// How a repository's path, which is this in some spelling, was spelled first, if that is noted.
pub(crate) fn noted_spelling(mirror: &Path, path: &str) -> Option<String> {
    let file = fs::File::open(mirror.join(ORIGIN_NAME)).ok()?;
    let mut noted = String::new();
    file.take(limits::NOTED_ORIGIN_BYTES_MAX)
        .read_to_string(&mut noted)
        .ok()?;
    let begin = noted.len().checked_sub(path.len())?;
    let (above, spelled) = (noted.get(..begin)?, noted.get(begin..)?);
    let is_it = above.ends_with('/') && spelled.eq_ignore_ascii_case(path);
    is_it.then(|| spelled.to_owned())
}

/// Notes it. It need not last: without it the mirror only stays until the next comparison.
pub(crate) fn note_upstream(mirror: &Path, url: &str) -> io::Result<()> {
    fs::write(mirror.join(NOTE_NAME), without_password(url))
}

/// Whether it is noted of this upstream.
pub(crate) fn is_upstream_noted(mirror: &Path, url: &str) -> bool {
    let noted = fs::read(mirror.join(NOTE_NAME));
    noted.is_ok_and(|noted| noted == without_password(url).as_bytes())
}
