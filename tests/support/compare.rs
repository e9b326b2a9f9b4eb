//! Comparing two directory trees: every path, kind, mode, link target and byte.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What stands at one path. Modes are those of files and directories; a link has none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory { mode: u32 },
    File { mode: u32, len: u64 },
    Link { target: OsString },
    Other,
}

/// Every way in which `actual` differs from `expected`, paths at the top named in `skip` left
/// out of both. Empty when they are the same.
pub fn differences(expected: &Path, actual: &Path, skip: &[&str]) -> Vec<String> {
    let wanted = walk(expected, skip);
    let found = walk(actual, skip);
    let mut out = Vec::new();
    for (path, node) in &wanted {
        match found.get(path) {
            None => out.push(format!("missing: {path:?}")),
            Some(other) if other != node => {
                out.push(format!("{path:?} is {other:?}, expected {node:?}"));
            }
            Some(Node::File { .. }) => out.extend(compare_bytes(expected, actual, path)),
            Some(_) => {}
        }
    }
    let extra = found.keys().filter(|path| !wanted.contains_key(*path));
    out.extend(extra.map(|path| format!("not expected: {path:?}")));
    out
}

/// Number of paths below `root`, those at the top named in `skip` left out.
pub fn count(root: &Path, skip: &[&str]) -> usize {
    walk(root, skip).len()
}

fn walk(root: &Path, skip: &[&str]) -> BTreeMap<PathBuf, Node> {
    let mut out = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(directory) = pending.pop() {
        let full = root.join(&directory);
        let listing = fs::read_dir(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        for entry in listing {
            let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", full.display()));
            let relative = directory.join(entry.file_name());
            if directory.as_os_str().is_empty() && skip.iter().any(|s| relative == Path::new(s)) {
                continue;
            }
            let node = node_at(&root.join(&relative));
            if matches!(node, Node::Directory { .. }) {
                pending.push(relative.clone());
            }
            out.insert(relative, node);
        }
    }
    out
}

fn node_at(path: &Path) -> Node {
    let metadata = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = metadata.file_type();
    if kind.is_dir() {
        Node::Directory {
            mode: mode_of(&metadata),
        }
    } else if kind.is_file() {
        Node::File {
            mode: mode_of(&metadata),
            len: metadata.len(),
        }
    } else if kind.is_symlink() {
        let target = fs::read_link(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Node::Link {
            target: target.into_os_string(),
        }
    } else {
        Node::Other
    }
}

fn mode_of(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}

fn compare_bytes(expected: &Path, actual: &Path, path: &Path) -> Option<String> {
    let at = first_difference(&expected.join(path), &actual.join(path))?;
    let around = |root: &Path| {
        let bytes = fs::read(root.join(path)).unwrap_or_default();
        let from = (at as usize).saturating_sub(8);
        String::from_utf8_lossy(&bytes[from.min(bytes.len())..bytes.len().min(from + 32)])
            .into_owned()
    };
    let (wanted, found) = (around(expected), around(actual));
    Some(format!(
        "{path:?} differs at byte {at}: {found:?}, expected {wanted:?}"
    ))
}

/// Where two files first differ; `None` when they are the same.
pub fn first_difference(left: &Path, right: &Path) -> Option<u64> {
    let mut left = open(left);
    let mut right = open(right);
    let mut blocks = (vec![0; 256 << 10], vec![0; 256 << 10]);
    let mut offset = 0;
    loop {
        let count = read_block(&mut left, &mut blocks.0);
        let other = read_block(&mut right, &mut blocks.1);
        let (a, b) = (&blocks.0[..count], &blocks.1[..other]);
        if a != b {
            let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
            return Some(offset + same as u64);
        }
        if count == 0 {
            return None;
        }
        offset += count as u64;
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_block(file: &mut File, block: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => panic!("read: {e}"),
        }
    }
    filled
}
