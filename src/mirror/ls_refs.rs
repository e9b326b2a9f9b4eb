//! What an upstream has of the refs that are followed, and of no others: git's own program for HTTP is asked
//! to connect, and this speaks protocol version 2 through it (gitremote-helpers(7), `stateless-connect`;
//! gitprotocol-v2(5), `ls-refs`). `git ls-remote` has no way to ask for HEAD and only some refs, and an
//! upstream may have 100,000 pull requests.

use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::{BString, ByteSlice};

use crate::limits::{LS_REFS_BYTES_MAX, PKT_LINE_BYTES_MAX, UPSTREAM_LISTING_BYTES_MAX};
use crate::mirror::error::{MirrorError, without_password};
use crate::mirror::git::{Call, Git};
use crate::mirror::listing::{Lines, Listing};

const CONNECT: &[u8] = b"stateless-connect git-upload-pack\n";
const FLUSH: &[u8] = b"0000";
const DELIMITER: &[u8] = b"0001";
const RESPONSE_END: &[u8] = b"0002";

impl Git {
    /// Lists HEAD and the refs that are followed. `None` where that cannot be asked for: by another way than
    /// HTTP, and where the upstream speaks only older protocols or refuses.
    pub(super) async fn list_followed(
        &self,
        git_dir: &Path,
        url: &str,
    ) -> Result<Option<Listing>, MirrorError> {
        let Some(program) = helper(url) else {
            return Ok(None);
        };
        let Ok((stdin, writer)) = connected() else {
            return Ok(None);
        };
        let mut answer = Answer::new(self, writer);
        let call = Call {
            op: "git ls-remote",
            stdin: Some(stdin),
            ..self.listing(url, git_dir, [program, url])
        };
        let run = self.run(call, &mut |bytes| answer.push(bytes)).await;
        match run {
            // It says so by its exit code, too.
            _ if answer.next == Next::Other => Ok(None),
            // Its configuration leads elsewhere than to HTTP: that is a matter for `git ls-remote`.
            Err(MirrorError::Unreachable { line, .. }) if is_other_protocol(&line) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => answer.finish().map_err(|what| MirrorError::Output {
                op: "git ls-remote",
                target: without_password(url),
                what,
            }),
        }
    }
}

/// The git that speaks this URL's protocol, if that is HTTP.
fn helper(url: &str) -> Option<&'static str> {
    let (scheme, _) = url.split_once("://")?;
    match scheme {
        "http" => Some("remote-http"),
        "https" => Some("remote-https"),
        _ => None,
    }
}

/// What curl says of a URL that is none of HTTP.
fn is_other_protocol(line: &str) -> bool {
    line.contains("rotocol \"") || line.contains("nsupported protocol")
}

/// What the helper reads, with its first command in it.
fn connected() -> std::io::Result<(File, PipeWriter)> {
    let (reader, mut writer) = std::io::pipe()?;
    // It has room for all of it; where it has not, this fails, and nobody is held up.
    rustix::io::ioctl_fionbio(&writer, true)?;
    writer.write_all(CONNECT)?;
    Ok((OwnedFd::from(reader).into(), writer))
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Whether it is connected.
    Connected,
    /// What the upstream can do.
    Capabilities,
    Refs,
    /// All is there.
    Nothing,
    /// The upstream does not speak this protocol, or not about refs.
    Other,
}

/// The helper's output as it comes.
struct Answer<'g> {
    next: Next,
    /// A line of which more may come.
    partial: Vec<u8>,
    bytes: u64,
    has_unborn: bool,
    object_format: Option<Vec<u8>>,
    /// Where the request is written to, until that is done.
    request: Option<PipeWriter>,
    git: &'g Git,
    lines: Lines<'g>,
}

impl<'g> Answer<'g> {
    fn new(git: &'g Git, request: PipeWriter) -> Answer<'g> {
        Answer {
            next: Next::Connected,
            partial: Vec::new(),
            bytes: 0,
            has_unborn: false,
            object_format: None,
            request: Some(request),
            git,
            lines: Lines::new(&git.follow, &git.beside),
        }
    }

    fn push(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        self.bytes += bytes.len() as u64;
        if self.bytes > UPSTREAM_LISTING_BYTES_MAX {
            return Err(format!(
                "more than {UPSTREAM_LISTING_BYTES_MAX} bytes of refs"
            ));
        }
        while !bytes.is_empty() && !matches!(self.next, Next::Nothing | Next::Other) {
            let wanted = self.wanted_bytes()?.saturating_sub(self.partial.len());
            let (part, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.partial.extend_from_slice(part);
            bytes = rest;
            if self.is_whole()? {
                let line = std::mem::take(&mut self.partial);
                self.take(&line)?;
                self.partial = line;
                self.partial.clear();
            }
        }
        Ok(())
    }

    /// The length of the line that comes, as far as it is known.
    fn wanted_bytes(&self) -> Result<usize, String> {
        if self.next == Next::Connected {
            // A word, or none, and its end.
            return match self.partial.len() < CONNECT.len() {
                true => Ok(self.partial.len() + 1),
                false => Err(not_understood(&self.partial)),
            };
        }
        let Some(digits) = self.partial.get(..4) else {
            return Ok(4);
        };
        let length = digits.to_str().ok();
        match length.and_then(|length| usize::from_str_radix(length, 16).ok()) {
            Some(0..=2) => Ok(4),
            Some(length @ 4..=PKT_LINE_BYTES_MAX) => Ok(length),
            _ => Err(not_understood(&self.partial)),
        }
    }

    fn is_whole(&self) -> Result<bool, String> {
        match self.next {
            Next::Connected => Ok(self.partial.ends_with(b"\n")),
            _ => Ok(self.partial.len() >= 4 && self.partial.len() == self.wanted_bytes()?),
        }
    }

    fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let content = line.get(4..).unwrap_or_default();
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        match self.next {
            Next::Connected if line == b"\n" => self.next = Next::Capabilities,
            Next::Connected => {
                self.next = Next::Other;
                self.request = None;
            }
            Next::Capabilities if line == FLUSH => self.ask()?,
            Next::Capabilities => {
                self.has_unborn |=
                    content.starts_with(b"ls-refs=") && content.contains_str("unborn");
                if let Some(format) = content.strip_prefix(b"object-format=") {
                    self.object_format = Some(format.to_vec());
                }
            }
            Next::Refs if line == FLUSH => self.next = Next::Nothing,
            // The upstream has refused.
            Next::Refs if line == RESPONSE_END => self.next = Next::Other,
            Next::Refs => self.take_ref(content)?,
            Next::Nothing | Next::Other => {}
        }
        Ok(())
    }

    /// Asks for the refs.
    fn ask(&mut self) -> Result<(), String> {
        let mut request = packet(b"command=ls-refs");
        if let Some(format) = &self.object_format {
            request.extend(packet(&[b"object-format=", &format[..]].concat()));
        }
        request.extend_from_slice(DELIMITER);
        request.extend([packet(b"peel"), packet(b"symrefs")].concat());
        if self.has_unborn {
            request.extend(packet(b"unborn"));
        }
        let prefixes = self.git.follow.prefixes();
        let prefix = |prefix: &BString| packet(&[b"ref-prefix ", &prefix[..]].concat());
        let prefixes = prefixes.iter().chain(self.git.beside.names());
        let prefixes = prefixes.map(prefix).collect::<Vec<_>>().concat();
        // Where there are too many, all refs come, and what is not followed is dropped.
        if prefixes.len() < LS_REFS_BYTES_MAX {
            request.extend(prefixes);
        }
        request.extend_from_slice(FLUSH);
        self.next = Next::Refs;
        // Its end is that of the request.
        let writer = self.request.take();
        let written = writer.map_or(Ok(()), |mut writer| writer.write_all(&request));
        written.map_err(|e| format!("git takes no request: {e}"))
    }

    /// `ID NAME`, with `symref-target:NAME` and `peeled:ID`; `unborn` for the id of a HEAD that leads nowhere.
    fn take_ref(&mut self, content: &[u8]) -> Result<(), String> {
        let wrong = || not_understood(content);
        let mut words = content.split(|byte| *byte == b' ');
        let (id, name) = (
            words.next().unwrap_or_default(),
            words.next().ok_or_else(wrong)?,
        );
        if id == b"unborn" {
            return Ok(());
        }
        let id = ObjectId::from_hex(id).map_err(|_| wrong())?;
        let (mut target, mut peeled) = (None, None);
        for word in words {
            if let Some(name) = word.strip_prefix(b"symref-target:") {
                target = Some(name);
            } else if let Some(id) = word.strip_prefix(b"peeled:") {
                peeled = Some(ObjectId::from_hex(id).map_err(|_| wrong())?);
            }
        }
        self.lines.found(name, id, target, peeled)
    }

    fn finish(self) -> Result<Option<Listing>, String> {
        match self.next {
            Next::Nothing => self.lines.finish().map(Some),
            // `git ls-remote` can, or says why it cannot.
            _ => Ok(None),
        }
    }
}

/// A line of the protocol.
fn packet(content: &[u8]) -> Vec<u8> {
    let length = format!("{:04x}", content.len() + 5);
    [length.as_bytes(), content, b"\n"].concat()
}

fn not_understood(line: &[u8]) -> String {
    format!("not understood: {:?}", line.as_bstr())
}

#[cfg(test)]
mod tests;
