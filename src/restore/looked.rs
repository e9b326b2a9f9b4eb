//! What was looked at, as who has looked says: from that it is told what is proven, and never from what was asked for.

use super::proven::Proven;
use super::{packs, worktree};

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
    pub(super) fn new(packs: packs::Right, files: Option<worktree::Proven>) -> Looked {
        Looked {
            packs,
            files,
            history: None,
            alone: None,
        }
    }

    /// The same, where there is nothing else besides.
    pub(super) fn alone(self, alone: Alone) -> Looked {
        Looked {
            alone: Some(alone),
            ..self
        }
    }

    /// What is said of it.
    pub(super) fn proven(&self) -> Proven {
        let mut proven = vec![self.packs.named()];
        let mut believed = vec!["refs"];
        if self.files.is_some() {
            proven.extend(["commit", "trees", "files", "index"]);
        }
        match self.history {
            Some(History) => proven.push("history"),
            None => believed.push("history"),
        }
        if let Some(Alone) = self.alone {
            proven.push("nothing else");
        }
        Proven { proven, believed }
    }

    /// Of a working copy whose configuration and hooks stay: git obeys both.
    pub(super) fn proven_of_copy(&self) -> Proven {
        let mut proven = self.proven();
        proven.believed.extend(["configuration", "hooks"]);
        proven
    }
}
