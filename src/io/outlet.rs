//! The pipe that a child writes to, as a core sees it: how much is there, whether more can come, and the
//! way of its pages to a socket, without a copy and without waiting for either.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::SpliceFlags;

/// How much can be taken now.
pub(crate) fn there_bytes(pipe: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(pipe)?)
}

/// Whether nobody writes to it any more, and nothing is left in it.
pub(crate) fn has_ended(pipe: BorrowedFd<'_>) -> io::Result<bool> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut asked = [PollFd::from_borrowed_fd(pipe, PollFlags::IN)];
    poll(&mut asked, Some(&now))?;
    let said = asked[0].revents();
    Ok(said.contains(PollFlags::HUP) && !said.contains(PollFlags::IN))
}

/// Sends up to `len` bytes of those that are there; `more` says that other bytes follow at once. A socket
/// must have room, or it would block.
pub(crate) fn send(
    pipe: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    len: u64,
    more: bool,
) -> io::Result<usize> {
    let mut flags = SpliceFlags::NONBLOCK;
    if more {
        flags |= SpliceFlags::MORE;
    }
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(rustix::pipe::splice(pipe, None, socket, None, len, flags)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn all_of_it_leaves_and_its_end_is_seen() {
        let (pipe, mut writer) = io::pipe().unwrap();
        let (mut reader, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        assert_eq!(there_bytes(pipe.as_fd()).unwrap(), 0);
        assert!(!has_ended(pipe.as_fd()).unwrap());
        let content: Vec<u8> = (0..60_000u32).map(|i| (i / 7) as u8).collect();
        writer.write_all(&content).unwrap();
        drop(writer);
        assert_eq!(there_bytes(pipe.as_fd()).unwrap(), 60_000);
        assert!(!has_ended(pipe.as_fd()).unwrap(), "it has something");
        let mut got = Vec::new();
        // A child that another test starts at this moment may have the other end for a moment, too.
        while !has_ended(pipe.as_fd()).unwrap() {
            let sent = match send(pipe.as_fd(), socket.as_fd(), 1 << 20, true) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent.unwrap(),
            };
            let before = got.len();
            got.resize(before + sent, 0);
            reader.read_exact(&mut got[before..]).unwrap();
        }
        assert!(got == content);
    }
}
