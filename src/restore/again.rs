//! Whether another try may mend that a request which everything else waits for has failed: the same for each of them. A
//! server that is started anew breaks connections off, refuses them for a while, and is there again.

use std::io;
use std::time::Instant;

use super::error::RestoreError;
use super::link::{Link, pause};
use super::preamble::Failed;
use crate::limits::{BUSY_TRIES_MAX, DOWNLOAD_TRIES_MAX};

/// Tries of one request, those that failed in whatever way together.
pub(super) struct Tries {
    began: Instant,
    failed: u32,
}

impl Tries {
    pub(super) fn begin() -> Tries {
        Tries {
            began: Instant::now(),
            failed: 0,
        }
    }

    /// The link of the next one, whose wait is what is left of it.
    pub(super) fn limited<'a>(&self, link: Link<'a>) -> Link<'a> {
        Link {
            wait: link.wait.saturating_sub(self.began.elapsed()),
            ..link
        }
    }

    /// One has failed, of which there may be `tries_max`; whether there is another one, which is waited for.
    pub(super) fn go_on(&mut self, link: Link<'_>, tries_max: u32) -> bool {
        self.failed += 1;
        let is_over = link.stop.is_set() || self.began.elapsed() >= link.wait;
        if self.failed >= tries_max || is_over {
            return false;
        }
        pause(link.stop, self.failed);
        true
    }
}

/// How often a server is asked that cannot be reached so, or says nothing: as often as for a part, if it may be about to be
/// there again.
pub(super) fn tries_max(why: io::ErrorKind) -> u32 {
    match why {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::NotConnected
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::WriteZero
        | io::ErrorKind::UnexpectedEof => DOWNLOAD_TRIES_MAX,
        // All the time that it may take is over; nor is somebody believed the next time.
        io::ErrorKind::TimedOut | io::ErrorKind::PermissionDenied => 1,
        _ => BUSY_TRIES_MAX,
    }
}

/// What `ask` brings, which is asked along a link whose wait is what is left of it, and again while that may mend what has
/// failed; `lost` says of a connection what it was for.
pub(super) fn again<'a, T>(
    link: Link<'a>,
    lost: impl Fn(io::Error) -> RestoreError,
    mut ask: impl FnMut(Link<'a>) -> Result<T, Failed>,
) -> Result<T, RestoreError> {
    let mut tries = Tries::begin();
    loop {
        let error = match ask(tries.limited(link)) {
            Ok(came) => {
                link.progress.asked(link.wait);
                return Ok(came);
            }
            Err(Failed::Told(error)) => return Err(error),
            Err(Failed::Io(error)) => error,
        };
        link.progress.is_not_reached(&error);
        if !tries.go_on(link, tries_max(error.kind())) {
            return Err(lost(error));
        }
    }
}
