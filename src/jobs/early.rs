//! Notes, for the next process, of which answers began before their archives.

use std::rc::Rc;

use tokio::task::spawn_blocking;

use super::state::Jobs;
use crate::store::early::Noted;

impl Jobs {
    /// Notes it; it is on the disk then, unless that cannot be: an answer begins all the same.
    pub(crate) async fn note_early(self: Rc<Self>, noted: Noted) {
        // The semaphore is never closed, so this only waits.
        let _turn = self.semaphores.notes.acquire().await;
        let catalog = self.catalog.clone();
        match spawn_blocking(move || catalog.early.write(noted)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(
                "a server that is killed within the hour will not know of a preamble: {e}"
            ),
            Err(panic) => tracing::error!("a note of a preamble panicked: {panic}"),
        }
    }
}
