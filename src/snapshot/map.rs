//! Files in memory: the one place where linked packs are mapped.

#![allow(unsafe_code)] // Mapping a file is unsafe; the contract stands at the call.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::{Advice, Mmap};

/// A mapped, immutable file.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps the whole of `path`.
    pub fn open(path: &Path) -> io::Result<MappedFile> {
        MappedFile::of(&File::open(path)?)
    }

    /// Maps the whole of `file` as long as it is now.
    pub fn of(file: &File) -> io::Result<MappedFile> {
        // SAFETY: what is mapped must not be truncated or changed while it is mapped. Linked packs
        // are immutable: git writes a pack once under its final content's name and only ever
        // unlinks it, and nothing here writes to a linked file. A spool file only grows, and
        // nothing of it is mapped before it was written.
        let map = unsafe { Mmap::map(file)? };
        Ok(MappedFile { map })
    }

    /// The file's bytes. Reading them may wait for the disk.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Brings a range of the file into memory and waits until it is there, without copying it.
    /// `false` if the kernel does not know how to (before Linux 5.14).
    pub fn populate(&self, range: Range<usize>) -> io::Result<bool> {
        let len = range.len();
        match self
            .map
            .advise_range(Advice::PopulateRead, range.start, len)
        {
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            other => other.map(|()| true),
        }
    }
}
