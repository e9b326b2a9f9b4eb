//! Why a working copy is not taken, and what its user can do about it.

use std::path::Path;

use crate::restore::error::RestoreError;

/// Why.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::restore) struct Why {
    what: String,
    /// A command that helps, or a few words.
    help: String,
}

impl From<String> for Why {
    fn from(what: String) -> Why {
        let help = String::new();
        Why { what, help }
    }
}

impl From<&str> for Why {
    fn from(what: &str) -> Why {
        what.to_owned().into()
    }
}

impl<W: Into<String>, H: Into<String>> From<(W, H)> for Why {
    fn from((what, help): (W, H)) -> Why {
        let (what, help) = (what.into(), help.into());
        Why { what, help }
    }
}

/// The working copy at `directory` is not taken.
pub(super) fn not_taken(directory: &Path, why: impl Into<Why>) -> RestoreError {
    let Why { what, help } = why.into();
    let help = match &*help {
        "" => String::new(),
        help => format!(" ({help})"),
    };
    RestoreError::Usage(format!(
        "{} is not updated: {what}{help}; --overwrite restores it whole",
        directory.display()
    ))
}
