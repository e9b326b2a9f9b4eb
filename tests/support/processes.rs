//! Looking for processes.

use std::fs;

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
