//! A running git: its time, what is kept of what it says, and how it is ended.

use super::units::{HOUR_MS, SECOND_MS};

/// How much of the end of a git subprocess's stderr is kept for the error message.
pub const GIT_STDERR_TAIL_BYTES: usize = 8 * 1024;
/// Default time limit of fetching objects from upstream.
pub const GIT_FETCH_LIMIT_MS: u64 = 60 * 60 * 1000;
/// Default time limit of asking upstream for its refs.
pub const GIT_LIST_LIMIT_MS: u64 = 2 * 60 * 1000;
/// Default time limit of a git command that talks to nobody (config, pack-objects).
pub const GIT_LOCAL_LIMIT_MS: u64 = 30 * 60 * 1000;
/// Between SIGTERM, which lets git remove its lock files and end its helpers, and SIGKILL.
pub const GIT_KILL_GRACE_MS: u64 = 2000;
/// How long a dropped git command may hold its thread until its killed leader is reaped.
pub const GIT_REAP_ON_DROP_MS: u64 = 20;
/// How long a pipe is still read after git itself has ended, when a helper of it (an ssh
/// connection kept open for later, for example) holds the pipe.
pub const GIT_PIPE_GRACE_MS: u64 = 1000;
/// Most output kept of a local git command.
pub const GIT_OUTPUT_BYTES_MAX: usize = 16 * 1024 * 1024;

const _: () = assert!(GIT_LIST_LIMIT_MS <= GIT_FETCH_LIMIT_MS);

const _: () =
    assert!(GIT_PIPE_GRACE_MS < GIT_LIST_LIMIT_MS && GIT_KILL_GRACE_MS < GIT_LIST_LIMIT_MS);
/// How long an upstream may send nothing over HTTP: git's own side sends something every 5 s.
pub const UPSTREAM_SILENT_MS: u64 = 300_000;
/// Time limit of one `git upload-pack`, slow clients included.
pub const GIT_UPLOAD_LIMIT_MS: u64 = 6 * HOUR_MS;
/// What a git says that is only counted is read in pieces of this size,
pub const COUNTED_PIECE_BYTES: usize = 16 << 10;
/// and so many of them at a time: all that a pipe holds, as the kernel makes one for anybody.
pub const COUNTED_PIECES: usize = 64;
/// How often whoever waits looks whether the restore is to stop.
pub const INTERRUPT_POLL_MS: u64 = 50;
/// How long git may take to say which credential helpers are configured.
pub const HELPERS_LIMIT_MS: u64 = 2 * SECOND_MS;
/// How much it may say.
pub const HELPERS_BYTES_MAX: u64 = 1 << 20;
