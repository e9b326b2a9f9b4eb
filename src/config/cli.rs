//! The command line: what clap parses and what `--help` says. No value is checked or defaulted
//! here, so that a default can never hide a value from the environment or from the file.
use super::access_args::AccessArgs;
use super::key::{Key, Layer};
use super::listen_args::ListenArgs;
use super::restore::RestoreArgs;
use super::store_admin::AdminVerb;
use super::store_args::StoreArgs;
use super::token::TokenVerb;
use crate::faults;
use clap::{Arg, ArgAction, Args, Command, CommandFactory, Parser, Subcommand};
use std::ffi::{OsStr, OsString};

/// Names `serve`'s configuration file.
pub(super) const CONFIG_VARIABLE: &str = "TARPON_CONFIG";
/// What brings a restore its token.
pub const TOKEN_VARIABLE: &str = "TARPON_TOKEN";
/// Filters the log.
pub const LOG_VARIABLE: &str = "TARPON_LOG";

/// The whole command line.
#[derive(Parser, Debug)]
#[command(
    name = "tarpon",
    version,
    about = "Serves whole git repositories as one compressed archive, snapshot.tar.zst.",
    long_about = "Serves whole git repositories as one compressed archive, snapshot.tar.zst \
                  (worktree and .git). Unpacking it is the same as a fresh git clone, only much \
                  faster: the first byte leaves within milliseconds.",
    after_help = TOP_AFTER_HELP,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// Run the server
    #[command(after_help = SERVE_AFTER_HELP)]
    Serve(Box<ServeArgs>),
    /// Look at all that serve would be started with, and serve nothing
    #[command(after_help = CHECK_AFTER_HELP)]
    Check(Box<ServeArgs>),
    /// Fetch a repository from a server and unpack it
    #[command(after_help = RESTORE_AFTER_HELP)]
    Restore(Box<RestoreArgs>),
    /// Make tokens for those who may use the server
    #[command(after_help = TOKEN_AFTER_HELP, subcommand_required = true)]
    Token {
        #[command(subcommand)]
        verb: TokenVerb,
    },
    /// Look at what servers share
    #[command(after_help = ADMIN_AFTER_HELP, subcommand_required = true)]
    Admin {
        #[command(subcommand)]
        verb: AdminVerb,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

const TOP_AFTER_HELP: &str = "\
Examples:
  tarpon serve
  mkdir -p log && curl -sSf http://127.0.0.1:8080/git/github.com/rust-lang/log/snapshot.tar.zst |
      zstd -dc | tar -C log -xf -
  tarpon restore https://github.com/rust-lang/log ./log

Exit codes:
  0  done; for serve: stopped by SIGTERM or SIGINT, or SIGHUP of its terminal
  1  wrong command line or setting; nothing was started
  3  could not start or failed while running; standard error says why
  Those of restore are more: tarpon restore --help";

const TOKEN_AFTER_HELP: &str = "\
Examples:
  tarpon token new build-farm
      Prints the token, tarpon_ and 64 digits, which nobody can print again, and a line with its
      hash. Append the line to the file of --tokens and send the server SIGHUP.
  echo 'machine SERVER login x password tarpon_...' >> ~/.netrc
      Of a machine: git, curl --netrc and tarpon restore send it to that host. chmod 600 it.
  git config --global credential.https://SERVER.useHttpPath true
  git config --global credential.https://SERVER.helper store
      With that git asks once a repository for a user, which is any, and a password, which is
      the token.

Exit codes:
  0  printed
  1  wrong command line
  3  the system gives no random bytes, or what was printed cannot be written";

const ADMIN_AFTER_HELP: &str = "\
Examples:
  tarpon admin store ls --config /etc/tarpon/tarpon.toml
  tarpon admin store du --store s3://farm/tarpon --json
  tarpon admin store verify --store s3://farm/tarpon && echo all of it is there, and as it was made
      Reads every byte that is named.
  tarpon admin store prune --dry-run --store s3://farm/tarpon
      What servers will remove, and why. They do so by themselves.

Exit codes:
  0  done; for verify: all that is named is there and right
  1  wrong command line or setting
  2  something in the store is missing or is not what it should be; the output names it
  3  the store cannot be read, or what was found cannot be written";

const SERVE_AFTER_HELP: &str = "\
Environment and file:
  Every flag is also an environment variable and a key of the configuration file:
  --fetch-interval 5m is TARPON_FETCH_INTERVAL=5m and fetch_interval = \"5m\".
  A flag wins over the environment, the environment over the file, the file over the default.
  A list (--listen, --upstream, --follow, --access and others that may be repeated) is taken
  whole from the first of them that has it; in an environment variable its items are separated by
  spaces or commas, in the file it is an array.
  An empty variable counts as not set. TARPON_LOG (or RUST_LOG) filters the log: info, debug,
  tarpon=debug.

Examples:
  tarpon serve
      Serves github.com, gitlab.com, bitbucket.org and codeberg.org on 127.0.0.1:8080.
  tarpon serve --listen 0.0.0.0:8080 --state /var/lib/tarpon --cache-limit 500G
  tarpon serve --upstream git.example.org
      Also serves https://git.example.org/.
  tarpon serve --no-default-upstreams --upstream local=file:///srv/git/
      Serves /srv/git/team/app.git as /git/local/team/app/snapshot.tar.zst, and nothing else.

Signals:
  SIGHUP has a server without a controlling terminal read its files of secrets anew: tokens,
  webhook secrets, certificates and keys. All of them or, if one is wrong, none; the log says
  which. All else needs a restart.

Exit codes:
  0  stopped by SIGTERM or SIGINT, or SIGHUP of its terminal
  1  wrong command line or setting; nothing was started
  3  could not start (a port in use, a state directory of another server's) or failed while running;
     standard error says why";

const CHECK_AFTER_HELP: &str = "\
It takes what serve takes, from flags, environment and file alike, reads each file that they name,
makes nothing, and minds no server that runs. Standard error has a line for each thing that a
server would go on with but that you should know, such as files with secrets that others can read.

Examples:
  tarpon check --config /etc/tarpon/tarpon.toml && systemctl restart tarpon

Exit codes:
  0  serve would start
  1  wrong command line or setting
  3  a file, the state directory or the system is not as the settings need it";

const RESTORE_AFTER_HELP: &str = "\
Examples:
  tarpon restore https://github.com/rust-lang/log ./log --server http://cache.example.org:8080
  tarpon restore github.com/rust-lang/log ./log --overwrite --ref master --commit SHA --depth 1
      Checks out SHA as the branch master, wherever that is by now, without its history.

The directory appears whole or not at all; if it fails, what is there stays as it is.

Who asks:
  A server that wants to know it is told what --server has (https://USER:PASSWORD@HOST), else the
  token in TARPON_TOKEN, else what .netrc or git's credential helpers have for the server's URL of
  the repository. Nothing of it goes to any other host, or over plain http to any other machine.
  One that takes client certificates is shown that of --cert.
  A server that asks the upstream who may read wants the user and password that you have there: in
  one of these places, or by --send-upstream-credential from where git has them.

Exit codes:
  0    restored
  1    wrong command line, or a directory that is not empty or has what must not be lost
  2    the server has no such repository, or does not give it to whoever asks
  3    the server cannot be reached, fails, or breaks off again and again
  4    the disk: full, not writable, failing; or more is to be written than --size-limit allows
  5    the archive is corrupt or holds what must not be written; the message names it
  6    git failed
  7    a ref or commit that was asked for is nowhere, or a ref of --have is at another commit
  101  a fault of tarpon's own; nothing was left behind
  130  interrupted by SIGINT, SIGTERM or SIGHUP";

/// The flags of `tarpon serve`, as given. `into_layer` is their only way out.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Serving")]
pub(super) struct ServeArgs {
    /// Configuration file (TOML). None is read unless named here or in TARPON_CONFIG
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<OsString>,

    #[command(flatten)]
    listening: ListenArgs,

    /// Directory for mirrors and snapshots, one server each. Default: $STATE_DIRECTORY as systemd
    /// sets it, else $XDG_CACHE_HOME/tarpon, else ~/.cache/tarpon
    #[arg(long, value_name = "DIR")]
    state: Option<OsString>,

    /// On SIGTERM, let running responses finish for this long, then end them [default: 30s]
    #[arg(long, value_name = "TIME")]
    shutdown_grace: Option<OsString>,

    /// Drop a client that takes no byte for this long; a slow one is dropped only if others wait for
    /// its place and it takes less than 1 MiB a minute [default: 60s]
    #[arg(long, value_name = "TIME")]
    stall_timeout: Option<OsString>,

    /// Close a connection that asks for nothing, or takes for the head of a request, this long
    /// [default: 60s]
    #[arg(long, value_name = "TIME")]
    idle_timeout: Option<OsString>,

    /// How to write the log: human, json, or auto (human on a terminal, else json)
    /// [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<OsString>,

    /// Serve repositories of this host too; may be repeated. HOST alone means https://HOST/;
    /// BASE_URL is an https, http, ssh, git or file URL. Added to github.com, gitlab.com,
    /// bitbucket.org and codeberg.org
    #[arg(long, value_name = "HOST[=BASE_URL]", help_heading = "Upstreams")]
    upstream: Vec<OsString>,

    /// Serve only what --upstream names
    #[arg(
        long,
        value_name = "true|false",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Upstreams"
    )]
    no_default_upstreams: Option<OsString>,

    /// Take repositories of this host whose names differ in case only for one, as the four default hosts do;
    /// may be repeated
    #[arg(long, value_name = "HOST", help_heading = "Upstreams")]
    upstream_ignore_case: Vec<OsString>,

    /// Mirror these refs too, such as 'refs/pull/*'; may be repeated. Branches and tags always are
    #[arg(long, value_name = "REFS", help_heading = "Upstreams")]
    follow: Vec<OsString>,

    /// Look at the upstream, in the background, when somebody asks for a repository and the last look
    /// began longer ago; also how often one that is in use and moves is looked at without being asked
    /// for [default: 10s]
    #[arg(long, value_name = "TIME", help_heading = "Upstreams")]
    ref_check_interval: Option<OsString>,

    /// How often to look at the upstream of a repository that nobody has asked for within 5 minutes
    /// [default: 15m]
    #[arg(long, value_name = "TIME", help_heading = "Upstreams")]
    fetch_interval: Option<OsString>,

    /// Begin at most so many looks a second at repositories of one host that no request waits for
    /// [default: 10]
    #[arg(long, value_name = "N", help_heading = "Upstreams")]
    upstream_rate: Option<OsString>,

    /// File with the secrets of webhooks, each line a host of --upstream and a secret; read anew at
    /// SIGHUP. Without it no webhook is accepted
    #[arg(long, value_name = "FILE", help_heading = "Upstreams")]
    webhook_secrets: Option<OsString>,

    #[command(flatten)]
    who: AccessArgs,

    #[command(flatten)]
    shared: StoreArgs,

    /// Give up a clone from an upstream after this long [default: 1h]
    #[arg(long, value_name = "TIME", help_heading = "Upstreams")]
    clone_timeout: Option<OsString>,

    /// Give up a clone or a fetch from an upstream that brings more than this: bytes such as 20G, or
    /// a share of the file system such as 50% [default: 50%]
    #[arg(long, value_name = "SIZE", help_heading = "Upstreams")]
    clone_size_limit: Option<OsString>,

    /// Give up a git of which a process takes more memory than this, such as a clone or a fetch;
    /// those that list the refs of an upstream may take 512M [default: 4G]
    #[arg(long, value_name = "SIZE", help_heading = "Upstreams")]
    git_memory_limit: Option<OsString>,

    /// How much everything in the state directory may take, mirrors and snapshots: bytes such as 500G
    /// (K, M, G and T are powers of 1024), or a share of the file system such as 80% [default: 80%]
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    cache_limit: Option<OsString>,

    /// What is left when --cache-limit was passed and the least valuable has left; same form. Default:
    /// nine tenths of --cache-limit
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    cache_low: Option<OsString>,

    /// How much of the file system stays free, whatever --cache-limit says; same form
    /// [default: 5%]
    #[arg(long, value_name = "SIZE", help_heading = "Cache")]
    cache_free_floor: Option<OsString>,

    /// How often to read every snapshot and mirror from the disk and check it, slowly; also done
    /// after a server that did not end as it should. 0 for never [default: 168h]
    #[arg(long, value_name = "TIME", help_heading = "Cache")]
    scrub_interval: Option<OsString>,

    /// Repack a mirror, and make what git needs to serve it fast, once nobody has asked for its
    /// repository for this long, or a day after it became due [default: 10m]
    #[arg(long, value_name = "TIME", help_heading = "Cache")]
    maintenance_idle: Option<OsString>,

    /// Keep what no branch or tag leads to any more, such as commits that were forced away, for this
    /// long, or never remove it; then it is removed from mirrors and snapshots at a quiet time. What was
    /// fetched by its id is asked for again after it
    /// [default: 1d]
    #[arg(long, value_name = "TIME", help_heading = "Cache")]
    unreachable_expiry: Option<OsString>,

    /// zstd level, 1 (fast) to 19 (small); higher ones make the first client of a snapshot wait
    /// [default: 1]
    #[arg(long, value_name = "N", help_heading = "Cache")]
    level: Option<OsString>,

    /// Network threads. Default: the processors that this process may use
    #[arg(long, value_name = "N", help_heading = "Threads")]
    cores: Option<OsString>,

    /// Threads that build snapshots. Default: as many as --cores
    #[arg(long, value_name = "N", help_heading = "Threads")]
    encoders: Option<OsString>,

    /// How to do network input and output: uring, epoll, or auto (io_uring where the system
    /// allows it) [default: auto]
    #[arg(long, value_name = "DRIVER", help_heading = "Threads")]
    io_driver: Option<OsString>,
}

impl ServeArgs {
    /// The flags that were given, by key. `config` is not among them: it says where another layer
    /// is.
    pub(super) fn into_layer(self) -> Layer {
        let list = |values: Vec<OsString>| (!values.is_empty()).then_some(values);
        let one = |value: Option<OsString>| value.map(|value| vec![value]);
        // Taken apart by name, so that a new flag that is forgotten here does not compile.
        let Self {
            config: _,
            listening,
            state,
            shutdown_grace,
            stall_timeout,
            idle_timeout,
            log_format,
            upstream,
            no_default_upstreams,
            upstream_ignore_case,
            follow,
            ref_check_interval,
            fetch_interval,
            upstream_rate,
            webhook_secrets,
            who,
            shared,
            maintenance_idle,
            unreachable_expiry,
            clone_timeout,
            clone_size_limit,
            git_memory_limit,
            cache_limit,
            cache_low,
            cache_free_floor,
            scrub_interval,
            level,
            cores,
            encoders,
            io_driver,
        } = self;
        let given = [
            ("state", one(state)),
            ("shutdown_grace", one(shutdown_grace)),
            ("stall_timeout", one(stall_timeout)),
            ("idle_timeout", one(idle_timeout)),
            ("log_format", one(log_format)),
            ("upstream", list(upstream)),
            ("no_default_upstreams", one(no_default_upstreams)),
            ("upstream_ignore_case", list(upstream_ignore_case)),
            ("follow", list(follow)),
            ("ref_check_interval", one(ref_check_interval)),
            ("fetch_interval", one(fetch_interval)),
            ("upstream_rate", one(upstream_rate)),
            ("webhook_secrets", one(webhook_secrets)),
            ("maintenance_idle", one(maintenance_idle)),
            ("unreachable_expiry", one(unreachable_expiry)),
            ("clone_timeout", one(clone_timeout)),
            ("clone_size_limit", one(clone_size_limit)),
            ("git_memory_limit", one(git_memory_limit)),
            ("cache_limit", one(cache_limit)),
            ("cache_low", one(cache_low)),
            ("cache_free_floor", one(cache_free_floor)),
            ("scrub_interval", one(scrub_interval)),
            ("level", one(level)),
            ("cores", one(cores)),
            ("encoders", one(encoders)),
            ("io_driver", one(io_driver)),
        ];
        let given = given.into_iter().chain(listening.given());
        let given = given.chain(who.given()).chain(shared.given());
        let said = given.filter_map(|(key, values)| Some((key.into(), values?)));
        said.collect()
    }
}

/// Every key, read off the flags so that the two cannot differ.
pub(super) fn keys() -> Vec<Key> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve");
    serve
        .into_iter()
        .flat_map(|serve| serve.get_arguments())
        .filter(|arg| !matches!(arg.get_id().as_str(), "config" | "help"))
        .map(|arg| Key {
            name: arg.get_id().to_string(),
            is_list: matches!(arg.get_action(), ArgAction::Append),
        })
        .collect()
}

/// Variables that are no key of `serve` but mean something all the same: where its file is, those
/// that clap reads for other commands, and those of the log and of tests.
pub(super) fn other_variables() -> Vec<String> {
    let command = Cli::command();
    let arguments = command
        .get_subcommands()
        .flat_map(|sub| sub.get_arguments());
    let read_by_clap = arguments.filter_map(|arg| arg.get_env()?.to_str());
    let others = [
        CONFIG_VARIABLE,
        LOG_VARIABLE,
        TOKEN_VARIABLE,
        faults::VARIABLE,
    ];
    read_by_clap.chain(others).map(ToOwned::to_owned).collect()
}

/// The command line as it is parsed: an empty variable counts as not set.
pub(super) fn command() -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let forget = |arg: Arg| match arg.get_env().is_some_and(is_empty) {
        true => arg.env(None),
        false => arg,
    };
    Cli::command().mut_subcommand("restore", |restore| restore.mut_args(forget))
}

/// Writes the completions of `shell` for the whole command line.
///
/// # Errors
/// Those of `out`.
pub fn completions(
    shell: clap_complete::Shell,
    out: &mut dyn std::io::Write,
) -> std::io::Result<()> {
    out.write_all(super::completions::of(shell, Cli::command()).as_bytes())?;
    out.flush()
}

/// Writes the manual page: the command, then each subcommand.
///
/// # Errors
/// Those of `out`.
pub fn man(out: &mut dyn std::io::Write) -> std::io::Result<()> {
    let mut command = Cli::command();
    command.build();
    super::manual::write(&command, out)?;
    out.flush()
}
