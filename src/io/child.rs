//! Child processes that do not outlive the server.

#![allow(unsafe_code)] // Code between fork and exec; its contract stands at the call.

use std::io;

use tokio::process::Command;

/// Has the kernel kill the child when the thread that starts it ends, however it ends: a `git`
/// that lives on after a `kill -9` of the server would write into directories that the next
/// server has cleaned up.
pub fn die_with_starter(command: &mut Command) {
    let server = rustix::process::getpid();
    let prepare = move || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // The server may have died before the call above.
        if rustix::process::getppid() != Some(server) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(())
    };
    // SAFETY: the closure runs in the child between fork and exec. It makes two system calls,
    // allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}
