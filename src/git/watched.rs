//! A git that one thread runs to its end: it writes into files, which are looked at meanwhile.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, SeekFrom};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal};

use super::group::Group;
use crate::limits::{
    COUNTED_PIECE_BYTES, COUNTED_PIECES, GIT_KILL_GRACE_MS, GIT_STDERR_TAIL_BYTES,
    INTERRUPT_POLL_MS,
};

/// How a git ended.
pub(crate) enum Ended<O> {
    Itself(ExitStatus),
    /// It was made to, for this reason.
    Over(O),
}

/// What a git writes, in files without names.
pub(crate) struct Said {
    out: File,
    errors: File,
}

impl Said {
    /// Has `command` write into files.
    pub(crate) fn of(command: &mut Command) -> io::Result<Said> {
        let (out, errors) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.stdout(out.try_clone()?).stderr(errors.try_clone()?);
        Ok(Said { out, errors })
    }

    /// The same in memory, for what no disk may see.
    pub(crate) fn in_memory(command: &mut Command) -> io::Result<Said> {
        let file = || -> io::Result<File> {
            Ok(rustix::fs::memfd_create("said", rustix::fs::MemfdFlags::CLOEXEC)?.into())
        };
        let (out, errors) = (file()?, file()?);
        command.stdout(out.try_clone()?).stderr(errors.try_clone()?);
        Ok(Said { out, errors })
    }

    /// The longer one of both.
    pub(crate) fn len_bytes(&self) -> io::Result<u64> {
        Ok(self
            .out
            .metadata()?
            .len()
            .max(self.errors.metadata()?.len()))
    }

    /// All of its standard output.
    pub(crate) fn output(&mut self) -> io::Result<Vec<u8>> {
        // In one piece, so that a secret leaves no other behind.
        let len = usize::try_from(self.out.metadata()?.len()).unwrap_or_default();
        let mut text = Vec::with_capacity(len + 1);
        self.out.rewind()?;
        self.out.read_to_end(&mut text)?;
        Ok(text)
    }

    /// The end of its standard error. It may pass on what a server says; the reason of a failure is
    /// at the end.
    pub(crate) fn errors(&mut self) -> io::Result<String> {
        let mut text = Vec::new();
        let tail = self.errors.metadata()?.len();
        let tail = tail.saturating_sub(GIT_STDERR_TAIL_BYTES as u64);
        self.errors.seek(SeekFrom::Start(tail))?;
        self.errors.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// What a git writes that is to be counted and not to be kept: it comes by pipes, so that no disk has to have room for it
/// and nobody has to bound it. Only the end of its standard error stays.
pub(crate) struct Counted {
    out: PipeReader,
    errors: PipeReader,
    lines: u64,
    end: Vec<u8>,
}

impl Counted {
    /// Has `command` write into pipes.
    pub(crate) fn of(command: &mut Command) -> io::Result<Counted> {
        let ((out, out_end), (errors, errors_end)) = (io::pipe()?, io::pipe()?);
        for pipe in [&out, &errors] {
            // Of this end alone: a git does not come again by itself.
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK)?;
        }
        command.stdout(out_end).stderr(errors_end);
        Ok(Counted {
            out,
            errors,
            lines: 0,
            end: Vec::new(),
        })
    }

    /// Takes what has come. To be called again and again, and once the git has ended.
    pub(crate) fn take(&mut self) -> io::Result<()> {
        let lines = &mut self.lines;
        drain(&mut self.out, |piece| {
            *lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        })?;
        let end = &mut self.end;
        drain(&mut self.errors, |piece| {
            end.extend_from_slice(piece);
            end.drain(..end.len().saturating_sub(GIT_STDERR_TAIL_BYTES));
        })
    }

    /// How many lines it has written to its standard output.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// See [`Said::errors`].
    pub(crate) fn errors(&self) -> String {
        String::from_utf8_lossy(&self.end).into_owned()
    }
}

/// Hands on what a pipe has, without a wait; no more of it at a time than leaves room for other things, and at least as
/// much as a pipe holds.
fn drain(pipe: &mut PipeReader, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = [0; COUNTED_PIECE_BYTES];
    for _ in 0..COUNTED_PIECES {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => take(&buffer[..len]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Waits for the end of `child`, a group's leader, and asks for it when `is_to_stop` or `over` says
/// so. Whoever was asked leaves nobody behind.
pub(crate) fn finish<O>(
    mut child: Child,
    is_to_stop: impl Fn() -> bool,
    mut over: impl FnMut() -> io::Result<Option<O>>,
) -> io::Result<Ended<O>> {
    let group = Group::of(Pid::from_child(&child));
    let (mut reason, mut asked) = (None, None);
    loop {
        let has_ended = group.leader_ended();
        // In the end, too: what is said at once is over before anybody looks.
        reason = match reason {
            None => over()?,
            reason => reason,
        };
        if has_ended {
            if asked.is_some() {
                group.signal(Signal::KILL);
            }
            let status = child.wait()?;
            return Ok(reason.map_or(Ended::Itself(status), Ended::Over));
        }
        if is_to_stop() || reason.is_some() {
            let asked: Instant = *asked.get_or_insert_with(Instant::now);
            // First they may tidy up.
            let may_tidy = asked.elapsed() < Duration::from_millis(GIT_KILL_GRACE_MS);
            group.signal(if may_tidy { Signal::TERM } else { Signal::KILL });
        }
        std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 20));
    }
}
