//! What is above a target and was made for it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::limits::STAGING_TRIES_MAX;

/// The directories that were made for a target; those that are empty in the end go.
#[derive(Default)]
pub(super) struct Parents(Vec<PathBuf>);

impl Parents {
    /// Does something in `parent`, which is made for that, with what is above it; again where another restore takes away
    /// meanwhile what it has made of that for itself.
    pub(super) fn with<T>(
        &mut self,
        parent: &Path,
        does: impl Fn(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let is_missing = |path: &&Path| fs::symlink_metadata(path).is_err();
        let is_gone = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
            )
        };
        let mut again = 1..STAGING_TRIES_MAX;
        loop {
            let missing = parent.ancestors().take_while(is_missing);
            // Also of what could not be made to its end nothing stays.
            self.0.splice(0..0, missing.map(Path::to_owned));
            match fs::create_dir_all(parent).and_then(|()| does(parent)) {
                Err(e) if is_gone(&e) && again.next().is_some() => {}
                done => return done,
            }
        }
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_dir(path);
        }
    }
}
