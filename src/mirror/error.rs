//! What can go wrong with a mirror, and how git's messages are read.
pub(super) use crate::access::shown::without_password;
use crate::config::Share;
use crate::git::DISK_FULL_MESSAGES;
use crate::refs::RefsError;
use std::io;
use std::path::{Path, PathBuf};

/// Why an operation on a mirror failed. The text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// Upstream says that there is no such repository.
    #[error("upstream has no repository {url} ({line}): check the path")]
    NotFound { url: String, line: String },
    /// Upstream wants credentials or refuses those it got. Some hosts (GitHub) answer so for
    /// repositories that do not exist, too.
    #[error(
        "upstream denies access to {url} ({line}): check the path, and that this server has a credential for it: --upstream-token, or a helper of its git"
    )]
    Denied { url: String, line: String },
    /// What upstream has under this name is another repository than before.
    #[error(
        "{url} is another repository now: what there was of it is dropped, and it is cloned anew"
    )]
    Replaced { url: String },
    /// No answer that makes sense came from upstream.
    #[error(
        "upstream of {url} is unreachable ({line}): check the network and the base URL, or try later"
    )]
    Unreachable { url: String, line: String },
    /// Upstream shows a certificate of an authority that this machine does not know.
    #[error(
        "the certificate of the upstream of {url} is not believed ({line}): if its authority is your own, name that to git as the server's user, git config --global http.URL.sslCAInfo FILE"
    )]
    Untrusted { url: String, line: String },
    /// Upstream wants to be asked less often.
    #[error("upstream of {url} limits how often it is asked ({line}): try again later")]
    Limited { url: String, line: String },
    /// Upstream wants git to ask elsewhere, where it may not. The text says where.
    #[error(
        "upstream of {url} redirects {line}: name the place that it is at now with --upstream, or ask for the new path"
    )]
    Redirected { url: String, line: String },
    /// Upstream is this server, directly or by way of others.
    #[error(
        "upstream of {url} leads back to this server ({line}): look for url.….insteadOf in the configuration of this server's git, and where the servers that are its upstreams have theirs"
    )]
    Loop { url: String, line: String },
    /// git's configuration has it speak a protocol that no configured upstream has.
    #[error(
        "git may not speak what its configuration (url.….insteadOf) makes of {url} ({line}): name the place with --upstream HOST=URL, or the protocols that it may speak in GIT_ALLOW_PROTOCOL"
    )]
    Protocol { url: String, line: String },
    /// The files of upstream belong to somebody else, and git refuses to read them.
    #[error(
        "upstream repository {url} belongs to another user ({line}): where it is, and as who reads it there, run git config --global --add safe.directory with its path, or '*'"
    )]
    Owner { url: String, line: String },
    /// There was no room on this server's disk.
    #[error(
        "{op} of {target}: the disk is full ({line}): make room on the file system of the state directory"
    )]
    DiskFull {
        op: &'static str,
        target: String,
        line: String,
    },
    /// It brought more than it may; the process group was ended.
    #[error(
        "{op} of {target} brings more than {} MiB{} and was stopped: raise --clone-size-limit if that is right", .limit_bytes >> 20, part(*.limit)
    )]
    TooLarge {
        op: &'static str,
        target: String,
        limit_bytes: u64,
        /// As it is configured.
        limit: Share,
    },
    /// It needed more memory than it may take.
    #[error("{op} of {target} needs more than {} MiB of memory ({line}): {}", .memory_bytes >> 20, more_memory(*.memory_bytes))]
    Memory {
        op: &'static str,
        target: String,
        memory_bytes: u64,
        line: String,
    },
    /// Upstream cannot read all of its own objects.
    #[error("upstream repository {url} seems to be damaged ({line}): run git fsck in it")]
    Damaged { url: String, line: String },
    /// An object that upstream listed was gone when it was fetched.
    #[error("upstream {url} changed while it was fetched ({line}): try again")]
    Vanished { url: String, line: String },
    /// The time limit was over; the process group was killed.
    #[error("{op} of {target} did not end within {} s and was stopped: try later, or raise --clone-timeout", .limit_ms.div_ceil(1000))]
    TimedOut {
        op: &'static str,
        target: String,
        limit_ms: u64,
    },
    /// git failed for a reason that is none of the above.
    #[error("{op} of {target} failed ({}): {}", exit_text(.code), telling_line(.stderr))]
    Git {
        op: &'static str,
        target: String,
        /// Exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// The last [`GIT_STDERR_TAIL_BYTES`](crate::limits::GIT_STDERR_TAIL_BYTES) of it.
        stderr: String,
    },
    /// The git program could not be started.
    #[error("cannot start {}: {source}: install git, or name its directory in PATH", .program.display())]
    Start { program: PathBuf, source: io::Error },
    /// git wrote more, or other, than is accepted.
    #[error("{op} of {target}: output not accepted: {what}")]
    Output {
        op: &'static str,
        target: String,
        what: String,
    },
    /// A mirror that is there cannot be served.
    #[error("mirror {} cannot be used: {reason}", .path.display())]
    Unusable { path: PathBuf, reason: String },
    /// The operating system refused a file operation.
    #[error("cannot {op} {}: {source}{}", .path.display(), remedy(.source))]
    Io {
        op: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The refs of the mirror could not be read.
    #[error(transparent)]
    Refs(#[from] RefsError),
}

impl MirrorError {
    pub(crate) fn io(op: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            op,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether upstream did not answer in time, or sent nothing for too long.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::TimedOut { .. } => true,
            Self::Unreachable { line, .. } => {
                let line = line.to_ascii_lowercase();
                line.contains("timed out") || line.contains("operation too slow")
            }
            _ => false,
        }
    }

    /// Whether a bundle was refused because it would hold nothing.
    pub fn is_empty_bundle(&self) -> bool {
        matches!(self, Self::Git { stderr, .. } if stderr.contains("Refusing to create empty bundle"))
    }

    /// Whether there is no room on this server's disk.
    pub fn is_disk_full(&self) -> bool {
        let is_full = |kind| {
            matches!(
                kind,
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        match self {
            Self::DiskFull { .. } => true,
            Self::Io { source, .. } => is_full(source.kind()),
            _ => false,
        }
    }

    /// The same error where the disk is full: a git that did not say why it failed has met that. It does not
    /// always name the reason.
    pub(super) fn on_full_disk(self) -> Self {
        match self {
            Self::Git {
                op, target, stderr, ..
            } => Self::DiskFull {
                op,
                target,
                line: telling_line(&stderr),
            },
            other => other,
        }
    }

    /// The error of a git command that spoke to an upstream and failed.
    pub(super) fn from_network(failed: Failed) -> Self {
        let Some((class, line)) = classify(&failed.stderr) else {
            return Self::from_local(failed);
        };
        let url = failed.target.clone();
        match class {
            Class::NotFound => Self::NotFound { url, line },
            Class::Denied => Self::Denied { url, line },
            Class::Unreachable => Self::Unreachable { url, line },
            Class::Untrusted => Self::Untrusted { url, line },
            Class::Limited => Self::Limited { url, line },
            Class::Redirected => Self::Redirected { url, line },
            Class::Loop => Self::Loop { url, line },
            Class::Protocol => Self::Protocol { url, line },
            Class::Owner => Self::Owner { url, line },
            Class::Damaged => Self::Damaged { url, line },
            Class::Vanished => Self::Vanished { url, line },
            Class::DiskFull | Class::Memory => Self::from_local(failed),
        }
    }

    /// The error of any git command that failed, as far as this machine is the reason.
    pub(super) fn from_local(failed: Failed) -> Self {
        let Failed {
            op,
            target,
            code,
            stderr,
            memory_bytes,
        } = failed;
        match classify(&stderr) {
            Some((Class::DiskFull, line)) => Self::DiskFull { op, target, line },
            Some((Class::Memory, line)) => Self::Memory {
                op,
                target,
                memory_bytes,
                line,
            },
            _ => Self::Git {
                op,
                target,
                code,
                stderr,
            },
        }
    }
}

/// A git command that failed.
pub(super) struct Failed {
    pub op: &'static str,
    /// The mirror, or the URL without its password.
    pub target: String,
    pub code: Option<i32>,
    pub stderr: String,
    /// What each of its processes could take.
    pub memory_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    DiskFull,
    Memory,
    NotFound,
    Denied,
    Unreachable,
    Untrusted,
    Limited,
    Redirected,
    Loop,
    Protocol,
    Owner,
    Damaged,
    Vanished,
}

/// Messages of git, ssh, curl and the large hosts, in the order in which they are looked
/// for: an ssh that was refused also ends in "does the repository exist", so what says more
/// comes first, and what is wrong with this machine before what others make of it. Compared in
/// lower case, with quoted text (paths, URLs) taken out.
const MESSAGES: &[(&str, Class)] = &[
    ("out of memory", Class::Memory),
    ("cannot allocate memory", Class::Memory),
    ("unable to create thread", Class::Memory),
    ("unable to create async thread", Class::Memory),
    ("not our ref", Class::Vanished),
    ("unadvertised object", Class::Vanished),
    ("dubious ownership", Class::Owner),
    ("returned error: 508", Class::Loop),
    ("returned error: 429", Class::Limited),
    ("returned error: 301", Class::Redirected),
    ("returned error: 302", Class::Redirected),
    ("returned error: 303", Class::Redirected),
    ("returned error: 307", Class::Redirected),
    ("returned error: 308", Class::Redirected),
    ("transport  not allowed", Class::Protocol),
    ("could not read username", Class::Denied),
    ("could not read password", Class::Denied),
    ("unable to get password", Class::Denied),
    ("authentication failed", Class::Denied),
    ("permission denied", Class::Denied),
    ("host key verification failed", Class::Denied),
    ("returned error: 401", Class::Denied),
    ("returned error: 403", Class::Denied),
    ("http basic: access denied", Class::Denied),
    ("repository not found", Class::NotFound),
    (
        "project you were looking for could not be found",
        Class::NotFound,
    ),
    ("repository does not exist", Class::NotFound),
    ("does not appear to be a git repository", Class::NotFound),
    ("repository not exported", Class::NotFound),
    ("repository  does not exist", Class::NotFound),
    ("repository  not found", Class::NotFound),
    ("returned error: 404", Class::NotFound),
    ("returned error: 410", Class::NotFound),
    // An early EOF follows.
    (
        "possible repository corruption on the remote side",
        Class::Damaged,
    ),
    ("server certificate verification failed", Class::Untrusted),
    ("ssl certificate problem", Class::Untrusted),
    ("unable to access", Class::Unreachable),
    ("could not resolve host", Class::Unreachable),
    ("unable to look up", Class::Unreachable),
    ("unable to connect", Class::Unreachable),
    ("connection refused", Class::Unreachable),
    ("connection timed out", Class::Unreachable),
    ("connection reset", Class::Unreachable),
    ("connection closed", Class::Unreachable),
    ("network is unreachable", Class::Unreachable),
    ("no route to host", Class::Unreachable),
    ("hung up unexpectedly", Class::Unreachable),
    ("rpc failed", Class::Unreachable),
    ("early eof", Class::Unreachable),
    ("could not read from remote repository", Class::Unreachable),
];

fn classify(stderr: &str) -> Option<(Class, String)> {
    let plain: Vec<String> = stderr
        .lines()
        .map(|line| without_quoted(line).to_lowercase())
        .collect();
    let full = DISK_FULL_MESSAGES.map(|message| (message, Class::DiskFull));
    full.iter().chain(MESSAGES).find_map(|(message, class)| {
        // What upstream says of itself is not about this machine.
        let is_own = matches!(class, Class::DiskFull | Class::Memory);
        let is_remote = |line: &str| line.starts_with("remote:") || line.contains("remote error:");
        let says = |line: &String| line.contains(message) && !(is_own && is_remote(line));
        let at = plain.iter().position(says)?;
        let line = stderr.lines().nth(at).unwrap_or_default();
        Some((*class, without_password(line.trim())))
    })
}

/// The text without what stands between single quotes: names there are chosen by others.
fn without_quoted(line: &str) -> String {
    line.split('\'').step_by(2).collect()
}

/// The line of git's stderr that says most about the failure.
fn telling_line(stderr: &str) -> String {
    let lines = || {
        stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    };
    let line = lines()
        .find(|line| line.starts_with("fatal:"))
        .or_else(|| lines().find(|line| line.starts_with("error:")))
        .or_else(|| lines().next_back())
        .unwrap_or("git wrote no message");
    without_password(line)
}

/// Where a limit comes from that is a share of the disk.
fn part(limit: Share) -> String {
    match limit {
        Share::Percent(percent) => format!(" ({percent}% of the file system)"),
        Share::Bytes(_) => String::new(),
    }
}

/// What to do about an error of the file system, if that follows from it alone.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": make room on the file system of the state directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": the state directory is read-only, remount it",
        io::ErrorKind::PermissionDenied => {
            ": give the state directory to the server's user (chown -R)"
        }
        _ => "",
    }
}

fn more_memory(memory_bytes: u64) -> &'static str {
    match memory_bytes {
        crate::limits::LISTING_MEMORY_BYTES => "it lists more than a server takes",
        _ => "raise --git-memory-limit if that is right",
    }
}

fn exit_text(code: &Option<i32>) -> String {
    code.map_or_else(
        || "ended by a signal".to_owned(),
        |code| format!("exit code {code}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(stderr: &str) -> Option<Class> {
        classify(stderr).map(|(class, _)| class)
    }

    #[test]
    fn messages_of_real_hosts_are_understood() {
        let rights =
            "Please make sure you have the correct access rights\nand the repository exists.";
        for (stderr, expected) in [
            ("fatal: '/x/y' does not appear to be a git repository\nfatal: Could not read from remote repository.\n\n".to_owned() + rights, Class::NotFound),
            ("fatal: repository 'http://127.0.0.1:3000/a/b/' not found\n".into(), Class::NotFound),
            ("fatal: repository '/srv/x' does not exist".into(), Class::NotFound),
            ("remote: Repository not found.\nfatal: repository 'https://github.com/a/b/' not found".into(), Class::NotFound),
            ("ERROR: Repository not found.\nfatal: Could not read from remote repository.\n".to_owned() + rights, Class::NotFound),
            ("fatal: remote error: access denied or repository not exported: /x".into(), Class::NotFound),
            ("fatal: could not read Username for 'https://github.com': terminal prompts disabled".into(), Class::Denied),
            ("git@github.com: Permission denied (publickey).\nfatal: Could not read from remote repository.\n".to_owned() + rights, Class::Denied),
            ("fatal: unable to access 'https://h/a/': The requested URL returned error: 403".into(), Class::Denied),
            ("fatal: unable to access 'https://h/a/': The requested URL returned error: 503".into(), Class::Unreachable),
            ("fatal: unable to access 'https://h/a/': server certificate verification failed. CAfile: none CRLfile: none".into(), Class::Untrusted),
            ("fatal: unable to access 'https://h/a/': SSL certificate problem: self-signed certificate in certificate chain".into(), Class::Untrusted),
            ("fatal: unable to access 'https://h/a/': The requested URL returned error: 429".into(), Class::Limited),
            ("fatal: unable to access 'http://127.0.0.1:1/x/': Failed to connect to 127.0.0.1 port 1 after 0 ms: Couldn't connect to server".into(), Class::Unreachable),
            ("ssh: Could not resolve hostname h: Name or service not known\nfatal: Could not read from remote repository.".into(), Class::Unreachable),
            ("remote: fatal: unable to read 286c\nremote: aborting due to possible repository corruption on the remote side.\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack output".into(), Class::Damaged),
            ("fatal: the remote end hung up unexpectedly\nfatal: early EOF".into(), Class::Unreachable),
            ("fatal: remote error: upload-pack: not our ref 01".into(), Class::Vanished),
            ("fatal: detected dubious ownership in repository at '/srv/x'\nTo add an exception for this directory, call:\n\n\tgit config --global --add safe.directory /srv/x\nfatal: Could not read from remote repository.\n\n".to_owned() + rights, Class::Owner),
            ("fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output".into(), Class::DiskFull),
            ("error: copy-fd: write returned: No space left on device\nfatal: cannot copy '/a' to '/b': No space left on device".into(), Class::DiskFull),
            ("remote: fatal: write error: No space left on device\nfatal: early EOF".into(), Class::Unreachable),
            ("fatal: Out of memory, realloc failed".into(), Class::Memory),
            ("remote: fatal: Out of memory, malloc failed (tried to allocate 9 bytes)\nfatal: early EOF".into(), Class::Unreachable),
            ("fatal: remote error: Out of memory, malloc failed\nfatal: early EOF".into(), Class::Unreachable),
            ("fatal: unable to access 'http://h/x/': The requested URL returned error: 301".into(), Class::Redirected),
            ("fatal: unable to access 'http://h/x/': The requested URL returned error: 508".into(), Class::Loop),
            ("fatal: transport 'ext' not allowed".into(), Class::Protocol),
        ] {
            assert_eq!(class(&stderr), Some(expected), "{stderr}");
        }
        assert_eq!(
            class("fatal: mismatched algorithms: client sha1; server sha256"),
            None
        );
    }

    #[test]
    fn a_name_chosen_by_others_decides_nothing() {
        assert_eq!(
            class("fatal: bad object 'permission denied/repository not found'"),
            None
        );
    }

    #[test]
    fn passwords_are_removed_from_messages() {
        assert_eq!(without_password("https://u:p@h/x"), "https://h/x");
        assert_eq!(
            without_password("a 'https://u:p@h' b http://h/x@y"),
            "a 'https://h' b http://h/x@y"
        );
        assert_eq!(without_password("no url"), "no url");
    }

    #[test]
    fn display_is_one_line_with_the_message_of_git() {
        let error = MirrorError::from_network(Failed {
            op: "git fetch",
            target: without_password("https://u:p@h/x"),
            code: Some(128),
            stderr: "warning: w\nfatal: boom\nhint: h\n".into(),
            memory_bytes: 1 << 30,
        });
        assert_eq!(
            error.to_string(),
            "git fetch of https://h/x failed (exit code 128): fatal: boom"
        );
    }

    #[test]
    fn what_the_file_system_refuses_has_a_remedy() {
        let text = |code| {
            let source = io::Error::from_raw_os_error(code);
            MirrorError::io("create", Path::new("/x"), source).to_string()
        };
        assert!(text(libc::EROFS).ends_with(": the state directory is read-only, remount it"));
        assert!(text(libc::ENOSPC).contains("make room on the file system"));
        assert!(text(libc::EACCES).contains("chown -R"));
        assert!(text(libc::EIO).ends_with("(os error 5)"));
    }

    #[test]
    fn a_limit_says_of_what_it_is_a_part() {
        let too_large = |limit| {
            let error = MirrorError::TooLarge {
                op: "git clone",
                target: "u".into(),
                limit_bytes: 100 << 20,
                limit,
            };
            error.to_string()
        };
        let text = too_large(Share::Percent(50));
        assert!(
            text.contains("more than 100 MiB (50% of the file system) and"),
            "{text}"
        );
        assert!(too_large(Share::Bytes(1)).contains("more than 100 MiB and"));
    }

    #[test]
    fn a_git_that_does_not_say_why_has_met_the_full_disk() {
        let failed = |stderr: &str| {
            let error = MirrorError::from_network(Failed {
                op: "git clone",
                target: "u".into(),
                code: Some(128),
                stderr: stderr.into(),
                memory_bytes: 1 << 30,
            });
            error.on_full_disk()
        };
        let full = failed("error: x\nfatal: unable to update HEAD\n");
        assert!(full.is_disk_full() && full.to_string().contains("unable to update HEAD"));
        assert!(!failed("fatal: repository 'x' not found").is_disk_full());
    }
}
