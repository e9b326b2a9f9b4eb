//! How the kernel shares the processors among this program's threads: those that somebody waits
//! for come first.
//!
//! Two means. Niceness decides who gets how much; less of it than a process was started with is
//! given only to the privileged (CAP_SYS_NICE, or RLIMIT_NICE). The slice decides who comes next: of
//! the threads that are owed time, the scheduler takes the one with the earliest deadline, and a
//! short slice makes it early (EEVDF, `sched_runtime` of sched_setattr(2), Linux 6.12 and later;
//! older kernels ignore it). A thread that wakes, does little and waits again gets no more time by
//! it, only sooner.

#![allow(unsafe_code)] // One system call without a safe wrapper.

use crate::limits::{PROMPT_NICE, PROMPT_SLICE_NS};

/// Has the calling thread run soon whenever it wakes, and before the machine's other work where
/// that is allowed. What it starts does not inherit this.
pub(crate) fn be_prompt() {
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let set = |nice| set(libc::SCHED_OTHER, nice, PROMPT_SLICE_NS);
    let set = set(nice - PROMPT_NICE).or_else(|_| set(nice));
    // Not fatal: first bytes come later on a busy machine.
    drop(set);
}

/// Lowers the calling thread's priority below that of the network cores, for good, with a slice
/// as the kernel likes it.
pub(crate) fn be_nice(nice: i32) {
    if set(libc::SCHED_OTHER, nice, 0).is_err() {
        // Not fatal: at normal priority it only costs the network cores some time.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice);
    }
}

/// The same for a program that computes (`SCHED_BATCH`, sched(7)), and for what it starts: one of them that
/// wakes does not interrupt another. Of two that are joined by a pipe each then has its turn until the pipe
/// is full, or empty; by default they take turns at every write.
pub(crate) fn be_batch(nice: i32) {
    if set(libc::SCHED_BATCH, nice, 0).is_err() {
        be_nice(nice);
    }
}

/// Has the calling thread get the processor and the disks only when nobody else wants them, for
/// good (ioprio_set(2); schedulers of disks that know no such class ignore it).
pub(crate) fn be_idle(nice: i32) {
    const IOPRIO_WHO_PROCESS: libc::c_long = 1;
    const IOPRIO_CLASS_IDLE: libc::c_long = 3 << 13;
    be_nice(nice);
    // SAFETY: integers alone; process 0 is the calling thread. Not fatal: it only costs others.
    unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0,
            IOPRIO_CLASS_IDLE,
        )
    };
}

/// Gives the calling thread a policy, a niceness and a slice; 0 for the kernel's own choice of that.
fn set(policy: libc::c_int, nice: i32, slice_ns: u64) -> std::io::Result<()> {
    // SAFETY: a structure of integers, for which zeros are values.
    let mut wanted: libc::sched_attr = unsafe { std::mem::zeroed() };
    wanted.size = size_of_val(&wanted) as u32;
    wanted.sched_policy = policy as u32;
    wanted.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
    wanted.sched_nice = nice;
    wanted.sched_runtime = slice_ns;
    // SAFETY: thread 0 is the calling one; the kernel reads `size` bytes of a live structure.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Niceness and slice as the kernel reports them.
    fn now() -> (i32, u64) {
        // SAFETY: as in `set`; the kernel writes at most the given size.
        unsafe {
            let mut found: libc::sched_attr = std::mem::zeroed();
            let size = size_of_val(&found);
            let result = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size, 0);
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            (found.sched_nice, found.sched_runtime)
        }
    }

    #[test]
    fn a_prompt_thread_becomes_a_nice_one() {
        std::thread::spawn(|| {
            let (nice, own_choice_ns) = now();
            be_prompt();
            let (prompt, slice_ns) = now();
            assert!([nice, nice - PROMPT_NICE].contains(&prompt), "{prompt}");
            // Kernels before 6.12 report no slice at all.
            assert!(slice_ns == PROMPT_SLICE_NS || slice_ns == 0, "{slice_ns}");
            be_nice(nice + 1);
            assert_eq!(now(), (nice + 1, own_choice_ns));
        })
        .join()
        .unwrap();
    }
}
