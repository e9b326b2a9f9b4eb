//! Running `tarpon restore`.

use super::git;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

/// `tarpon restore` from `server` with what is given, not yet started.
pub fn command(
    binary: &str,
    server: SocketAddr,
    repository: &str,
    into: &Path,
    more: &[&str],
) -> Command {
    let mut command = git::with_umask(binary);
    git::isolate(&mut command);
    command
        .args(["restore", repository])
        .arg(into)
        .args(["--server", &format!("http://{server}")])
        .args(more);
    command
}

/// Whether a request asks for an archive, or takes it where it asks for a manifest.
pub fn asks_for_archive(asked: &str) -> bool {
    let ends = ["/snapshot.tar.zst", "/manifest"];
    let target = asked.split(' ').nth(1).unwrap_or(asked);
    ends.iter().any(|end| target.contains(end))
}

/// Panics unless the exit code is `code`; gives standard error.
#[track_caller]
pub fn expect(output: &Output, code: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    errors
}
