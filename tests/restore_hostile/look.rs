//! What is in a directory, to compare.

use crate::made::{hex, sha1};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is at and below a path, but for those `left_out`: kind, mode, content.
pub fn snapshot(path: &Path, left_out: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        if left_out.contains(&path) {
            continue;
        }
        let Ok(meta) = path.symlink_metadata() else {
            continue;
        };
        let mut what = format!("{:o}", meta.mode());
        if meta.is_dir() {
            let listing = fs::read_dir(&path).into_iter().flatten().flatten();
            left.extend(listing.map(|entry| entry.path()));
        } else if meta.is_symlink() {
            what += &format!(" to {:?}", fs::read_link(&path));
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap_or_default();
            what += &format!(" {} {}", bytes.len(), hex(&sha1(&bytes)));
        }
        found.insert(path, what);
    }
    found
}

/// The first difference between two such lists.
pub fn difference(
    before: &BTreeMap<PathBuf, String>,
    after: &BTreeMap<PathBuf, String>,
) -> Option<String> {
    let changed = after
        .iter()
        .find(|(path, what)| before.get(*path) != Some(what));
    let gone = before.keys().find(|path| !after.contains_key(*path));
    let changed = changed.map(|(path, _)| path);
    changed.or(gone).map(|path| path.display().to_string())
}
