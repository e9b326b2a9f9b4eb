//! Looking for processes.

use super::wait;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may take to end what is left of a killed parent.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Command lines of the processes that have `text` in theirs or in their environment (where
/// `git` names its repository to its helpers).
pub fn with(text: &str) -> Vec<String> {
    let listing = fs::read_dir("/proc").unwrap_or_else(|e| panic!("/proc: {e}"));
    let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let mut found = Vec::new();
    for entry in listing.flatten() {
        // Most likely no process, or one that has just ended.
        let Ok(line) = read(entry.path().join("cmdline")) else {
            continue;
        };
        let environment = read(entry.path().join("environ")).unwrap_or_default();
        if line.contains(text) || environment.contains(text) {
            found.push(line.replace('\0', " "));
        }
    }
    found
}

/// The ids of the processes that have all of `words` in their command lines.
pub fn ids(words: &[&str]) -> Vec<i32> {
    let listing = fs::read_dir("/proc").unwrap_or_else(|e| panic!("/proc: {e}"));
    let is_it = |entry: &fs::DirEntry| {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        words.iter().all(|word| line.contains(word))
    };
    let found = listing.flatten().filter(is_it);
    let id = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    found.filter_map(id).collect()
}

/// What the processes that have `text` in their command line have open, and their command lines.
pub fn open_files(text: &str) -> Vec<(Vec<String>, String)> {
    let listing = fs::read_dir("/proc").unwrap_or_else(|e| panic!("/proc: {e}"));
    let mut found = Vec::new();
    for entry in listing.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if !line.contains(text) {
            continue;
        }
        let descriptors = fs::read_dir(entry.path().join("fd")).into_iter().flatten();
        let links = descriptors
            .flatten()
            .filter_map(|fd| fs::read_link(fd.path()).ok());
        let links = links.map(|to| to.to_string_lossy().into_owned());
        found.push((links.collect(), line));
    }
    found
}

/// Command lines of the processes whose working directory is `directory` or below it.
pub fn inside(directory: &Path) -> Vec<String> {
    let listing = fs::read_dir("/proc").unwrap_or_else(|e| panic!("/proc: {e}"));
    let mut found = Vec::new();
    for entry in listing.flatten() {
        let works_in = fs::read_link(entry.path().join("cwd"));
        if works_in.is_ok_and(|path| path.starts_with(directory)) {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(String::from_utf8_lossy(&line).replace('\0', " "));
        }
    }
    found
}

/// Panics unless the processes that `look` finds soon end.
#[track_caller]
pub fn expect_ended(context: &str, look: impl Fn() -> Vec<String>) {
    let start = Instant::now();
    loop {
        let left = look();
        if left.is_empty() {
            return;
        }
        assert!(
            start.elapsed() < END_LIMIT,
            "{context}: still there: {left:#?}"
        );
        std::thread::sleep(wait::POLL);
    }
}
