//! What a restore notes in a repository: the commit that it has checked out, if it has one; and behind that, where the
//! repository was asked for by a name of the server's, that name and the origin that it stands for.

use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;

use super::data::read;
use super::origin::is_url;
use super::url::base_target;
use crate::config::GivenUrl;
use crate::limits::RESTORE_NOTE_BYTES_MAX;
use crate::refs::full_id;

/// Where that is in a working copy.
pub(super) const NOTE: &str = ".git/tarpon-restored";
/// And in the repository itself, wherever that is.
pub(super) const NOTE_NAME: &str = "tarpon-restored";

/// In the place of a commit, where nothing is checked out.
const NONE: &str = "-";

/// What is noted.
pub(super) fn noted(commit: Option<&str>, given: &GivenUrl, origin: &[u8]) -> Vec<u8> {
    let commit = commit.unwrap_or(NONE);
    let target = base_target(given.text()).filter(|_| !is_url(given.text()));
    let more = target.map(|target| [target.as_bytes(), b"\n", origin, b"\n"].concat());
    [commit.as_bytes(), b"\n", &more.unwrap_or_default()].concat()
}

/// The commit that is noted in the repository at `git_dir`.
pub(super) fn note(git_dir: &Path) -> Option<ObjectId> {
    let text = read(&git_dir.join(NOTE_NAME), RESTORE_NOTE_BYTES_MAX).ok()?;
    let id = full_id(text.lines().next()?.to_str().ok()?.trim()).ok()?;
    ObjectId::from_hex(id.as_bytes()).ok()
}
