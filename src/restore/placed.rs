//! Where a submodule is in what is around it.

use std::path::{Path, PathBuf};

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    /// Its files, relative to the worktree.
    pub path: PathBuf,
    /// Its repository, relative to the `.git` of that.
    pub git_dir: PathBuf,
}

impl Placed {
    /// Where one is in all that is around it, if it is in a submodule that stays.
    pub(super) fn below(around: Option<&Placed>, path: &Path, git_dir: &Path) -> Placed {
        match around {
            None => Placed {
                path: path.to_owned(),
                git_dir: git_dir.to_owned(),
            },
            Some(around) => Placed {
                path: around.path.join(path),
                git_dir: around.git_dir.join(git_dir),
            },
        }
    }
}
