//! The command line of a git, as far as it does not depend on what is asked of it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::environment::Surroundings;
use crate::io::child;

/// What no git that tarpon runs does, whatever it finds configured: run hooks and daemons, work on
/// in the background, go to other repositories than the one it was sent to. What comes is a pack,
/// however small: it is in force, or goes again, as a whole.
const FORCED: &[&str] = &[
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "fetch.recurseSubmodules=false",
    "fetch.unpackLimit=1",
    "gc.auto=0",
    "http.followRedirects=false",
    "maintenance.auto=false",
    "submodule.recurse=false",
    "transfer.bundleURI=false",
];

/// The repository that a git works in. A named one is neither searched for nor checked for its
/// owner.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Repository<'a> {
    /// None yet, or one that the arguments name.
    None,
    Bare(&'a Path),
    /// The one of this worktree.
    Worktree(&'a Path),
}

/// What one git is given.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The program, looked up in `PATH` when it is a bare name.
    pub program: &'a Path,
    /// 0 for no nicer than this process.
    pub nice: i32,
    /// The most memory that each of its processes may take.
    pub memory_bytes: u64,
    pub repository: Repository<'a>,
    pub surroundings: Surroundings<'a>,
    /// Settings that hold whatever is configured, besides those that always do. Keys that an older
    /// git does not know do no harm.
    pub settings: &'a [&'a str],
}

impl Setup<'_> {
    /// A command without what is asked of it. It reads nothing.
    pub(crate) fn command(&self) -> Command {
        let mut command = child::command(self.program, self.nice, self.memory_bytes);
        self.surroundings.give(&mut command);
        for setting in FORCED.iter().chain(self.settings) {
            command.arg("-c").arg(setting);
        }
        let named = |option: &str, path: &Path| {
            let mut arg = OsString::from(option);
            arg.push(path);
            arg
        };
        match self.repository {
            Repository::None => {}
            Repository::Bare(dir) => {
                command.arg(named("--git-dir=", dir));
            }
            Repository::Worktree(tree) => {
                command.arg(named("--git-dir=", &tree.join(".git")));
                command.arg(named("--work-tree=", tree));
            }
        }
        command.stdin(Stdio::null());
        command
    }
}

/// Settings that end a git whose HTTP server is silent: less than a byte in a second, on average
/// over so many. Git knows whole seconds; over ssh that has settings of its own for this.
pub(crate) fn silence(limit: Duration) -> [String; 2] {
    let silent_s = limit.as_secs_f64().ceil() as u64;
    [
        "http.lowSpeedLimit=1".to_owned(),
        format!("http.lowSpeedTime={silent_s}"),
    ]
}

/// The text as a file that a command can read as its stdin, without a task that feeds it.
/// It has no name and goes with its descriptor.
pub(crate) fn stdin_file(text: &[u8]) -> std::io::Result<File> {
    let fd = rustix::fs::memfd_create("git-stdin", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(fd);
    file.write_all(text)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Configuration;
    use std::ffi::OsStr;

    /// Whoever runs it.
    #[test]
    fn every_git_is_told_the_same_and_may_speak_what_it_is_given() {
        let client = |configuration| Surroundings::Client {
            configuration,
            protocols: "file",
        };
        for surroundings in [
            Surroundings::Server { protocols: "file" },
            client(Configuration::Own),
            client(Configuration::Users),
        ] {
            let setup = Setup {
                program: Path::new("git"),
                nice: 0,
                memory_bytes: 1 << 30,
                repository: Repository::Bare(Path::new("x.git")),
                surroundings,
                settings: &["a.b=c"],
            };
            let command = setup.command();
            let arguments: Vec<_> = command.get_args().collect();
            for setting in FORCED.iter().chain(&["a.b=c"]) {
                let is_there = arguments.contains(&OsStr::new(setting));
                assert!(is_there, "{setting} of {surroundings:?}");
            }
            assert_eq!(arguments.last(), Some(&OsStr::new("--git-dir=x.git")));
            let is = |name: &str, value: Option<&str>| {
                let pair = (OsStr::new(name), value.map(OsStr::new));
                command.get_envs().any(|found| found == pair)
            };
            assert!(is("GIT_ALLOW_PROTOCOL", Some("file")), "{surroundings:?}");
            assert!(is("GIT_TERMINAL_PROMPT", Some("0")), "{surroundings:?}");
            assert!(is("LC_ALL", Some("C")), "{surroundings:?}");
            assert!(is("LANGUAGE", None), "{surroundings:?}");
        }
    }
}
