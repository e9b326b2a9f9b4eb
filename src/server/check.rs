//! `tarpon check`: what a start would find wrong, without one. It makes nothing, and minds no server that runs.

use std::path::Path;

use rustix::fs::Access;

use super::error::ServerError;
use super::permissions::find_permissions;
use super::reload::InForce;
use super::start::{choose_driver, marks};
use crate::config::Config;
use crate::io::fs::{Fs, Os};
use crate::store::files::StoreError;

/// Looks at all that `config` names; gives a line for each thing that a server would go on with, and that its operator
/// should know.
///
/// # Errors
/// What would end the start.
pub fn check_settings(config: &Config) -> Result<Vec<String>, ServerError> {
    choose_driver(config.io_driver)?;
    InForce::read(config)?;
    find_permissions(config, &std::env::temp_dir(), None)?;
    check_state(config)?;
    Ok(exposed(config))
}

/// Sees to it that the state directory is one or can be made, and that there is room as the settings want it.
fn check_state(config: &Config) -> Result<(), ServerError> {
    let failed = |op: &'static str, path: &Path, source: std::io::Error| {
        ServerError::State(StoreError::Io {
            op,
            path: path.to_owned(),
            source,
        })
    };
    let there = config.state.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(Path::new("/"));
    // A name below what is no directory is refused as well.
    let inside = there.join(".");
    rustix::fs::access(&inside, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| failed("write to", there, e.into()))?;
    let space = Os.space(there).map_err(|e| failed("look at", there, e))?;
    marks(config, space.total_bytes).map(drop)
}

/// Files with secrets that not only their owner and group can read or change. The owner's group is often there for it.
pub(super) fn exposed(config: &Config) -> Vec<String> {
    const OTHERS: u32 = 0o006;
    let look = |(setting, path): (&str, &Path)| {
        let mode = rustix::fs::stat(path).ok()?.st_mode & 0o777;
        (mode & OTHERS != 0).then(|| {
            format!(
                "{setting}: {} has secrets, and others may read or change it (mode {mode:o}): chmod o= {0}",
                path.display()
            )
        })
    };
    config.secret_files().into_iter().filter_map(look).collect()
}
