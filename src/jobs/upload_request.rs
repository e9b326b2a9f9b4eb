//! The request of a `git upload-pack`: decoded, looked at, and put where git can read it.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::http::net::bodies::{Bodies, Share};
use crate::http::net::body::Body;
use crate::http::wire::{Reject, gzip};
use crate::limits::{BODY_LOOK_MS, BODY_WAIT_MS, GIT_REQUEST_BYTES_MAX, PKT_LINE_BYTES_MAX};
use crate::manifest::want::AnyId;
use crate::repos::error::StartError;

const NO_PACKETS: Reject = Reject::new(
    400,
    "the request is not of git's protocol: send whole packet lines (gitprotocol-common(5))",
);
const TOO_LARGE: Reject = Reject::new(413, "the request body is too large once decompressed");
const NO_ROOM: Reject = Reject::new(
    503,
    "too many requests with bodies at once; try again later",
);

impl From<Reject> for StartError {
    fn from(reject: Reject) -> StartError {
        StartError {
            status: reject.status,
            message: reject.message.into(),
        }
    }
}

/// A request in a file without a name, in memory. It counts as long as it is there: until git has
/// read it, which is long before the client has taken the answer.
pub(super) struct UploadRequest {
    file: File,
    bytes: u64,
    /// `None` for an empty file.
    share: Option<Share>,
}

impl UploadRequest {
    /// Decodes a body, if it is compressed, and checks that it is made of packet lines.
    pub(super) async fn new(
        mut body: Body,
        gzip: bool,
        bodies: &Arc<Bodies>,
    ) -> Result<UploadRequest, StartError> {
        let (bytes, share) = match gzip {
            true => {
                let bytes = gzip::content_bytes(body.pieces())?;
                if bytes > GIT_REQUEST_BYTES_MAX as u64 {
                    return Err(TOO_LARGE.into());
                }
                let mut share = body.made(bodies);
                wait_for_room(&mut share, bytes, bodies).await?;
                (bytes, Some(share))
            }
            // What is in the file is dropped here.
            false => (body.len_bytes(), body.take_share()),
        };
        // Takes time in proportion to the content.
        let made = tokio::task::spawn_blocking(move || write(body, gzip, bytes));
        let file = made.await.unwrap_or_else(|panic| Err(failed(&panic)))?;
        Ok(UploadRequest { file, bytes, share })
    }

    /// A handle for git to read the request from its beginning.
    pub(super) fn open(&mut self) -> std::io::Result<File> {
        self.file.seek(SeekFrom::Start(0))?;
        self.file.try_clone()
    }

    /// The objects that it asks for by their ids, at most so many.
    pub(super) fn wants(&self, max: usize) -> std::io::Result<Vec<AnyId>> {
        crate::mirror::upload::wants(&self.file, max)
    }

    /// The request, for somebody who looks at what it names on a thread of his own.
    pub(super) fn file(&self) -> std::io::Result<File> {
        self.file.try_clone()
    }

    /// It is shorter now.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Gives the memory back if git has read all of it: the place in the file is shared with git. Whether
    /// it is given back.
    pub(super) fn forget_if_read(&mut self) -> bool {
        if self.share.is_some()
            && self.file.stream_position().is_ok_and(|at| at >= self.bytes)
            && self.file.set_len(0).is_ok()
        {
            self.share = None;
        }
        self.share.is_none()
    }
}

fn failed(error: &dyn std::fmt::Display) -> StartError {
    StartError {
        status: 500,
        message: format!("cannot keep the request: {error}"),
    }
}

async fn wait_for_room(share: &mut Share, bytes: u64, bodies: &Bodies) -> Result<(), StartError> {
    let mut claim = std::pin::pin!(share.claim(bytes));
    let look = Duration::from_millis(BODY_LOOK_MS);
    for _ in 0..=BODY_WAIT_MS / BODY_LOOK_MS {
        match tokio::time::timeout(look, claim.as_mut()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(_)) => break,
            Err(_) => bodies.end_slow(),
        }
    }
    Err(NO_ROOM.into())
}

/// For a thread: takes time, and a file in memory may have to be swapped in.
fn write(mut body: Body, gzip: bool, bytes: u64) -> Result<File, StartError> {
    let mut file = crate::mirror::upload::request_file(&[]).map_err(|e| failed(&e))?;
    let mut packets = Packets::default();
    let mut take = |content: &[u8]| {
        packets.take(content)?;
        file.write_all(content).map_err(|e| failed(&e))
    };
    match gzip {
        true => gzip::decode(body.pieces(), bytes, take)?,
        false => {
            let mut pieces = body.take_pieces().into_iter();
            pieces.try_for_each(|piece| take(&piece))?;
        }
    }
    packets.end()?;
    Ok(file)
}

/// Reads the lengths of packet lines, the only thing of git's protocol that is looked at here.
#[derive(Default)]
struct Packets {
    /// The digits of a length, as far as they have come.
    length: [u8; 4],
    digits: usize,
    /// What is left of a line.
    left_bytes: usize,
    any: bool,
}

impl Packets {
    fn take(&mut self, mut content: &[u8]) -> Result<(), Reject> {
        while let Some((&byte, rest)) = content.split_first() {
            if self.left_bytes > 0 {
                let skip = self.left_bytes.min(content.len());
                self.left_bytes -= skip;
                content = content.get(skip..).unwrap_or_default();
                continue;
            }
            content = rest;
            *self.length.get_mut(self.digits).ok_or(NO_PACKETS)? = byte;
            self.digits += 1;
            if self.digits == self.length.len() {
                self.left_bytes = line_bytes(self.length).ok_or(NO_PACKETS)?;
                (self.digits, self.any) = (0, true);
            }
        }
        Ok(())
    }

    /// The request is over: a part of a line is none, and git would wait for the rest.
    fn end(&self) -> Result<(), Reject> {
        match self.any && self.digits == 0 && self.left_bytes == 0 {
            true => Ok(()),
            false => Err(NO_PACKETS),
        }
    }
}

/// How many bytes follow a length. Flush, delimiter and end of response have none; 3 means nothing.
fn line_bytes(length: [u8; 4]) -> Option<usize> {
    let digits = length.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(&length).ok().filter(|_| digits)?;
    match usize::from_str_radix(text, 16).ok()? {
        0..=2 => Some(0),
        bytes @ 4..=PKT_LINE_BYTES_MAX => Some(bytes - 4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_sound(content: &[u8], step: usize) -> bool {
        let mut packets = Packets::default();
        let mut pieces = content.chunks(step);
        pieces.all(|piece| packets.take(piece).is_ok()) && packets.end().is_ok()
    }

    #[test]
    fn requests_are_made_of_packet_lines() {
        let longest = [&b"fff0"[..], &[b'x'; 65_516], b"0000"].concat();
        let sound: [&[u8]; 6] = [
            b"0000",
            b"0009done\n",
            b"0014command=ls-refs\n00010009peel\n0000",
            b"00010002000800040004",
            b"000Ewant 1234\n0000",
            &longest,
        ];
        let broken: [&[u8]; 11] = [
            b"",
            b"000",
            b"this is no packet line",
            b"0003",
            b"fff1",
            b"ffff",
            b"00zz",
            b"+009done\n",
            b"0009done",
            b"0009done\n00",
            b"0009done\n\n",
        ];
        for step in [1, 3, 100, 1 << 20] {
            for content in sound {
                assert!(is_sound(content, step), "{}", content.escape_ascii());
            }
            for content in broken {
                assert!(!is_sound(content, step), "{}", content.escape_ascii());
            }
        }
    }
}
