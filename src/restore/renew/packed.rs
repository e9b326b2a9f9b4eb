//! `packed-refs` of a working copy, of which the branches go before all else does.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use crate::limits::{OLD_LOOSE_REFS_BYTES_MAX, OLD_PACKED_REFS_BYTES_MAX, PACKED_LINE_BYTES_MAX};
use crate::refs;
use crate::restore::error::{RestoreError, failed};
use crate::restore::steps;

const BRANCHES: &[u8] = b"refs/heads/";

/// Writes what the `packed-refs` of the repository at `git_dir` has besides branches to the file at `to`, and names each of
/// them to `each` before; without any there is nothing to be written.
pub(super) fn without_branches(
    git_dir: &Path,
    to: &Path,
    mut each: impl FnMut(&[u8]) -> Result<(), RestoreError>,
) -> Result<(), RestoreError> {
    let path = git_dir.join("packed-refs");
    let unread = |why: String| RestoreError::Usage(format!("{}: {why}", path.display()));
    let mut names_bytes = 0;
    let named = refs::each_packed(git_dir, OLD_PACKED_REFS_BYTES_MAX, |name, _| {
        if !name.starts_with(BRANCHES) {
            return Ok(());
        }
        names_bytes += name.len() as u64;
        match names_bytes > OLD_LOOSE_REFS_BYTES_MAX {
            true => Err(Stopped::Refused(unread("it has too many branches".into()))),
            false => each(name).map_err(Stopped::Refused),
        }
    });
    named.map_err(|stopped| match stopped {
        Stopped::Refused(error) => error,
        Stopped::Unread(e) => unread(e.to_string()),
    })?;
    if names_bytes == 0 {
        return Ok(());
    }
    let old = File::open(&path).map_err(failed("open", &path))?;
    let mut old = BufReader::new(old);
    let mut new = BufWriter::new(steps::create(to).map_err(failed("create", to))?);
    let (mut line, mut is_branch) = (Vec::new(), false);
    loop {
        line.clear();
        let limited = &mut std::io::Read::take(&mut old, PACKED_LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut line);
        if read.map_err(failed("read", &path))? == 0 {
            break;
        }
        let name = line
            .iter()
            .position(|b| *b == b' ')
            .map(|at| &line[at + 1..]);
        // What a tag leads to stands behind it.
        is_branch = match line[0] {
            b'^' => is_branch,
            _ => name.is_some_and(|name| name.starts_with(BRANCHES)),
        };
        if !is_branch {
            new.write_all(&line).map_err(failed("write", to))?;
        }
    }
    new.flush().map_err(failed("write", to))?;
    let kept = fs::metadata(&path).and_then(|old| steps::set_permissions(to, old.permissions()));
    kept.map_err(failed("set the mode of", to))
}

/// Why not all of them were named.
enum Stopped {
    Refused(RestoreError),
    Unread(refs::RefsError),
}

impl From<refs::RefsError> for Stopped {
    fn from(e: refs::RefsError) -> Stopped {
        Stopped::Unread(e)
    }
}
