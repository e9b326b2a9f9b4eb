//! Where the files of a target are while it looks at an input.

use std::fs;
use std::path::PathBuf;

/// A directory of this process; in memory where there is such a place.
pub fn directory(target: &str) -> PathBuf {
    let above = match fs::metadata("/dev/shm") {
        Ok(_) => PathBuf::from("/dev/shm"),
        Err(_) => std::env::temp_dir(),
    };
    let place = above.join(format!("tarpon-fuzz-{target}-{}", std::process::id()));
    fs::create_dir_all(&place).expect("a place for files");
    place
}
