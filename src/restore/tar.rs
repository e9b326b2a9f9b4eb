//! The tar archive as events, whatever pieces it arrives in. GNU format with long names; every
//! other kind of entry is refused by name.

use std::ops::Range;

use tar::{EntryType, Header};

use super::error::RestoreError;
use super::path::{self, Kind};
use crate::limits::ENTRY_PATH_BYTES_MAX;

const BLOCK_BYTES: usize = 512;

/// What comes next in the archive. Ranges are of the piece that was pushed; paths are checked.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A file, whole in this piece.
    Whole {
        meta: Meta<'a>,
        data: Range<usize>,
    },
    /// A file whose data comes in [`Event::Data`].
    Begin {
        meta: Meta<'a>,
        size: u64,
    },
    /// Data of the file that began, for `offset` in it. Comes at least once.
    Data {
        offset: u64,
        data: Range<usize>,
    },
    Symlink {
        path: &'a [u8],
        target: &'a [u8],
    },
    Directory {
        path: &'a [u8],
    },
}

/// What is known of a file besides its data.
#[derive(Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    pub path: &'a [u8],
    pub executable: bool,
    pub mtime_s: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Header,
    /// `left` bytes of data follow, then `padding`.
    File {
        left: u64,
        offset: u64,
        padding: u64,
    },
    LongName {
        left: u64,
        padding: u64,
    },
    LongTarget {
        left: u64,
        padding: u64,
    },
    Padding {
        left: u64,
    },
    /// One block of zeros was seen.
    Ending,
    Ended,
}

/// The parser.
///
/// Invariant: `partial` holds less than a block, and only between pieces.
#[derive(Debug)]
pub struct Parser {
    phase: Phase,
    partial: Vec<u8>,
    /// Bytes of the archive before the current piece.
    offset: u64,
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
}

impl Default for Parser {
    fn default() -> Self {
        Parser {
            phase: Phase::Header,
            partial: Vec::new(),
            offset: 0,
            long_name: None,
            long_target: None,
        }
    }
}

type Emit<'e> = dyn FnMut(Event<'_>) -> Result<(), RestoreError> + 'e;

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

impl Parser {
    /// Takes the next piece of the archive.
    pub fn push(&mut self, piece: &[u8], emit: &mut Emit<'_>) -> Result<(), RestoreError> {
        let mut at = 0;
        while at < piece.len() {
            at += self.step(piece, at, emit)?;
        }
        self.offset += piece.len() as u64;
        Ok(())
    }

    /// Takes at least one byte from `at` on; returns how many.
    fn step(
        &mut self,
        piece: &[u8],
        at: usize,
        emit: &mut Emit<'_>,
    ) -> Result<usize, RestoreError> {
        let have = piece.len() - at;
        match self.phase {
            Phase::Header | Phase::Ending => {
                if self.partial.is_empty() && have >= BLOCK_BYTES {
                    self.block(piece, &piece[at..at + BLOCK_BYTES], at + BLOCK_BYTES, emit)?;
                    return Ok(BLOCK_BYTES);
                }
                let take = (BLOCK_BYTES - self.partial.len()).min(have);
                self.partial.extend_from_slice(&piece[at..at + take]);
                if self.partial.len() == BLOCK_BYTES {
                    let block = std::mem::take(&mut self.partial);
                    self.block(piece, &block, at + take, emit)?;
                }
                Ok(take)
            }
            Phase::File {
                left,
                offset,
                padding,
            } => {
                let take = left.min(have as u64);
                let data = at..at + take as usize;
                emit(Event::Data { offset, data })?;
                self.phase = match left - take {
                    0 => Self::after(padding),
                    left => Phase::File {
                        left,
                        offset: offset + take,
                        padding,
                    },
                };
                Ok(take as usize)
            }
            Phase::LongName { left, padding } => {
                let take = left.min(have as u64);
                let name = self.long_name.get_or_insert_default();
                name.extend_from_slice(&piece[at..at + take as usize]);
                self.phase = match left - take {
                    0 => Self::after(padding),
                    left => Phase::LongName { left, padding },
                };
                Ok(take as usize)
            }
            Phase::LongTarget { left, padding } => {
                let take = left.min(have as u64);
                let target = self.long_target.get_or_insert_default();
                target.extend_from_slice(&piece[at..at + take as usize]);
                self.phase = match left - take {
                    0 => Self::after(padding),
                    left => Phase::LongTarget { left, padding },
                };
                Ok(take as usize)
            }
            Phase::Padding { left } => {
                let take = left.min(have as u64);
                self.phase = Self::after(left - take);
                Ok(take as usize)
            }
            Phase::Ended => self.corrupt(at, "there is something behind its end"),
        }
    }

    fn after(padding: u64) -> Phase {
        match padding {
            0 => Phase::Header,
            left => Phase::Padding { left },
        }
    }

    fn corrupt<T>(&self, at: usize, what: &str) -> Result<T, RestoreError> {
        let what = format!("tar: {what}");
        let offset = self.offset + at as u64;
        Err(RestoreError::Corrupt { offset, what })
    }

    /// A header block, or one of zeros. `after` is where its data begins in `piece`.
    fn block(
        &mut self,
        piece: &[u8],
        block: &[u8],
        after: usize,
        emit: &mut Emit<'_>,
    ) -> Result<(), RestoreError> {
        if block.iter().all(|b| *b == 0) {
            self.phase = match self.phase {
                Phase::Ending => Phase::Ended,
                _ => Phase::Ending,
            };
            return Ok(());
        }
        if self.phase == Phase::Ending {
            return self.corrupt(after, "an entry behind its end");
        }
        let header = Header::from_byte_slice(block);
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        let field = &header.as_old().cksum;
        let own: u32 = field.iter().map(|b| u32::from(*b)).sum();
        if header.cksum().ok() != Some(sum - own + 8 * u32::from(b' ')) {
            return self.corrupt(after, "the checksum of a header is wrong");
        }
        let Ok(size) = header.entry_size() else {
            return self.corrupt(after, "the size of an entry is no number");
        };
        if header.as_gnu().is_none() || size > i64::MAX as u64 {
            return self.corrupt(after, "an entry is not in the GNU format");
        }
        match header.entry_type() {
            EntryType::GNULongName => {
                self.expect_long(after, size)?;
                self.phase = Phase::LongName {
                    left: size,
                    padding: padding(size),
                };
                Ok(())
            }
            EntryType::GNULongLink => {
                self.expect_long(after, size)?;
                self.phase = Phase::LongTarget {
                    left: size,
                    padding: padding(size),
                };
                Ok(())
            }
            kind => self.entry(header, kind, size, piece.len(), after, emit),
        }
    }

    fn expect_long(&mut self, at: usize, size: u64) -> Result<(), RestoreError> {
        match size {
            1..=LONG_NAME_BYTES => Ok(()),
            _ => self.corrupt(at, "a long name is empty or too long"),
        }
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        piece_len: usize,
        after: usize,
        emit: &mut Emit<'_>,
    ) -> Result<(), RestoreError> {
        let name = self.long_name.take().map(without_nul);
        let name = name.as_deref().unwrap_or(until_nul(&header.as_old().name));
        let target = self.long_target.take().map(without_nul);
        let target = target
            .as_deref()
            .unwrap_or(until_nul(&header.as_old().linkname));
        match kind {
            EntryType::Regular => {
                let meta = Meta {
                    path: path::check(name, Kind::File)?,
                    executable: header.mode().is_ok_and(|mode| mode & 0o100 != 0),
                    mtime_s: mtime_s(header),
                };
                if size <= (piece_len - after.min(piece_len)) as u64 {
                    let data = after..after + size as usize;
                    self.phase = Phase::Padding {
                        left: size + padding(size),
                    };
                    if size == 0 {
                        self.phase = Phase::Header;
                    }
                    return emit(Event::Whole { meta, data });
                }
                self.phase = Phase::File {
                    left: size,
                    offset: 0,
                    padding: padding(size),
                };
                emit(Event::Begin { meta, size })
            }
            EntryType::Symlink if size == 0 => {
                let path = path::check(name, Kind::Symlink)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(RestoreError::entry(
                        name,
                        "its target is empty or has a NUL",
                    ));
                }
                emit(Event::Symlink { path, target })
            }
            EntryType::Directory if size == 0 => {
                let path = path::check(name, Kind::Directory)?;
                emit(Event::Directory { path })
            }
            other => Err(RestoreError::entry(name, why_refused(other))),
        }
    }

    /// The archive ends: its end must have been seen.
    pub fn finish(&self) -> Result<(), RestoreError> {
        match self.phase {
            Phase::Ended => Ok(()),
            _ => self.corrupt(0, "it ends before its end"),
        }
    }
}

/// Why an entry of this kind is not taken.
fn why_refused(kind: EntryType) -> String {
    let why = match kind {
        EntryType::Link => "it is a hard link",
        EntryType::Char | EntryType::Block | EntryType::Fifo => "it is a device or a pipe",
        EntryType::XHeader | EntryType::XGlobalHeader => {
            "it is a PAX header; a tarpon server writes long names in GNU's way, so this archive \
             is another program's"
        }
        EntryType::Symlink | EntryType::Directory => "it is no file but has data",
        other => {
            let kind = other.as_byte() as char;
            return format!("it is of type {kind:?}, which is not used");
        }
    };
    why.to_owned()
}

/// Longest data of a long name, its NUL included.
const LONG_NAME_BYTES: u64 = ENTRY_PATH_BYTES_MAX as u64 + 1;

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// A long name ends with one NUL; any other is left for the check of the name.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// Octal, or two's complement in base 256.
fn mtime_s(header: &Header) -> i64 {
    let field = &header.as_old().mtime;
    match field.last_chunk::<8>() {
        Some(wide) if field[0] & 0x80 != 0 => i64::from_be_bytes(*wide),
        _ => header
            .mtime()
            .ok()
            .and_then(|s| i64::try_from(s).ok())
            .unwrap_or(0),
    }
}
