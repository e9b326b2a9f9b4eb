//! Child processes that do not outlive this one, hear signals, and leave a server the processor.
//!
//! What a child needs for that is done by the `tarpon` binary itself, called as a *starter*:
//! `tarpon start-child PARENT NICE MEMORY PROGRAM ARGUMENTS...`. It leads the child's process
//! group, starts the program in it and stays until that ends, then ends the same way. The parent (a server
//! or a restore) signals the group; SIGTERM is the program's to obey, the starter waits. When the
//! parent is gone, however it went, the kernel tells the starter, and that kills the group: not only
//! `git`, but also the helpers that `git clone` has started, which would go on for as long as the
//! upstream sends.
//!
//! Nothing of the parent's stays open in a child but its standard streams: the first thing that a
//! starter does is to close everything else. Not every descriptor can be marked in time (io_uring's
//! accept, as monoio calls it, makes sockets that are inherited), and a starter lives as long as its
//! program: a client's connection would not end before a clone does.
//!
//! The other way, a closure between fork(2) and execve(2), makes the kernel copy the page tables of
//! the whole server and every one of its threads wait meanwhile: with 150 MB of memory, first
//! bytes came 20 to 200 ms late while mirrors were fetched. Without a closure the standard
//! library starts children with posix_spawn(3), whose cost does not depend on the parent.

#![allow(unsafe_code)] // Signal masks and handlers, code after fork; each states its contract.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Resource, Rlimit, Signal};

/// The first argument of a starter.
const STARTER: &str = "start-child";
/// What a starter says, and exits with, that cannot start its program.
const CANNOT_START: &str = "cannot start";
/// See [`CANNOT_START`]; the code that a shell uses.
pub const NOT_STARTED_CODE: u8 = 127;
/// This program's own binary, also after it was replaced on disk.
const SELF: &str = "/proc/self/exe";
/// What tells a starter that its parent is gone.
const PARENT_GONE: Signal = Signal::USR1;

/// Whether this process's binary can be called as a starter.
static IS_STARTER: AtomicBool = AtomicBool::new(false);
/// Whether a starter was asked to end.
static ASKED_TO_END: AtomicBool = AtomicBool::new(false);

/// To be called first in `main`, with the process's arguments. If they call for a starter, runs
/// the program that they name and ends as that does; returns only with the reason why it could
/// not. All others learn that their binary can be one.
pub fn start_if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<String> {
    arguments.next();
    if arguments.next().as_deref() != Some(OsStr::new(STARTER)) {
        IS_STARTER.store(true, Ordering::Relaxed);
        return None;
    }
    let parent = arguments.next().and_then(|pid| pid.to_str()?.parse().ok());
    let parent = parent.and_then(Pid::from_raw);
    let nice = arguments
        .next()
        .and_then(|nice| nice.to_str()?.parse().ok());
    let memory = arguments
        .next()
        .and_then(|bytes| bytes.to_str()?.parse().ok());
    let (Some(parent), Some(nice), Some(memory_bytes), Some(program)) =
        (parent, nice, memory, arguments.next())
    else {
        return Some("start-child is for tarpon's own use; see tarpon --help".to_owned());
    };
    // Before anything is opened or started, and only in a process that is a starter indeed.
    leave_inherited(0);
    let mut command = Command::new(&program);
    command.args(arguments);
    let why = match supervise(parent, nice, memory_bytes, command) {
        Ok(status) => end_like(status),
        Err(error) => error,
    };
    Some(format!("{CANNOT_START} {}: {why}", program.display()))
}

/// Why a starter could not start its program, if that is what its exit code and standard error
/// say.
pub fn not_started(code: Option<i32>, stderr: &str) -> Option<std::io::Error> {
    let why = stderr.trim().strip_prefix("tarpon: ")?;
    let why = why.strip_prefix(CANNOT_START)?.split_once(": ")?.1;
    (code == Some(i32::from(NOT_STARTED_CODE))).then(|| std::io::Error::other(why))
}

/// A command that runs `program` as a child of the calling thread, in a process group of its own
/// that the child's id names: killed when the thread ends, however it ends (a `git` that lives on
/// after a `kill -9` of the server would write into directories that the next server works in),
/// with no signal blocked (it would inherit this process's mask, and could neither be asked to end
/// nor tidy up after itself), without a terminal (only the group in its foreground may read that;
/// another one is stopped for it, and would never end), and with the given niceness; 0 for that of
/// this process. It, and each process that it starts, can take so many bytes of memory; mapped files do
/// not count. There is no child without such a limit.
pub fn command(program: &Path, nice: i32, memory_bytes: u64) -> Command {
    let parent = rustix::process::getpid();
    if IS_STARTER.load(Ordering::Relaxed) && Path::new(SELF).exists() {
        let mut command = Command::new(SELF);
        command.arg(STARTER).arg(parent.to_string());
        command.arg(nice.to_string());
        command.arg(memory_bytes.to_string()).arg(program);
        command.process_group(0);
        return command;
    }
    // In a binary other than tarpon's, such as a test's: only the program itself is killed.
    let mut command = Command::new(program);
    command.process_group(0);
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls only,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            // Not before exec: by one of them the parent hears why that failed.
            leave_inherited(libc::CLOSE_RANGE_CLOEXEC);
            prepare(parent, nice, memory_bytes, Signal::KILL)
        });
    }
    command
}

/// Closes every descriptor but the standard streams; with `CLOSE_RANGE_CLOEXEC`, at the next exec.
/// A system call only.
fn leave_inherited(flags: libc::c_uint) {
    // SAFETY: the call takes numbers only. It closes descriptors that no code of this process knows
    // of: a starter has just begun and opened none.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, flags) };
    // A kernel that does not have it (before 5.9) leaves what was marked too late open.
}

/// Runs a program as a starter does, to its end.
fn supervise(
    parent: Pid,
    nice: i32,
    memory_bytes: u64,
    mut command: Command,
) -> io::Result<ExitStatus> {
    // It may have been called by somebody else; their group is not to be killed.
    if rustix::process::getpgrp() != rustix::process::getpid() {
        rustix::process::setpgid(None, None)?;
    }
    // Handlers, as a program has none of its parent's: it starts with the defaults.
    handle(libc::SIGUSR1, end_group)?;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        handle(signal, note_request)?;
    }
    prepare(parent, nice, memory_bytes, PARENT_GONE)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut child = command.spawn()?;
    // The pipes are the program's alone: that it closes one is seen at their other end.
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Asked before the program was there to hear it. Twice does no harm.
    if ASKED_TO_END.load(Ordering::Relaxed) {
        let _ = rustix::process::kill_process(Pid::from_child(&child), Signal::TERM);
    }
    child.wait()
}

/// Ends the calling process as another one has ended.
fn end_like(status: ExitStatus) -> ! {
    if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
        // The program has left a core if one is wanted.
        let _ =
            rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
        // SAFETY: `signal` is a valid one, and the default is no code of ours. It fails for
        // SIGKILL, which has nothing else.
        unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) };
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
    std::process::exit(status.code().unwrap_or(i32::from(NOT_STARTED_CODE)))
}

/// The parent is gone: so is everybody in the group.
extern "C" fn end_group(_: libc::c_int) {
    // Nobody is left to be told that it failed.
    let _ = rustix::process::kill_current_process_group(Signal::KILL);
}

/// The group was asked to end, and the program decides.
extern "C" fn note_request(_: libc::c_int) {
    ASKED_TO_END.store(true, Ordering::Relaxed);
}

/// Has `handler` called for a signal, unless that is ignored: so it must be by the program.
fn handle(signal: libc::c_int, handler: extern "C" fn(libc::c_int)) -> io::Result<()> {
    let handler = handler as *const () as libc::sighandler_t;
    // SAFETY: both handlers of this file are async-signal-safe: one makes a system call, the
    // other stores to an atomic; neither allocates, locks or touches errno.
    let before = unsafe { libc::signal(signal, handler) };
    match before {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        libc::SIG_IGN if signal != libc::SIGUSR1 => {
            // SAFETY: ignoring a signal runs no code.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Makes the calling process a child as [`command`] promises, with `gone` to tell it that its
/// parent is. System calls only.
fn prepare(parent: Pid, nice: i32, memory_bytes: u64, gone: Signal) -> io::Result<()> {
    unblock_signals()?;
    leave_terminal();
    limit_memory(memory_bytes)?;
    if nice != 0 {
        super::sched::be_batch(nice);
    }
    rustix::process::set_parent_process_death_signal(Some(gone))?;
    // The parent may have died before the call above.
    if rustix::process::getppid() != Some(parent) {
        return Err(io::ErrorKind::Interrupted.into());
    }
    Ok(())
}

/// Has the calling process, and what it starts, take at most so much memory, or as much as it may
/// already if that is less.
fn limit_memory(bytes: u64) -> io::Result<()> {
    let before = rustix::process::getrlimit(Resource::Data);
    let at_most = |limit: Option<u64>| Some(limit.map_or(bytes, |limit| limit.min(bytes)));
    let limit = Rlimit {
        current: at_most(before.current),
        maximum: at_most(before.maximum),
    };
    Ok(rustix::process::setrlimit(Resource::Data, limit)?)
}

/// Gives up the calling process's terminal, if it has one. A question that is asked on it then
/// fails at once.
fn leave_terminal() {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    if let Ok(terminal) = rustix::fs::open(c"/dev/tty", flags, rustix::fs::Mode::empty()) {
        // SAFETY: the descriptor is open, and this request has no argument.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

/// Blocks no signal in the calling thread.
fn unblock_signals() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that the other call reads; both pointers are to a
    // live value, and a null old mask is allowed.
    let result = unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut())
    };
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::CHILD_NICE;

    /// The signal mask, the niceness and the policy of a child of a thread that blocks signals.
    fn child_status() -> (String, [String; 2]) {
        let child = std::thread::spawn(|| {
            let _blocked = crate::io::signal::StopSignals::block().unwrap();
            let mut child = command(Path::new("cat"), CHILD_NICE, 1 << 30);
            child.args(["/proc/self/status", "/proc/self/stat"]);
            child.output().unwrap().stdout
        });
        let text = String::from_utf8(child.join().unwrap()).unwrap();
        let mask = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let stat = text.lines().last().unwrap();
        let stat = stat.rsplit(')').next().unwrap().split_whitespace();
        let stat: Vec<_> = stat.collect();
        let scheduled = [16, 38].map(|at| stat[at].to_owned());
        (mask.unwrap().trim().to_owned(), scheduled)
    }

    #[test]
    fn children_of_a_thread_that_blocks_signals_hear_them_and_are_nice() {
        let (mask, scheduled) = child_status();
        assert_eq!(mask, "0000000000000000");
        let batch = libc::SCHED_BATCH.to_string();
        assert_eq!(scheduled, [CHILD_NICE.to_string(), batch]);
    }

    #[test]
    fn a_starter_without_a_program_says_what_it_is_for() {
        let call = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            start_if_asked(arguments.into_iter())
        };
        assert!(call(&["tarpon", STARTER]).unwrap().contains("--help"));
        assert!(call(&["tarpon", STARTER, "x", "0", "9", "git"]).is_some());
        assert!(call(&["tarpon", STARTER, "1", "x", "9", "git"]).is_some());
        assert!(call(&["tarpon", STARTER, "1", "0", "unlimited", "git"]).is_some());
        assert!(call(&["tarpon", STARTER, "1", "0", "9"]).is_some());
    }
}
