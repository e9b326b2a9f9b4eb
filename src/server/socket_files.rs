//! Listeners on socket files, and the files themselves, which go when the server does.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::limits::LISTEN_BACKLOG;

/// For whoever can reach it, as an address is.
pub(super) const FOR_ALL: u32 = 0o666;
/// For the user that the server runs as.
pub(super) const FOR_OWNER: u32 = 0o600;

/// A socket file of this server's; dropping it, once nobody listens there any more, removes the file.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be another server's by now. One that stays is taken over by the next.
        let Ok(_turn) = take_turn(&self.0) else {
            return;
        };
        if is_left_over(&self.0).unwrap_or(false) {
            let _ = rustix::fs::unlink(&self.0);
        }
    }
}

/// Listens at `path`, for whom `mode` says. What a server left that has ended is removed; where another one
/// listens, or something else is, it is `AddrInUse`.
pub(super) fn listen_at(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let address = SockAddr::unix(path)?;
    let _turn = take_turn(path)?;
    match socket.bind(&address) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_left_over(path)? => {
            rustix::fs::unlink(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile(path.to_owned());
    // Before it listens: until then nobody can connect, whatever the process's umask is.
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    socket.listen(LISTEN_BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// While it is there, no other server looks at the socket files of a directory or changes them: one that is bound and
/// not yet listened at looks like one that is left over. `AddrInUse` while another server has it.
fn take_turn(path: &Path) -> io::Result<Option<OwnedFd>> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(directory, flags, Mode::empty()) {
        Ok(directory) => directory,
        // Whoever may make files in it need not be allowed to read it.
        Err(rustix::io::Errno::ACCESS) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::ErrorKind::AddrInUse.into()),
        // Where there are no such locks there is no turn.
        Err(_) => Ok(None),
        Ok(()) => Ok(Some(directory)),
    }
}

/// Whether it is a socket at which nobody listens.
fn is_left_over(path: &Path) -> io::Result<bool> {
    if FileType::from_raw_mode(rustix::fs::lstat(path)?.st_mode) != FileType::Socket {
        return Ok(false);
    }
    let asked = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Where the queue of one who listens is full there is no place for it, and it does not wait.
    asked.set_nonblocking(true)?;
    let refused = asked.connect(&SockAddr::unix(path)?).err();
    Ok(refused.is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_is_for_whom_it_should_be_and_goes_with_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for mode in [FOR_OWNER, FOR_ALL] {
            let (listener, file) = listen_at(&path, mode).unwrap();
            let found = rustix::fs::lstat(&path).unwrap();
            assert_eq!(found.st_mode & 0o777, mode);
            UnixStream::connect(&path).unwrap();
            drop((listener, file));
            assert!(!path.exists());
        }
    }

    #[test]
    fn of_two_servers_one_has_the_socket_and_one_that_was_killed_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (listener, file) = listen_at(&path, FOR_ALL).unwrap();
        let taken = listen_at(&path, FOR_ALL).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        let (listener, others) = listen_at(&path, FOR_ALL).unwrap();
        drop(file);
        UnixStream::connect(&path).expect("it is the other's");
        drop((listener, others));
        fs::write(&path, "of somebody").unwrap();
        let taken = listen_at(&path, FOR_ALL).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read(&path).unwrap(), b"of somebody");
    }

    /// Servers that start at the same moment, where one was killed.
    #[test]
    fn of_many_servers_one_has_what_was_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for _ in 0..50 {
            // As a server leaves it that is killed.
            let left = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            left.bind(&SockAddr::unix(&path).unwrap()).unwrap();
            drop(left);
            let barrier = std::sync::Barrier::new(4);
            let start = || {
                barrier.wait();
                let listening = listen_at(&path, FOR_ALL);
                // None has ended before all have tried.
                barrier.wait();
                listening.is_ok()
            };
            let listening = std::thread::scope(|scope| {
                let servers = [(); 4].map(|()| scope.spawn(start));
                servers.map(|server| server.join().unwrap())
            });
            let count = listening.iter().filter(|is| **is).count();
            assert_eq!(count, 1, "{count} servers have one socket file");
            // Their files go by turns, so one may have stayed.
            let _ = fs::remove_file(&path);
        }
    }
}
