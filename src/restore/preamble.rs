//! What an answer says before its archive where the server has to wait for that itself: how far it is,
//! then which archive follows, or why none does. See [`crate::manifest::preamble`].

use std::io;

use super::error::RestoreError;
use super::gaps::Gaps;
use super::http::Conn;
use super::link::Link;
use crate::limits::PREAMBLE_LINE_BYTES_MAX;
use crate::manifest::preamble::{EMPTY_FRAME, Line, SKIPPABLE_MAGIC};

/// Which archive follows, as the last frame of a preamble tells it.
#[derive(Debug, Default)]
pub(super) struct Ready {
    pub etag: Option<String>,
}

/// Why there is no first answer, or nothing of the archive behind it.
pub(super) enum Failed {
    /// The connection.
    Io(io::Error),
    /// The server has said so, or what it says is no archive.
    Told(RestoreError),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Io(error)
    }
}

impl From<RestoreError> for Failed {
    fn from(error: RestoreError) -> Failed {
        Failed::Told(error)
    }
}

const HEADER_BYTES: usize = 8;

/// Reads the preamble of an answer, if it begins with one: what `conn` gives next is byte 0 of the archive.
pub(super) fn read(conn: &mut Conn<'_>, link: Link<'_>) -> Result<Ready, Failed> {
    let mut first = [0; EMPTY_FRAME.len()];
    let len = read_full(conn, &mut first)?;
    if first != EMPTY_FRAME {
        conn.unread(&first[..len]);
        return Ok(Ready::default());
    }
    let mut gaps = Gaps::new(link.wait_alive);
    let mut at = len as u64;
    loop {
        let mut header = [0; HEADER_BYTES];
        let len = read_full(conn, &mut header)?;
        let [a, b, c, d, e, f, g, h] = header;
        if len < HEADER_BYTES || u32::from_le_bytes([a, b, c, d]) & !0xf != SKIPPABLE_MAGIC {
            // An archive of somebody else's: it has no tag, and its first frame is empty.
            conn.unread(&header[..len]);
            return Ok(Ready::default());
        }
        gaps.nothing(at)?;
        let content_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
        if content_bytes > PREAMBLE_LINE_BYTES_MAX {
            let what = "a skippable frame before the archive is too large".into();
            return Err(RestoreError::Corrupt { offset: at, what }.into());
        }
        let mut content = vec![0; content_bytes];
        let len = read_full(conn, &mut content)?;
        at += (HEADER_BYTES + len) as u64;
        link.progress.lives();
        match Line::read(&content[..len]) {
            Some(Line::Waiting {
                what,
                received_bytes,
                ..
            }) => link.progress.waits_for(&what, received_bytes),
            Some(Line::Ready { etag, .. }) => {
                // It goes into requests.
                let etag = Some(etag).filter(|etag| is_strong_tag(etag));
                return Ok(Ready { etag });
            }
            Some(Line::Failed { status, message }) => {
                return Err(link.refusal(status, &message).into());
            }
            None => {}
        }
    }
}

/// Reads until `into` is full or the body ends.
fn read_full(conn: &mut Conn<'_>, into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < into.len() {
        match conn.read(&mut into[len..])? {
            0 => break,
            got => len += got,
        }
    }
    Ok(len)
}

/// RFC 9110, section 8.8.3.
fn is_strong_tag(tag: &str) -> bool {
    let inner = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    inner.is_some_and(|inner| inner.bytes().all(|b| b.is_ascii_graphic() && b != b'"'))
}
