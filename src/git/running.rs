//! A git that the background plane awaits: what it writes, and its end, whatever becomes of who
//! started it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::error::Elapsed;

use super::group::Group;
use super::growth::{self, Growth};
use super::said::Tail;
use crate::io::child;
use crate::limits;

/// Takes stdout as it comes; an error text ends the command.
pub(crate) type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), String> + Send);

/// Why a git is not to be waited for any longer.
enum Broken {
    Sink(String),
    Outgrown(growth::Over),
    Wait(std::io::Error),
}

/// Why a git did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be started.
    Start(std::io::Error),
    /// It ended, and not well.
    Failed {
        /// `None` when a signal ended it.
        code: Option<i32>,
        /// The end of what it said.
        stderr: Vec<u8>,
    },
    /// Its output was not taken.
    Refused(String),
    /// It brought more than it may.
    TooLarge { limit_bytes: u64 },
    /// What it brings cannot be measured.
    Measure(PathBuf, std::io::Error),
    /// Its end cannot be seen.
    Wait(std::io::Error),
    /// Its time was over.
    TimedOut,
}

/// Runs a command to its end. When the time `limit` is over, it brings more than it may, `sink`
/// refuses or the future is dropped, its whole process group is gone. `stderr` gets the end of what
/// it said.
pub(crate) async fn run(
    command: Command,
    limit: Duration,
    growth: Option<Growth>,
    sink: Sink<'_>,
    stderr: &mut Tail,
) -> Result<(), Failure> {
    let mut running = Running::start(command)?;
    let finished = async {
        tokio::select! {
            biased;
            finished = running.finish(sink, stderr) => finished,
            over = growth::over(growth) => Err(Broken::Outgrown(over)),
        }
    };
    let ended = tokio::time::timeout(limit, finished).await;
    running.conclude(ended, stderr).await
}

/// Runs a command whose output somebody takes at their own pace, for as long as its time `limit`
/// allows: `take` is given the first of it and the pipe with the rest, and is ready when all is taken; it is
/// not called for nothing. When `gone` is ready, nobody is left to take it and the process group is ended;
/// otherwise as [`run`].
pub(crate) async fn feed(
    command: Command,
    limit: Duration,
    take: impl AsyncFnOnce(Output) -> Result<(), String>,
    gone: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let mut running = Running::start(command)?;
    let mut stderr = Tail::new(limits::GIT_STDERR_TAIL_BYTES);
    let fed = running.feed(take, gone, &mut stderr);
    let ended = tokio::time::timeout(limit, fed).await;
    running.conclude(ended, &stderr).await
}

/// What a command writes.
pub(crate) struct Output {
    /// The first bytes of it, at least one.
    pub first: Vec<u8>,
    /// Where the rest comes from.
    pub rest: OwnedFd,
}

impl Output {
    /// Waits for the first bytes; `None` if there are none.
    async fn of(mut pipe: ChildStdout) -> std::io::Result<Option<Output>> {
        // Fails where a user has too many such pipes; then it only costs more.
        let _ = rustix::pipe::fcntl_setpipe_size(&pipe, limits::STREAM_PIPE_BYTES);
        let mut first = Vec::with_capacity(limits::STREAM_FIRST_BYTES);
        (&mut pipe)
            .take(limits::STREAM_FIRST_BYTES as u64)
            .read_buf(&mut first)
            .await?;
        // A few bytes must not keep the memory of many while a client takes its time.
        first.shrink_to_fit();
        if first.is_empty() {
            return Ok(None);
        }
        let rest = pipe.into_owned_fd()?;
        Ok(Some(Output { first, rest }))
    }
}

/// A running git with all its children.
///
/// Invariant: while `reaped` is false nobody has waited for the leader, as its group wants it, and
/// only then is that signalled.
struct Running {
    child: Child,
    group: Group,
    reaped: bool,
}

impl Running {
    fn start(mut command: Command) -> Result<Running, Failure> {
        command.stderr(Stdio::piped());
        let child = command.spawn().map_err(Failure::Start)?;
        let leader = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let no_id = || Failure::Start(std::io::Error::other("it has no process id"));
        Ok(Running {
            child,
            group: Group::of(leader.ok_or_else(no_id)?),
            reaped: false,
        })
    }

    /// Reads both pipes and waits for the end.
    async fn finish(&mut self, sink: Sink<'_>, stderr: &mut Tail) -> Result<ExitStatus, Broken> {
        let out = self.child.stdout.take();
        let err = self.child.stderr.take();
        let pipes = async { tokio::try_join!(drain(out, sink), keep_tail(err, stderr)) };
        tokio::pin!(pipes);
        let status = tokio::select! {
            biased;
            read = &mut pipes => {
                read.map_err(Broken::Sink)?;
                self.child.wait().await
            }
            status = self.child.wait() => {
                self.reaped = true;
                let grace = Duration::from_millis(limits::GIT_PIPE_GRACE_MS);
                if let Ok(read) = tokio::time::timeout(grace, &mut pipes).await {
                    read.map_err(Broken::Sink)?;
                }
                status
            }
        };
        self.reaped = status.is_ok();
        status.map_err(Broken::Wait)
    }

    /// As [`Self::finish`], but the output is taken to its end however long after git's own
    /// that is: a slow taker must not lose what is still in the pipe.
    async fn feed(
        &mut self,
        take: impl AsyncFnOnce(Output) -> Result<(), String>,
        gone: impl Future<Output = ()>,
        stderr: &mut Tail,
    ) -> Result<ExitStatus, Broken> {
        let out = self.child.stdout.take();
        let err = self.child.stderr.take();
        let hand_over = async {
            let Some(out) = out else { return Ok(()) };
            let output = Output::of(out).await;
            match output.map_err(|error| format!("cannot read it: {error}"))? {
                Some(output) => take(output).await,
                None => Ok(()),
            }
        };
        let pipes = async { tokio::try_join!(hand_over, keep_tail(err, stderr)) };
        tokio::select! {
            biased;
            read = pipes => read.map_err(Broken::Sink)?,
            () = gone => return Err(Broken::Sink("nobody takes it any more".to_owned())),
        };
        let status = self.child.wait().await;
        self.reaped = status.is_ok();
        status.map_err(Broken::Wait)
    }

    /// SIGTERM, so that git removes its lock and temporary files, then SIGKILL for what is
    /// left of the group.
    async fn terminate(&mut self) {
        if self.reaped {
            return;
        }
        self.group.signal(Signal::TERM);
        let deadline =
            tokio::time::Instant::now() + Duration::from_millis(limits::GIT_KILL_GRACE_MS);
        while !self.group.leader_ended() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.group.signal(Signal::KILL);
        self.reaped = self.child.wait().await.is_ok();
    }

    /// What the end of a command means; ends what is left of it.
    async fn conclude(
        &mut self,
        ended: Result<Result<ExitStatus, Broken>, Elapsed>,
        stderr: &Tail,
    ) -> Result<(), Failure> {
        let broken = match ended {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => {
                let (code, stderr) = (status.code(), stderr.bytes().to_vec());
                let why = child::not_started(code, &String::from_utf8_lossy(&stderr));
                let failed = Failure::Failed { code, stderr };
                return Err(why.map_or(failed, Failure::Start));
            }
            // It may still be there, and is ended when it is dropped.
            Ok(Err(Broken::Wait(source))) => return Err(Failure::Wait(source)),
            Ok(Err(Broken::Outgrown(growth::Over { limit_bytes, error }))) => match error {
                None => Failure::TooLarge { limit_bytes },
                Some((path, source)) => Failure::Measure(path, source),
            },
            Ok(Err(Broken::Sink(what))) => Failure::Refused(what),
            Err(_elapsed) => Failure::TimedOut,
        };
        self.terminate().await;
        Err(broken)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.group.signal(Signal::KILL);
        // A killed process ends within a millisecond or so. One that hangs in the kernel is
        // left to the runtime, which reaps the children of dropped commands.
        for _ in 0..limits::GIT_REAP_ON_DROP_MS {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>, sink: Sink<'_>) -> Result<(), String> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => sink(&buffer[..count])?,
            Err(error) => return Err(format!("cannot read it: {error}")),
        }
    }
}

async fn keep_tail(pipe: Option<impl AsyncRead + Unpin>, tail: &mut Tail) -> Result<(), String> {
    let mut keep = |bytes: &[u8]| {
        tail.push(bytes);
        Ok(())
    };
    drain(pipe, &mut keep).await
}
