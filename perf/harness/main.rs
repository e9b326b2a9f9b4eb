//! `perf/compare`: tarpon beside what it replaces and what it competes with, on one machine in
//! one run; and load. See `perf/README.md`.

#[path = "../../tests/support/mod.rs"]
mod support;

mod busy;
mod checks;
mod clones;
mod columns;
mod common;
mod folder;
mod gitcgi;
mod link;
mod load;
mod measure;
mod nginx;
mod peer;
mod pipeline;
mod probe;
mod push;
mod record;
mod refresh;
mod room;
mod site;
mod soak;
mod svg;
mod table;
mod tls;
mod usage;
mod wants;

use clap::{Args, Parser, Subcommand};
use common::{Common, crate_root, show};
use measure::{Bench, Effort};
use peer::Peer;
use record::Record;
use refresh::{Case, Stage};
use std::process::ExitCode;
use std::time::Duration;

/// Measures tarpon beside `git clone | tar | pzstd`, nginx, `git clone` over HTTP and other
/// servers, in alternating runs, and prints a table.
#[derive(Parser, Debug)]
#[command(name = "perf/compare", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    compare: CompareArgs,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Open-loop load on one server: arrivals at a given rate, whatever becomes of them
    Load(LoadArgs),
    /// Pushes to one repository, one after the other: what each costs until its snapshot is served
    Refresh(RefreshArgs),
    /// Pushes to several repositories at once, beside clients that download all the time
    Soak(SoakArgs),
    /// More repositories than a small file system holds, under a skewed load
    Room(RoomArgs),
    /// `git clone --bare` through the server beside `git http-backend`, of the same repacked mirror
    Clone(CloneArgs),
    /// Hits over TLS beside nginx; and clients that hold connections, handshakes and heads
    Tls(TlsArgs),
}

#[derive(Args, Debug)]
struct CompareArgs {
    /// Repositories: URLs, paths, or generate:SHAPE:SIZE such as generate:many_small:100M
    /// (many_small, few_large, big_pack)
    #[arg(value_name = "REPO", required = true)]
    repositories: Vec<String>,
    /// Another server with the same URLs: http://HOST:PORT, or the URL of its snapshot
    #[arg(long, value_name = "URL")]
    peer: Vec<String>,
    /// Few runs, to see that everything works; the figures say little
    #[arg(long)]
    quick: bool,
    /// Exit with 1 when something that must be shown is not
    #[arg(long)]
    strict: bool,
    /// Rounds of all contestants [default: 5]
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Misses to the first byte, each on a restarted server [default: 100]
    #[arg(long, value_name = "N")]
    misses: Option<u32>,
    /// Clients of the runs that show memory [default: 64]
    #[arg(long, value_name = "N")]
    crowd: Option<usize>,
    /// Only what is asked for by name: exact commits, depth 1, cold ones
    #[arg(long)]
    wants: bool,
    /// Threads of pzstd
    #[arg(long, value_name = "N", default_value_t = 4)]
    pzstd_threads: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct RefreshArgs {
    /// A URL, a path, or generate:SHAPE:SIZE
    #[arg(value_name = "REPO")]
    repository: String,
    /// Pushes that are measured
    #[arg(long, value_name = "N", default_value_t = 10)]
    rounds: u32,
    /// Files that each changes, scattered over the worktree
    #[arg(
        long,
        value_name = "K",
        default_value_t = 10,
        conflicts_with = "branches"
    )]
    files: usize,
    /// Give the repository N branches more, and push one file to each in turn
    #[arg(long, value_name = "N")]
    branches: Option<usize>,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct SoakArgs {
    /// A URL, a path, or generate:SHAPE:SIZE; each repository is a copy of it
    #[arg(value_name = "REPO", default_value = "generate:many_small:1M")]
    repository: String,
    /// Repositories
    #[arg(long, value_name = "R", default_value_t = 20)]
    repositories: usize,
    /// Seconds from one push to the next, of each repository
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    every: f64,
    /// For how long
    #[arg(long, value_name = "M", default_value_t = 10.0)]
    minutes: f64,
    /// Clients, each of which downloads one snapshot after the other
    #[arg(long, value_name = "C", default_value_t = 50)]
    clients: usize,
    /// How fast each of them reads at most: bytes per second
    #[arg(long, value_name = "BYTES", default_value = "4M")]
    client_rate: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct RoomArgs {
    /// Size of the file system (tmpfs, mounted where only the server sees it)
    #[arg(long, value_name = "BYTES", default_value = "400M")]
    size: String,
    /// Repositories, all different
    #[arg(long, value_name = "R", default_value_t = 60)]
    repositories: u64,
    /// Bytes of each that do not compress: as its pack, and as frames
    #[arg(long, value_name = "BYTES", default_value = "20M")]
    each: String,
    /// Those of them that are hot
    #[arg(long, value_name = "H", default_value_t = 4)]
    hot: u64,
    /// Share of the requests that want those
    #[arg(long, value_name = "PERCENT", default_value_t = 90)]
    hot_percent: u64,
    /// Clients, each of which downloads one snapshot after the other
    #[arg(long, value_name = "C", default_value_t = 2)]
    clients: u64,
    /// What each waits between two, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 50)]
    pause_ms: u64,
    /// For how long
    #[arg(long, value_name = "M", default_value_t = 10.0)]
    minutes: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct CloneArgs {
    /// A URL, a path, or generate:SHAPE:SIZE
    #[arg(value_name = "REPO")]
    repository: String,
    /// Clones from each
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct TlsArgs {
    /// A URL, a path, or generate:SHAPE:SIZE
    #[arg(value_name = "REPO")]
    repository: String,
    /// Rounds of both servers, with full and with resumed handshakes
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Args, Debug)]
struct LoadArgs {
    /// Arrivals per second
    #[arg(long, value_name = "R")]
    rate: f64,
    /// For how many seconds
    #[arg(long, value_name = "S")]
    duration: f64,
    /// REPO=WEIGHT,…; with --server, a REPO is HOST/PATH
    #[arg(long)]
    mix: String,
    /// Ask this running server on this machine instead of starting one
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Begin with an empty cache
    #[arg(long)]
    cold: bool,
    /// Share of clients that read slowly
    #[arg(long, value_name = "0..1", default_value_t = 0.0)]
    slow_share: f64,
    /// How slowly: bytes per second
    #[arg(long, value_name = "BYTES", default_value = "1M")]
    slow_rate: String,
    /// Share of clients that leave early
    #[arg(long, value_name = "0..1", default_value_t = 0.0)]
    leave_share: f64,
    /// After how many bytes
    #[arg(long, value_name = "BYTES", default_value = "1M")]
    leave_after: String,
    /// Clients at the same time; arrivals beyond wait, and their waiting counts
    #[arg(long, value_name = "N", default_value_t = 512)]
    clients: usize,
    /// Of everything that is drawn by chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.verb {
        Some(Verb::Load(arguments)) => run_load(&arguments),
        Some(Verb::Refresh(arguments)) => run_refresh(&arguments),
        Some(Verb::Soak(arguments)) => run_soak(&arguments),
        Some(Verb::Room(arguments)) => run_room(&arguments),
        Some(Verb::Clone(arguments)) => run_clone(&arguments),
        Some(Verb::Tls(arguments)) => run_tls(&arguments),
        None => run_compare(&cli.compare),
    };
    match done {
        Ok(code) => code,
        Err(why) => {
            eprintln!("perf/compare: {why}");
            ExitCode::from(2)
        }
    }
}

impl CompareArgs {
    fn effort(&self) -> Effort {
        let full = Effort {
            rounds: 5,
            hits: 8,
            misses: 100,
            firsts: 200,
            followers: 8,
            crowd: 64,
            busy: 200,
            wants: 40,
            refreshes: 10,
            pzstd_threads: self.pzstd_threads,
        };
        let quick = Effort {
            rounds: 1,
            hits: 2,
            misses: 5,
            firsts: 10,
            followers: 2,
            crowd: 8,
            busy: 10,
            wants: 4,
            refreshes: 1,
            pzstd_threads: self.pzstd_threads,
        };
        let base = if self.quick { quick } else { full };
        Effort {
            rounds: self.rounds.unwrap_or(base.rounds),
            misses: self.misses.unwrap_or(base.misses),
            crowd: self.crowd.unwrap_or(base.crowd),
            ..base
        }
    }
}

fn run_compare(arguments: &CompareArgs) -> Result<ExitCode, String> {
    let (site, work) = arguments.common.site()?;
    let peers = arguments.peer.iter().map(|url| Peer::parse(url));
    let peers: Vec<Peer> = peers.collect::<Result<_, _>>()?;
    let repositories = arguments
        .repositories
        .iter()
        .map(|spec| site.repository(spec));
    let repositories: Vec<_> = repositories.collect::<Result<_, _>>()?;
    let nginx = nginx::find();
    let mut record = Record::default();
    if nginx.is_none() {
        let word = "nginx: it is not installed (apt-get install nginx-light)";
        record.skip(word.to_owned());
    }
    let version = nginx.as_ref().map(|(_, version)| version.as_str());
    let machine = folder::machine_text(crate_root(), &work, version);
    let effort = arguments.effort();
    for repository in &repositories {
        let mut bench = Bench {
            site: &site,
            repository,
            effort: &effort,
            peers: &peers,
            nginx: nginx.as_ref().map(|(binary, _)| *binary),
            record: &mut record,
        };
        match arguments.wants {
            true => bench.run_wants(),
            false => bench.run(),
        }
    }
    let checks = checks::all(&record, &repositories);
    let text = table::text(&record, &checks);
    print!("{text}");
    if let Some(directory) = arguments.common.directory() {
        folder::write(&record, &directory, &text, &machine);
    }
    site.clean();
    let failed = checks
        .iter()
        .any(|check| check.verdict == checks::Verdict::Fail);
    Ok(ExitCode::from(u8::from(failed && arguments.strict)))
}

/// The value of an option that must be above 0.
fn positive(what: &str, value: f64) -> Result<f64, String> {
    match value > 0.0 && value.is_finite() {
        true => Ok(value),
        false => Err(format!("--{what} is no number above 0")),
    }
}

fn run_load(arguments: &LoadArgs) -> Result<ExitCode, String> {
    let duration = positive("duration", arguments.duration)?.min(86_400.0);
    let load = load::Load {
        rate: positive("rate", arguments.rate)?,
        duration: Duration::from_secs_f64(duration),
        mix: load::parse_mix(&arguments.mix)?,
        server: arguments.server.as_deref().map(Peer::parse).transpose()?,
        cold: arguments.cold,
        slow_share: arguments.slow_share,
        slow_bytes_per_s: site::parse_bytes(&arguments.slow_rate)?.max(1),
        leave_share: arguments.leave_share,
        leave_after_bytes: site::parse_bytes(&arguments.leave_after)?,
        clients_max: arguments.clients.clamp(1, 4096),
        seed: arguments.seed,
    };
    let (site, work) = arguments.common.site()?;
    let machine = folder::machine_text(crate_root(), &work, None);
    let directory = arguments.common.directory();
    let record = directory.as_deref().map(|path| (path, machine.as_str()));
    load::run(&load, &site, record)?;
    site.clean();
    Ok(ExitCode::SUCCESS)
}

fn run_refresh(arguments: &RefreshArgs) -> Result<ExitCode, String> {
    let (site, work) = arguments.common.site()?;
    let machine = folder::machine_text(crate_root(), &work, None);
    let repository = site.repository(&arguments.repository)?;
    let case = match arguments.branches {
        None => Case::Files(arguments.files),
        Some(_) => Case::OtherBranch,
    };
    let branches = arguments.branches.unwrap_or(1).min(1_000_000);
    eprintln!("{}: first build", repository.name);
    let mut stage = Stage::new(&site, &repository, branches, refresh::SETTLE);
    let (refreshes, text) = stage.row(&repository.name, case, arguments.rounds.max(1));
    print!("{text}");
    if let Some(directory) = arguments.common.directory() {
        folder::create_dir(&directory);
        let csv = folder::refresh_csv(&[refreshes]);
        folder::write_file(&directory.join("refresh.csv"), &csv);
        folder::write_file(&directory.join("table.txt"), &text);
        folder::write_file(&directory.join("machine.txt"), &machine);
    }
    stage.stop(&site);
    site.clean();
    Ok(ExitCode::SUCCESS)
}

fn run_soak(arguments: &SoakArgs) -> Result<ExitCode, String> {
    let minutes = positive("minutes", arguments.minutes)?.min(1_440.0);
    let every = positive("every", arguments.every)?.min(3_600.0);
    let soak = soak::Soak {
        repositories: arguments.repositories.clamp(1, 1_000),
        every: Duration::from_secs_f64(every),
        duration: Duration::from_secs_f64(minutes * 60.0),
        clients: arguments.clients.min(4_096),
        client_bytes_per_s: site::parse_bytes(&arguments.client_rate)?.max(1),
    };
    let (site, work) = arguments.common.site()?;
    let machine = folder::machine_text(crate_root(), &work, None);
    let repository = site.repository(&arguments.repository)?;
    let outcome = soak.run(&site, &repository);
    let text = outcome.text(&soak);
    show(&arguments.common, &text, &machine);
    site.clean();
    Ok(ExitCode::from(u8::from(!outcome.is_clean())))
}

fn run_room(arguments: &RoomArgs) -> Result<ExitCode, String> {
    let minutes = positive("minutes", arguments.minutes)?.min(1_440.0);
    let repositories = arguments.repositories.clamp(2, 1_000);
    let room = room::Room {
        bytes: site::parse_bytes(&arguments.size)?.max(1 << 20),
        repositories,
        each_bytes: site::parse_bytes(&arguments.each)?.max(1),
        hot: arguments.hot.clamp(1, repositories - 1),
        hot_percent: arguments.hot_percent.min(100),
        clients: arguments.clients.clamp(1, 64),
        pause: Duration::from_millis(arguments.pause_ms),
        duration: Duration::from_secs_f64(minutes * 60.0),
    };
    let (site, work) = arguments.common.site()?;
    let machine = folder::machine_text(crate_root(), &work, None);
    let outcome = room.run(&site);
    let text = outcome.text(&room);
    show(&arguments.common, &text, &machine);
    site.clean();
    Ok(ExitCode::from(u8::from(!outcome.is_clean(&room))))
}

fn run_clone(arguments: &CloneArgs) -> Result<ExitCode, String> {
    let (site, work) = arguments.common.site()?;
    let machine = folder::machine_text(crate_root(), &work, None);
    let repository = site.repository(&arguments.repository)?;
    let outcome = clones::run(&site, &repository, arguments.rounds.max(1));
    let text = outcome.text();
    show(&arguments.common, &text, &machine);
    site.clean();
    Ok(ExitCode::from(u8::from(!outcome.is_within())))
}

fn run_tls(arguments: &TlsArgs) -> Result<ExitCode, String> {
    let (site, work) = arguments.common.site()?;
    let (binary, version) = nginx::find().ok_or("nginx is not installed")?;
    let machine = folder::machine_text(crate_root(), &work, Some(&version));
    let repository = site.repository(&arguments.repository)?;
    let small = site.repository("generate:many_small:1M")?;
    let outcome = tls::run(
        &site,
        binary,
        (&repository, &small),
        arguments.rounds.max(1),
    );
    show(&arguments.common, &outcome.text(), &machine);
    if let Some(directory) = arguments.common.directory() {
        folder::write_file(&directory.join("raw.csv"), &outcome.csv());
    }
    site.clean();
    Ok(ExitCode::from(u8::from(!outcome.is_within())))
}
