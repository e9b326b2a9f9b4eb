//! Directories that threads remove, because unlinking gigabytes takes longer than the background
//! thread may wait.
use crate::io::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The removals that run. Cheap to clone; all clones are of the same ones.
#[derive(Clone, Debug, Default)]
pub struct Removals {
    running: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Removals {
    /// Has `path` removed with all that is in it.
    pub(crate) fn start(&self, path: PathBuf) {
        let removing = std::thread::Builder::new().name("staging-remove".to_owned());
        let removing = removing.spawn(move || {
            if let Err(error) = fs::remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unfinished clone");
            }
        });
        match removing {
            Ok(thread) => {
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.retain(|thread| !thread.is_finished());
                running.push(thread);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread that removes an unfinished clone");
            }
        }
    }

    /// Waits for all that were started: a thread ends with the process, whatever it is doing.
    pub fn wait(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let threads = std::mem::take(&mut *running);
        drop(running);
        for thread in threads {
            // Its panics were printed.
            let _ = thread.join();
        }
    }
}
