//! The branch that git leaves in the repository of a submodule, beside the commit that it checks out: the upstream's own,
//! where that is.

use std::fs;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};

use super::data::read;
use super::error::{RestoreError, failed};
use super::path::as_path;
use crate::limits::{LOOSE_REF_BYTES_MAX, OLD_LOOSE_REFS_BYTES_MAX, OLD_PACKED_REFS_BYTES_MAX};
use crate::refs::{self, Loose, RefsError};

const UPSTREAMS: &str = "refs/remotes/origin/";

/// Adds it to the refs in the directory `git_dir`, which a restore has made; gives its short name, if the upstream has one.
pub(super) fn add(git_dir: &Path) -> Result<Option<BString>, RestoreError> {
    let head = git_dir.join(UPSTREAMS).join("HEAD");
    let Ok(said) = read(&head, LOOSE_REF_BYTES_MAX) else {
        return Ok(None);
    };
    let full = said
        .strip_prefix(b"ref: ")
        .map(|name| name.trim_ascii_end());
    let short = full.and_then(|full| full.strip_prefix(UPSTREAMS.as_bytes()));
    let (Some(full), Some(short)) = (full, short) else {
        return Ok(None);
    };
    let at = at(git_dir, full).map_err(|e| RestoreError::entry(full, e.to_string()))?;
    let Some(at) = at else {
        return Ok(None);
    };
    let path = git_dir.join("refs/heads").join(as_path(short));
    let above = path.parent().unwrap_or(git_dir);
    fs::create_dir_all(above).map_err(failed("create", above))?;
    fs::write(&path, format!("{at}\n")).map_err(failed("write", &path))?;
    Ok(Some(short.into()))
}

/// Where a ref is.
fn at(git_dir: &Path, name: &[u8]) -> Result<Option<ObjectId>, RefsError> {
    let loose = refs::read_loose_within(git_dir, OLD_LOOSE_REFS_BYTES_MAX)?;
    if let Some(Loose::Direct(id)) = loose.get(name.as_bstr()) {
        return Ok(Some(*id));
    }
    let mut found = None;
    refs::each_packed(git_dir, OLD_PACKED_REFS_BYTES_MAX, |packed, id| {
        if packed == name {
            found = Some(id);
        }
        Ok::<_, RefsError>(())
    })?;
    Ok(found)
}
