//! What a restore says that it has proven.

use serde::Serialize;

/// What was proven, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Proven {
    pub proven: Vec<&'static str>,
    pub believed: Vec<&'static str>,
}
