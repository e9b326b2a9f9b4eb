//! Runs the real `git`, which sees as little as it can: the repository is named, never searched
//! for; of the environment and of the user's configuration comes what networks need and no more
//! ([`settings`]); and it may speak with whom the step is for, nobody else. It takes no more memory,
//! disk and time than [`Takes`] says ([`super::watch`]).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::error::RestoreError;
use super::link::{Link, pause};
use super::settings::{Settings, Users};
use super::stop::Stop;
use super::tls::TRUST;
pub(super) use super::watch::Room;
use super::watch::{Takes, lines_of, output};
use crate::git::{self, Configuration, Repository, Setup, Surroundings};

/// Settings of the client, besides those that every git has: it is told nothing by files of the user
/// that no setting names, and believes no object. Version 2 of the protocol is the one that gives
/// commits by their names.
const SETTINGS: &[&str] = &[
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "fetch.fsckObjects=true",
    "protocol.version=2",
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

/// What git says of a server that has too much to do.
const BUSY: &str = "returned error: 503";

/// How a git ends that has nothing to complain of, and whose answer is no.
const SAYS_NO: &str = "exit status: 1: ";

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
pub(super) fn local<A: AsRef<OsStr>>(
    stop: &Stop,
    tree: &Path,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = Settings::default();
    run(stop, tree, Peer::Nobody, Takes::Little, &settings, args)
}

/// The same for a step that walks through history, which reads `input` and has to end by `until`.
pub(super) fn walk<A: AsRef<OsStr>>(
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

/// What git says of the files of the worktree at `files`, which it gets to know by `input`, with the repository at
/// `tree`. Where it says no it says nothing.
pub(super) fn of_files<A: AsRef<OsStr>>(
    stop: &Stop,
    (tree, files): (&Path, &Path),
    until: Instant,
    input: Stdio,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let command = among(tree, files, Takes::Walk(until), input, args);
    match output(stop, command, &step(args), Takes::Walk(until)) {
        Err(RestoreError::Git { detail, .. }) if detail == SAYS_NO => Ok(Vec::new()),
        said => said,
    }
}

/// Has git do something to the files of the worktree at `files` of which it says a line for each, and gives how many lines
/// that are. There is no end to what it may say.
pub(super) fn to_files<A: AsRef<OsStr>>(
    stop: &Stop,
    (tree, files): (&Path, &Path),
    until: Instant,
    args: &[A],
) -> Result<u64, RestoreError> {
    let command = among(tree, files, Takes::Walk(until), Stdio::null(), args);
    lines_of(stop, command, &step(args), until)
}

/// A git among the files of the worktree at `files`, with the repository at `tree`.
fn among<A: AsRef<OsStr>>(
    tree: &Path,
    files: &Path,
    takes: Takes<'_>,
    input: Stdio,
    args: &[A],
) -> Command {
    let mut command = own_command(tree, Peer::Nobody, takes, &Settings::default(), &[""; 0]);
    let mut worktree = OsString::from("--work-tree=");
    worktree.push(files);
    command.arg(worktree).args(args);
    command.current_dir(files).stdin(input);
    command
}

/// The same for one that writes files.
pub(super) fn check_out<A: AsRef<OsStr>>(
    stop: &Stop,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let (takes, settings) = (Takes::Files(room), Settings::default());
    run(stop, room.tree, Peer::Nobody, takes, &settings, args)
}

/// The same for one that takes objects from a bundle.
pub(super) fn bundle<A: AsRef<OsStr>>(
    stop: &Stop,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let (takes, settings) = (Takes::Objects(room), Settings::default());
    run(stop, room.tree, Peer::File, takes, &settings, args)
}

/// The same for one that asks the server, which must not be silent for long. It gets to see nothing of the user's
/// but who asks, as all else that is asked of the server; and as all else it comes again to one that is busy.
pub(super) fn server<A: AsRef<OsStr>>(
    link: Link<'_>,
    room: Room<'_>,
    args: &[A],
) -> Result<Vec<u8>, RestoreError> {
    let settings = for_server(link, room)?;
    let (peer, takes) = (Peer::Server(link), Takes::Objects(room));
    let began = Instant::now();
    let mut tries = 0;
    loop {
        let fetched = run(link.stop, room.tree, peer, takes, &settings, args);
        let is_busy =
            matches!(&fetched, Err(RestoreError::Git { detail, .. }) if detail.contains(BUSY));
        if !is_busy || began.elapsed() >= link.git_stall || link.stop.is_set() {
            return fetched;
        }
        tries += 1;
        pause(link.stop, tries);
    }
}

fn for_server(link: Link<'_>, room: Room<'_>) -> Result<Settings, RestoreError> {
    // The server is reached directly, as the download has reached it. Upstreams are not.
    let mut all = vec![("proxy", OsString::new()), ("sslVerify", "true".into())];
    if let Some(tls) = link.tls {
        all.extend(tls.settings(&room.tree.with_file_name(TRUST))?);
    }
    let fields = link.login.fields().0;
    let lines = fields
        .iter()
        .map(|field| ("extraHeader", OsString::from(&**field.line())));
    all.extend(lines);
    let (scheme, origin) = (link.server.scheme(), link.server.origin());
    Ok(Settings::for_server(scheme, &origin, all))
}

/// A git that asks the user's helpers for a credential, with `settings` besides the user's own. It is to read the
/// question from its stdin, and belongs to no repository.
pub(super) fn helpers(until: Instant, settings: &[String]) -> Command {
    let takes = Takes::Walk(until);
    let mut command = command(Path::new("/"), Configuration::Users, "", takes, true);
    for setting in settings {
        command.arg("-c").arg(setting);
    }
    // Whoever runs a restore is not asked.
    command.env("GIT_ASKPASS", "").args(["credential", "fill"]);
    command
}

/// The same for one that asks the upstream at `url`, which is what the user has named.
pub(super) fn upstream<A: AsRef<OsStr>>(
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
    let mut command = command(tree, Configuration::Users, "", Takes::Little, true);
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
    let protocols = match peer {
        Peer::Nobody => "",
        Peer::File => "file",
        Peer::Server(_) | Peer::Upstream(_) => settings.scheme(),
    };
    // A clone makes the repository that others are told of.
    let names_repository = step(args) != "clone";
    let mut command = command(tree, Configuration::Own, protocols, takes, names_repository);
    if let Peer::Server(link) | Peer::Upstream(link) = peer {
        for setting in git::silence(link.git_stall) {
            command.arg("-c").arg(setting);
        }
    }
    if let Peer::Server(_) = peer {
        see_no_user(&mut command);
    }
    command.envs(settings.environment());
    command.args(args);
    command
}

/// Takes from the environment of `command` what would log in elsewhere, or believe others, than the settings say:
/// the home of `.netrc`, who asks for passwords, and git's own names of certificates.
fn see_no_user(command: &mut Command) {
    command.env("HOME", "/dev/null").env("GIT_ASKPASS", "");
    // What git says of its requests has the credential in it.
    take_away(
        command,
        &["GIT_SSL_", "GIT_PROXY_", "GIT_TRACE", "GIT_CURL_VERBOSE"],
    );
}

/// Takes from the environment of `command` all whose names begin with one of `prefixes`.
fn take_away(command: &mut Command, prefixes: &[&str]) {
    for (name, _) in std::env::vars_os() {
        let begins = |prefix: &&str| name.as_bytes().starts_with(prefix.as_bytes());
        if prefixes.iter().any(begins) {
            command.env_remove(&name);
        }
    }
}

/// `git` as every step has it, without the step's arguments.
fn command(
    tree: &Path,
    configuration: Configuration,
    protocols: &str,
    takes: Takes<'_>,
    names_repository: bool,
) -> Command {
    let setup = Setup {
        program: Path::new("git"),
        // Somebody waits for it.
        nice: 0,
        memory_bytes: takes.memory_bytes(),
        repository: match names_repository {
            true => Repository::Worktree(tree),
            false => Repository::None,
        },
        surroundings: Surroundings::Client {
            configuration,
            protocols,
        },
        settings: SETTINGS,
    };
    let mut command = setup.command();
    for fault in FAULTS_OF_OLD {
        command.arg("-c").arg(format!("fetch.fsck.{fault}=ignore"));
    }
    // What is the restore's own, a token among it, is nobody else's.
    take_away(&mut command, &["TARPON_"]);
    command.current_dir(tree);
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
