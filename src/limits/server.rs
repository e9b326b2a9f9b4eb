//! The process: its start and end, its descriptors and connections.

use super::units::SECOND_MS;

/// How long a start waits for the state directory and for the port each: the kernel may still be
/// at the end of a server that was killed just now.
pub const TAKEN_WAIT_MS: u64 = 2 * SECOND_MS;
/// Wait between two tries at them.
pub const TAKEN_RETRY_MS: u64 = 20;
/// A signal of the end that comes so soon after the first is the same wish: `timeout` of coreutils sends
/// one to the process and one to its group.
pub const SAME_WISH_MS: u64 = SECOND_MS;
/// How long a core waits for connections that were cut off after the grace time of a stop.
pub const CUT_OFF_MAX_MS: u64 = 2 * SECOND_MS;
/// Entries of a core's io_uring submission queue.
pub const CORE_RING_ENTRIES: u32 = 1024;
/// Descriptors that the server itself holds: its log, state directory, background plane and helper
/// threads.
pub const DESCRIPTORS_OWN: u64 = 48;
/// The same for each core, besides its listeners: ring, pipes.
pub const DESCRIPTORS_OF_CORE: u64 = 7;
/// Descriptors that the kernel's table has room for from the start; eight bytes each.
pub const DESCRIPTORS_READY: u64 = 65_536;
/// Fewest descriptors besides those: for a few connections, and a clone and a build.
pub const DESCRIPTORS_MIN: u64 = 64;
/// Share of the other descriptors that connections may take, in percent. What these and
/// [`OPEN_FILES_DESCRIPTORS_PERCENT`] leave is for mirrors and the pipes of git.
pub const CONNECTIONS_DESCRIPTORS_PERCENT: u64 = 50;
/// The same that files of archives may take, each of which is open once.
pub const OPEN_FILES_DESCRIPTORS_PERCENT: u64 = 35;
/// Most files of archives that are open, however many descriptors there are: an archive has three for
/// each pack of its mirror.
pub const OPEN_FILES_MAX: usize = 32_768;
/// How often, a millisecond after the other, it is looked whether those that were told to end have
/// done so, before a connection is refused.
pub const PLACE_LOOKS: u32 = 50;
/// Connections over the limit that may be there, as a share of it in percent, until idle ones that
/// were told to end for them have done so; and as many for which none could be, and that are told
/// so or ask for the server's health.
pub const CONNECTIONS_SPARE_PERCENT: usize = 10;
/// What part of the places for connections one client may have when they are short: one in so many. Who
/// has more then gives way to others, whatever its connections do.
pub const CONNECTIONS_OF_CLIENT_PART: usize = 4;
/// What a client that is told so is asked to wait before it tries again.
pub const REFUSAL_RETRY_S: u64 = 5;
/// Connections that wait in a listener's queue.
pub const LISTEN_BACKLOG: i32 = 1024;
