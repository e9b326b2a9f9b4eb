//! Why a working copy is not taken, and what its user can do about it.

use std::fs;
use std::path::Path;

use crate::restore::error::RestoreError;

/// What `--overwrite` does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::restore) enum Overwrite {
    Restores,
    /// The same, and what nobody has committed goes without a word.
    Drops,
    /// It refuses for the same reason, unless it is told to discard what is here alone.
    Refuses,
    /// Nothing that anybody wants.
    No,
}

/// Why.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::restore) struct Why {
    what: String,
    /// A command that helps, or a few words.
    help: String,
    overwrite: Overwrite,
}

impl From<String> for Why {
    fn from(what: String) -> Why {
        let (help, overwrite) = (String::new(), Overwrite::Restores);
        Why {
            what,
            help,
            overwrite,
        }
    }
}

impl From<&str> for Why {
    fn from(what: &str) -> Why {
        what.to_owned().into()
    }
}

impl<W: Into<String>, H: Into<String>> From<(W, H)> for Why {
    fn from((what, help): (W, H)) -> Why {
        (what, help, Overwrite::Restores).into()
    }
}

impl<W: Into<String>, H: Into<String>> From<(W, H, Overwrite)> for Why {
    fn from((what, help, overwrite): (W, H, Overwrite)) -> Why {
        let (what, help) = (what.into(), help.into());
        Why {
            what,
            help,
            overwrite,
        }
    }
}

/// Refuses where something comes to a `path` of a working copy that is a repository by itself, a submodule's or
/// somebody else's: it would go with all that only it has.
pub(super) fn expect_no_repository(
    directory: &Path,
    path: &Path,
    comes: &str,
) -> Result<(), RestoreError> {
    let inside = fs::symlink_metadata(directory.join(path).join(".git"));
    match inside.is_ok_and(|found| found.is_dir()) {
        false => Ok(()),
        true => Err(not_taken(
            directory,
            (
                format!(
                    "{} has a repository of its own, and {comes} comes there",
                    path.display()
                ),
                "git submodule absorbgitdirs takes it in, or move it away",
                Overwrite::No,
            ),
        )),
    }
}

/// The same where its refs cannot be read: what would be lost with them nobody can tell.
pub(super) fn refs_unread(directory: &Path, why: String) -> RestoreError {
    not_taken(directory, (why, "git fsck says more", Overwrite::Refuses))
}

/// The working copy at `directory` is not taken.
pub(super) fn not_taken(directory: &Path, why: impl Into<Why>) -> RestoreError {
    let Why {
        what,
        help,
        overwrite,
    } = why.into();
    let help = match &*help {
        "" => String::new(),
        help => format!(" ({help})"),
    };
    let overwrite = match overwrite {
        Overwrite::Restores => "; --overwrite restores it whole",
        Overwrite::Drops => "; --overwrite restores it whole, and what is not committed goes",
        Overwrite::Refuses => {
            "; --overwrite --discard-local restores it whole, and what only it has goes"
        }
        Overwrite::No => "",
    };
    RestoreError::Usage(format!(
        "{} is not updated: {what}{help}{overwrite}",
        directory.display()
    ))
}
