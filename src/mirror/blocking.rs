//! Work on files that the background thread must not wait for.

use std::path::Path;

use super::error::MirrorError;

/// Runs file system work that may take long away from the background thread. `path` is what
/// it works on.
pub(super) async fn blocking<T, F>(path: &Path, work: F) -> Result<T, MirrorError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, MirrorError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => Err(MirrorError::io(
            "work on",
            path,
            std::io::Error::other(panic),
        )),
    }
}
