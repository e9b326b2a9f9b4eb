//! Runs the real `git`, which sees as little as it can: the repository is named, never searched
//! for; of the environment and of the user's configuration comes what networks need and no more
//! ([`settings`]); and it may speak with whom the step is for, nobody else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::download::Link;
use super::error::RestoreError;
use super::settings::{Settings, Users};
use super::stop::Stop;
use crate::gitenv::{self, Configuration};
use crate::io::child;
use crate::limits::{
    GIT_END_MS, GIT_STDERR_TAIL_BYTES, INTERRUPT_POLL_MS, RESTORE_GIT_OUTPUT_BYTES_MAX,
};

/// What must not happen in a directory that is still in the making, whatever it holds: hooks,
/// daemons, work in the background, and other repositories than this one. Version 2 of the
/// protocol is the one that gives commits by their names.
const FORCED: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "fetch.fsckObjects=true",
    "transfer.bundleURI=false",
    "protocol.version=2",
    "http.followRedirects=false",
];

/// What git finds fault with in commits and tags that old tools have made and that hurt nobody:
/// repositories of note are full of them, and none could be fetched.
const FAULTS_OF_OLD: &[&str] = &[
    "badDate",
    "badEmail",
    "badName",
    "badTimezone",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// What a step talks to.
#[derive(Clone, Copy)]
enum Peer<'a> {
    Nobody,
    /// A bundle beside the repository.
    File,
    Server(Link<'a>),
    Upstream(Link<'a>),
}

/// Runs `git` for the repository at `tree`, with nobody's configuration, and gives its standard
/// output. It talks to nobody, runs no hooks and asks no question. When this process is killed, so
/// are `git` and its helpers.
pub fn local<A: AsRef<OsStr>>(
    stop: &Stop,
    tree: &Path,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    run(stop, tree, Peer::Nobody, &Settings::default(), args)
}

/// The same for a step that takes objects from a bundle.
pub fn bundle<A: AsRef<OsStr>>(
    stop: &Stop,
    tree: &Path,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    run(stop, tree, Peer::File, &Settings::default(), args)
}

/// The same for one that asks the server: which may take as long as it likes, but not be silent
/// for long.
pub fn server<A: AsRef<OsStr>>(
    link: Link<'_>,
    tree: &Path,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = users(link.stop, tree, args)?.for_server();
    run(link.stop, tree, Peer::Server(link), &settings, args)
}

/// The same for one that asks the upstream at `url`, which is what the user has named.
pub fn upstream<A: AsRef<OsStr>>(
    link: Link<'_>,
    url: &str,
    tree: &Path,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = users(link.stop, tree, args)?.for_upstream(url)?;
    run(link.stop, tree, Peer::Upstream(link), &settings, args)
}

/// What the user and the machine have set. The repository at `tree` says which conditional includes
/// hold, if it is there; what it sets itself is left out.
fn users<A: AsRef<OsStr>>(stop: &Stop, tree: &Path, args: &[A]) -> Result<Users, RestoreError> {
    let mut command = command(tree, Configuration::Users, true);
    command.args(["config", "--list", "-z", "--includes", "--show-scope"]);
    Ok(Users::parse(&output(stop, command, &step(args))?))
}

/// What a step is called.
fn step<A: AsRef<OsStr>>(args: &[A]) -> String {
    let first = args.first().map(|a| a.as_ref().to_string_lossy());
    first.unwrap_or_default().into_owned()
}

fn run<A: AsRef<OsStr>>(
    stop: &Stop,
    tree: &Path,
    peer: Peer<'_>,
    settings: &Settings,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let step = step(args);
    // A clone makes the repository that others are told of.
    let mut command = command(tree, Configuration::Own, step != "clone");
    if let Peer::Server(link) | Peer::Upstream(link) = peer {
        // Less than a byte in a second, on average over so many. Git knows whole seconds. Over ssh
        // that has settings of its own for this.
        let silent_s = link.git_stall.as_secs_f64().ceil() as u64;
        command.args(["-c", "http.lowSpeedLimit=1", "-c"]);
        command.arg(format!("http.lowSpeedTime={silent_s}"));
    }
    if let Peer::Server(link) = peer {
        // The server is reached directly, as the download has reached it. Upstreams are not.
        let proxy = format!("http.http://{}/.proxy=", link.server.authority);
        command.args(["-c", &proxy]);
    }
    command.envs(settings.environment());
    // Whatever the user's own configuration allows.
    command.env(
        "GIT_ALLOW_PROTOCOL",
        match peer {
            Peer::Nobody => "",
            Peer::File => "file",
            Peer::Server(_) | Peer::Upstream(_) => settings.scheme(),
        },
    );
    command.args(args);
    output(stop, command, &step)
}

/// `git` as every step has it, without the step's arguments.
fn command(tree: &Path, configuration: Configuration, names_repository: bool) -> Command {
    // Somebody waits for it: no nicer than the restore.
    let mut command = child::command(Path::new("git"), 0, None);
    gitenv::restrict(&mut command, configuration);
    if names_repository {
        let named = |option: &str, path: &Path| {
            let mut arg = OsString::from(option);
            arg.push(path);
            arg
        };
        command
            .arg(named("--git-dir=", &tree.join(".git")))
            .arg(named("--work-tree=", tree));
    }
    command.args(FORCED.iter().flat_map(|setting| ["-c", setting]));
    for fault in FAULTS_OF_OLD {
        command.arg("-c").arg(format!("fetch.fsck.{fault}=ignore"));
    }
    if configuration == Configuration::Own {
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1");
    }
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1");
    command.current_dir(tree).stdin(Stdio::null());
    command
}

/// Runs `command` and gives its standard output; `step` is its name in an error.
fn output(stop: &Stop, mut command: Command, step: &str) -> Result<Vec<u8>, RestoreError> {
    let failed = |detail: String| RestoreError::Git {
        step: step.to_owned(),
        detail,
    };
    let io = |e: std::io::Error| failed(e.to_string());
    let (mut out, mut errors) = (
        tempfile::tempfile().map_err(io)?,
        tempfile::tempfile().map_err(io)?,
    );
    command
        .stdout(out.try_clone().map_err(io)?)
        .stderr(errors.try_clone().map_err(io)?);
    let child = command.spawn().map_err(io)?;
    let Some(status) = finish(child, stop, [&out, &errors]).map_err(io)? else {
        return Err(failed(
            "it was ended, as there is no end to what it says".into(),
        ));
    };
    let mut text = Vec::new();
    if status.success() {
        out.rewind()
            .and_then(|()| out.read_to_end(&mut text))
            .map_err(io)?;
        return Ok(text);
    }
    // It may pass on what a server says. The reason is at the end.
    let len = errors.metadata().map_err(io)?.len();
    let tail = len.saturating_sub(GIT_STDERR_TAIL_BYTES as u64);
    errors
        .seek(SeekFrom::Start(tail))
        .and_then(|_| errors.read_to_end(&mut text))
        .map_err(io)?;
    let text = String::from_utf8_lossy(&text);
    Err(match child::not_started(status.code(), &text) {
        Some(why) => io(why),
        None => failed(format!("{status}: {}", text.trim())),
    })
}

/// Waits for the end of `git`, and asks for it when the restore is to stop; `None` when it was ended
/// because of what it wrote to `files`.
fn finish(mut child: Child, stop: &Stop, files: [&File; 2]) -> std::io::Result<Option<ExitStatus>> {
    let mut asked = None;
    let mut says_too_much = false;
    loop {
        for file in files {
            says_too_much |= file.metadata()?.len() > RESTORE_GIT_OUTPUT_BYTES_MAX;
        }
        if let Some(status) = child.try_wait()? {
            return Ok((!says_too_much).then_some(status));
        }
        if stop.is_set() || says_too_much {
            end(&child, *asked.get_or_insert_with(Instant::now));
        }
        std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 20));
    }
}

/// Has `git` and its helpers end: first they may tidy up.
fn end(child: &Child, asked: Instant) {
    let signal = match asked.elapsed() < Duration::from_millis(GIT_END_MS) {
        true => rustix::process::Signal::TERM,
        false => rustix::process::Signal::KILL,
    };
    // It may have ended by itself.
    let _ = rustix::process::kill_process_group(rustix::process::Pid::from_child(child), signal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command.stdin(Stdio::null());
        command
    }

    /// A server has `git` say what it likes.
    #[test]
    fn who_says_without_end_is_ended() {
        let stop = Stop::default();
        for script in ["yes", "yes >&2"] {
            let error = output(&stop, shell(script), "fetch").unwrap_err();
            assert!(error.to_string().contains("no end"), "{error}");
        }
        let script = "head -c 1000000 /dev/zero | tr '\\0' x >&2; echo >&2 the reason; exit 1";
        let error = output(&stop, shell(script), "fetch")
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("the reason") && error.len() < 10_000,
            "{}",
            error.len()
        );
        assert_eq!(
            output(&stop, shell("echo said"), "fetch").unwrap(),
            b"said\n"
        );
    }
}
