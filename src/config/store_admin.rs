//! `tarpon admin store`: what is looked at of an object store.

use std::ffi::OsString;

use clap::{Args, Subcommand};

use super::error::ConfigError;
use super::key::Layer;
use super::store_args::{SharedStore, StoreHeader, StoreUrl};

/// What is to be done with a store. Nothing is written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAdmin {
    /// Where it is.
    pub url: StoreUrl,
    /// What is sent with each request.
    pub headers: Vec<StoreHeader>,
    /// What is to be said of it.
    pub task: StoreTask,
    /// Whether it is said to a program.
    pub is_json: bool,
}

/// See [`StoreAdmin`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreTask {
    /// Which repositories are there.
    List,
    /// How many bytes they take.
    Usage,
    /// Whether all that heads name is there, and is what it was.
    Verify,
    /// What servers will remove.
    Prune,
}

#[derive(Subcommand, Debug)]
pub(super) enum AdminVerb {
    /// Look at the object store of --store, and change nothing there
    #[command(subcommand_required = true)]
    Store {
        #[command(subcommand)]
        verb: StoreVerb,
    },
}

#[derive(Subcommand, Debug)]
pub(super) enum StoreVerb {
    /// List the repositories: where they come from, generation, sequence, snapshots, bytes
    Ls(StoreAdminArgs),
    /// How many bytes each repository takes: shared, condemned, given up, unnamed, foreign
    Du(StoreAdminArgs),
    /// Read all that is named, and compare it with its name, its checksums and its head
    Verify(StoreAdminArgs),
    /// Say what servers will remove, and why
    Prune(PruneArgs),
}

/// What each of them is given.
#[derive(Args, Debug)]
pub(super) struct StoreAdminArgs {
    /// Configuration file of the server (TOML), which says what --store is. None is read unless named here or
    /// in TARPON_CONFIG
    #[arg(long, value_name = "FILE")]
    config: Option<OsString>,

    /// The object store, as for tarpon serve: s3://BUCKET/PREFIX, or file:///DIR
    #[arg(long, value_name = "URL")]
    store: Option<OsString>,

    /// Print a line of JSON for each thing that is found, and one for all of it
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct PruneArgs {
    /// Change nothing. It has to be given: servers remove by themselves what is to be removed
    #[arg(long, required = true)]
    dry_run: bool,

    #[command(flatten)]
    all: StoreAdminArgs,
}

impl StoreAdmin {
    /// What flags, environment and file say.
    pub(super) fn of(
        verb: AdminVerb,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<StoreAdmin, ConfigError> {
        let AdminVerb::Store { verb } = verb;
        let (task, args) = match verb {
            StoreVerb::Ls(args) => (StoreTask::List, args),
            StoreVerb::Du(args) => (StoreTask::Usage, args),
            StoreVerb::Verify(args) => (StoreTask::Verify, args),
            StoreVerb::Prune(PruneArgs { dry_run: _, all }) => (StoreTask::Prune, all),
        };
        let given = args.store.map(|store| ("store".into(), vec![store]));
        let flags = Layer::from_iter(given);
        let layers = super::layers(args.config, flags, env)?;
        let store = SharedStore::of(&layers)?;
        let url = store.ok_or_else(|| ConfigError::Missing {
            key: "store",
            needed: "tarpon admin store looks at the store that it names".to_owned(),
        })?;
        Ok(StoreAdmin {
            url: url.url,
            headers: url.headers,
            task,
            is_json: args.json,
        })
    }
}
