//! Serves the git protocol from a mirror: `git upload-pack`, one process for each request.
//!
//! The repository's lock is not held meanwhile. A download may take hours, and a reader that
//! holds the lock so long would keep a fetch from putting its refs in force and, because the lock
//! is fair, everybody behind that fetch. There is no need either: refs move by renames, and packs
//! go only after all of their objects are in another one, which git finds by reading the list of
//! packs again; those that it has open stay readable.
use crate::git::{Output, stdin_file};
use crate::limits;
use crate::mirror::error::MirrorError;
use crate::mirror::git::{Call, Git, Target};
use gix::ObjectId;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

/// What every client may do, whatever the mirror's own configuration says: leave objects out
/// (partial clones) and ask for any commit by its id.
const SETTINGS: &[&str] = &[
    "uploadpack.allowFilter=true",
    // As far as they name no object: what that has in it could be told from what comes.
    "uploadpackfilter.allow=false",
    "uploadpackfilter.blob:none.allow=true",
    "uploadpackfilter.blob:limit.allow=true",
    "uploadpackfilter.tree.allow=true",
    "uploadpackfilter.object:type.allow=true",
    "uploadpackfilter.combine.allow=true",
    "uploadpack.allowAnySHA1InWant=true",
    // Names are looked up by whoever answers, and by nobody else.
    "uploadpack.allowRefInWant=false",
    // The mirror may belong to an operator, who put it there.
    "safe.directory=*",
];

/// One request of git's smart HTTP protocol.
#[derive(Debug)]
pub struct Upload<'a> {
    /// The mirror.
    pub mirror: &'a Path,
    /// `Git-Protocol`, which chooses the version.
    pub protocol: Option<&'a str>,
    /// The request; `None` asks for what there is (`info/refs`).
    pub request: Option<File>,
}

/// A request as a file, for [`Upload::request`]. It has no name and lies in memory.
///
/// # Errors
/// The system's, when there is no memory or no descriptor left.
pub(crate) fn request_file(request: &[u8]) -> io::Result<File> {
    stdin_file(request)
}

/// The objects that a request of whole packet lines asks for by their ids, at most so many.
///
/// # Errors
/// The system's.
pub(crate) fn wants(request: &File, max: usize) -> io::Result<Vec<ObjectId>> {
    named(request, b"want ", max)
}

/// The same of lines that begin with another word.
pub(crate) fn named(request: &File, word: &[u8], max: usize) -> io::Result<Vec<ObjectId>> {
    let (mut at, mut named) = (0, Vec::new());
    let mut line = [0; limits::WANT_LINE_BYTES_READ];
    while named.len() < max {
        let read = request.read_at(&mut line, at)?;
        let line = &line[..read];
        let Some(bytes) = line_bytes(line) else {
            break;
        };
        named.extend(object(line, bytes, word));
        at += bytes;
    }
    Ok(named)
}

/// Whether whatever a request names by its id has all digits of an id of this kind, and no digit more: git reads
/// as many as it needs and does not mind others behind them.
///
/// # Errors
/// The system's.
pub(crate) fn names_whole_ids(request: &File, kind: gix::hash::Kind) -> io::Result<bool> {
    let mut at = 0;
    let mut line = [0; limits::WANT_LINE_BYTES_READ];
    loop {
        let read = request.read_at(&mut line, at)?;
        let line = &line[..read];
        let Some(bytes) = line_bytes(line) else {
            return Ok(true);
        };
        let content = line[..read.min(bytes as usize)].get(4..);
        let content = content.unwrap_or_default();
        let words: [&[u8]; 3] = [b"want ", b"have ", b"shallow "];
        let id = words.iter().find_map(|word| content.strip_prefix(*word));
        let digits = |id: &[u8]| {
            id.iter()
                .take_while(|byte| byte.is_ascii_hexdigit())
                .count()
        };
        if id.is_some_and(|id| digits(id) != kind.len_in_hex()) {
            return Ok(false);
        }
        at += bytes;
    }
}

/// A request without those of its lines that say that the client has these objects, whole or without what is before
/// them.
pub(crate) fn without_haves(request: &File, ids: &HashSet<ObjectId>) -> io::Result<File> {
    let mut all = Vec::new();
    let mut rest = vec![0; usize::try_from(request.metadata()?.len()).unwrap_or(usize::MAX)];
    request.read_exact_at(&mut rest, 0)?;
    let mut rest = &rest[..];
    while let Some(bytes) = line_bytes(rest) {
        let (line, behind) = rest.split_at(rest.len().min(bytes as usize));
        let has = object(line, bytes, b"have ").or_else(|| object(line, bytes, b"shallow "));
        if has.is_none_or(|id| !ids.contains(&id)) {
            all.extend_from_slice(line);
        }
        rest = behind;
    }
    all.extend_from_slice(rest);
    request_file(&all)
}

/// How many bytes the first line has, its length included. What ends a part has no more than that.
fn line_bytes(text: &[u8]) -> Option<u64> {
    let digits = text
        .get(..4)
        .and_then(|digits| str::from_utf8(digits).ok())?;
    let length = u64::from_str_radix(digits, 16).ok()?;
    Some(length.max(4))
}

/// The object that the first line names behind this word.
fn object(text: &[u8], bytes: u64, word: &[u8]) -> Option<ObjectId> {
    let content = text[..text.len().min(bytes as usize)].get(4..)?;
    let rest = content.strip_prefix(word)?;
    let hex = rest.split(|byte| !byte.is_ascii_hexdigit()).next()?;
    ObjectId::from_hex(hex).ok()
}

impl Git {
    /// Runs `git upload-pack` and hands its output to `take`; git waits while nobody reads the pipe. Ends
    /// the process group when `take` refuses or `gone` is ready.
    ///
    /// # Errors
    /// [`MirrorError::Git`] when git fails: what `take` got is then not all.
    pub(crate) async fn upload_pack(
        &self,
        upload: Upload<'_>,
        take: impl AsyncFnOnce(Output) -> Result<(), String>,
        gone: impl Future<Output = ()>,
    ) -> Result<(), MirrorError> {
        let mut args: Vec<OsString> = Vec::new();
        for setting in SETTINGS {
            args.extend(["-c".into(), setting.into()]);
        }
        args.extend(["upload-pack", "--strict", "--stateless-rpc"].map(OsString::from));
        if upload.request.is_none() {
            args.push("--advertise-refs".into());
        }
        args.push(upload.mirror.into());
        let call = Call {
            op: "git upload-pack",
            target: Target::Mirror(upload.mirror),
            git_dir: None,
            args,
            stdin: upload.request,
            limit: Duration::from_millis(limits::GIT_UPLOAD_LIMIT_MS),
            memory_bytes: self.memory_bytes,
            growth: None,
        };
        let about = call.about();
        let mut command = self.command(call);
        if let Some(protocol) = upload.protocol {
            command.env("GIT_PROTOCOL", protocol);
        }
        self.feed(about, command, take, gone).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_by_id_is_read() {
        let (one, two) = ("1".repeat(40), "2".repeat(64));
        let lines = [
            "0014command=ls-refs\n".to_owned(),
            "0001".to_owned(),
            format!("0032want {one}\n"),
            format!("004awant {one} side-band-64k ofs-delta\n"),
            format!("0049want {two}"),
            "0032want ".to_owned() + &"x".repeat(40) + "\n",
            format!("0032have {one}\n"),
            "0009done\n".to_owned(),
        ];
        let request = request_file(lines.concat().as_bytes()).unwrap();
        let wants = |max| {
            let wants = wants(&request, max).unwrap();
            wants.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(wants(9), [&*one, &*one, &*two]);
        assert_eq!(wants(2), [&*one, &*one]);
        let of = |hex: &str| ObjectId::from_hex(hex.as_bytes()).unwrap();
        assert_eq!(named(&request, b"have ", 9).unwrap(), [of(&one)]);
        let without = without_haves(&request, &HashSet::from([of(&one)])).unwrap();
        let read = |file: &File| {
            let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
            file.read_exact_at(&mut bytes, 0).unwrap();
            String::from_utf8(bytes).unwrap()
        };
        let have = format!("0032have {one}\n");
        assert_eq!(read(&without), lines.concat().replace(&have, ""));
        let kept = without_haves(&request, &HashSet::from([of(&two)])).unwrap();
        assert_eq!(read(&kept), lines.concat());
        let whole = |lines: &str, kind| {
            let request = request_file(lines.as_bytes()).unwrap();
            names_whole_ids(&request, kind).unwrap()
        };
        use gix::hash::Kind::{Sha1, Sha256};
        let (first, last) = (format!("0032want {one}\n"), format!("0049want {two}"));
        assert!(whole(&first, Sha1) && !whole(&first, Sha256));
        assert!(whole(&last, Sha256) && !whole(&last, Sha1));
        assert!(whole(&format!("{first}0000{have}0009done\n"), Sha1));
        // git takes the first forty.
        for word in ["want", "have", "shallow"] {
            let line = format!("{word} {one}ff\n");
            let line = format!("{:04x}{line}", line.len() + 4);
            assert!(!whole(&format!("{first}{line}"), Sha1), "{word}");
        }
        for cut in ["", "00", "zzzz", "0032want 11"] {
            let request = request_file(cut.as_bytes()).unwrap();
            assert!(super::wants(&request, 9).unwrap().is_empty(), "{cut}");
        }
    }
}
