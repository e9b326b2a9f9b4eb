//! Makes a TCP connection, and gives up as soon as the restore is to stop.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::stop::Stop;
use crate::io::net;
use crate::limits::INTERRUPT_POLL_MS;

/// Connects to the first of `addresses` that answers. All of them together get `limit`: each an
/// equal share of what those before it have left. Gives the error of the last one.
pub fn connect(addresses: &[SocketAddr], limit: Duration, stop: &Stop) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for (before, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let shares = (addresses.len() - before) as u32;
        match connect_one(*address, left / shares, stop) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
        if stop.is_set() {
            break;
        }
    }
    Err(last)
}

fn connect_one(address: SocketAddr, limit: Duration, stop: &Stop) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let socket = net::tcp_socket(address)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {
            wait(&socket, deadline, stop)?;
            socket.take_error()?.map_or(Ok(()), Err)?;
        }
        other => other?,
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// Waits until the connection is made or refused.
fn wait(socket: &Socket, deadline: Instant, stop: &Stop) -> io::Result<()> {
    loop {
        if stop.is_set() {
            return Err(io::Error::other("the restore ends"));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "connection timed out",
            ));
        }
        let slice = left.min(Duration::from_millis(INTERRUPT_POLL_MS));
        let slice = Timespec::try_from(slice).map_err(io::Error::other)?;
        let mut sockets = [PollFd::new(socket, PollFlags::OUT)];
        match poll(&mut sockets, Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Type};

    fn listener(backlog: i32) -> (Socket, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(backlog).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    #[test]
    fn an_address_that_says_nothing_leaves_time_for_the_next() {
        let (_full, silent) = listener(0);
        // Fills its queue; what comes next gets no answer.
        let mut queued = Vec::new();
        let limit = Duration::from_millis(300);
        while let Ok(stream) = connect(&[silent], limit, &Stop::default()) {
            queued.push(stream);
            assert!(queued.len() < 16, "the queue has no end");
        }
        let (_open, open) = listener(16);
        let limit = Duration::from_secs(4);
        let began = Instant::now();
        let stream = connect(&[silent, open], limit, &Stop::default()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert!(began.elapsed() >= limit / 2, "the first got no share");
        assert!(began.elapsed() < limit);
    }

    #[test]
    fn a_refusal_is_the_error() {
        let (closed, address) = listener(1);
        drop(closed);
        let limit = Duration::from_secs(60);
        let refused = connect(&[address], limit, &Stop::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let none = connect(&[], limit, &Stop::default()).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
