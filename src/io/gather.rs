//! Gathering framing bytes and short ranges of files before they are sent: by reference in a [`Pipe`]
//! (`super::pipe`), or as a copy where they are to be sealed.

use std::io;
use std::os::fd::BorrowedFd;

/// Where it is gathered. Each call gives how many bytes there was room for.
pub(crate) trait Gather {
    /// Bytes in it.
    fn bytes(&self) -> usize;

    /// Whether more should be put in before it is sent.
    fn wants_more(&self) -> bool;

    /// Puts bytes in.
    fn put(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Puts bytes in that live as long as the process.
    fn put_static(&mut self, bytes: &'static [u8]) -> io::Result<usize>;

    /// Puts up to `len` bytes of `file` from `offset` in. What is not in memory may have the call wait for the disk,
    /// or be `WouldBlock`.
    fn put_file(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<usize>;
}

/// How files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// What is in memory, where the file system can tell that from the rest.
    Now,
    /// However long the disk takes.
    Waiting,
}

/// A core's buffer for what is sealed; it has no memory before that is used.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// Begins to gather up to `most` bytes.
    pub(crate) fn gather(&mut self, most: usize, reading: Reading) -> Copied<'_> {
        if self.0.len() < most {
            self.0.resize(most, 0);
        }
        let room = &mut self.0[..most];
        Copied {
            room,
            bytes: 0,
            reading,
        }
    }
}

/// What was copied and not sent yet.
#[derive(Debug)]
pub(crate) struct Copied<'b> {
    room: &'b mut [u8],
    bytes: usize,
    reading: Reading,
}

impl Copied<'_> {
    /// What was copied.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.room[..self.bytes]
    }

    /// Puts up to `len` bytes in that a pipe has, which must be there; gives how many.
    pub(crate) fn put_pipe(&mut self, pipe: BorrowedFd<'_>, len: u64) -> io::Result<usize> {
        let room = self.left(len);
        let read = rustix::io::read(pipe, room)?;
        self.bytes += read;
        Ok(read)
    }

    fn left(&mut self, len: u64) -> &mut [u8] {
        let room = &mut self.room[self.bytes..];
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(room.len());
        &mut room[..len]
    }
}

impl Gather for Copied<'_> {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn wants_more(&self) -> bool {
        self.bytes < self.room.len()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.left(bytes.len() as u64);
        room.copy_from_slice(&bytes[..room.len()]);
        let put = room.len();
        self.bytes += put;
        Ok(put)
    }

    fn put_static(&mut self, bytes: &'static [u8]) -> io::Result<usize> {
        self.put(bytes)
    }

    fn put_file(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<usize> {
        let reading = self.reading;
        let room = self.left(len);
        if room.is_empty() {
            return Ok(0);
        }
        match read_at(file, room, offset, reading)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.bytes += read;
                Ok(read)
            }
        }
    }
}

fn read_at(
    file: BorrowedFd<'_>,
    room: &mut [u8],
    offset: u64,
    reading: Reading,
) -> rustix::io::Result<usize> {
    use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
    if reading == Reading::Now {
        let parts = &mut [io::IoSliceMut::new(room)];
        match preadv2(file, parts, offset, ReadWriteFlags::NOWAIT) {
            // Some file systems cannot tell: overlayfs, and tmpfs, where all is in memory.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {}
            read => return read,
        }
    }
    pread(file, room, offset)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    /// Of a file on a disk what is not in memory is not waited for, but where that was asked for.
    #[test]
    fn what_is_not_in_memory_is_said_to_be() {
        use crate::io::residency::{in_memory, nowhere, read_in};
        let place = std::env::current_exe().unwrap();
        let mut file = tempfile::tempfile_in(place.parent().unwrap()).unwrap();
        let content: Vec<u8> = (0..1 << 20).map(|i| (i / 7) as u8).collect();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
        let evict = || rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let range = 0..content.len() as u64;
        let mut buffer = Buffer::default();
        let mut read = |reading| {
            let mut copied = buffer.gather(content.len(), reading);
            let read = copied.put_file(file.as_fd(), 0, content.len() as u64);
            read.inspect(|count| assert!(*copied.as_slice() == content[..*count]))
        };
        evict();
        if in_memory(file.as_fd(), range.clone()) == Some(false) {
            match read(Reading::Now) {
                // A file system in memory, or one that cannot tell.
                Ok(count) => assert_eq!(count, content.len()),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
        evict();
        assert_eq!(read(Reading::Waiting).unwrap(), content.len());
        evict();
        read_in(&file, range, &nowhere().unwrap()).unwrap();
        assert_eq!(read(Reading::Now).unwrap(), content.len());
    }

    #[test]
    fn what_is_gathered_stands_in_order_as_far_as_there_is_room() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = Buffer::default();
        for _ in 0..2 {
            let mut copied = buffer.gather(9, Reading::Now);
            assert_eq!(copied.put(b"ab").unwrap(), 2);
            assert_eq!(copied.put_file(file.as_fd(), 3, 4).unwrap(), 4);
            assert_eq!(copied.put_static(b"cd").unwrap(), 2);
            assert!(copied.wants_more());
            assert_eq!(copied.put_file(file.as_fd(), 0, 10).unwrap(), 1);
            assert!(!copied.wants_more());
            assert_eq!(copied.put_file(file.as_fd(), 0, 10).unwrap(), 0);
            assert_eq!(copied.put(b"x").unwrap(), 0);
            assert_eq!(copied.as_slice(), b"ab3456cd0");
        }
        let short = buffer.gather(9, Reading::Now).put_file(file.as_fd(), 10, 1);
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(b"piped").unwrap();
        let mut copied = buffer.gather(4, Reading::Now);
        assert_eq!(copied.put_pipe(read.as_fd(), 3).unwrap(), 3);
        assert_eq!(copied.put_pipe(read.as_fd(), 2).unwrap(), 1);
        assert_eq!(copied.as_slice(), b"pipe");
    }
}
