//! Where a submodule's repository is from, as its configuration says.

use std::path::Path;

use gix::bstr::ByteSlice;

use super::configured::Configured;
use super::default_branch;
use super::error::RestoreError;

/// Where the repository at `git_dir` is from.
pub(super) fn origin(git_dir: &Path) -> Result<String, RestoreError> {
    let config = Configured::open(&git_dir.join("config"))?;
    let origin = config.get("remote.origin.url").unwrap_or_default();
    Ok(origin.to_str_lossy().into_owned())
}

/// Says in its configuration where the repository at `git_dir` is from, as git does, also where the server has named it
/// otherwise, and which branch of it follows that.
pub(super) fn settle(git_dir: &Path, origin: &str) -> Result<(), RestoreError> {
    let branch = default_branch::add(git_dir)?;
    let path = git_dir.join("config");
    let mut config = Configured::open(&path)?;
    config.set(("remote", Some("origin".into())), "url", origin.as_bytes())?;
    if let Some(branch) = branch {
        let section = ("branch", Some(branch.as_bstr()));
        config.set(section, "remote", b"origin")?;
        let merge = [b"refs/heads/", &branch[..]].concat();
        config.set(section, "merge", &merge)?;
    }
    config.write(&path)
}
