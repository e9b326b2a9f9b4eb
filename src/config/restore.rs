//! The arguments of `tarpon restore`.
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

use super::GivenUrl;
use super::value::Share;
use crate::limits::SEED_CHECK_INTERVAL_MAX_MS;

/// What `tarpon restore` was asked to do. Values are as given: `restore` checks them.
#[derive(Args, Debug, Clone, PartialEq)]
#[command(group = clap::ArgGroup::new("replaces").args(["overwrite", "update"]))]
pub struct RestoreArgs {
    /// The repository's URL, as given.
    #[arg(
        value_name = "REPO_URL",
        value_parser = GivenUrl::parse,
        help = "The repository as git would clone it, such as https://github.com/rust-lang/rust, or \
                HOST/PATH as the server has it"
    )]
    pub repo_url: GivenUrl,

    /// The directory to restore it into; made if it does not exist
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Where tarpon listens, as https://HOST or http://HOST:PORT, with the path that a proxy has it below
    /// [default: http://127.0.0.1:8080]
    #[arg(
        long,
        value_name = "URL",
        value_parser = GivenUrl::parse,
        env = "TARPON_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8080",
        hide_default_value = true
    )]
    pub server: GivenUrl,

    /// Believe only a server whose certificate leads to one of this file (PEM) [default: those of the system]
    #[arg(
        long,
        value_name = "FILE",
        env = "TARPON_CACERT",
        hide_env_values = true,
        help_heading = "Who asks"
    )]
    pub cacert: Option<PathBuf>,

    /// Show the server this certificate, with those that it leads to (PEM)
    #[arg(
        long,
        value_name = "FILE",
        env = "TARPON_CERT",
        hide_env_values = true,
        help_heading = "Who asks"
    )]
    pub cert: Option<PathBuf>,

    /// Its key (PEM, without a passphrase), if that is in another file
    #[arg(
        long,
        value_name = "FILE",
        env = "TARPON_KEY",
        hide_env_values = true,
        requires = "cert",
        help_heading = "Who asks"
    )]
    pub key: Option<PathBuf>,

    /// Send the server the credential that git would have for REPO_URL, with which it asks there whether you may
    /// read it
    #[arg(long, help_heading = "Who asks")]
    pub send_upstream_credential: bool,

    /// Send credentials also over plain http, where others can read along, and to more than this machine
    #[arg(long, help_heading = "Who asks")]
    pub insecure_credentials: bool,

    /// Check out this branch, or this tag or other ref (detached), or fail; with a commit that one, as
    /// this branch, whatever the branch is upstream by now
    #[arg(long = "ref", value_name = "NAME[=SHA]", help_heading = "Freshness")]
    pub refs: Vec<String>,

    /// Check out this commit, detached or as the branch of --ref, or fail
    #[arg(long = "commit", value_name = "SHA", help_heading = "Freshness")]
    pub commits: Vec<String>,

    /// Restore the submodules as well, at the commits that are recorded, as git clone
    /// --recurse-submodules has them
    #[arg(long, help_heading = "Freshness")]
    pub recurse_submodules: bool,

    /// Have this ref, at this commit if one is named, or this commit, as well, or fail; may be
    /// repeated
    #[arg(long, value_name = "REF[=SHA]|SHA", help_heading = "Freshness")]
    pub have: Vec<String>,

    /// Take no history but the one commit, as git clone --depth 1 does; no other depth can be had
    #[arg(
        long,
        value_name = "1",
        value_parser = one,
        conflicts_with = "have",
        help_heading = "Freshness"
    )]
    pub depth: Option<u8>,

    /// Take nothing that is older than this request: waits until the server has looked at its upstream
    #[arg(long, help_heading = "Freshness")]
    pub fresh: bool,

    /// Take the snapshot as it is, even if the server has newer commits, unless --ref, --commit or
    /// --have need them
    #[arg(long, help_heading = "Freshness")]
    pub no_bundle: bool,

    /// What to do when the server could not give what was asked for: exit codes 2, 3, 5, 6 and 101; with --update
    /// only where DIR is not there or empty
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Fallback::None)]
    pub fallback: Fallback,

    /// How the worktree is made, where one is restored
    #[arg(long, value_name = "HOW", value_enum, default_value_t = WorktreeWay::Auto)]
    pub worktree: WorktreeWay,

    /// Prove that the files are those of the commit's id, from packs; with =full, all of the history, too, by git,
    /// which takes minutes
    #[arg(
        long,
        value_name = "full",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "tree"
    )]
    pub verify: Option<Verify>,

    /// Restore into a directory that is not empty: replaces its files and keeps untracked ones; is
    /// refused if one of these is where a file comes
    #[arg(long)]
    pub overwrite: bool,

    /// Bring the working copy in DIR, which a clone or a restore of REPO_URL has made, to what is asked for: changes
    /// what differs, and is refused if files of it are changed; a DIR that is not there or empty is restored
    #[arg(long, conflicts_with = "overwrite")]
    pub update: bool,

    /// With --update: make changed, missing and removed (git rm) files anew, and replace untracked ones that are in
    /// the way
    #[arg(long, requires = "update", conflicts_with = "overwrite")]
    pub force: bool,

    /// With --update: remove all that is not tracked, ignored files included
    #[arg(long, requires = "update", conflicts_with = "overwrite")]
    pub clean: bool,

    /// With --overwrite or --update: have commits, stashes and added files go that nobody else has; with
    /// --overwrite also linked worktrees, and untracked files that are in the way
    #[arg(long, requires = "replaces")]
    pub discard_local: bool,

    /// Write no more than this: bytes such as 20G (K, M, G and T are powers of 1024), files in whole
    /// blocks, the bundle included [default: what --free-floor allows]
    #[arg(long, value_name = "BYTES", value_parser = super::value::bytes)]
    pub size_limit: Option<u64>,

    /// Leave this much of the file system free, in bytes or as a share, which is one of its inodes as well; without
    /// --size-limit [default: 5%]
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = super::value::free_share,
        env = "TARPON_RESTORE_FREE_FLOOR",
        hide_env_values = true
    )]
    pub free_floor: Option<Share>,

    /// Connections for the download, 1 to 16 [default: 4]
    #[arg(
        long,
        value_name = "N",
        env = "TARPON_CONNECTIONS",
        hide_env_values = true,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new()
            .range(1..=crate::limits::CONNECTIONS_MAX as u64)
    )]
    pub connections: Option<usize>,

    /// Fetch the snapshot's packs and frames as files of their own, each resumed and checked, where the server has
    /// them, however small it is
    #[arg(long)]
    pub by_parts: bool,

    /// Fetch the snapshot as one archive, as older servers have it
    #[arg(long, conflicts_with = "by_parts")]
    pub by_archive: bool,

    /// Take a connection that brings no byte for so many seconds, or less than 16 KiB in twice as
    /// many, for dead [default: 30; of git: 90 without a byte]
    #[arg(
        long = "stall-timeout",
        value_name = "SECONDS",
        value_parser = seconds,
        env = "TARPON_RESTORE_STALL_TIMEOUT",
        hide_env_values = true
    )]
    pub stall_timeout_s: Option<f64>,

    /// Wait no longer than this for a server that sends nothing of what was asked for, also if it says
    /// that it lives: it may have to clone the repository first [default: 3600; 300 with --fallback
    /// clone while it has not answered at all, or while its upstream does not say who may read]
    #[arg(
        long = "wait-limit",
        value_name = "SECONDS",
        value_parser = seconds,
        env = "TARPON_RESTORE_WAIT_LIMIT",
        hide_env_values = true
    )]
    pub wait_limit_s: Option<f64>,

    /// Keep the parts of snapshots in this directory, made for you alone if it does not exist, and download only
    /// those that it lacks; any number of restores may share it at once
    #[arg(
        long,
        value_name = "DIR",
        env = "TARPON_SEED",
        hide_env_values = true,
        help_heading = "Seed"
    )]
    pub seed: Option<PathBuf>,

    /// Keep no more than this there; what was used least recently goes [default: 10 % of the file system]
    #[arg(
        long,
        value_name = "BYTES",
        value_parser = super::value::bytes,
        requires = "seed",
        help_heading = "Seed"
    )]
    pub seed_limit: Option<u64>,

    /// Add nothing there that would leave less than this of the file system free, in bytes or as a share
    /// [default: 10%]
    #[arg(
        long,
        value_name = "SHARE",
        value_parser = super::value::free_share,
        requires = "seed",
        help_heading = "Seed"
    )]
    pub seed_free_floor: Option<Share>,

    /// Read and compare what is there at its first use after so long, as after each boot: 0s, 15m, 1d, never
    /// [default: 1d]
    #[arg(
        long,
        value_name = "TIME",
        value_parser = check_interval,
        requires = "seed",
        help_heading = "Seed"
    )]
    pub seed_check_interval: Option<Duration>,

    /// Give packs in the working copy as further names to those in the seed: a chmod -R there changes them for
    /// all [default: copied, by reflink where the file system can]
    #[arg(long, requires = "seed", help_heading = "Seed")]
    pub seed_link: bool,

    /// Say nothing unless it fails
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,

    /// Print a summary as JSON on standard output
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// What to do without a snapshot.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// Fail
    None,
    /// Clone from REPO_URL with git
    Clone,
}

/// How much is proven.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// HEAD's commit, its trees and files
    Tree,
    /// All objects
    Full,
}

/// How the worktree is made.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorktreeWay {
    /// As is fastest
    Auto,
    /// Unpacked from the archive's frames
    Frames,
    /// Made from the objects in the packs
    Packs,
}

impl RestoreArgs {
    /// Whether a clone is to take the place of a snapshot.
    pub fn fallback_clone(&self) -> bool {
        self.fallback == Fallback::Clone
    }
}

/// The one depth that there is.
fn one(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        _ => Err("only 1 can be had, or all of the history".into()),
    }
}

/// How long something is believed.
fn check_interval(text: &str) -> Result<Duration, String> {
    super::value::duration_or_never(0, SEED_CHECK_INTERVAL_MAX_MS)(text)
}

/// A number of seconds, or a time as the server's settings have them.
fn seconds(text: &str) -> Result<f64, String> {
    let with_unit = || super::value::duration(100, 86_400_000)(text);
    let seconds = match text.parse::<f64>() {
        Ok(seconds) => Some(seconds).filter(|s| (0.1..=86_400.0).contains(s)),
        Err(_) => with_unit().ok().map(|time| time.as_secs_f64()),
    };
    seconds.ok_or_else(|| {
        "write seconds between 0.1 and 86400, or a time such as 250ms, 90s or 15m".into()
    })
}
