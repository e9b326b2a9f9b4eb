//! `tarpon restore`: from a server to a ready working copy.
//!
//! ```text
//! download ─► frames ─► extract: decode ─► tar ─► write     into staging
//!                                          index ─► git ─► staging: the target, at once
//! ```
//!
//! Threads and blocking sockets: it is one program for one repository. What comes from the network
//! is believed only after its checksum was, names only after [`path`] has looked at them, and
//! [`write`] never follows a link.

mod chunk;
mod connect;
mod download;
mod error;
mod extract;
mod frames;
mod git;
mod http;
mod index;
mod path;
mod progress;
mod run;
mod settings;
mod staging;
mod stop;
mod tar;
mod url;
mod write;

pub use error::RestoreError;

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use crate::config::RestoreArgs;
use crate::io::say::say;
use crate::io::signal::StopSignals;
use crate::limits::{
    CONNECTIONS_DEFAULT, RESTARTS_MAX, RESTORE_GIT_STALL_DEFAULT_MS, RESTORE_STALL_DEFAULT_MS,
};
use download::Link;
use git::{Bundled, Wanted};
use progress::{Progress, Summary};
use staging::Staging;
use stop::Stop;
use url::Server;

/// Restores as asked, and says what happened on standard error; returns the exit code.
pub fn run(args: &RestoreArgs) -> u8 {
    let stop = Arc::new(Stop::default());
    let progress = Progress::default();
    let result = watch_signals(&stop).and_then(|()| restore(args, &stop, &progress));
    // Whatever step noticed it first, the signal is the reason.
    let result = match (result, stop.signal()) {
        (Err(_), Some(signal)) => Err(RestoreError::Interrupted(signal)),
        (result, _) => result,
    };
    match result {
        Ok(summary) => match report(args, &summary) {
            Ok(()) => 0,
            Err(e) => {
                let directory = &summary.directory;
                say(format_args!(
                    "tarpon: {directory} is complete, but the summary cannot be written: {e}"
                ));
                OUTPUT_LOST_CODE
            }
        },
        Err(error) => {
            let advice = advice(args, &error, &progress);
            say(format_args!("tarpon: {error}{advice}"));
            error.exit_code()
        }
    }
}

/// The exit code when all is there but the summary that was asked for: that of a full disk.
const OUTPUT_LOST_CODE: u8 = 4;

/// What may help against an error, behind its text.
fn advice(args: &RestoreArgs, error: &RestoreError, progress: &Progress) -> &'static str {
    match error {
        RestoreError::Server(_) if args.fallback_clone() => "",
        RestoreError::Server(_) if progress.has_answer() => {
            "; --fallback clone would clone from the upstream instead"
        }
        // Perhaps it is no tarpon at all.
        RestoreError::Server(_) => {
            "; check --server or TARPON_SERVER, or have --fallback clone do without a server"
        }
        _ => "",
    }
}

/// Takes SIGINT and SIGTERM from now on: the first ends the restore tidily, the second at once.
fn watch_signals(stop: &Arc<Stop>) -> Result<(), RestoreError> {
    let failed = |e: std::io::Error| RestoreError::Usage(format!("signals: {e}"));
    let signals = StopSignals::block().map_err(failed)?;
    let stop = stop.clone();
    let watch = move || {
        while let Ok(signal) = signals.wait() {
            if stop.signal().is_some() {
                std::process::exit(130);
            }
            stop.interrupt(signal);
        }
    };
    let started = std::thread::Builder::new()
        .name("signals".into())
        .spawn(watch);
    started.map(|_| ()).map_err(failed)
}

fn report(args: &RestoreArgs, summary: &Summary) -> std::io::Result<()> {
    if args.json {
        // A summary of numbers and strings is always JSON.
        let json = serde_json::to_string(summary).unwrap_or_default();
        let mut out = std::io::stdout();
        writeln!(out, "{json}")?;
        return out.flush();
    }
    if !args.quiet {
        say(format_args!(
            "restored {} into {}: {:.1} MiB, {} entries, {:.2} s",
            summary.repository,
            summary.directory,
            summary.bytes as f64 / f64::from(1 << 20),
            summary.entries,
            summary.total_ms / 1000.0
        ));
    }
    Ok(())
}

fn restore(args: &RestoreArgs, stop: &Stop, progress: &Progress) -> Result<Summary, RestoreError> {
    let server = Server::parse(&args.server)?;
    let link = Link {
        server: &server,
        stop,
        progress,
        connections: args.connections.unwrap_or(CONNECTIONS_DEFAULT),
        stall: args.stall_timeout_s.map_or(
            Duration::from_millis(RESTORE_STALL_DEFAULT_MS),
            Duration::from_secs_f64,
        ),
        git_stall: args.stall_timeout_s.map_or(
            Duration::from_millis(RESTORE_GIT_STALL_DEFAULT_MS),
            Duration::from_secs_f64,
        ),
    };
    std::thread::scope(|scope| {
        if !args.quiet && !args.json {
            scope.spawn(|| progress.show());
        }
        let result = restore_or_clone(args, link);
        progress.finish();
        result
    })
}

fn restore_or_clone(args: &RestoreArgs, link: Link<'_>) -> Result<Summary, RestoreError> {
    let wanted = Wanted::parse(&args.refs, &args.commits)?;
    let mut restarts = 0;
    let error = loop {
        let staging = Staging::new(&args.dir, args.overwrite)?;
        match snapshot(args, link, &wanted, &staging) {
            Ok(summary) => return Ok(summary),
            Err(RestoreError::Changed) if restarts < RESTARTS_MAX => restarts += 1,
            Err(error) => break error.of_server(&link.server.authority),
        }
        link.stop.clear();
    };
    if !args.fallback_clone() || !error.is_servers() || link.stop.signal().is_some() {
        return Err(error);
    }
    let text = format!("{error}; cloning {} instead", args.repo_url);
    link.progress.say(&text);
    link.stop.clear();
    let staging = Staging::new(&args.dir, args.overwrite)?;
    git::clone(link, &args.repo_url, &staging.tree())?;
    git::ensure_from_upstream(link, &args.repo_url, &wanted, &staging.tree())?;
    finish(args, link, &staging)?;
    let mut summary = link
        .progress
        .summary(&args.repo_url, &args.dir.to_string_lossy());
    summary.source = "clone";
    Ok(summary)
}

fn snapshot(
    args: &RestoreArgs,
    link: Link<'_>,
    wanted: &Wanted,
    staging: &Staging,
) -> Result<Summary, RestoreError> {
    let base = url::base_target(&args.repo_url).ok_or_else(|| {
        RestoreError::NoSnapshot(format!(
            "{} does not name a host and a path below it; a server has HOST/PATH, such as \
             github.com/OWNER/NAME",
            args.repo_url
        ))
    })?;
    let opened = download::open(link, &format!("{base}/snapshot.tar.zst"))?;
    let commit = opened
        .header("x-cachew-snapshot-commit")
        .filter(|c| !c.is_empty());
    let mut commit = commit.map(str::to_owned);
    let bundle = opened.header("x-cachew-bundle-url").map(str::to_owned);
    let (download, first) = opened.start()?;
    let root = staging.open_tree()?;
    let connections = link.connections;
    extract::extract(
        &download,
        first,
        connections,
        root.as_fd(),
        link.stop,
        link.progress,
    )?;
    let sha256 = index::finish_config(root.as_fd())?;
    index::refresh(root.as_fd(), sha256)?;
    let mut bundle_applied = false;
    if let Some(target) = bundle.filter(|target| !args.no_bundle && target.starts_with('/')) {
        let file = staging.bundle();
        match git::apply_bundle(link, &target, &file, &staging.tree())? {
            Bundled::Applied(new) => {
                commit = Some(new);
                bundle_applied = true;
            }
            Bundled::Skipped(_) if args.quiet => {}
            Bundled::Skipped(why) => {
                let text = "without the newest commits, as their bundle is of no use";
                link.progress.say(&format!("{text}: {why}"));
            }
        }
    }
    if !wanted.is_empty() {
        git::ensure(link, &base, wanted, &staging.tree())?;
    }
    finish(args, link, staging)?;
    let mut summary = link
        .progress
        .summary(&args.repo_url, &args.dir.to_string_lossy());
    summary.commit = commit;
    summary.bundle_applied = bundle_applied;
    Ok(summary)
}

/// Puts the finished tree into the target's place.
fn finish(args: &RestoreArgs, link: Link<'_>, staging: &Staging) -> Result<(), RestoreError> {
    let mut stale = Vec::new();
    let _turn = match staging.merges() {
        true => staging.turn(link.stop)?,
        false => None,
    };
    if staging.merges() && args.overwrite {
        let old = git::tracked(link.stop, staging.target());
        staging.check(&old)?;
        stale = staging::stale(old, git::tracked(link.stop, &staging.tree()));
    }
    if let Some(signal) = link.stop.signal() {
        return Err(RestoreError::Interrupted(signal));
    }
    staging.install(&stale)?;
    if !staging.merges() {
        return Ok(());
    }
    // A moved file has a new ctime.
    let target = staging.target();
    let root = File::open(target).map_err(|e| RestoreError::disk("open", target, e))?;
    let sha256 = run::local(link.stop, target, &["rev-parse", "--show-object-format"])?;
    let refreshed = index::refresh(root.as_fd(), sha256.starts_with(b"sha256"));
    match refreshed {
        Ok(()) => Ok(()),
        // An index of another version, by the user's configuration.
        Err(_) => run::local(link.stop, target, &["update-index", "-q", "--refresh"]).map(|_| ()),
    }
}
