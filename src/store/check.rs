//! Whether an entry on the disk is what was published there.

use std::io;
use std::path::Path;

use xxhash_rust::xxh64::Xxh64;

use crate::extent::{Extent, RAW_FRAME_BYTES, low_checksum};
use crate::io::uncached::{Pace, ReadExactAt, Uncached};
use crate::limits::{META_BYTES_MAX, SCRUB_READ_BYTES};
use crate::manifest::id::EntryId;
use crate::manifest::meta::{META_NAME, Meta};
use crate::manifest::record::Linked;

/// What is the matter with an entry.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It is not what was published: no byte of it may be sent any more.
    #[error("{file} is damaged: {what}")]
    Damaged {
        file: String,
        what: String,
        /// The file is a pack of the mirror's as well.
        is_linked: bool,
    },
    /// It could not be looked at.
    #[error("cannot read {file}: {source}")]
    Unreadable { file: String, source: io::Error },
    /// Somebody has removed it meanwhile.
    #[error("it is not there any more")]
    Gone,
    /// The look was ended.
    #[error("stopped")]
    Stopped,
}

/// Whether the disk itself cannot give back what was written to it.
pub(crate) fn is_rot(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::EIO | libc::EBADMSG | libc::EUCLEAN))
        || error.kind() == io::ErrorKind::UnexpectedEof
}

/// Reads all of the entry `id` in `dir` from the disk, and compares it with its own checksums: its
/// metadata, its spool file, files of frames, and each frame of its packs.
pub(crate) fn check_entry(dir: &Path, id: EntryId, pace: &Pace) -> Result<(), Fault> {
    let meta = check_meta(dir, id, pace)?;
    check_frames(
        dir,
        &meta.spool,
        meta.spool_bytes(),
        meta.spool_checksum,
        pace,
    )?;
    for (number, linked) in meta.linked.iter().enumerate() {
        match linked.whole {
            Some(whole) => check_frames(dir, &linked.path, linked.bytes, whole, pace)?,
            None => check_linked(dir, &meta, number as u32, linked, pace)?,
        }
    }
    Ok(())
}

/// A file of the entry that is being looked at.
struct Looked<'a> {
    name: &'a str,
    is_linked: bool,
    pace: &'a Pace,
}

impl Looked<'_> {
    fn open(&self, path: &Path) -> Result<(Uncached<'_>, u64), Fault> {
        let opened = Uncached::open(path, self.pace);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|source| self.failed(source))?;
        Ok((file, bytes))
    }

    fn failed(&self, source: io::Error) -> Fault {
        if self.pace.is_over() {
            return Fault::Stopped;
        }
        match source.kind() {
            io::ErrorKind::NotFound => Fault::Gone,
            _ if is_rot(&source) => self.damaged(source.to_string()),
            _ => Fault::Unreadable {
                file: self.name.to_owned(),
                source,
            },
        }
    }

    fn damaged(&self, what: String) -> Fault {
        Fault::Damaged {
            file: self.name.to_owned(),
            what,
            is_linked: self.is_linked,
        }
    }

    fn has_length(&self, found: u64, expected: u64) -> Result<(), Fault> {
        match found == expected {
            true => Ok(()),
            false => Err(self.damaged(format!("it has {found} bytes instead of {expected}"))),
        }
    }
}

fn check_meta(dir: &Path, id: EntryId, pace: &Pace) -> Result<Meta, Fault> {
    let looked = Looked {
        name: META_NAME,
        is_linked: false,
        pace,
    };
    let (file, bytes) = looked.open(&dir.join(META_NAME))?;
    if bytes > META_BYTES_MAX {
        return Err(looked.damaged(format!("it has {bytes} bytes")));
    }
    let mut found = vec![0; bytes as usize];
    let read = file.read_exact_at(&mut found, 0);
    read.map_err(|source| looked.failed(source))?;
    match Meta::decode(&found) {
        Ok(meta) if meta.id == id => Ok(meta),
        Ok(meta) => Err(looked.damaged(format!("it is that of {}", meta.id))),
        Err(error) => Err(looked.damaged(error.to_string())),
    }
}

/// Checks a file of frames: the entry's own, or one that it links.
fn check_frames(
    dir: &Path,
    name: &str,
    expected_bytes: u64,
    expected: u64,
    pace: &Pace,
) -> Result<(), Fault> {
    let looked = Looked {
        name,
        is_linked: false,
        pace,
    };
    let (file, bytes) = looked.open(&dir.join(name))?;
    looked.has_length(bytes, expected_bytes)?;
    let mut checksum = Xxh64::new(0);
    let read = file.read_parts(0..bytes, SCRUB_READ_BYTES, |part| checksum.update(part));
    read.map_err(|source| looked.failed(source))?;
    match checksum.digest() == expected {
        true => Ok(()),
        false => Err(looked.damaged("its checksum is another".into())),
    }
}

fn check_linked(
    dir: &Path,
    meta: &Meta,
    number: u32,
    linked: &Linked,
    pace: &Pace,
) -> Result<(), Fault> {
    let looked = Looked {
        name: &linked.path,
        is_linked: true,
        pace,
    };
    let (file, bytes) = looked.open(&dir.join(&linked.path))?;
    looked.has_length(bytes, linked.bytes)?;
    let checksums = meta.layout.checksums();
    for extent in meta.layout.extents() {
        let Extent::RawRun {
            file: of,
            offset,
            len,
            first_checksum,
        } = *extent
        else {
            continue;
        };
        if of != number {
            continue;
        }
        let mut at = offset;
        for expected in &checksums[first_checksum as usize..] {
            if at >= offset + len {
                break;
            }
            let end = (offset + len).min(at + RAW_FRAME_BYTES);
            let mut checksum = Xxh64::new(0);
            let read = file.read_parts(at..end, SCRUB_READ_BYTES, |part| checksum.update(part));
            read.map_err(|source| looked.failed(source))?;
            if low_checksum(checksum.digest()) != *expected {
                return Err(looked.damaged(format!("bytes {at} to {end} have changed")));
            }
            at = end;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
