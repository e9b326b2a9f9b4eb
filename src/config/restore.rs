//! The arguments of `tarpon restore`.
use clap::Args;
use std::path::PathBuf;

/// What `tarpon restore` was asked to do. Values are as given: `restore` checks them.
#[derive(Args, Debug, Clone, PartialEq, Eq)]
pub struct RestoreArgs {
    /// The repository's URL, as given.
    #[arg(
        value_name = "REPO_URL",
        help = "The repository as git would clone it, such as https://github.com/rust-lang/rust"
    )]
    pub repo_url: String,

    /// The directory to restore it into; made if it does not exist
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// Where tarpon listens [default: http://127.0.0.1:8080]
    #[arg(
        long,
        value_name = "URL",
        env = "TARPON_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8080",
        hide_default_value = true
    )]
    pub server: String,
}
