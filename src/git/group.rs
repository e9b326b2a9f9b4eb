//! The process group of a git and its helpers.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// A process group by its leader.
///
/// Invariant, kept by who has the child: nobody has waited for the leader yet. It runs or is a
/// zombie, so its id cannot belong to another group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group {
    leader: Pid,
}

impl Group {
    pub(super) fn of(leader: Pid) -> Group {
        Group { leader }
    }

    /// Tells git and its helpers.
    pub(super) fn signal(self, signal: Signal) {
        // It fails only when the group has ended, which is what is wanted.
        let _ = rustix::process::kill_process_group(self.leader, signal);
    }

    /// Whether the leader has ended, leaving it to be reaped (its id stays taken).
    pub(super) fn leader_ended(self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let found = rustix::process::waitid(WaitId::Pid(self.leader), options);
        !matches!(found, Ok(None))
    }
}
