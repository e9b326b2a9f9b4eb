//! How the server runs git: in come a command for a mirror or an upstream and the operator's limits,
//! out comes its output or a [`MirrorError`] that names what it spoke to. What must hold: the
//! output kept, memory, disk and time are bounded.
use crate::access::own::OwnTokens;
use crate::access::redirect::AllRedirects;
use crate::config::Share;
use crate::git::{self, Arrived, Failure, Growth, Repository, Setup, Sink, Surroundings, Tail};
use crate::io::fs::{Fs, Os};
use crate::limits;
use crate::mirror::beside::Beside;
use crate::mirror::error::{Failed, MirrorError, without_password};
use crate::mirror::removals::Removals;
use crate::mirror::speaks::{Speaks, Voice};
use crate::mirror::via::{self, Via};
use crate::refs::{Follow, Recent};
use arc_swap::ArcSwap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::process::Command;

/// How git is run. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Git {
    /// The program, looked up in `PATH` when it is a bare name.
    pub program: PathBuf,
    /// After which time each kind of command is killed.
    pub limits: TimeLimits,
    /// The most that a clone or a fetch may bring, of the file system that it is on.
    pub size_limit: Share,
    /// The most memory that a process may take, unless it only lists an upstream's refs.
    pub memory_bytes: u64,
    /// The schemes that git may speak, as `GIT_ALLOW_PROTOCOL` has them.
    pub schemes: String,
    /// The servers that the requests to upstreams go by way of: this one, and those that the
    /// request came from that they are for.
    pub via: Via,
    /// As whom it speaks to upstreams.
    pub(crate) speaks: Speaks,
    /// What the server itself says to upstreams for which it has a token.
    pub(crate) own: Arc<ArcSwap<OwnTokens>>,
    /// Whether who may read is the upstreams' own permission: then what answers for a repository is to be the
    /// one that was asked for.
    pub(crate) by_permission: bool,
    /// Where upstreams may send it.
    pub(crate) redirects: Arc<AllRedirects>,
    /// The refs that are followed besides heads and tags.
    pub follow: Follow,
    /// Refs of mirrors that were read lately.
    pub refs: Recent,
    /// What clones that were given up have left.
    pub removals: Removals,
    /// Who is told how much of a clone or a fetch has come.
    pub arrived: Arc<Arrived>,
    /// What a comparison brings word of beside what is followed.
    pub(crate) beside: Arc<Beside>,
}

impl Default for Git {
    fn default() -> Self {
        Self {
            program: "git".into(),
            limits: TimeLimits::default(),
            size_limit: Share::CLONE_DEFAULT,
            memory_bytes: limits::GIT_MEMORY_DEFAULT_BYTES,
            schemes: "https:http:ssh:git:file".into(),
            via: Via::default(),
            speaks: Speaks::default(),
            own: Arc::default(),
            by_permission: false,
            redirects: Arc::default(),
            follow: Follow::default(),
            refs: Recent::default(),
            removals: Removals::default(),
            arrived: Arc::default(),
            beside: Arc::default(),
        }
    }
}

/// Time limits of git commands by kind.
#[derive(Clone, Debug)]
pub struct TimeLimits {
    /// A clone from upstream.
    pub clone: Duration,
    /// Fetching objects from upstream.
    pub fetch: Duration,
    /// Asking upstream for its refs.
    pub list: Duration,
    /// Everything that talks to nobody.
    pub local: Duration,
    /// How long an upstream may send nothing over HTTP; whole seconds.
    pub silent: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        Self {
            clone: Duration::from_millis(limits::CLONE_TIMEOUT_DEFAULT_MS),
            fetch: Duration::from_millis(limits::GIT_FETCH_LIMIT_MS),
            list: Duration::from_millis(limits::GIT_LIST_LIMIT_MS),
            local: Duration::from_millis(limits::GIT_LOCAL_LIMIT_MS),
            silent: Duration::from_millis(limits::UPSTREAM_SILENT_MS),
        }
    }
}

/// Settings of mirrors and of what comes from upstreams, besides those that every git has.
const SETTINGS: &[&str] = &[
    "clone.defaultRemoteName=origin",
    "clone.rejectShallow=true",
    "core.logAllRefUpdates=false",
    "fetch.prune=false",
    "fetch.pruneTags=false",
    "fetch.uriProtocols=",
    "fetch.writeCommitGraph=false",
    "init.defaultBranch=master",
    "init.defaultRefFormat=files",
    "pack.indexVersion=2",
    "pack.packSizeLimit=0",
    "pack.writeReverseIndex=true",
    "protocol.ext.allow=never",
    "transfer.unpackLimit=1",
];

/// What a git command speaks to: decides how its failure is named.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Upstream(&'a str),
    Mirror(&'a Path),
}

impl Target<'_> {
    fn text(self) -> String {
        match self {
            Self::Upstream(url) => without_password(url),
            Self::Mirror(path) => path.display().to_string(),
        }
    }
}

/// One git command.
pub(super) struct Call<'a> {
    /// For messages: `git fetch`.
    pub op: &'static str,
    pub target: Target<'a>,
    /// The repository it works in; `None` for a clone.
    pub git_dir: Option<&'a Path>,
    pub args: Vec<OsString>,
    /// What it reads; nothing when `None`.
    pub stdin: Option<File>,
    pub limit: Duration,
    /// The most memory that each of its processes may take.
    pub memory_bytes: u64,
    /// Where it puts what comes from others, and how much that may be.
    pub growth: Option<Growth>,
}

impl<'a> Call<'a> {
    /// What a message about it needs.
    pub(super) fn about(&self) -> About<'a> {
        About {
            op: self.op,
            target: self.target,
            limit: self.limit,
            memory_bytes: self.memory_bytes,
        }
    }
}

/// A command as messages name it, and its time limit.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    op: &'static str,
    target: Target<'a>,
    limit: Duration,
    memory_bytes: u64,
}

impl About<'_> {
    fn failed(self, code: Option<i32>, stderr: &[u8]) -> MirrorError {
        let failed = Failed {
            op: self.op,
            target: self.target.text(),
            code,
            stderr: String::from_utf8_lossy(stderr).into_owned(),
            memory_bytes: self.memory_bytes,
        };
        match self.target {
            Target::Upstream(_) => MirrorError::from_network(failed),
            Target::Mirror(_) => MirrorError::from_local(failed),
        }
    }
}

/// Whether the file system that `place` is on, or would be, takes nothing more.
fn is_full(place: &Path) -> bool {
    let space = place.ancestors().find_map(|path| Os.space(path).ok());
    space.is_some_and(|space| space.free_bytes < limits::FULL_FREE_BYTES)
}

impl Git {
    /// Checks that git can be started and returns what it says of its version.
    ///
    /// # Errors
    /// [`MirrorError::Start`] when there is no such program.
    pub async fn version(&self) -> Result<String, MirrorError> {
        let out = self
            .output(self.local("git --version", Path::new("."), ["--version"]))
            .await?;
        Ok(String::from_utf8_lossy(&out)
            .trim()
            .trim_start_matches("git version ")
            .to_owned())
    }

    /// The same for a request that came by way of other servers.
    #[must_use]
    pub fn by_way_of(&self, via: &Via) -> Git {
        Git {
            via: via.then(&self.via),
            ..self.clone()
        }
    }

    /// The same where access is by the upstream's permission; it speaks for somebody, if that is given.
    #[must_use]
    pub(crate) fn by_permission_of(&self, voice: Option<Arc<Voice>>) -> Git {
        Git {
            by_permission: true,
            speaks: voice.map_or(Speaks::AsServer, Speaks::For),
            ..self.clone()
        }
    }

    /// The same, which tells somebody how much of a clone or a fetch has come.
    #[must_use]
    pub(crate) fn telling(&self, arrived: &Arc<Arrived>) -> Git {
        Git {
            arrived: arrived.clone(),
            ..self.clone()
        }
    }

    /// The same, whose comparisons bring word of these refs, too.
    #[must_use]
    pub(crate) fn asking_beside(&self, beside: &Arc<Beside>) -> Git {
        Git {
            beside: beside.clone(),
            ..self.clone()
        }
    }

    /// A command inside `mirror` that talks to nobody.
    pub(super) fn local<'a, A: AsRef<OsStr>>(
        &self,
        op: &'static str,
        mirror: &'a Path,
        args: impl IntoIterator<Item = A>,
    ) -> Call<'a> {
        Call {
            op,
            target: Target::Mirror(mirror),
            git_dir: Some(mirror),
            args: args
                .into_iter()
                .map(|arg| arg.as_ref().to_owned())
                .collect(),
            stdin: None,
            limit: self.limits.local,
            memory_bytes: self.memory_bytes,
            growth: None,
        }
    }

    /// Runs a command and returns its stdout, at most
    /// [`GIT_OUTPUT_BYTES_MAX`](limits::GIT_OUTPUT_BYTES_MAX).
    pub(super) async fn output(&self, call: Call<'_>) -> Result<Vec<u8>, MirrorError> {
        let mut out = Vec::new();
        let mut keep = |bytes: &[u8]| {
            if out.len() + bytes.len() > limits::GIT_OUTPUT_BYTES_MAX {
                return Err(format!("more than {} bytes", limits::GIT_OUTPUT_BYTES_MAX));
            }
            out.extend_from_slice(bytes);
            Ok(())
        };
        self.run(call, &mut keep).await?;
        Ok(out)
    }

    /// A listing of what is at `url`: bounded in memory, for it is read before anything of it can
    /// be judged. Runs in the repository `git_dir`, or in none.
    pub(super) fn listing<'a>(
        &self,
        url: &'a str,
        git_dir: &'a Path,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Call<'a> {
        Call {
            op: "git ls-remote",
            target: Target::Upstream(url),
            git_dir: Some(git_dir),
            args: args.into_iter().map(OsString::from).collect(),
            stdin: None,
            limit: self.limits.list,
            memory_bytes: limits::LISTING_MEMORY_BYTES,
            growth: None,
        }
    }

    /// Runs a command to its end. When the time limit is over, it brings more than it may, `sink`
    /// refuses or the future is dropped, its whole process group is gone.
    pub(super) async fn run(&self, call: Call<'_>, sink: Sink<'_>) -> Result<(), MirrorError> {
        let mut stderr = Tail::new(limits::GIT_STDERR_TAIL_BYTES);
        self.run_with(call, &[], sink, &mut stderr).await
    }

    /// The same with further environment variables; `stderr` gets the end of what it said.
    pub(super) async fn run_with(
        &self,
        mut call: Call<'_>,
        environment: &[(&str, &str)],
        sink: Sink<'_>,
        stderr: &mut Tail,
    ) -> Result<(), MirrorError> {
        let (about, growth) = (call.about(), call.growth.take());
        let made = growth.as_ref().map(|growth| growth.dir.as_path());
        let place = call.git_dir.or(made).map(Path::to_owned);
        let mut command = self.command(call);
        command.envs(environment.iter().copied());
        let ended = git::run(command, about.limit, growth, sink, stderr).await;
        ended.map_err(|failure| {
            let error = self.error(about, failure);
            match place.is_some_and(|place| is_full(&place)) {
                true => error.on_full_disk(),
                false => error,
            }
        })
    }

    /// Runs a command whose output somebody takes at their own pace, for as long as its time
    /// limit allows. When `gone` is ready, nobody is left to take it and the process group is
    /// ended; otherwise as [`Git::run`].
    pub(super) async fn feed(
        &self,
        about: About<'_>,
        command: Command,
        take: impl AsyncFnOnce(git::Output) -> Result<(), String>,
        gone: impl Future<Output = ()>,
    ) -> Result<(), MirrorError> {
        let ended = git::feed(command, about.limit, take, gone).await;
        ended.map_err(|failure| self.error(about, failure))
    }

    /// What a command's failure means.
    fn error(&self, about: About<'_>, failure: Failure) -> MirrorError {
        let (op, target) = (about.op, || about.target.text());
        match failure {
            Failure::Start(source) => MirrorError::Start {
                program: self.program.clone(),
                source,
            },
            Failure::Failed { code, stderr } => about.failed(code, &stderr),
            Failure::Refused(what) => MirrorError::Output {
                op,
                target: target(),
                what,
            },
            Failure::TooLarge { limit_bytes } => MirrorError::TooLarge {
                op,
                target: target(),
                limit_bytes,
                limit: self.size_limit,
            },
            Failure::Measure(path, source) => MirrorError::io("measure", &path, source),
            Failure::Wait(source) => MirrorError::io("wait for", &self.program, source),
            Failure::TimedOut => MirrorError::TimedOut {
                op,
                target: target(),
                limit_ms: u64::try_from(about.limit.as_millis()).unwrap_or(u64::MAX),
            },
        }
    }

    /// The command line and surroundings of a call.
    pub(super) fn command(&self, call: Call<'_>) -> Command {
        let protocols = &self.schemes;
        let surroundings = match (&self.speaks, call.target) {
            (Speaks::For(_), Target::Upstream(_)) => Surroundings::Asker,
            _ => Surroundings::Server { protocols },
        };
        let setup = Setup {
            program: &self.program,
            nice: limits::CHILD_NICE,
            memory_bytes: call.memory_bytes,
            repository: call.git_dir.map_or(Repository::None, Repository::Bare),
            surroundings,
            settings: SETTINGS,
        };
        let mut command = setup.command();
        if let Target::Upstream(url) = call.target {
            command.envs(self.variables(url));
            command.args(self.via_arguments(url));
        }
        for setting in git::silence(self.limits.silent) {
            command.arg("-c").arg(setting);
        }
        command.args(&call.args);
        command.stdin(call.stdin.map_or_else(Stdio::null, Stdio::from));
        command.stdout(Stdio::piped());
        Command::from(command)
    }

    /// Has git say by way of which servers it asks. Of headers that the configuration has for some
    /// URLs and for all, git takes those for the URL alone; so this one is there for both.
    fn via_arguments(&self, url: &str) -> Vec<String> {
        if self.via.is_empty() {
            return Vec::new();
        }
        // `-c` takes what is before the first `=` for the key.
        let url = match url.split_once('=') {
            Some((before, _)) => before
                .rsplit_once('/')
                .map_or("", |(directory, _)| directory),
            None => url,
        };
        let keys = ["http.".to_owned(), format!("http.{url}.")];
        let keys = if url.starts_with("http") {
            &keys[..]
        } else {
            &keys[..1]
        };
        let header = format!("{}: {}", via::HEADER, self.via);
        keys.iter()
            .flat_map(|key| ["-c".to_owned(), format!("{key}extraHeader={header}")])
            .collect()
    }
}
