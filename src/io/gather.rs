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

    /// Puts up to `len` bytes of `file` from `offset` in. They must be in memory already, or the call waits for
    /// the disk.
    fn put_file(&mut self, file: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<usize>;
}

/// A core's buffer for what is sealed; it has no memory before that is used.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Vec<u8>);

impl Buffer {
    /// Begins to gather up to `most` bytes.
    pub(crate) fn gather(&mut self, most: usize) -> Copied<'_> {
        if self.0.len() < most {
            self.0.resize(most, 0);
        }
        let room = &mut self.0[..most];
        Copied { room, bytes: 0 }
    }
}

/// What was copied and not sent yet.
#[derive(Debug)]
pub(crate) struct Copied<'b> {
    room: &'b mut [u8],
    bytes: usize,
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
        let room = self.left(len);
        if room.is_empty() {
            return Ok(0);
        }
        match rustix::io::pread(file, room, offset)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.bytes += read;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_is_gathered_stands_in_order_as_far_as_there_is_room() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut buffer = Buffer::default();
        for _ in 0..2 {
            let mut copied = buffer.gather(9);
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
        let short = buffer.gather(9).put_file(file.as_fd(), 10, 1);
        assert_eq!(short.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (read, mut write) = io::pipe().unwrap();
        write.write_all(b"piped").unwrap();
        let mut copied = buffer.gather(4);
        assert_eq!(copied.put_pipe(read.as_fd(), 3).unwrap(), 3);
        assert_eq!(copied.put_pipe(read.as_fd(), 2).unwrap(), 1);
        assert_eq!(copied.as_slice(), b"pipe");
    }
}
