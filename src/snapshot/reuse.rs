//! Frames of an earlier snapshot, for those that come after it.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh64::Xxh64;

use crate::limits::FRAME_TAR_BYTES;
use crate::manifest::record::Record;

/// Frames of an earlier snapshot of the repository.
pub struct Reuse {
    /// Its spool file.
    pub spool: File,
    /// Its records by key.
    pub records: HashMap<[u8; 32], Record>,
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
