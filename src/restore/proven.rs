//! What a restore says that it has proven: what somebody says who has looked at it, and never what was asked for.

use serde::Serialize;

use super::{packs, worktree};

/// What was proven, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Proven {
    pub proven: Vec<&'static str>,
    pub believed: Vec<&'static str>,
}

/// What was looked at, each as who has looked says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    pub packs: packs::Right,
    /// `None` where nothing is checked out.
    pub files: Option<worktree::Proven>,
    /// If git has looked at all objects.
    pub history: Option<History>,
    /// If there is nothing but what the commit names.
    pub alone: Option<Alone>,
}

/// All that refs lead to was found.
#[derive(Debug, Clone, Copy)]
pub(super) struct History;

/// The directory is one of the restore's own, or all else was removed from it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Alone;

impl Looked {
    /// The same, where there is nothing else besides.
    pub(super) fn alone(self, alone: Alone) -> Looked {
        Looked {
            alone: Some(alone),
            ..self
        }
    }
}

impl Proven {
    pub(super) fn of(looked: &Looked) -> Proven {
        let mut proven = vec![looked.packs.named()];
        let mut believed = vec!["refs"];
        if looked.files.is_some() {
            proven.extend(["commit", "trees", "files", "index"]);
        }
        match looked.history {
            Some(History) => proven.push("history"),
            None => believed.push("history"),
        }
        if let Some(Alone) = looked.alone {
            proven.push("nothing else");
        }
        Proven { proven, believed }
    }

    /// Of a working copy whose configuration and hooks stay: git obeys both.
    pub(super) fn of_copy(looked: &Looked) -> Proven {
        let mut proven = Proven::of(looked);
        proven.believed.extend(["configuration", "hooks"]);
        proven
    }
}
