//! Child processes that do not outlive the server and hear signals.

#![allow(unsafe_code)] // Code between fork and exec; its contract stands at the call.

use std::io;
use std::mem::MaybeUninit;

use tokio::process::Command;

/// Has the kernel kill the child when the thread that starts it ends, however it ends: a `git`
/// that lives on after a `kill -9` of the server would write into directories that the next
/// server has cleaned up. The child also gets an empty signal mask: it would inherit the
/// server's, which blocks SIGTERM, and could neither be asked to end nor tidy up after itself.
pub fn die_with_starter(command: &mut Command) {
    let server = rustix::process::getpid();
    let prepare = move || {
        unblock_signals()?;
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The server may have died before the call above.
        if rustix::process::getppid() != Some(server) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec. It makes system calls only,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
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

    #[test]
    fn children_of_a_thread_that_blocks_signals_hear_them() {
        let child = std::thread::spawn(|| {
            let _blocked = crate::io::signal::StopSignals::block().unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut command = Command::new("grep");
                command.args(["SigBlk", "/proc/self/status"]);
                die_with_starter(&mut command);
                command.output().await.unwrap().stdout
            })
        });
        let mask = String::from_utf8(child.join().unwrap()).unwrap();
        assert_eq!(mask.split_whitespace().nth(1), Some("0000000000000000"));
    }
}
