//! Loose refs and HEAD.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};

use super::error::RefsError;
use super::file::read_file;
use super::list::Head;
use super::name::check_name;
use crate::limits;

/// About what a loose ref costs besides its name: an id, at least.
const LOOSE_BYTES: usize = 64;

/// What a loose ref file says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Loose {
    Direct(ObjectId),
    Symbolic(BString),
}

/// Reads HEAD, and nothing that it leads to.
pub(crate) fn read_head(mirror: &Path) -> Result<Head, RefsError> {
    let path = mirror.join("HEAD");
    let (bytes, _) =
        read_file(&path, limits::LOOSE_REF_BYTES_MAX)?.ok_or_else(|| RefsError::Io {
            path: path.clone(),
            source: io::ErrorKind::NotFound.into(),
        })?;
    Ok(match parse_loose(&path, &bytes)? {
        Loose::Direct(id) => Head::Detached(id),
        Loose::Symbolic(name) => Head::Symbolic(name),
    })
}

/// Reads the loose ref at `path`, if one is there.
pub(crate) fn read_loose_at(path: &Path) -> Result<Option<Loose>, RefsError> {
    let read = read_file(path, limits::LOOSE_REF_BYTES_MAX)?;
    read.map(|(bytes, _)| parse_loose(path, &bytes)).transpose()
}

/// Reads every loose ref under `refs/`.
pub(crate) fn read_loose(mirror: &Path) -> Result<BTreeMap<BString, Loose>, RefsError> {
    read_loose_within(mirror, limits::PACKED_REFS_BYTES_MAX)
}

/// The same where they may have so many bytes together.
pub(crate) fn read_loose_within(
    mirror: &Path,
    bytes_max: u64,
) -> Result<BTreeMap<BString, Loose>, RefsError> {
    let mut found = BTreeMap::new();
    let mut found_bytes = 0;
    let mut pending = vec![BString::from("refs")];
    while let Some(folder) = pending.pop() {
        let path = mirror.join(folder.to_path_lossy());
        let fail = |source| RefsError::Io {
            path: path.clone(),
            source,
        };
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            // git removes folders that became empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fail(error)),
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let file_name = entry.file_name();
            // Lock files and what file managers leave are no refs.
            if file_name.as_bytes().starts_with(b".") || file_name.as_bytes().ends_with(b".lock") {
                continue;
            }
            let mut name = folder.clone();
            name.push(b'/');
            name.extend_from_slice(file_name.as_bytes());
            found_bytes += (name.len() + LOOSE_BYTES) as u64;
            if found_bytes > bytes_max {
                return Err(RefsError::TooLarge {
                    path: mirror.join("refs"),
                    limit: bytes_max,
                });
            }
            if entry.file_type().map_err(fail)?.is_dir() {
                pending.push(name);
                continue;
            }
            check_name(&entry.path(), 1, &name)?;
            if let Some((bytes, _)) = read_file(&entry.path(), limits::LOOSE_REF_BYTES_MAX)? {
                let loose = parse_loose(&entry.path(), &bytes)?;
                found.insert(name, loose);
            }
        }
    }
    Ok(found)
}

pub(super) fn parse_loose(path: &Path, bytes: &[u8]) -> Result<Loose, RefsError> {
    let malformed = |what| RefsError::Malformed {
        path: path.to_owned(),
        line: 1,
        what,
    };
    let text = bytes.trim_end();
    if let Some(name) = text.strip_prefix(b"ref:") {
        let name = name.trim_start();
        check_name(path, 1, name)?;
        return Ok(Loose::Symbolic(name.into()));
    }
    // git allows, and old versions wrote, more text after the id.
    let id = text
        .split(u8::is_ascii_whitespace)
        .next()
        .unwrap_or_default();
    ObjectId::from_hex(id)
        .map(Loose::Direct)
        .map_err(|_| malformed("no object id and no symbolic ref"))
}
