//! What a restore says that it has proven.

use serde::Serialize;

use crate::config::Verify;

/// What was proven, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Proven {
    pub proven: Vec<&'static str>,
    pub believed: Vec<&'static str>,
}

impl Proven {
    /// By what was asked for, where what is not tracked stays or not.
    pub(super) fn of(verify: Verify, is_alone: bool) -> Proven {
        let mut proven = vec!["packs", "commit", "trees", "files", "index"];
        let mut believed = vec!["refs"];
        match verify {
            Verify::Tree => believed.push("history"),
            Verify::Full => proven.push("history"),
        }
        if is_alone {
            proven.push("nothing else");
        }
        Proven { proven, believed }
    }
}
