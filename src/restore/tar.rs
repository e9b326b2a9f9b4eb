//! The tar archive as events, whatever pieces it arrives in: files, links and directories in GNU's
//! format or POSIX's, with long names and PAX headers. Every other kind of entry is refused by name.

use std::ops::Range;

use tar::{EntryType, Header};

use super::error::RestoreError;
use super::path::{self, Kind};
use super::pax::{self, NAME_BYTES, Pax};
use super::quota::Quota;
use crate::limits::{
    DESCRIBING_HEADERS_MAX, PATH_BYTES_MAX, PAX_BYTES_MAX, RESTORED_ENTRIES_MAX, TAR_RECORD_BYTES,
};
use crate::tree::tar::{BLOCK_BYTES, padding};

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
    /// The data of a header that describes the entry behind it.
    Text {
        about: About,
        left: u64,
        padding: u64,
    },
    Padding {
        left: u64,
    },
    /// One block of zeros was seen.
    Ending,
    /// The end, and so many zeros behind it.
    Ended {
        zeros: u64,
    },
}

/// What a header says that only describes the entry behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Name,
    Target,
    Pax,
    /// All entries behind it.
    GlobalPax,
}

/// The parser.
///
/// Invariants: `partial` holds less than a block, and only between pieces; `text` is the data so far
/// while the phase is that, else empty.
#[derive(Debug)]
pub struct Parser<'q> {
    phase: Phase,
    partial: Vec<u8>,
    /// Bytes of the archive before the current piece.
    offset: u64,
    text: Vec<u8>,
    long_name: Option<Vec<u8>>,
    long_target: Option<Vec<u8>>,
    pax: Option<Pax>,
    global: Pax,
    /// Headers since the last entry that describe the next.
    describing: usize,
    entries: u64,
    quota: &'q Quota,
}

type Emit<'e> = dyn FnMut(Event<'_>) -> Result<(), RestoreError> + 'e;

impl<'q> Parser<'q> {
    /// A parser of an archive whose entries may take `quota`.
    pub fn new(quota: &'q Quota) -> Parser<'q> {
        Parser {
            phase: Phase::Header,
            partial: Vec::new(),
            offset: 0,
            text: Vec::new(),
            long_name: None,
            long_target: None,
            pax: None,
            global: Pax::default(),
            describing: 0,
            entries: 0,
            quota,
        }
    }

    /// Whether the archive's end was seen.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

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
            Phase::Header | Phase::Ending => self.header_bytes(piece, at, emit),
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
            Phase::Text {
                about,
                left,
                padding,
            } => {
                let take = left.min(have as u64);
                self.text.extend_from_slice(&piece[at..at + take as usize]);
                self.phase = match left - take {
                    0 => {
                        self.described(about, at)?;
                        Self::after(padding)
                    }
                    left => Phase::Text {
                        about,
                        left,
                        padding,
                    },
                };
                Ok(take as usize)
            }
            Phase::Padding { left } => {
                let take = left.min(have as u64);
                self.phase = Self::after(left - take);
                Ok(take as usize)
            }
            Phase::Ended { zeros } => {
                self.behind_the_end(zeros, piece, at)?;
                Ok(have)
            }
        }
    }

    /// Takes of a header block what there is of it; hands it on when it is whole.
    fn header_bytes(
        &mut self,
        piece: &[u8],
        at: usize,
        emit: &mut Emit<'_>,
    ) -> Result<usize, RestoreError> {
        let have = piece.len() - at;
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

    /// Takes the rest of a piece behind the end, where `zeros` were before: a record's zeros only.
    fn behind_the_end(&mut self, zeros: u64, piece: &[u8], at: usize) -> Result<(), RestoreError> {
        let rest = &piece[at..];
        let zeros = zeros + rest.len() as u64;
        if rest.iter().any(|b| *b != 0) || zeros > TAR_RECORD_BYTES {
            return self.corrupt(at, "there is something behind its end");
        }
        self.phase = Phase::Ended { zeros };
        Ok(())
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
                Phase::Ending => Phase::Ended { zeros: 0 },
                _ => Phase::Ending,
            };
            let is_described = self.long_name.is_some() || self.long_target.is_some();
            if is_described || self.pax.is_some() {
                return self.corrupt(after, "a header describes an entry that does not come");
            }
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
        if (header.as_gnu().is_none() && header.as_ustar().is_none()) || size > i64::MAX as u64 {
            return self.corrupt(after, "an entry is in neither GNU's format nor POSIX's");
        }
        match header.entry_type() {
            EntryType::GNULongName => self.describe(About::Name, size, after),
            EntryType::GNULongLink => self.describe(About::Target, size, after),
            EntryType::XHeader => self.describe(About::Pax, size, after),
            EntryType::XGlobalHeader => self.describe(About::GlobalPax, size, after),
            kind => self.entry(header, kind, size, piece.len(), after, emit),
        }
    }

    /// A header of `size` bytes that describes the entry behind it.
    fn describe(&mut self, about: About, size: u64, at: usize) -> Result<(), RestoreError> {
        let (is_known, bytes_max) = match about {
            About::Name => (self.long_name.is_some(), LONG_NAME_BYTES),
            About::Target => (self.long_target.is_some(), LONG_NAME_BYTES),
            About::Pax => (self.pax.is_some(), PAX_BYTES_MAX),
            About::GlobalPax => (false, PAX_BYTES_MAX),
        };
        self.describing += 1;
        if is_known || self.describing > DESCRIBING_HEADERS_MAX {
            return self.corrupt(at, "too many headers describe one entry");
        }
        if size == 0 || size > bytes_max {
            return self.corrupt(at, "a long name or PAX header is empty or too long");
        }
        self.phase = Phase::Text {
            about,
            left: size,
            padding: padding(size),
        };
        Ok(())
    }

    /// The data of such a header is there.
    fn described(&mut self, about: About, at: usize) -> Result<(), RestoreError> {
        let text = std::mem::take(&mut self.text);
        let read = |parser: &Self, text: &[u8]| match pax::read(text) {
            Ok(pax) => Ok(pax),
            Err(what) => parser.corrupt(at, what),
        };
        match about {
            About::Name => self.long_name = Some(self.long(text, at)?),
            About::Target => self.long_target = Some(self.long(text, at)?),
            About::Pax => self.pax = Some(read(self, &text)?),
            About::GlobalPax => {
                let newer = read(self, &text)?;
                self.global.update(newer);
            }
        }
        Ok(())
    }

    /// A long name or target. It ends with one NUL; any other is left for the check of the name.
    fn long(&self, mut name: Vec<u8>, at: usize) -> Result<Vec<u8>, RestoreError> {
        if name.last() == Some(&0) {
            name.pop();
        }
        match name.len() > NAME_BYTES {
            true => self.corrupt(at, pax::TOO_LONG),
            false => Ok(name),
        }
    }

    /// Counts an entry, and forgets what described it but for what is returned: name, target, and
    /// what PAX headers say.
    fn next_entry(&mut self, header: &Header) -> (Vec<u8>, Vec<u8>, Pax) {
        let mut pax = self.global.clone();
        pax.update(self.pax.take().unwrap_or_default());
        self.describing = 0;
        self.entries += 1;
        // An empty value takes back what was said before.
        let said = |text: &mut Option<Vec<u8>>| text.take().filter(|text| !text.is_empty());
        let name = self.long_name.take().or(said(&mut pax.path));
        let target = self.long_target.take().or(said(&mut pax.linkpath));
        (
            name.unwrap_or_else(|| own_name(header)),
            target.unwrap_or_else(|| until_nul(&header.as_old().linkname).to_vec()),
            pax,
        )
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
        let (name, target, pax) = self.next_entry(header);
        // `tar -C DIR .` names all as seen from there.
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        let size = pax.size.unwrap_or(size);
        if self.entries > RESTORED_ENTRIES_MAX || size > i64::MAX as u64 {
            return self.corrupt(after, "an entry is too large, or one too many");
        }
        self.quota.take_entry(size)?;
        match kind {
            EntryType::Regular => {
                let meta = Meta {
                    path: path::check(name, Kind::File)?,
                    executable: header.mode().is_ok_and(|mode| mode & 0o100 != 0),
                    mtime_s: pax.mtime_s.unwrap_or_else(|| mtime_s(header)),
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
                let is_path = (1..=PATH_BYTES_MAX).contains(&target.len());
                if !is_path || target.contains(&0) {
                    let why = "its target is empty, too long, or has a NUL";
                    return Err(RestoreError::entry(name, why));
                }
                let target = &target;
                emit(Event::Symlink { path, target })
            }
            // The directory of all.
            EntryType::Directory if size == 0 && matches!(name, b"" | b"." | b"./") => Ok(()),
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
            Phase::Ended { .. } => Ok(()),
            _ => self.corrupt(0, "it ends before its end"),
        }
    }
}

/// Why an entry of this kind is not taken.
fn why_refused(kind: EntryType) -> String {
    let why = match kind {
        EntryType::Link => "it is a hard link",
        EntryType::Char | EntryType::Block | EntryType::Fifo => "it is a device or a pipe",
        EntryType::Symlink | EntryType::Directory => "it is no file but has data",
        other => {
            let kind = other.as_byte() as char;
            return format!("it is of type {kind:?}, which is not used");
        }
    };
    why.to_owned()
}

/// Longest data of a long name, its NUL included.
const LONG_NAME_BYTES: u64 = NAME_BYTES as u64 + 1;

/// The name in the header itself; POSIX's format may have its beginning in a field of its own.
fn own_name(header: &Header) -> Vec<u8> {
    let name = until_nul(&header.as_old().name);
    let prefix = header.as_ustar().map(|ustar| until_nul(&ustar.prefix));
    match prefix.filter(|prefix| !prefix.is_empty()) {
        Some(prefix) => [prefix, b"/", name].concat(),
        None => name.to_vec(),
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
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
