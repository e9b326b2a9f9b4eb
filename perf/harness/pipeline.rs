//! What tarpon replaces: `git clone MIRROR DIR && tar -C DIR -cf - . | pzstd -p4`.

use super::probe::{Manners, Reader};
use super::record::Measured;
use super::site::remove_tree;
use super::support::client::End;
use super::support::git;
use super::usage::{ChildMeter, Usage};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// Runs it once; its output is decoded for the first byte and counted. `directory` is where the
/// clone goes, and is removed afterwards.
pub fn run(mirror: &Path, directory: &Path, threads: u32) -> (Measured, Usage) {
    let script =
        format!("git clone -q \"$0\" \"$1\" && tar -C \"$1\" -cf - . | pzstd -q -p {threads} -c -");
    let out = stream(&script, mirror, directory);
    remove_tree(directory);
    out
}

/// Bytes of the worktree alone (without `.git`) as `zstd -1` compresses its tar.
pub fn compressed_worktree_bytes(mirror: &Path, directory: &Path) -> u64 {
    let script =
        "git clone -q \"$0\" \"$1\" && tar -C \"$1\" --exclude=./.git -cf - . | zstd -q -1";
    let (measured, _) = stream(script, mirror, directory);
    remove_tree(directory);
    measured.bytes
}

/// Runs a bash script that writes zstd frames.
fn stream(script: &str, mirror: &Path, directory: &Path) -> (Measured, Usage) {
    let mut command = git::with_umask("bash");
    command.args(["-o", "pipefail", "-c", script]);
    git::isolate(&mut command).arg(mirror).arg(directory);
    let started = Instant::now();
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("bash does not start: {e}"));
    let mut stdout = child.stdout.take().unwrap_or_else(|| panic!("no stdout"));
    let meter = ChildMeter::new(child);
    let mut reader = Reader::new(started, Manners::EAGER);
    let end = reader.read(&mut |block| stdout.read(block), &mut |_| true);
    let end = end.unwrap_or_else(|e| panic!("the pipeline's output: {e}"));
    let total = started.elapsed();
    let (status, usage) = meter.finish();
    assert!(
        status.success() && end == Some(End::Complete),
        "{script}: {status}"
    );
    let measured = Measured {
        first: reader.first,
        total,
        bytes: reader.bytes,
    };
    (measured, usage)
}
