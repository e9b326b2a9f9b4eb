//! Where a part goes that is fetched: into a directory, or into a seed and, if it is of a pack, from there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use xxhash_rust::xxh64::Xxh64;

use super::error::{RestoreError, failed};
use super::seed::{Incoming, Seed};
use super::stop::Stop;
use crate::limits::STREAM_READ_BYTES;
use crate::manifest::parts::{Manifest, Part};

/// Of packs and their companions, wherever they lie.
const SEALED: u32 = 0o444;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Landing<'f> {
    file: Arc<File>,
    /// Where it is until it is whole and right, or the seed that it is in.
    path: PathBuf,
    seed: Option<InSeed<'f>>,
}

#[derive(Debug)]
struct InSeed<'f> {
    seed: &'f Seed<'f>,
    /// Until it is kept.
    incoming: Mutex<Option<Incoming>>,
    /// Whether the restore can do without it.
    is_spare: bool,
}

impl<'f> Landing<'f> {
    /// In the directory, under another name than it has there in the end.
    pub(super) fn in_directory(dir: &Path, part: &Part) -> Result<Landing<'f>, RestoreError> {
        let path = dir.join(format!(".{}", part.name));
        Ok(Landing {
            file: Arc::new(create(&path)?),
            path,
            seed: None,
        })
    }

    /// In the seed, if it is to be kept there.
    pub(super) fn in_seed(
        seed: &'f Seed<'f>,
        manifest: &Manifest,
        number: usize,
    ) -> Option<Landing<'f>> {
        let incoming = seed.begin(manifest, number)?;
        Some(Landing {
            file: incoming.file().clone(),
            path: seed.path().to_owned(),
            seed: Some(InSeed {
                seed,
                incoming: Mutex::new(Some(incoming)),
                is_spare: !manifest.parts[number].is_of_pack(),
            }),
        })
    }

    /// Gives it its length.
    pub(super) fn extend(&self, bytes: u64) -> Result<(), RestoreError> {
        let extended = self.file.set_len(bytes);
        extended.map_err(failed("extend", &self.path))
    }

    /// XXH64 of all of it.
    pub(super) fn sum(&self) -> Result<u64, RestoreError> {
        sum(&self.file).map_err(failed("read", &self.path))
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the restore can do without it: it is for the next one.
    pub(super) fn is_spare(&self) -> bool {
        self.seed.as_ref().is_some_and(|seed| seed.is_spare)
    }

    /// Writes what came. What cannot be written and is for the next restore alone is not kept in the end.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Result<(), RestoreError> {
        match (self.file.write_all_at(bytes, at), &self.seed) {
            (Err(e), Some(to)) if to.is_spare => {
                to.seed.close(&e);
                Ok(())
            }
            (written, _) => written.map_err(failed("write", &self.path)),
        }
    }

    /// Gives it its name, and its place in the directory: it is whole and right.
    pub(super) fn finish(&self, part: &Part, dir: &Path, stop: &Stop) -> Result<(), RestoreError> {
        let Some(to) = &self.seed else {
            let sealed = self.file.set_permissions(PermissionsExt::from_mode(SEALED));
            sealed.map_err(failed("seal", &self.path))?;
            let named = fs::rename(&self.path, dir.join(&part.name));
            return named.map_err(failed("name", &self.path));
        };
        let mut incoming = to.incoming.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(incoming) = incoming.take() {
            to.seed.keep(incoming);
        }
        match to.is_spare {
            true => Ok(()),
            false => place(to.seed, &self.file, part, dir, stop),
        }
    }
}

/// Gives a file of a seed its place in a directory.
pub(super) fn place(
    seed: &Seed<'_>,
    file: &File,
    part: &Part,
    dir: &Path,
    stop: &Stop,
) -> Result<(), RestoreError> {
    let directory = File::open(dir).map_err(failed("open", dir))?;
    let to = (directory.as_fd(), &*part.name);
    let placed = seed.place(file, to, rustix::fs::Mode::from_raw_mode(SEALED), stop);
    placed.map_err(failed("write", &dir.join(&part.name)))
}

/// A new file in the place of what an earlier run has left there.
fn create(path: &Path) -> Result<File, RestoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(e)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(failed("create", path))
}

/// XXH64 of a whole file.
fn sum(file: &File) -> io::Result<u64> {
    let (mut sum, mut at) = (Xxh64::new(0), 0);
    let mut buffer = vec![0; STREAM_READ_BYTES];
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(sum.digest()),
            got => {
                sum.update(&buffer[..got]);
                at += got as u64;
            }
        }
    }
}
