//! What a snapshot takes over from an earlier one: frames of its worktree, and the checksums of packs that
//! are still the same files.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh64::Xxh64;

use super::verify::FileId;
use crate::extent::{Extent, Layout, raw_frames};
use crate::limits::FRAME_TAR_BYTES;
use crate::manifest::record::{Linked, Record};

/// Frames of an earlier snapshot of the repository.
pub struct Reuse {
    /// Its spool file.
    pub spool: File,
    /// Its records by key.
    pub records: HashMap<[u8; 32], Record>,
    /// The checksums of its packs.
    pub sums: Sums,
}

/// The checksums of the frames of files that an earlier snapshot has linked. They hold for the same file
/// alone, by its device, inode, length and date, which its link keeps from being given to another; that it is
/// sound is checked as for any build (see [`super::verify`]).
#[derive(Debug, Default)]
pub struct Sums(HashMap<FileId, Vec<u32>>);

impl Sums {
    /// Those of an archive of this layout, whose linked files are below `dir`.
    pub fn of(dir: &Path, linked: &[Linked], layout: &Layout) -> Sums {
        let mut sums = HashMap::new();
        for extent in layout.extents() {
            let Extent::RawRun {
                file,
                offset: 0,
                len,
                first_checksum,
            } = *extent
            else {
                continue;
            };
            let linked = linked.get(file as usize).filter(|l| l.bytes == len);
            // Without them a build only takes longer.
            if let Some(linked) = linked
                && let Ok(found) = std::fs::metadata(dir.join(&linked.path))
                && found.len() == len
            {
                let own = &layout.checksums()[first_checksum as usize..];
                let own = own[..raw_frames(len) as usize].to_vec();
                sums.insert(FileId::of(&found), own);
            }
        }
        Sums(sums)
    }

    /// Those of this file, if they are known.
    pub(super) fn find(&self, file: &Metadata) -> Option<&[u32]> {
        self.0.get(&FileId::of(file)).map(Vec::as_slice)
    }
}

impl Reuse {
    /// Reads the frames of a record and compares them with its checksum.
    pub(super) fn check(&self, record: &Record) -> std::io::Result<()> {
        let mut checksum = Xxh64::new(0);
        let mut buffer = vec![0; record.spool_bytes.min(FRAME_TAR_BYTES as u64) as usize];
        let mut at = 0;
        while at < record.spool_bytes {
            let len = (record.spool_bytes - at).min(buffer.len() as u64);
            let part = &mut buffer[..len as usize];
            self.spool.read_exact_at(part, record.spool_offset + at)?;
            checksum.update(part);
            at += len;
        }
        match checksum.digest() == record.checksum {
            true => Ok(()),
            false => Err(std::io::Error::other(format!(
                "{} bytes at {} of its spool file are damaged",
                record.spool_bytes, record.spool_offset
            ))),
        }
    }
}
