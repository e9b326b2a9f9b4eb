//! What can be wrong with a configuration. Every message names the key, where the value came
//! from and what is allowed.
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::io::say::{say, without_logins};

/// Exit code of a wrong command line or setting.
pub const MISUSED_CODE: u8 = 1;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A command-line flag, with its dashes.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// A configuration file.
    File(PathBuf),
}

impl Origin {
    pub(super) fn flag(key: &str) -> Self {
        Self::Flag(format!("--{}", key.replace('_', "-")))
    }

    pub(super) fn env(key: &str) -> Self {
        Self::Env(super::key::env_name(key))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "the flag {name}"),
            Self::Env(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the file {}", path.display()),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// clap's own: a wrong command line, but also `--help` and `--version`.
    #[error(transparent)]
    Usage(Box<clap::Error>),
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("the configuration file {} is not valid TOML: line {line}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        line: usize,
        /// Why, in one line.
        why: String,
    },
    /// The configuration file has a key that does not exist.
    #[error("unknown key {key:?} in the file {}; {hint}", path.display())]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The file.
        path: PathBuf,
        /// The nearest keys, or all of them.
        hint: String,
    },
    /// A value that is not allowed.
    #[error("{key} = {value:?} from {origin} is not valid; allowed: {allowed}")]
    Value {
        /// The key, as in the file.
        key: &'static str,
        /// The value as given.
        value: String,
        /// Who gave it.
        origin: Origin,
        /// What is allowed instead.
        allowed: String,
    },
    /// There is no value, and something needs one.
    #[error("--{key} is not given, and has to be: {needed}")]
    Missing {
        /// The flag.
        key: &'static str,
        /// What it has to say.
        needed: String,
    },
    /// A value of the file is a list or a table where neither fits.
    #[error("{key} in the file {} is not valid; allowed: {allowed}", path.display())]
    Shape {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is allowed instead.
        allowed: &'static str,
    },
    /// No state directory was given, and none can be derived.
    #[error(
        "state: no directory given and no default, because neither STATE_DIRECTORY, \
         XDG_CACHE_HOME nor HOME is an absolute path; give --state DIR or TARPON_STATE"
    )]
    NoState,
    /// A relative state directory with no working directory to start from.
    #[error("state: {} cannot be made absolute: {source}", path.display())]
    State {
        /// The directory as given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ConfigError {
    pub(super) fn value(
        key: &'static str,
        value: &OsStr,
        origin: Origin,
        allowed: impl Into<String>,
    ) -> Self {
        let value = value.to_string_lossy().into_owned();
        Self::Value {
            key,
            value,
            origin,
            allowed: allowed.into(),
        }
    }

    /// Writes the error for a person (`--help` and `--version` to standard output, the rest to
    /// standard error) and gives the process's exit code: 0 for those two, else [`MISUSED_CODE`].
    pub fn report(&self) -> u8 {
        match self {
            Self::Usage(error) if !error.use_stderr() => {
                // A closed terminal is no reason to fail differently.
                let _ = error.print();
                0
            }
            Self::Usage(error) => {
                let plain = error.render().to_string();
                // It quotes arguments, and has no colours where one of them logs in.
                match without_logins(&plain) == plain {
                    true => drop(error.print()),
                    false => say(plain.trim_end()),
                }
                MISUSED_CODE
            }
            other => {
                say(format_args!("tarpon: {other}"));
                MISUSED_CODE
            }
        }
    }
}
