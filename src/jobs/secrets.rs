//! The file of the secrets of webhooks, from one change of it to the next.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;

use super::state::Jobs;
use crate::config::Secrets;
use crate::limits::SECRETS_LOOK_MS;

impl Jobs {
    /// Reads the file of the secrets anew when it changes. What is wrong with it is said, and those that were
    /// known stay.
    pub(super) async fn keep_secrets(self: Rc<Self>) {
        let Some(path) = self.config.webhook_secrets.clone() else {
            return;
        };
        let mut seen = stamp(path.clone()).await;
        loop {
            tokio::time::sleep(Duration::from_millis(SECRETS_LOOK_MS)).await;
            let now = stamp(path.clone()).await;
            if now == seen {
                continue;
            }
            seen = now;
            let (from, config) = (path.clone(), self.config.clone());
            let read = spawn_blocking(move || Secrets::read(&from, &config.upstreams));
            match read.await {
                Ok(Ok(secrets)) => {
                    let count = secrets.of(None).count();
                    tracing::info!(path = %path.display(), count, "secrets of webhooks read anew");
                    self.secrets.store(Arc::new(secrets));
                }
                Ok(Err(e)) => {
                    tracing::error!(path = %path.display(), "secrets of webhooks stay as they are: {e}");
                }
                Err(panic) => tracing::error!("reading secrets panicked: {panic}"),
            }
        }
    }
}

/// What differs when a file is another one, or has other content.
async fn stamp(path: impl AsRef<Path> + Send + 'static) -> Option<(SystemTime, u64, u64)> {
    let look = spawn_blocking(move || {
        let found = std::fs::metadata(path.as_ref()).ok()?;
        let inode = std::os::unix::fs::MetadataExt::ino(&found);
        Some((found.modified().ok()?, found.len(), inode))
    });
    look.await.ok().flatten()
}
