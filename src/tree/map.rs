//! Files in memory: the one place where linked packs are mapped.

#![allow(unsafe_code)] // Mapping a file is unsafe; the contract stands at the call.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

/// A mapped, immutable file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole of `path` as long as it is now.
    pub(crate) fn open(path: &Path) -> io::Result<MappedFile> {
        let file = File::open(path)?;
        // SAFETY: what is mapped must not be truncated or changed while it is mapped. Linked packs
        // are immutable: git writes a pack once under its final content's name and only ever
        // unlinks it, and nothing here writes to a linked file.
        let map = unsafe { Mmap::map(&file)? };
        Ok(MappedFile { map })
    }
}

/// The file's bytes. Reading them may wait for the disk.
impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
