//! Sockets of the network cores: non-blocking system calls, to be tried until they would block
//! and then awaited through the runtime's readiness.
//!
//! `sendfile` moves pages from the page cache to the socket without a copy through user space;
//! measured against `writev` from a mapping it needs about half the CPU time a byte.

#![allow(unsafe_code)] // Calls without a safe wrapper; each states its contract.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use monoio::net::{TcpStream, UnixStream};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::{PEER_ASKED, PEER_DEAD_MS};

/// A TCP socket, not bound or connected yet, for the kind of address that `address` is.
pub(crate) fn tcp_socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    Socket::new(domain, Type::STREAM, Some(Protocol::TCP))
}

/// Has the kernel end a connection whose peer is gone without a word: it asks an idle one whether it is
/// still there, and gives up after [`PEER_DEAD_MS`] without an answer.
pub(crate) fn notice_dead_peer(socket: impl AsFd) -> io::Result<()> {
    ask_idle_peer(&socket)?;
    rustix::net::sockopt::set_tcp_user_timeout(&socket, PEER_DEAD_MS as u32)?;
    Ok(())
}

/// The same where a peer may take nothing of what is sent for longer, as long as it is there. What a listener
/// accepts does as the listener does.
pub(crate) fn ask_idle_peer(socket: impl AsFd) -> io::Result<()> {
    use rustix::net::sockopt;
    let pause = Duration::from_millis(PEER_DEAD_MS) / PEER_ASKED;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, pause)?;
    sockopt::set_tcp_keepintvl(&socket, pause)?;
    sockopt::set_tcp_keepcnt(&socket, PEER_ASKED)?;
    Ok(())
}

/// Prepares an accepted socket: closed in children, never blocking, small writes at once.
pub(crate) fn prepare(socket: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(socket, true)?;
    match rustix::net::sockopt::set_tcp_nodelay(socket, true) {
        // One of a socket file sends everything at once.
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        set => Ok(set?),
    }
}

/// A connection of a socket file as one of the other kind: only what every descriptor of a stream has is used
/// of either.
pub(crate) fn as_tcp(stream: UnixStream) -> io::Result<TcpStream> {
    // SAFETY: the descriptor was the stream's own, which has given it away.
    let descriptor = unsafe { OwnedFd::from_raw_fd(stream.into_raw_fd()) };
    TcpStream::from_std(descriptor.into())
}

/// Reads what is there into `buffer`; 0 at the end of the stream.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, received) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(received)
}

/// Sends from memory; `more` says that other bytes follow at once.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
    let mut flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if more {
        flags |= SendFlags::MORE;
    }
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Sends from several pieces of memory at once.
pub(crate) fn send_all(socket: BorrowedFd<'_>, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let mut nothing = SendAncillaryBuffer::default();
    Ok(rustix::net::sendmsg(socket, parts, &mut nothing, flags)?)
}

/// Sends up to `len` bytes of `file` from `offset`. The pages must be in memory already, or the
/// call waits for the disk.
pub(crate) fn send_file(
    socket: BorrowedFd<'_>,
    file: impl AsFd,
    mut offset: u64,
    len: u64,
) -> io::Result<usize> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    Ok(rustix::fs::sendfile(socket, file, Some(&mut offset), len)?)
}

/// While it lives, the kernel sends full segments only (`TCP_CORK`, tcp(7)).
pub(crate) struct Cork<'s> {
    socket: BorrowedFd<'s>,
}

/// Has the kernel wait for full segments.
pub(crate) fn cork(socket: BorrowedFd<'_>) -> Cork<'_> {
    // Without it everything is sent all the same.
    let _ = rustix::net::sockopt::set_tcp_cork(socket, true);
    Cork { socket }
}

impl Drop for Cork<'_> {
    fn drop(&mut self) {
        // Fails only on a connection that has ended.
        let _ = rustix::net::sockopt::set_tcp_cork(self.socket, false);
    }
}

/// Has the connection end in a reset, so that no client can take what it got for a whole
/// response.
pub(crate) fn reset_on_close(socket: BorrowedFd<'_>) -> io::Result<()> {
    let zero = Some(std::time::Duration::ZERO);
    Ok(rustix::net::sockopt::set_socket_linger(socket, zero)?)
}

/// Ends the sending side of a connection; what the peer sends can still be read.
pub(crate) fn end_sending(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, rustix::net::Shutdown::Write)?)
}

/// What is known of the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Nothing else than that it is there.
    There,
    /// It will send nothing more than what has come, and may still read.
    Ended,
    /// The connection is reset.
    Gone,
}

/// Asks the kernel about the other end; what has come and is not yet read does not hide it.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> Peer {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::RDHUP)];
    // Fails only when it is interrupted or without memory, and is asked again.
    if poll(&mut asked, Some(&now)).is_err() {
        return Peer::There;
    }
    let said = asked[0].revents();
    if said.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
        Peer::Gone
    } else if said.contains(PollFlags::RDHUP) {
        Peer::Ended
    } else {
        Peer::There
    }
}

/// Bytes that were sent but not yet acknowledged by the peer (`SIOCOUTQ`, tcp(7)).
pub(crate) fn unsent_bytes(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut unsent: libc::c_int = 0;
    // SAFETY: the descriptor is open for the call, which writes one int to `unsent`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
    (result == 0)
        .then_some(u32::try_from(unsent).ok())
        .flatten()
}

/// How many more bytes the kernel queues for the peer, about: what is acknowledged meanwhile makes
/// more room, and the kernel's own bookkeeping takes some (`SO_MEMINFO`, socket(7)). `None` where
/// it does not say.
pub(crate) fn room_bytes(socket: BorrowedFd<'_>) -> Option<u64> {
    // Places in the array, of `linux/sock_diag.h`.
    const SNDBUF: usize = 3;
    const WMEM_QUEUED: usize = 5;
    let mut counts = [0u32; 9];
    let mut len = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: the descriptor is open for the call, which writes at most `len` bytes to `counts`
    // and their number to `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            (&raw mut counts).cast(),
            &raw mut len,
        )
    };
    (result == 0).then(|| counts[SNDBUF].saturating_sub(counts[WMEM_QUEUED]).into())
}

/// The descriptor of a socket that only tells its number.
pub(crate) fn borrow(socket: &impl AsRawFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor belongs to `socket`, which stays borrowed, and so open, as long as
    // what is returned.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn who_has_left_is_seen_behind_what_it_has_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        assert_eq!(peer(ours.as_fd()), Peer::There);
        send(theirs.as_fd(), b"unread", false).unwrap();
        assert_eq!(peer(ours.as_fd()), Peer::There);
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(peer(ours.as_fd()), Peer::Ended);
        reset_on_close(theirs.as_fd()).unwrap();
        drop(theirs);
        assert_eq!(peer(ours.as_fd()), Peer::Gone);
    }

    #[test]
    fn room_shrinks_to_nothing_as_a_socket_fills() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap();
        prepare(socket.as_fd()).unwrap();
        let mut before = room_bytes(socket.as_fd()).unwrap();
        assert!(before > 0);
        let block = [0; 64 << 10];
        while send(socket.as_fd(), &block, false).is_ok() {
            let now = room_bytes(socket.as_fd()).unwrap();
            before = before.max(now);
        }
        let full = room_bytes(socket.as_fd()).unwrap();
        assert!(full < before / 4, "{full} of {before}");
    }

    #[test]
    fn a_peer_that_is_gone_is_asked_for_and_given_up() {
        use rustix::net::sockopt;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!sockopt::socket_keepalive(&socket).unwrap());
        notice_dead_peer(&socket).unwrap();
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        let asked = sockopt::tcp_keepcnt(&socket).unwrap();
        let idle = sockopt::tcp_keepidle(&socket).unwrap();
        let pause = sockopt::tcp_keepintvl(&socket).unwrap();
        let limit = Duration::from_millis(PEER_DEAD_MS);
        assert!(idle + pause * (asked - 1) <= limit, "{idle:?} {pause:?}");
        let unanswered_ms = sockopt::tcp_user_timeout(&socket).unwrap();
        assert_eq!(u64::from(unanswered_ms), PEER_DEAD_MS);
    }
}
