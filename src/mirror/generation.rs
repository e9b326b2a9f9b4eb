//! The generation of a mirror: nothing that has expired up to then, at whatever server, is in its packs. The head of the
//! object store that servers share has one, too (see [`crate::store::remote`]).
//!
//! A file of one line in the mirror's directory. A mirror without it has the first.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::error::MirrorError;
use crate::limits::NOTED_GENERATION_BYTES_MAX;

/// The file's name.
const NAME: &str = "tarpon-generation";

/// See the module's text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Generation {
    /// The number.
    pub number: u64,
    /// Which raise that was; 0 before the first.
    pub raise: u128,
}

fn path(mirror: &Path) -> PathBuf {
    mirror.join(NAME)
}

impl Generation {
    /// That of a mirror. May wait for the disk.
    ///
    /// # Errors
    /// The file cannot be read. One that says something else says nothing.
    pub(crate) fn read(mirror: &Path) -> Result<Generation, MirrorError> {
        let path = path(mirror);
        let mut text = String::new();
        let read = File::open(&path).and_then(|file| {
            let mut file = file.take(NOTED_GENERATION_BYTES_MAX);
            file.read_to_string(&mut text)
        });
        match read {
            Ok(_) => Ok(Generation::parse(&text).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Generation::default()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Generation::default()),
            Err(source) => Err(MirrorError::io("read", &path, source)),
        }
    }

    fn parse(text: &str) -> Option<Generation> {
        let mut words = text.strip_suffix('\n')?.split(' ');
        let number = words.next()?.parse().ok()?;
        let raise = u128::from_str_radix(words.next()?, 16).ok()?;
        let is_whole = words.next().is_none();
        is_whole.then_some(Generation { number, raise })
    }

    /// Notes it, so that it lasts.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(self, mirror: &Path) -> Result<(), MirrorError> {
        let path = path(mirror);
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .prefix("tmp_generation_")
                .tempfile_in(mirror)?;
            writeln!(file, "{} {:032x}", self.number, self.raise)?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(mirror)?.sync_all()
        };
        write().map_err(|source| MirrorError::io("write", &path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Generation::read(dir.path()).unwrap();
        assert_eq!(read(), Generation::default());
        for (number, raise) in [(7, 1), (8, 2), (0, 0), (u64::MAX, u128::MAX)] {
            let generation = Generation { number, raise };
            generation.write(dir.path()).unwrap();
            assert_eq!(read(), generation);
        }
        for torn in ["", "7", "7 1", "7\n", "x 1\n", "7 1 2\n"] {
            std::fs::write(path(dir.path()), torn).unwrap();
            assert_eq!(read(), Generation::default(), "{torn:?}");
        }
        std::fs::write(path(dir.path()), [0xff; 300]).unwrap();
        assert_eq!(read(), Generation::default());
    }
}
