//! What all measurements have in common on the command line: where they run, what runs, and what is kept.

use super::folder;
use super::site::Site;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
pub struct Common {
    /// Keep a record under perf/record/DATE-NAME/
    #[arg(long, value_name = "NAME")]
    pub record: Option<String>,
    /// Where repositories, states and clones go. Default: perf/ in cargo's target directory
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// The server's binary. Default: the one built with this program
    #[arg(long, value_name = "FILE")]
    pub tarpon: Option<PathBuf>,
}

/// Where the sources are.
pub fn crate_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Common {
    /// The work directory, and the binary beside this program: cargo puts this one into
    /// `TARGET/PROFILE/examples/`.
    pub fn site(&self) -> Result<(Site, PathBuf), String> {
        let this = std::env::current_exe().map_err(|e| format!("who am I: {e}"))?;
        let up = |levels: usize| this.ancestors().nth(levels).map(Path::to_owned);
        let (profile, target) = up(2).zip(up(3)).ok_or("run this through perf/compare")?;
        let tarpon = self.tarpon.clone().unwrap_or(profile.join("tarpon"));
        if !tarpon.is_file() {
            return Err(format!("{} is no file", tarpon.display()));
        }
        let work = self.work.clone().unwrap_or(target.join("perf"));
        Ok((Site::new(&work, &tarpon), work))
    }

    /// Where a record goes, if one is kept.
    pub fn directory(&self) -> Option<PathBuf> {
        let name = self.record.as_ref()?;
        Some(folder::directory(crate_root(), name))
    }
}

/// Prints a table, and keeps it where that is wanted.
pub fn show(common: &Common, text: &str, machine: &str) {
    print!("{text}");
    if let Some(directory) = common.directory() {
        folder::create_dir(&directory);
        folder::write_file(&directory.join("table.txt"), text);
        folder::write_file(&directory.join("machine.txt"), machine);
    }
}
