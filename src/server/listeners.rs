//! The listening sockets of each core: one for each address, and a share in that of each socket file.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use socket2::Socket;

use super::error::ServerError;
use super::socket_files::{FOR_ALL, FOR_OWNER, SocketFile, listen_at};
use super::taken::wait_for;
use crate::config::{At, Config};
use crate::http::net::service::Entrance;
use crate::http::net::tls::keys::Keys;
use crate::io::net;
use crate::limits::LISTEN_BACKLOG;

/// A listener of one core.
pub(super) struct Listener {
    pub(super) socket: ListenerSocket,
    pub(super) entrance: Entrance,
    /// What it speaks TLS with, if it does.
    pub(super) keys: Option<Arc<Keys>>,
}

/// See [`Listener`].
pub(super) enum ListenerSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// All listeners.
pub(super) struct Listening {
    /// Of each core.
    pub(super) of_cores: Vec<Vec<Listener>>,
    /// Where, as people and scripts are told.
    pub(super) told: Vec<String>,
    /// To be dropped when nobody listens any more.
    pub(super) files: Vec<SocketFile>,
}

/// Listens wherever it is configured, for so many cores.
pub(super) fn listen_all(
    config: &Config,
    keys: Option<&Arc<Keys>>,
    cores: usize,
) -> Result<Listening, ServerError> {
    let mut listening = Listening {
        of_cores: (0..cores).map(|_| Vec::new()).collect(),
        told: Vec::new(),
        files: Vec::new(),
    };
    for listen in &config.listeners.listen {
        let keys = keys.filter(|_| listen.tls).cloned();
        listening.bind_at(&listen.at, Entrance::Unix, keys)?;
    }
    if let Some(path) = &config.listeners.admin {
        listening.bind_at(&At::Unix(path.clone()), Entrance::Admin, None)?;
    }
    Ok(listening)
}

impl Listening {
    /// Listens at one place; a socket file is an `entrance` of that kind.
    fn bind_at(
        &mut self,
        at: &At,
        entrance: Entrance,
        keys: Option<Arc<Keys>>,
    ) -> Result<(), ServerError> {
        let failed = |source| ServerError::Listen {
            at: at.clone(),
            flag: match entrance {
                Entrance::Admin => "--admin-listen",
                _ => "--listen",
            },
            source,
        };
        let is_in_use = |e: &io::Error| e.kind() == io::ErrorKind::AddrInUse;
        match at {
            At::Tcp(wanted) => {
                let count = self.of_cores.len();
                let (address, sockets) =
                    wait_for(|| listen(*wanted, count), is_in_use).map_err(failed)?;
                let scheme = if keys.is_some() { "https" } else { "http" };
                self.told.push(format!("{scheme}://{address}"));
                for (core, socket) in self.of_cores.iter_mut().zip(sockets) {
                    core.push(Listener {
                        socket: ListenerSocket::Tcp(socket),
                        entrance: Entrance::Public,
                        keys: keys.clone(),
                    });
                }
            }
            At::Unix(path) => self.bind_file(path, entrance, is_in_use).map_err(failed)?,
        }
        Ok(())
    }

    fn bind_file(
        &mut self,
        path: &Path,
        entrance: Entrance,
        is_in_use: impl Fn(&io::Error) -> bool,
    ) -> io::Result<()> {
        let mode = match entrance {
            Entrance::Admin => FOR_OWNER,
            _ => FOR_ALL,
        };
        let (listener, file) = wait_for(|| listen_at(path, mode), is_in_use)?;
        self.files.push(file);
        if entrance != Entrance::Admin {
            self.told.push(format!("unix:{}", path.display()));
        }
        for core in &mut self.of_cores {
            core.push(Listener {
                socket: ListenerSocket::Unix(listener.try_clone()?),
                entrance,
                keys: None,
            });
        }
        Ok(())
    }
}

/// A congestion control that every Linux has and that every user may choose (tcp(7)).
const UNPACED: &str = "reno";

/// `count` listeners that share `address`, and the address; where port 0 was asked for it has the
/// port that they got. Fails if somebody else listens there.
///
/// Sockets of one user may share a port if all of them say so, those of two servers as well. So the
/// first one says so only once it listens: another server's first, which does not share, cannot be
/// bound from then on, and if it was bound before, it cannot listen.
fn listen(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = listener(address, false)?;
    first.set_reuse_port(true)?;
    let first = TcpListener::from(first);
    let address = first.local_addr()?;
    let others = (1..count).map(|_| Ok(listener(address, true)?.into()));
    let all = std::iter::once(Ok(first)).chain(others);
    Ok((address, all.collect::<io::Result<_>>()?))
}

/// Listens at `address`, where others may listen if all of them are `shared`.
fn listener(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = net::tcp_socket(address)?;
    // For what a server that has ended leaves: connections that wait for their last packets.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    if address.ip().is_loopback() {
        // Whoever connects is on this machine, a proxy for one, where nothing is congested. A
        // congestion control that paces (bbr) spends timers on it: four fifths of the processor time
        // of a hit. If the system refuses, everything works all the same.
        let _ = rustix::net::sockopt::set_tcp_congestion(&socket, UNPACED);
    }
    // A client that waits may be gone without a word. What is accepted inherits this.
    net::ask_idle_peer(&socket)?;
    socket.listen(LISTEN_BACKLOG)?;
    // The epoll driver needs it; a poll on the ring does not mind.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_are_gone_without_a_word_are_asked_for() {
        use rustix::net::sockopt;
        let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        listeners[0].set_nonblocking(false).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        let idle = sockopt::tcp_keepidle(&accepted).unwrap();
        assert!(idle.as_millis() as u64 <= crate::limits::PEER_DEAD_MS);
        // One that is there may take its time.
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 0);
    }

    #[test]
    fn nothing_is_paced_on_the_machine_itself() {
        let chosen = |address: &str| {
            let (_, listeners) = listen(address.parse().unwrap(), 2).unwrap();
            let chosen = |listener| rustix::net::sockopt::tcp_congestion(listener).unwrap();
            listeners.iter().map(chosen).collect::<Vec<_>>()
        };
        assert_eq!(chosen("127.0.0.1:0"), [UNPACED; 2]);
        let system = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
        assert_eq!(chosen("0.0.0.0:0"), [system.trim(); 2]);
    }

    /// Of this machine itself, in all families of addresses that it has.
    fn own_addresses() -> impl Iterator<Item = SocketAddr> {
        let all = ["127.0.0.1:0", "[::1]:0"].map(|address| address.parse().unwrap());
        let is_there =
            |address: &SocketAddr| address.is_ipv4() || TcpListener::bind(address).is_ok();
        all.into_iter().filter(is_there)
    }

    /// Whatever the order in which two servers take the steps to their listeners, one gets them
    /// and the other none.
    #[test]
    fn of_two_servers_one_has_the_port() {
        for address in own_addresses() {
            // The other one comes when all is done.
            let (taken, listeners) = listen(address, 2).unwrap();
            assert!(listen(taken, 2).is_err());
            drop(listeners);
            // It was bound when the first was not yet.
            let bound = net::tcp_socket(taken).unwrap();
            bound.set_reuse_address(true).unwrap();
            bound.bind(&taken.into()).unwrap();
            let (_, listeners) = listen(taken, 2).unwrap();
            assert!(bound.listen(LISTEN_BACKLOG).is_err());
            drop((bound, listeners));
            // It was bound when the first listened alone.
            let first = listener(taken, false).unwrap();
            assert!(listen(taken, 2).is_err());
            first.set_reuse_port(true).unwrap();
            assert!(listen(taken, 2).is_err());
        }
    }

    /// Servers that start at the same moment.
    #[test]
    fn of_many_servers_one_has_the_port() {
        for _ in 0..50 {
            let (address, free) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
            drop(free);
            let barrier = std::sync::Barrier::new(4);
            let start = || {
                barrier.wait();
                let listeners = listen(address, 2);
                // None is closed before all have tried.
                barrier.wait();
                listeners.is_ok()
            };
            let listening = std::thread::scope(|scope| {
                let servers = [(); 4].map(|()| scope.spawn(start));
                servers.map(|server| server.join().unwrap())
            });
            let count = listening.iter().filter(|is| **is).count();
            assert!(count <= 1, "{count} servers share a port");
        }
    }

    #[test]
    fn listeners_share_the_connections() {
        for address in own_addresses() {
            let (address, listeners) = listen(address, 4).unwrap();
            let connect = |_| std::net::TcpStream::connect(address).unwrap();
            let clients: Vec<_> = (0..400).map(connect).collect();
            let accepted = listeners.iter().map(|listener| {
                let next = || listener.accept().ok();
                std::iter::from_fn(next).count()
            });
            let accepted: Vec<usize> = accepted.collect();
            assert_eq!(accepted.iter().sum::<usize>(), clients.len());
            assert!(accepted.iter().all(|count| *count > 50), "{accepted:?}");
        }
    }
}
