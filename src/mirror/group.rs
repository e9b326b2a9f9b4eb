//! A git that runs: its process group, what it writes, and its end, whatever becomes of who started it.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;

use crate::limits;
use crate::mirror::growth::{self};

/// Takes stdout as it comes; an error text ends the command.
pub(super) type Sink<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), String> + Send);

/// The end of what a command said.
pub(super) struct Tail {
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl Tail {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            max_bytes,
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let excess = self.bytes.len().saturating_sub(self.max_bytes);
        self.bytes.drain(..excess);
    }
}

pub(super) enum Broken {
    Sink(String),
    Outgrown(growth::Over),
    Wait(std::io::Error),
}

/// A running git with all its children.
///
/// Invariant: while `reaped` is false the leader is running or a zombie, so its id cannot
/// belong to another group, and only then is the group signalled.
pub(super) struct Group {
    pub(super) child: Child,
    pub(super) pid: Pid,
    pub(super) reaped: bool,
}

impl Group {
    /// Reads both pipes and waits for the end.
    pub(super) async fn finish(
        &mut self,
        sink: Sink<'_>,
        stderr: &mut Tail,
    ) -> Result<ExitStatus, Broken> {
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

    /// As [`Self::finish`], but the output is read to its end however long after git's own
    /// that is: a slow taker must not lose what is still in the pipe.
    pub(super) async fn feed(
        &mut self,
        sink: impl AsyncFnMut(Vec<u8>) -> Result<(), String>,
        gone: impl Future<Output = ()>,
        stderr: &mut Tail,
    ) -> Result<ExitStatus, Broken> {
        let out = self.child.stdout.take();
        let err = self.child.stderr.take();
        let pipes = async { tokio::try_join!(pump(out, sink), keep_tail(err, stderr)) };
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
    pub(super) async fn terminate(&mut self) {
        if self.reaped {
            return;
        }
        self.signal(Signal::TERM);
        let deadline =
            tokio::time::Instant::now() + Duration::from_millis(limits::GIT_KILL_GRACE_MS);
        while !self.leader_ended() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.signal(Signal::KILL);
        self.reaped = self.child.wait().await.is_ok();
    }

    /// Whether the leader has ended, leaving it to be reaped (its id stays taken).
    fn leader_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        !matches!(
            rustix::process::waitid(WaitId::Pid(self.pid), options),
            Ok(None)
        )
    }

    pub(super) fn signal(&self, signal: Signal) {
        // It fails only when the group has ended, which is what is wanted.
        let _ = rustix::process::kill_process_group(self.pid, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        self.signal(Signal::KILL);
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

pub(super) async fn drain(
    pipe: Option<impl AsyncRead + Unpin>,
    sink: Sink<'_>,
) -> Result<(), String> {
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

/// Hands over what a pipe brings in pieces of at most
/// [`STREAM_PIECE_BYTES`](limits::STREAM_PIECE_BYTES), one after the other.
pub(super) async fn pump(
    pipe: Option<impl AsyncRead + Unpin>,
    mut sink: impl AsyncFnMut(Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = vec![0; limits::STREAM_PIECE_BYTES];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => sink(buffer[..count].to_vec()).await?,
            Err(error) => return Err(format!("cannot read it: {error}")),
        }
    }
}

pub(super) async fn keep_tail(
    pipe: Option<impl AsyncRead + Unpin>,
    tail: &mut Tail,
) -> Result<(), String> {
    let mut keep = |bytes: &[u8]| {
        tail.push(bytes);
        Ok(())
    };
    drain(pipe, &mut keep).await
}
