//! How much a clone or a fetch brings onto the disk, looked at while it runs.
use crate::limits;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A directory that may grow, and by how much.
#[derive(Clone, Debug)]
pub(super) struct Growth {
    /// It need not be there yet.
    pub dir: PathBuf,
    pub limit_bytes: u64,
}

/// Why a command has to end.
pub(super) struct Over {
    pub limit_bytes: u64,
    /// What cannot be measured.
    pub error: Option<(PathBuf, io::Error)>,
}

/// Ready when the directory has grown by more than it may; never without one.
pub(super) async fn over(growth: Option<Growth>) -> Over {
    let Some(Growth { dir, limit_bytes }) = growth else {
        return std::future::pending().await;
    };
    let mut first_bytes = None;
    loop {
        let (began, path) = (Instant::now(), dir.clone());
        let measured = tokio::task::spawn_blocking(move || disk_bytes(&path)).await;
        let bytes = match measured.unwrap_or_else(|panic| Err(io::Error::other(panic))) {
            Ok(bytes) => bytes,
            Err(source) => {
                let error = Some((dir, source));
                return Over { limit_bytes, error };
            }
        };
        let first_bytes = *first_bytes.get_or_insert(bytes);
        if bytes.saturating_sub(first_bytes) > limit_bytes {
            let error = None;
            return Over { limit_bytes, error };
        }
        // Looking takes a small part of the time, however much there is to look at.
        let pause = Duration::from_millis(limits::GROWTH_LOOK_MS);
        tokio::time::sleep(pause.max(began.elapsed() * 10)).await;
    }
}

/// What everything below a directory takes on the disk. What is not there, or goes meanwhile,
/// takes nothing.
fn disk_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0_u64;
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => dirs.push(entry.path()),
                // A block is 512 bytes, whatever the file system's are.
                Ok(found) => bytes = bytes.saturating_add(found.len().max(found.blocks() * 512)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(bytes)
}
