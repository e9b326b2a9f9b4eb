//! Small files of a mirror, read within bounds.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

use super::error::RefsError;

/// The bytes of a file, and what is known of it; `None` when there is none.
pub(super) fn read_file(path: &Path, limit: u64) -> Result<Option<(Vec<u8>, Metadata)>, RefsError> {
    let fail = |source| RefsError::Io {
        path: path.to_owned(),
        source,
    };
    // What is no file but a pipe is not waited for.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let found = file.metadata().map_err(fail)?;
    let mut bytes = Vec::with_capacity(usize::try_from(found.len().min(limit)).unwrap_or_default());
    let read = file.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    if read as u64 > limit {
        return Err(RefsError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(Some((bytes, found)))
}
