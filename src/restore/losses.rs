//! What would be lost of a working copy, of whatever kind: all of it is named at once.

use std::path::Path;

use super::error::RestoreError;
use super::kept;
use super::local::Lost;
use super::names::Names;

/// What would be lost and may not be.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Files that are changed or missing.
    pub changed: Names,
    /// Files that were taken out of the index.
    pub removed: Names,
    /// What nobody tracks and is where something comes.
    pub blocked: Names,
    /// Submodules that would change and are not to.
    pub submodules: Names,
    /// What nobody else has.
    pub lost: Lost,
}

impl Losses {
    /// Adds those of the submodule at `path`.
    pub(super) fn add(&mut self, path: &Path, inside: Losses) {
        let below = |name: String| path.join(name).display().to_string();
        self.changed.append(inside.changed, below);
        self.removed.append(inside.removed, below);
        self.blocked.append(inside.blocked, below);
        self.submodules.append(inside.submodules, below);
        self.lost.add(&path.display().to_string(), inside.lost);
    }

    /// Refuses to update the working copy at `target` if there is any.
    pub(super) fn refuse(&self, target: &Path) -> Result<(), RestoreError> {
        let files = [
            ("changed or missing", &self.changed),
            ("taken out of the index", &self.removed),
            ("in the way and not tracked", &self.blocked),
        ];
        let files = files.iter().filter(|(_, names)| !names.is_empty());
        let mut said: Vec<String> = files.map(|(what, of)| format!("{what}: {of}")).collect();
        let lost = kept::said(&self.lost);
        let flags = [("--force", said.len()), ("--discard-local", lost.len())];
        let flags = flags.iter().filter(|(_, count)| *count > 0);
        let flags: Vec<&str> = flags.map(|(flag, _)| *flag).collect();
        said.extend(lost);
        if !flags.is_empty() {
            said.push(format!("with {} all of that goes", flags.join(" and ")));
        }
        if !self.submodules.is_empty() {
            said.push(format!(
                "checked out, and another one comes (--recurse-submodules brings it along): {}",
                self.submodules
            ));
        }
        match said.is_empty() {
            true => Ok(()),
            false => Err(RestoreError::Usage(format!(
                "{} is not updated: {}",
                target.display(),
                said.join("; ")
            ))),
        }
    }
}
