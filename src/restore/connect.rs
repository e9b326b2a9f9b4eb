//! Finds a server and makes a TCP connection, and gives up as soon as the restore is to stop.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::stop::Stop;
use super::url::Server;
use crate::io::net;
use crate::limits::{CONNECT_TIMEOUT_MS, INTERRUPT_POLL_MS};

/// A connection to a server, on which nothing was said yet, at an address that `may` be gone to.
pub(super) fn reach(
    server: &Server,
    stop: &Stop,
    may: impl Fn(IpAddr) -> bool,
) -> io::Result<TcpStream> {
    let failed = |step, e: io::Error| io::Error::new(e.kind(), format!("{step}: {e}"));
    let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let addresses = resolve(&server.address, limit, stop);
    let mut addresses = addresses.map_err(|e| failed("cannot find its address", e))?;
    addresses.retain(|address| may(address.ip()));
    let socket = connect(&addresses, limit, stop);
    let socket = socket.map_err(|e| failed("cannot connect", e))?;
    socket.set_nodelay(true)?;
    net::notice_dead_peer(&socket)?;
    socket.set_read_timeout(Some(Duration::from_millis(INTERRUPT_POLL_MS)))?;
    socket.set_write_timeout(Some(Duration::from_millis(INTERRUPT_POLL_MS)))?;
    Ok(socket)
}

/// The addresses of `name`, which is `HOST:PORT`.
fn resolve(name: &str, limit: Duration, stop: &Stop) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let name = name.to_owned();
    let ask = move || name.to_socket_addrs().map(Iterator::collect);
    answer_of(ask, limit, stop)
}

/// The answer of somebody who cannot be interrupted, as the system's resolver: it is asked in a
/// thread of its own, which is left behind when the answer is no longer waited for.
fn answer_of<T: Send + 'static>(
    ask: impl FnOnce() -> io::Result<T> + Send + 'static,
    limit: Duration,
    stop: &Stop,
) -> io::Result<T> {
    let deadline = Instant::now() + limit;
    let (tell, told) = channel();
    // Nobody listens any more when the restore has gone on or ended.
    let asks = move || drop(tell.send(ask()));
    let thread = std::thread::Builder::new().name("resolver".into());
    thread.spawn(asks)?;
    loop {
        let slice = slice_of(deadline, stop)?;
        match told.recv_timeout(slice) {
            Ok(answer) => return answer,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the resolver ended"));
            }
        }
    }
}

/// How long to wait before the next look at `stop`; an error when it is set or the time is over.
fn slice_of(deadline: Instant, stop: &Stop) -> io::Result<Duration> {
    if stop.is_set() {
        return Err(io::Error::other("the restore ends"));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => Ok(left.min(Duration::from_millis(INTERRUPT_POLL_MS))),
    }
}

/// How much an error of one of several addresses says of the server: that it is not there just now, that nobody can tell, or
/// only that this machine has no way to that address, as one without IPv6.
fn tells(why: io::ErrorKind) -> u8 {
    match why {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => 2,
        io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Unsupported
        | io::ErrorKind::NotFound => 0,
        _ => 1,
    }
}

/// Connects to the first of `addresses` that answers. All of them together get `limit`: each an
/// equal share of what those before it have left. Gives the error that tells most, of equal ones the last.
fn connect(addresses: &[SocketAddr], limit: Duration, stop: &Stop) -> io::Result<TcpStream> {
    let deadline = Instant::now() + limit;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for (before, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let shares = (addresses.len() - before) as u32;
        match connect_one(*address, left / shares, stop) {
            Ok(stream) => return Ok(stream),
            Err(e) if tells(e.kind()) >= tells(last.kind()) => last = e,
            Err(_) => {}
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
            if !wait_for(&socket, PollFlags::OUT, deadline, stop)? {
                let what = "connection timed out";
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            socket.take_error()?.map_or(Ok(()), Err)?;
        }
        other => other?,
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

/// Waits until `socket` is ready; whether it is before `deadline`. An error when the restore is to
/// stop.
pub(super) fn wait_for(
    socket: &impl AsFd,
    flags: PollFlags,
    deadline: Instant,
    stop: &Stop,
) -> io::Result<bool> {
    loop {
        let slice = match slice_of(deadline, stop) {
            Ok(slice) => Timespec::try_from(slice).map_err(io::Error::other)?,
            Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut sockets = [PollFd::new(socket, flags)];
        match poll(&mut sockets, Some(&slice)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

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

    /// Whoever asks a resolver that does not answer ends with the restore, or when its time is over.
    #[test]
    fn a_resolver_that_says_nothing_is_left_behind() {
        let (_never, says) = channel::<()>();
        let says = std::sync::Arc::new(std::sync::Mutex::new(says));
        let ask = || {
            let says = says.clone();
            move || says.lock().unwrap().recv().map_err(io::Error::other)
        };
        let stop = Stop::default();
        let short = Duration::from_millis(20);
        let late = answer_of(ask(), short, &stop).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let stopped = std::thread::scope(|scope| {
            let waits = scope.spawn(|| answer_of(ask(), Duration::from_secs(3600), &stop));
            stop.set();
            let asked = Instant::now();
            let stopped = waits.join().unwrap().unwrap_err();
            assert!(asked.elapsed() < Duration::from_secs(5));
            stopped
        });
        assert_eq!(stopped.to_string(), "the restore ends");
        let long = Duration::from_secs(60);
        assert_eq!(answer_of(|| Ok(7), long, &Stop::default()).unwrap(), 7);
    }

    #[test]
    fn a_refusal_is_the_error() {
        let (closed, address) = listener(1);
        drop(closed);
        let limit = Duration::from_secs(60);
        let refused = connect(&[address], limit, &Stop::default()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Whatever this machine has no way to, before it or behind.
        let nowhere = "[fe80::1]:9".parse().unwrap();
        let other = connect(&[nowhere], limit, &Stop::default()).unwrap_err();
        assert_ne!(other.kind(), io::ErrorKind::ConnectionRefused);
        for addresses in [[address, nowhere], [nowhere, address]] {
            let refused = connect(&addresses, limit, &Stop::default()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        }
        let none = connect(&[], limit, &Stop::default()).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
