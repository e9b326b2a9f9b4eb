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

/// Panics unless the exit code is `code`; gives standard error.
#[track_caller]
pub fn expect(output: &Output, code: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    errors
}
