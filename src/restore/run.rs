//! Runs the real `git`, which sees as little as it can: the repository is named, never searched
//! for; of the environment and of the user's configuration comes what networks need and no more
//! ([`settings`]); and it may speak with whom the step is for, nobody else. It takes no more memory,
//! disk and time than [`Takes`] says ([`super::watch`]).

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::download::Link;
use super::error::RestoreError;
use super::settings::{Settings, Users};
use super::stop::Stop;
pub use super::watch::Room;
use super::watch::{Takes, output};
use crate::gitenv::{self, Configuration};
use crate::io::child;

/// What must not happen in a directory that is still in the making, whatever it holds: hooks,
/// daemons, work in the background, and other repositories than this one. Version 2 of the
/// protocol is the one that gives commits by their names.
const FORCED: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "gc.auto=0",
    // What comes is a pack, however small: all of it can go again.
    "fetch.unpackLimit=1",
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
/// output. It only looks, talks to nobody, runs no hooks and asks no question. When this process is
/// killed, so are `git` and its helpers.
pub fn local<A: AsRef<OsStr>>(
    stop: &Stop,
    tree: &Path,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = Settings::default();
    run(stop, tree, Peer::Nobody, Takes::Little, &settings, args)
}

/// The same for a step that walks through history, which reads `input` and has to end by `until`.
pub fn walk<A: AsRef<OsStr>>(
    stop: &Stop,
    tree: &Path,
    until: Instant,
    input: Stdio,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let takes = Takes::Walk(until);
    let mut command = own_command(tree, Peer::Nobody, takes, &Settings::default(), args);
    command.stdin(input);
    output(stop, command, &step(args), takes)
}

/// The same for one that writes files.
pub fn check_out<A: AsRef<OsStr>>(
    stop: &Stop,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let (takes, settings) = (Takes::Files(room), Settings::default());
    run(stop, room.tree, Peer::Nobody, takes, &settings, args)
}

/// The same for one that takes objects from a bundle.
pub fn bundle<A: AsRef<OsStr>>(
    stop: &Stop,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let (takes, settings) = (Takes::Objects(room), Settings::default());
    run(stop, room.tree, Peer::File, takes, &settings, args)
}

/// The same for one that asks the server, which must not be silent for long.
pub fn server<A: AsRef<OsStr>>(
    link: Link<'_>,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = users(link.stop, room.tree, args)?.for_server();
    let (peer, takes) = (Peer::Server(link), Takes::Objects(room));
    run(link.stop, room.tree, peer, takes, &settings, args)
}

/// The same for one that asks the upstream at `url`, which is what the user has named.
pub fn upstream<A: AsRef<OsStr>>(
    link: Link<'_>,
    url: &str,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = users(link.stop, room.tree, args)?.for_upstream(url)?;
    let (peer, takes) = (Peer::Upstream(link), Takes::Objects(room));
    run(link.stop, room.tree, peer, takes, &settings, args)
}

/// What the user and the machine have set. The repository at `tree` says which conditional includes
/// hold, if it is there; what it sets itself is left out.
fn users<A: AsRef<OsStr>>(stop: &Stop, tree: &Path, args: &[A]) -> Result<Users, RestoreError> {
    let mut command = command(tree, Configuration::Users, Takes::Little, true);
    command.args(["config", "--list", "-z", "--includes", "--show-scope"]);
    let listed = output(stop, command, &step(args), Takes::Little)?;
    Ok(Users::parse(&listed))
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
    takes: Takes<'_>,
    settings: &Settings,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let command = own_command(tree, peer, takes, settings, args);
    output(stop, command, &step(args), takes)
}

/// A step with nobody's configuration but `settings`.
fn own_command<A: AsRef<OsStr>>(
    tree: &Path,
    peer: Peer<'_>,
    takes: Takes<'_>,
    settings: &Settings,
    args: &[A],
) -> Command {
    // A clone makes the repository that others are told of.
    let mut command = command(tree, Configuration::Own, takes, step(args) != "clone");
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
    command
}

/// `git` as every step has it, without the step's arguments.
fn command(
    tree: &Path,
    configuration: Configuration,
    takes: Takes<'_>,
    names_repository: bool,
) -> Command {
    // Somebody waits for it: no nicer than the restore.
    let mut command = child::command(Path::new("git"), 0, takes.memory_bytes());
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
    // What it says is looked at.
    command.env("LC_ALL", "C").env_remove("LANGUAGE");
    command
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_LAZY_FETCH", "1");
    command.current_dir(tree).stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RESTORE_GIT_MEMORY_BYTES, RESTORE_LOOK_MEMORY_BYTES};
    use crate::restore::quota::Quota;

    #[test]
    fn every_git_has_a_memory_limit() {
        let tree = tempfile::tempdir().unwrap();
        let (stop, path) = (Stop::default(), tree.path());
        local(&stop, path, &["init", "--quiet"]).unwrap();
        let quota = Quota::new(None, path).unwrap();
        let room = Room::new(path, &quota);
        let args = ["-c", "alias.limit=!ulimit -d", "limit"];
        let limit = |said: Result<Vec<u8>, RestoreError>| {
            let kib = String::from_utf8(said.unwrap()).unwrap();
            kib.trim().parse::<u64>().unwrap_or(u64::MAX) << 10
        };
        assert!(limit(local(&stop, path, &args)) <= RESTORE_LOOK_MEMORY_BYTES);
        for said in [
            walk(&stop, path, room.until, Stdio::null(), &args),
            bundle(&stop, room, &args),
            check_out(&stop, room, &args),
        ] {
            assert!(limit(said) <= RESTORE_GIT_MEMORY_BYTES);
        }
    }
}
