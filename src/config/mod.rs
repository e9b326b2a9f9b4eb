//! Flags, environment and file to one validated [`Config`].
//!
//! Every value is text until all sources are merged; only then is it checked, so that a wrong one
//! is reported with its key and where it came from, and a default never hides a value.
mod access;
mod access_args;
mod cli;
mod completions;
mod error;
mod file;
mod given_url;
mod key;
mod layers;
mod listen;
mod listen_args;
mod manual;
mod oidc;
mod pattern;
mod proxies;
mod repo_key;
mod restore;
mod secrets;
mod store_admin;
mod store_args;
mod token;
mod upstream_tokens;
mod upstreams;
mod value;

pub use access::{Access, Rule};
pub use cli::{LOG_VARIABLE, TOKEN_VARIABLE, completions, man};
pub use error::{ConfigError, MISUSED_CODE, Origin};
pub use given_url::GivenUrl;
pub use listen::{At, ClientFiles, Listen, Listeners, Pair, TlsFiles};
pub use oidc::{IssuerRule, issuer_rule};
pub use pattern::Pattern;
pub use proxies::Proxies;
pub use repo_key::RepoKey;
pub use restore::{Fallback, RestoreArgs, Verify, WorktreeWay};
pub use secrets::{Secret, Secrets};
pub use store_admin::{StoreAdmin, StoreTask};
pub use store_args::{SharedStore, StoreHeader, StoreUrl};
pub use token::{NewToken, Role, check_token_name};
pub use upstreams::{Upstream, Upstreams};
pub(crate) use upstreams::{host_of, is_plain_loopback, is_safe};
pub use value::{IoDriver, LogFormat, Share};

use crate::limits;
use clap::FromArgMatches;
use cli::{Cli, ServeArgs, Verb};
use layers::Layers;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use upstream_tokens::upstream_tokens;

/// What the process was started to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `tarpon serve`.
    Serve(Box<Config>),
    /// `tarpon check`.
    Check(Box<Config>),
    /// `tarpon restore`.
    Restore(Box<RestoreArgs>),
    /// `tarpon token new`.
    NewToken(NewToken),
    /// `tarpon admin store`.
    Store(StoreAdmin),
    /// `tarpon completions`.
    Completions(clap_complete::Shell),
    /// `tarpon man`.
    Man,
}

/// Everything that an operator can decide about the server.
///
/// Invariant: every value is within the bounds of [`limits`], and `state` is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The configuration file, and what it said.
    pub(crate) file: Option<File>,
    /// Where to listen.
    pub listeners: Listeners,
    /// The state directory, absolute. It may not exist yet.
    pub state: PathBuf,
    /// How long running responses may go on after SIGTERM; may be zero.
    pub shutdown_grace: Duration,
    /// A client that takes no byte for this long is dropped.
    pub stall_timeout: Duration,
    /// A connection without a request for this long is closed.
    pub idle_timeout: Duration,
    /// How the log is written.
    pub log_format: LogFormat,
    /// The hosts that are served.
    pub upstreams: Upstreams,
    /// Refs, or patterns with one `*`, that mirrors follow besides heads and tags.
    pub follow: Vec<String>,
    /// Time since the last comparison with its upstream after which a request has a mirror compared.
    pub ref_check_interval: Duration,
    /// Time between two comparisons of a mirror that nobody uses, before jitter.
    pub fetch_interval: Duration,
    /// How many comparisons a second begin by themselves with one host.
    pub upstream_rate: u64,
    /// The file with the secrets of webhooks.
    pub webhook_secrets: Option<PathBuf>,
    /// Who may read the repositories of each host.
    pub access: Access,
    /// The file with the tokens that are known.
    pub tokens: Option<PathBuf>,
    /// Hosts for which the server has a credential of its own, and the file that it is in.
    pub upstream_tokens: BTreeMap<String, PathBuf>,
    /// The issuers of CI systems whose tokens are believed.
    pub oidc: Vec<IssuerRule>,
    /// The certificates that they are believed by; those of the system without.
    pub oidc_ca: Option<PathBuf>,
    /// How much longer what an upstream has said counts, where it cannot be asked.
    pub access_stale: Duration,
    /// Time without a request for a repository after which its mirror is repacked.
    pub maintenance_idle: Duration,
    /// How long what no ref leads to any more is kept.
    pub unreachable_expiry: Duration,
    /// Limit for one clone.
    pub clone_timeout: Duration,
    /// How much one clone or fetch may bring.
    pub clone_size_limit: Share,
    /// How much memory each process of a clone or fetch may take.
    pub git_memory_limit_bytes: u64,
    /// How much everything below the state directory may take.
    pub cache_limit: Share,
    /// How much is left when something had to leave; a part of `cache_limit` when `None`.
    pub cache_low: Option<Share>,
    /// How much of the file system stays free; wins over `cache_limit`.
    pub cache_free_floor: Share,
    /// Time after which an entry or mirror on the disk is read and checked again; zero for never.
    pub scrub_interval: Duration,
    /// The object store that it shares with other servers.
    pub store: Option<SharedStore>,
    /// zstd level, 1 to 19.
    pub level: i32,
    /// Network threads.
    pub cores: NonZeroUsize,
    /// Encoder threads.
    pub encoders: NonZeroUsize,
    /// How the cores do their input and output.
    pub io_driver: IoDriver,
}

/// Parses a whole command line, the program's name first. `env` looks up one environment variable
/// (of `restore`, clap reads the process's own).
///
/// # Errors
/// See [`ConfigError`]; `--help` and `--version` are among them. [`ConfigError::report`] shows any.
pub fn parse<A>(args: A, env: impl Fn(&str) -> Option<OsString>) -> Result<Command, ConfigError>
where
    A: IntoIterator,
    A::Item: Into<OsString> + Clone,
{
    let usage = |error| ConfigError::Usage(Box::new(error));
    let mut command = cli::command();
    let matches = command.try_get_matches_from_mut(args).map_err(usage)?;
    let cli = Cli::from_arg_matches(&matches).map_err(|e| usage(e.format(&mut command)))?;
    match cli.verb {
        Verb::Serve(args) => Ok(Command::Serve(Box::new(Config::load(*args, &env)?))),
        Verb::Check(args) => Ok(Command::Check(Box::new(Config::load(*args, &env)?))),
        Verb::Restore(args) => Ok(Command::Restore(args)),
        Verb::Token { verb } => Ok(Command::NewToken(verb.into_new())),
        Verb::Admin { verb } => Ok(Command::Store(StoreAdmin::of(verb, &env)?)),
        Verb::Completions { shell } => Ok(Command::Completions(shell)),
        Verb::Man => Ok(Command::Man),
    }
}

/// All that says something of `serve`'s settings: these flags, the environment, and the file that `config` or the
/// environment names.
fn layers(
    config: Option<OsString>,
    flags: key::Layer,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Layers, ConfigError> {
    let keys = cli::keys();
    let from_env = || env(cli::CONFIG_VARIABLE).filter(|path| !path.is_empty());
    let file_path = config.or_else(from_env).map(PathBuf::from);
    let file = match &file_path {
        Some(path) => file::read(path, &keys)?,
        None => key::Layer::new(),
    };
    Ok(Layers {
        flags,
        env: layers::env_layer(&keys, env),
        file,
        file_path: file_path.unwrap_or_default(),
    })
}

/// One line for each environment variable among `names` that looks like a setting of `serve` and
/// is none.
pub fn unknown_variables<'n>(names: impl IntoIterator<Item = &'n str>) -> Vec<String> {
    layers::unknown_variables(names, &cli::keys(), &cli::other_variables())
}

/// A configuration file, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    path: PathBuf,
    said: key::Layer,
}

/// The keys of the configuration file that say something else by now.
///
/// # Errors
/// It cannot be read any more, or is wrong.
pub(crate) fn changed(config: &Config) -> Result<Vec<String>, ConfigError> {
    let Some(File { path, said }) = &config.file else {
        return Ok(Vec::new());
    };
    let now = file::read(path, &cli::keys())?;
    let keys = said.keys().chain(now.keys());
    let mut changed: Vec<String> = keys
        .filter(|key| said.get(*key) != now.get(*key))
        .cloned()
        .collect();
    changed.sort_unstable();
    changed.dedup();
    Ok(changed)
}

impl Config {
    fn load(args: ServeArgs, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let config = args.config.clone();
        let layers = layers(config, args.into_layer(), env)?;
        let has_file = !layers.file_path.as_os_str().is_empty();
        let file = has_file.then(|| File {
            path: layers.file_path.clone(),
            said: layers.file.clone(),
        });
        Ok(Self {
            file,
            ..Self::from_layers(&layers, env)?
        })
    }

    /// The settings that name a file with secrets, and the files.
    pub fn secret_files(&self) -> Vec<(&'static str, &Path)> {
        let files = [
            ("--webhook-secrets", &self.webhook_secrets),
            ("--tokens", &self.tokens),
        ];
        let given = files.into_iter();
        let given = given.filter_map(|(setting, path)| Some((setting, path.as_deref()?)));
        let pairs = self.listeners.tls.iter().flat_map(|tls| &tls.pairs);
        let keys = pairs.map(|pair| ("--tls-key", &*pair.key));
        let own = self.upstream_tokens.values();
        let own = own.map(|path| ("--upstream-token", &**path));
        given.chain(keys).chain(own).collect()
    }

    fn from_layers(
        layers: &Layers,
        env: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let time = |key, min_ms, max_ms, default_ms| {
            let given = layers.one(key, value::duration(min_ms, max_ms))?;
            Ok::<_, ConfigError>(given.unwrap_or(Duration::from_millis(default_ms)))
        };
        let client_time =
            |key, min_ms, default_ms| time(key, min_ms, limits::CLIENT_TIMEOUT_MAX_MS, default_ms);
        let min_ms = limits::TIMEOUT_MIN_MS;
        let upstream_time =
            |key, default_ms| time(key, min_ms, limits::UPSTREAM_TIME_MAX_MS, default_ms);
        let share = |key, min, default| {
            let given = layers.one(key, value::share(min))?;
            Ok::<_, ConfigError>(given.unwrap_or(default))
        };
        let cores = match layers.one("cores", value::threads(limits::CORES_MAX))? {
            Some(cores) => cores,
            None => usable_processors(),
        };
        let upstreams = upstreams(layers)?;
        let upstream_tokens = upstream_tokens(layers, &upstreams)?;
        Ok(Self {
            file: None,
            listeners: Listeners::of(layers)?,
            state: state(layers, env)?,
            shutdown_grace: client_time("shutdown_grace", 0, limits::SHUTDOWN_GRACE_DEFAULT_MS)?,
            stall_timeout: client_time("stall_timeout", min_ms, limits::STALL_TIMEOUT_DEFAULT_MS)?,
            idle_timeout: client_time("idle_timeout", min_ms, limits::IDLE_TIMEOUT_DEFAULT_MS)?,
            log_format: layers
                .one("log_format", value::log_format)?
                .unwrap_or_default(),
            access: access(layers, &upstreams, &upstream_tokens)?,
            upstream_tokens,
            upstreams,
            follow: layers.list("follow", value::follow)?.unwrap_or_default(),
            ref_check_interval: upstream_time(
                "ref_check_interval",
                limits::REF_CHECK_INTERVAL_DEFAULT_MS,
            )?,
            fetch_interval: upstream_time("fetch_interval", limits::FETCH_INTERVAL_DEFAULT_MS)?,
            upstream_rate: upstream_rate(layers)?,
            webhook_secrets: layers.one("webhook_secrets", value::file)?,
            tokens: layers.one("tokens", value::file)?,
            oidc: oidc::issuer_rules(layers)?,
            oidc_ca: layers.one("oidc_ca", value::file)?,
            access_stale: access_stale(layers)?,
            maintenance_idle: maintenance_idle(layers)?,
            unreachable_expiry: unreachable_expiry(layers)?,
            clone_timeout: upstream_time("clone_timeout", limits::CLONE_TIMEOUT_DEFAULT_MS)?,
            clone_size_limit: share("clone_size_limit", 1, Share::CLONE_DEFAULT)?,
            git_memory_limit_bytes: git_memory(layers)?,
            cache_limit: cache_limit(layers)?,
            cache_free_floor: cache_free_floor(layers)?,
            cache_low: cache_low(layers)?,
            scrub_interval: scrub_interval(layers)?,
            store: SharedStore::of(layers)?,
            level: level(layers)?,
            cores,
            encoders: layers
                .one("encoders", value::threads(limits::ENCODERS_MAX))?
                .unwrap_or(cores),
            io_driver: layers
                .one("io_driver", value::io_driver)?
                .unwrap_or_default(),
        })
    }
}

fn scrub_interval(layers: &Layers) -> Result<Duration, ConfigError> {
    let time = value::duration(0, limits::SCRUB_INTERVAL_MAX_MS);
    let given = layers.one("scrub_interval", time)?;
    Ok(given.unwrap_or(Duration::from_millis(limits::SCRUB_INTERVAL_DEFAULT_MS)))
}

fn level(layers: &Layers) -> Result<i32, ConfigError> {
    let level = value::number(limits::LEVEL_MIN, limits::LEVEL_MAX);
    Ok(layers.one("level", level)?.unwrap_or(limits::LEVEL_DEFAULT))
}

fn upstream_rate(layers: &Layers) -> Result<u64, ConfigError> {
    let rate = layers.one("upstream_rate", value::number(1, limits::UPSTREAM_RATE_MAX))?;
    Ok(rate.map_or(limits::UPSTREAM_RATE_DEFAULT, |rate| {
        u64::from(rate.unsigned_abs())
    }))
}

/// `own` are the hosts for which the server has a credential of its own; what git's helpers have is git's.
fn access(
    layers: &Layers,
    upstreams: &Upstreams,
    own: &BTreeMap<String, PathBuf>,
) -> Result<Access, ConfigError> {
    let given = layers.list("access", access::given)?.unwrap_or_default();
    let own: Vec<&str> = own.keys().map(String::as_str).collect();
    Access::new(given, upstreams, &own).map_err(|allowed| match layers.find("access") {
        Some((values, origin)) => {
            let values = values.join(OsStr::new(","));
            ConfigError::value("access", &values, origin, allowed)
        }
        None => ConfigError::Missing {
            key: "access",
            needed: allowed,
        },
    })
}

fn access_stale(layers: &Layers) -> Result<Duration, ConfigError> {
    let given = layers.one(
        "access_stale",
        value::duration(0, limits::ACCESS_STALE_MAX_MS),
    )?;
    Ok(given.unwrap_or_default())
}

fn maintenance_idle(layers: &Layers) -> Result<Duration, ConfigError> {
    let time = value::duration(limits::TIMEOUT_MIN_MS, limits::UPKEEP_TIME_MAX_MS);
    let given = layers.one("maintenance_idle", time)?;
    Ok(given.unwrap_or(Duration::from_millis(limits::MAINTENANCE_IDLE_DEFAULT_MS)))
}

fn unreachable_expiry(layers: &Layers) -> Result<Duration, ConfigError> {
    let time = value::duration_or_never(limits::TIMEOUT_MIN_MS, limits::UPKEEP_TIME_MAX_MS);
    let given = layers.one("unreachable_expiry", time)?;
    Ok(given.unwrap_or(Duration::from_millis(limits::UNREACHABLE_EXPIRY_DEFAULT_MS)))
}

fn git_memory(layers: &Layers) -> Result<u64, ConfigError> {
    let from_least = value::bytes_from(limits::GIT_MEMORY_MIN_BYTES);
    let given = layers.one("git_memory_limit", from_least)?;
    Ok(given.unwrap_or(limits::GIT_MEMORY_DEFAULT_BYTES))
}

fn cache_limit(layers: &Layers) -> Result<Share, ConfigError> {
    let given = layers.one("cache_limit", value::cache_share)?;
    Ok(given.unwrap_or(Share::LIMIT_DEFAULT))
}

fn cache_free_floor(layers: &Layers) -> Result<Share, ConfigError> {
    let given = layers.one("cache_free_floor", value::free_share)?;
    Ok(given.unwrap_or(Share::FLOOR_DEFAULT))
}

/// Less than `cache_limit`, as far as that can be said of two values without a file system.
fn cache_low(layers: &Layers) -> Result<Option<Share>, ConfigError> {
    let limit = cache_limit(layers)?;
    let share = value::share(1);
    layers.one("cache_low", |text| match share(text)? {
        low if low.is_not_below(limit) => Err("less than --cache-limit".into()),
        low => Ok(low),
    })
}

/// The processors in this process's affinity mask, fewer if a cgroup quota allows less; 1 when the
/// system does not say.
fn usable_processors() -> NonZeroUsize {
    let found = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    found.min(NonZeroUsize::new(limits::CORES_MAX).unwrap_or(NonZeroUsize::MIN))
}

fn upstreams(layers: &Layers) -> Result<Upstreams, ConfigError> {
    let configured = layers
        .list("upstream", upstreams::upstream)?
        .unwrap_or_default();
    let without_defaults = layers
        .one("no_default_upstreams", value::switch)?
        .unwrap_or(false);
    if without_defaults && configured.is_empty() {
        let origin = layers
            .find("no_default_upstreams")
            .map(|(_, origin)| origin);
        return Err(ConfigError::value(
            "no_default_upstreams",
            "true".as_ref(),
            origin.unwrap_or_else(|| Origin::flag("no_default_upstreams")),
            "true only together with at least one upstream, or nothing could be served",
        ));
    }
    let wrong = |key, host: String, allowed| {
        let origin = layers.find(key).map(|(_, origin)| origin);
        let origin = origin.unwrap_or_else(|| Origin::flag(key));
        ConfigError::value(key, host.as_ref(), origin, allowed)
    };
    let all = Upstreams::new(configured, !without_defaults)
        .map_err(|host| wrong("upstream", host, "one base URL for each host"))?;
    let ignoring = layers.list("upstream_ignore_case", |host| Ok(host.to_owned()))?;
    all.ignoring_case(ignoring.unwrap_or_default())
        .map_err(|host| wrong("upstream_ignore_case", host, "hosts that are served"))
}

/// The state directory: as given, else systemd's, else below the person's cache directory.
fn state(layers: &Layers, env: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, ConfigError> {
    let Some((values, origin)) = layers.find("state") else {
        return default_state(env).ok_or(ConfigError::NoState);
    };
    let given = values.last().cloned().unwrap_or_default();
    let has_nul = given.as_encoded_bytes().contains(&0);
    if given.is_empty() || has_nul || given.as_encoded_bytes().starts_with(b"~") {
        let allowed = "a directory, which is made if it does not exist; '~' is not expanded here";
        return Err(ConfigError::value("state", &given, origin, allowed));
    }
    std::path::absolute(&given).map_err(|source| ConfigError::State {
        path: PathBuf::from(given),
        source,
    })
}

fn default_state(env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let value = env(name)?;
        // systemd separates several state directories by colons; the first one is ours.
        let first = match value.to_str() {
            Some(text) if name == "STATE_DIRECTORY" => text.split(':').next()?.into(),
            _ => value,
        };
        Some(PathBuf::from(first)).filter(|path| path.is_absolute())
    };
    absolute("STATE_DIRECTORY")
        .or_else(|| Some(absolute("XDG_CACHE_HOME")?.join("tarpon")))
        .or_else(|| Some(absolute("HOME")?.join(Path::new(".cache/tarpon"))))
}

#[cfg(test)]
mod tests;
