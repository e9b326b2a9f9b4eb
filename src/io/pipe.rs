//! One pipe in which a core gathers framing bytes and pages of files, so that a run of small
//! ranges goes to a socket in one system call.
//!
//! A raw run is 128 KiB of a file, 3 bytes of framing, 128 KiB of the file, and so on. Sent one
//! by one, each range takes the socket's lock and wakes the client; gathered, the cost of a byte
//! is that of one long `sendfile`. No byte of a file is copied on the way: a pipe holds
//! references to pages (splice(2)).

#![allow(unsafe_code)] // One system call that trusts memory not to change.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags};

use super::gather::Gather;
use crate::limits::{GATHER_BYTES, GATHER_PIPE_BYTES};

/// The pipe of one core.
///
/// Invariant: it is empty whenever no [`Gathered`] of it lives, so no byte that was meant for
/// one client can reach another.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    nowhere: File,
    /// Whether the invariant holds.
    sound: bool,
}

impl Pipe {
    /// A pipe with room for [`GATHER_PIPE_BYTES`]; fails where the system does not allow one of
    /// that size (`/proc/sys/fs/pipe-max-size`, `pipe-user-pages-soft`).
    pub(crate) fn new() -> io::Result<Pipe> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        rustix::pipe::fcntl_setpipe_size(&write, GATHER_PIPE_BYTES)?;
        let nowhere = super::residency::nowhere()?;
        Ok(Pipe {
            read,
            write,
            nowhere,
            sound: true,
        })
    }

    /// Begins to gather. `None` if the pipe could not be emptied after its last use, and no
    /// other one can be had.
    pub(crate) fn gather(&mut self) -> Option<Gathered<'_>> {
        if !self.sound {
            *self = Pipe::new().ok()?;
        }
        Some(Gathered {
            pipe: self,
            bytes: 0,
        })
    }
}

/// What was put into a core's pipe and not sent yet; dropping it empties the pipe.
#[derive(Debug)]
pub(crate) struct Gathered<'p> {
    pipe: &'p mut Pipe,
    bytes: usize,
}

impl Gather for Gathered<'_> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn wants_more(&self) -> bool {
        self.bytes < GATHER_BYTES
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let put = rustix::io::write(&self.pipe.write, bytes);
        self.count(put)
    }

    /// Without a copy: the pipe and then the socket hold references to their page.
    fn put_static(&mut self, bytes: &'static [u8]) -> io::Result<usize> {
        let slice = [IoSliceRaw::from_slice(bytes)];
        // SAFETY: what the pages hold must not change until the last reader of the pipe or the
        // socket is done with them: they are never written nor freed.
        let put =
            unsafe { rustix::pipe::vmsplice(&self.pipe.write, &slice, SpliceFlags::NONBLOCK) };
        self.count(put)
    }

    fn put_file(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<usize> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let mut offset = offset;
        let write = self.pipe.write.as_fd();
        let flags = SpliceFlags::NONBLOCK;
        let put = rustix::pipe::splice(file, Some(&mut offset), write, None, len, flags);
        match put {
            Ok(0) if len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            put => self.count(put),
        }
    }
}

impl Gathered<'_> {
    fn count(&mut self, put: rustix::io::Result<usize>) -> io::Result<usize> {
        match put {
            Ok(put) => {
                self.bytes += put;
                Ok(put)
            }
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends as much of it as the socket takes now; `more` says that other bytes follow.
    /// The rest is dropped: whoever gathers again finds it at its source.
    pub(crate) fn send(mut self, socket: BorrowedFd<'_>, more: bool) -> io::Result<usize> {
        let mut flags = SpliceFlags::NONBLOCK;
        if more {
            flags |= SpliceFlags::MORE;
        }
        let read = self.pipe.read.as_fd();
        let sent = rustix::pipe::splice(read, None, socket, None, self.bytes, flags)?;
        self.bytes -= sent;
        Ok(sent)
    }

    /// Takes what is left out of the pipe.
    fn empty(&mut self) -> io::Result<()> {
        while self.bytes > 0 {
            let (read, nowhere) = (self.pipe.read.as_fd(), self.pipe.nowhere.as_fd());
            let flags = SpliceFlags::NONBLOCK;
            match rustix::pipe::splice(read, None, nowhere, None, self.bytes, flags)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                dropped => self.bytes -= dropped,
            }
        }
        Ok(())
    }
}

impl Drop for Gathered<'_> {
    fn drop(&mut self) {
        // What stays would reach another client.
        self.pipe.sound &= self.empty().is_ok();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn what_a_socket_does_not_take_is_gone_from_the_pipe() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..600_000u32).map(|i| (i / 7) as u8).collect();
        file.write_all(&content).unwrap();
        let mut pipe = Pipe::new().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        let mut at = 0;
        while at < content.len() {
            let mut gathered = pipe.gather().unwrap();
            let head = gathered
                .put(&content[at..content.len().min(at + 3)])
                .unwrap();
            let from = at + head;
            let left = (content.len() - from) as u64;
            if left > 0 {
                gathered.put_file(file.as_fd(), from as u64, left).unwrap();
            }
            match gathered.send(writer.as_fd(), true) {
                Ok(sent) => at += sent,
                Err(e) => {
                    assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                    let mut some = [0; 100_000];
                    let n = reader.read(&mut some).unwrap();
                    got.extend_from_slice(&some[..n]);
                }
            }
            let inside = rustix::io::ioctl_fionread(&pipe.read).unwrap();
            assert_eq!(inside, 0, "left in the pipe at {at}");
        }
        drop(writer);
        reader.read_to_end(&mut got).unwrap();
        assert!(got == content);
    }

    #[test]
    fn what_is_put_by_reference_arrives_among_the_rest() {
        static FRAMING: [u8; 3] = *b"abc";
        let mut pipe = Pipe::new().unwrap();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        let mut gathered = pipe.gather().unwrap();
        for _ in 0..2 {
            assert_eq!(gathered.put_static(&FRAMING).unwrap(), 3);
            assert_eq!(gathered.put(b"de").unwrap(), 2);
        }
        assert_eq!(gathered.send(writer.as_fd(), false).unwrap(), 10);
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"abcdeabcde");
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut pipe = Pipe::new().unwrap();
        let put = pipe.gather().unwrap().put_file(file.as_fd(), 5, 10);
        assert_eq!(put.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
