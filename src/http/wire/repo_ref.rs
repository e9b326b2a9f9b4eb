//! The repository that a request names.
//!
//! The mirror of a repository lives at `mirrors/{host}/{path}.git`. So the rules for names are
//! those of directories that must never leave their place, collide or nest; see [`RepoRef`].

use super::Reject;
use crate::limits::{HOST_BYTES_MAX, PATH_PART_BYTES_MAX, REPO_PATH_BYTES_MAX};

pub(super) const DOTS: Reject =
    Reject::new(400, "the URL holds a '.' or '..' part; write it without");
const HOST: Reject = Reject::new(
    400,
    "malformed repository host; use letters, digits and . _ - with :PORT",
);
const NO_PATH: Reject = Reject::new(
    400,
    "no repository in the URL; use /git/HOST/PATH/snapshot.tar.zst",
);
const PATH_TOO_LONG: Reject = Reject::new(
    400,
    "the repository path is too long; 1024 bytes and 255 per part at most",
);
const PATH_EMPTY_PART: Reject = Reject::new(
    400,
    "the repository path has an empty part; remove the extra '/'",
);
const PATH_CHARACTERS: Reject = Reject::new(
    400,
    "a repository path is made of letters, digits and . _ - ~ + @ only",
);
const PATH_DASH: Reject = Reject::new(400, "no part of a repository path may begin with '-'");
const PATH_RESERVED: Reject = Reject::new(
    400,
    "no part of a repository path but the last may end in .git, none in .lock",
);

/// A repository, as named by a request.
///
/// Invariants, which hold for every value because only [`RepoRef::new`] makes one:
/// - `host` is 1 to 255 of `[A-Za-z0-9._:-]`, begins with a letter or digit.
/// - `path` is one or more parts joined by `/`, each of `[A-Za-z0-9._~+@-]`, none `.` or `..`,
///   none beginning with `-`, none ending in `.git` or `.lock` in any case. A leading dot is
///   fine: `.github` is the name of many real repositories.
/// - Two different values have different mirror directories `{host}/{path}.git`, and neither is
///   inside the other: only a mirror's own directory ends in `.git`, no part above it does.
/// - Names with any other character (`=`, `,`, `%`, …) or ending in `.lock` are never a mirror or
///   a directory above one: the server may use them next to mirrors for its own purposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::manual_non_exhaustive,
    reason = "the attribute would let the rest of this crate build one without the checks"
)]
pub struct RepoRef<'a> {
    /// The upstream's name, with a port if the client gave one; case as sent.
    pub host: &'a str,
    /// The path of the repository below it, without `.git`; case as sent.
    pub path: &'a str,
    /// Keeps the struct from being built without the checks.
    checked: (),
}

impl<'a> RepoRef<'a> {
    /// Checks a host and a path; one trailing `.git` of the path is dropped.
    pub fn new(host: &'a str, path: &'a str) -> Result<Self, Reject> {
        check_host(host)?;
        let path = path.strip_suffix(".git").unwrap_or(path);
        check_path(path)?;
        Ok(Self {
            host,
            path,
            checked: (),
        })
    }

    /// Reads `{host}/{path}`.
    pub(super) fn read(text: &'a str) -> Result<Self, Reject> {
        let (host, path) = text.split_once('/').ok_or(NO_PATH)?;
        Self::new(host, path)
    }
}

fn check_host(host: &str) -> Result<(), Reject> {
    let has_start = host
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    let is_valid = host
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
    if has_start && is_valid && host.len() <= HOST_BYTES_MAX {
        Ok(())
    } else {
        Err(HOST)
    }
}

fn check_path(path: &str) -> Result<(), Reject> {
    if path.len() > REPO_PATH_BYTES_MAX {
        return Err(PATH_TOO_LONG);
    }
    path.split('/').try_for_each(check_part)?;
    // The mirror's directory is the last part with `.git` behind it.
    let last_bytes = path.rsplit('/').next().map_or(0, str::len);
    if last_bytes + ".git".len() > PATH_PART_BYTES_MAX {
        return Err(PATH_TOO_LONG);
    }
    Ok(())
}

fn check_part(part: &str) -> Result<(), Reject> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-~+@".contains(&byte);
    if part.is_empty() {
        Err(PATH_EMPTY_PART)
    } else if part.len() > PATH_PART_BYTES_MAX {
        Err(PATH_TOO_LONG)
    } else if part == "." || part == ".." {
        Err(DOTS)
    } else if part.starts_with('-') {
        Err(PATH_DASH)
    } else if !part.bytes().all(is_allowed) {
        Err(PATH_CHARACTERS)
    } else if ends_with_ignore_case(part, ".git") || ends_with_ignore_case(part, ".lock") {
        Err(PATH_RESERVED)
    } else {
        Ok(())
    }
}

fn ends_with_ignore_case(part: &str, end: &str) -> bool {
    let tail = part
        .len()
        .checked_sub(end.len())
        .and_then(|at| part.as_bytes().get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(end.as_bytes()))
}
