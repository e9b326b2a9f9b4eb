//! SIGTERM, SIGINT and SIGHUP, taken by one thread instead of interrupting any.
//!
//! SIGHUP means two things: that the terminal is gone from which the process was started, and, for one that has
//! none, that its files are to be read anew.

#![allow(unsafe_code)] // Signal masks have no safe wrapper; each use states its contract.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::limits::SAME_WISH_MS;

/// Whether this process has asked itself to stop.
static ASKED_TO_STOP: AtomicBool = AtomicBool::new(false);

/// Has whoever waits for the signals of the end hear SIGTERM. Once: a second one might come when it
/// is not blocked any more.
pub fn ask_to_stop() {
    if !ASKED_TO_STOP.swap(true, Ordering::Relaxed) {
        // A process may always send itself a signal.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::TERM);
    }
}

/// What says that the terminal is gone, to who has one.
pub const HANGUP: &str = "SIGHUP";

/// What a signal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// To stop; the signal's name.
    Stop(&'static str),
    /// To read files anew.
    Reload,
}

/// The signals that stop the server, blocked in the calling thread and in every thread it
/// starts afterwards.
#[derive(Clone, Copy)]
pub struct StopSignals {
    set: libc::sigset_t,
    /// Whether SIGHUP would be heard of a terminal that is gone.
    has_terminal: bool,
}

impl StopSignals {
    /// Blocks the signals. To be called before any thread is started: one that does not block
    /// them dies of them, and the process with it.
    pub fn block() -> io::Result<StopSignals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that the other calls read; all pointers are to
        // live values, and a null old mask is allowed.
        let (set, result) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGHUP);
            let result = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            (set.assume_init(), result)
        };
        match result {
            0 => Ok(StopSignals {
                set,
                has_terminal: has_terminal(),
            }),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Waits for one of them; returns its name.
    pub fn wait(&self) -> io::Result<&'static str> {
        let mut signal = 0;
        // SAFETY: both pointers are to live values; the set was initialised by `block`.
        let result = unsafe { libc::sigwait(&raw const self.set, &raw mut signal) };
        match (result, signal) {
            (0, libc::SIGINT) => Ok("SIGINT"),
            (0, libc::SIGHUP) => Ok(HANGUP),
            (0, _) => Ok("SIGTERM"),
            (error, _) => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Waits for one of them; what it says to a server.
    pub fn hear(&self) -> io::Result<Heard> {
        Ok(match self.wait()? {
            HANGUP if !self.has_terminal => Heard::Reload,
            signal => Heard::Stop(signal),
        })
    }

    /// Takes those that come within `limit` and does nothing about them.
    pub fn ignore_for(&self, limit: Duration) {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let left = libc::timespec {
                tv_sec: left.as_secs() as libc::time_t,
                tv_nsec: left.subsec_nanos().into(),
            };
            // SAFETY: the pointers are to live values; a null one for what is not wanted is allowed.
            unsafe {
                libc::sigtimedwait(&raw const self.set, std::ptr::null_mut(), &raw const left)
            };
        }
    }

    /// Lets a second SIGTERM or Ctrl-C end the process, from [`SAME_WISH_MS`] after the first on.
    pub fn end_at_second(&self) {
        let signals = *self;
        let wait = move || {
            signals.ignore_for(Duration::from_millis(SAME_WISH_MS));
            signals.unblock();
            loop {
                std::thread::park();
            }
        };
        let thread = std::thread::Builder::new().name("signals".into());
        if thread.spawn(wait).is_err() {
            self.unblock();
        }
    }

    /// Lets a SIGTERM or Ctrl-C end the process. Not a second SIGHUP: of a terminal that is closed
    /// there come two, from the kernel and from the shell.
    fn unblock(&self) {
        let mut set = self.set;
        // SAFETY: the set was initialised by `block`; a null old mask is allowed. Cannot fail
        // with these arguments.
        unsafe {
            libc::sigdelset(&raw mut set, libc::SIGHUP);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        }
    }
}

/// Whether this process ends with a terminal: it has a controlling one, and was not started by nohup(1), which
/// has SIGHUP ignored.
fn has_terminal() -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: a null new action only reads the old one, which is written to a live value when the
    // call succeeds.
    let is_ignored = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    };
    // Opened by a process without a controlling terminal it is an error.
    !is_ignored && std::fs::File::open("/dev/tty").is_ok()
}
