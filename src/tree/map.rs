//! Files in memory: the one place where packs are mapped, and what is too large to be held.

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

    /// Maps all of a file that is written meanwhile, and has its length.
    pub(crate) fn coming(file: &File) -> io::Result<MappedFile> {
        // SAFETY: as above, but that it is written: once, and nobody looks at what is not there yet
        // ([`super::frontier`]).
        let map = unsafe { Mmap::map(file)? };
        Ok(MappedFile { map })
    }

    /// Maps all of a file that has no name, and that nobody writes any more.
    pub(crate) fn nameless(file: &File) -> io::Result<MappedFile> {
        // SAFETY: as above. Without a name nobody else gets at it, and who has made it is done.
        let map = unsafe { Mmap::map(file)? };
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
