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
    // As far as they name no object, for what that has in it could be told from what comes, and are not made of
    // others, of which a request has room for thousands.
    "uploadpackfilter.allow=false",
    "uploadpackfilter.blob:none.allow=true",
    "uploadpackfilter.blob:limit.allow=true",
    "uploadpackfilter.tree.allow=true",
    "uploadpackfilter.object:type.allow=true",
    "uploadpack.allowAnySHA1InWant=true",
    // Names are looked up by whoever answers, and by nobody else.
    "uploadpack.allowRefInWant=false",
    // It would tell sizes of what nobody has shown.
    "transfer.advertiseObjectInfo=false",
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

/// What a line of a request says of the object that it names by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// It is asked for.
    Want,
    /// The client has it.
    Have,
    /// The client has it, without what is before it.
    Shallow,
}

const HAVE: &[u8] = b"have ";

impl Word {
    const ALL: [(&'static [u8], Word); 3] = [
        (b"want ", Word::Want),
        (HAVE, Word::Have),
        (b"shallow ", Word::Shallow),
    ];
}

/// Why what a request names cannot be told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unnamed {
    /// An id has not all digits of one of this repository, or more: git reads as many as it needs and does not mind
    /// others behind them.
    #[error("send whole ids of its format, and nothing behind them")]
    NoId,
    /// It is too much.
    #[error("it names too many objects that no branch or tag names; at most {0}")]
    TooMany(usize),
    /// The request cannot be read.
    #[error("cannot read the request: {0}")]
    Io(#[from] io::Error),
}

/// The objects that a request of whole packet lines asks for by their ids, at most so many.
///
/// # Errors
/// The system's.
pub(crate) fn wants(request: &File, max: usize) -> io::Result<Vec<ObjectId>> {
    let (mut lines, mut wants) = (Lines::of(request), Vec::new());
    while wants.len() < max
        && let Some(line) = lines.next()?
    {
        let kinds = [gix::hash::Kind::Sha1, gix::hash::Kind::Sha256];
        let found = kinds.iter().find_map(|kind| named(line, *kind)?.ok());
        wants.extend(
            found
                .filter(|(word, _)| *word == Word::Want)
                .map(|(_, id)| id),
        );
    }
    Ok(wants)
}

/// Counts what a client says that it has: what comes behind the first lines of that is not read, for git does
/// without it.
#[derive(Default)]
struct Haves(usize);

impl Haves {
    fn is_beyond(&mut self, line: &[u8]) -> bool {
        let is_have = line.get(4..).is_some_and(|text| text.starts_with(HAVE));
        self.0 += usize::from(is_have);
        is_have && self.0 > limits::HAVES_READ_MAX
    }
}

/// Gives `take` each object that a request names by its id of this kind, in order.
///
/// # Errors
/// Those of `take`, what is no such id, and the system's.
pub(crate) fn each_named(
    request: &File,
    kind: gix::hash::Kind,
    mut take: impl FnMut(Word, ObjectId) -> Result<(), Unnamed>,
) -> Result<(), Unnamed> {
    let (mut lines, mut haves) = (Lines::of(request), Haves::default());
    while let Some(line) = lines.next()? {
        if haves.is_beyond(line) {
            continue;
        }
        if let Some(named) = named(line, kind) {
            let (word, id) = named?;
            take(word, id)?;
        }
    }
    Ok(())
}

/// Takes the lines out of a request that name an object which is not to be kept; how many bytes are left. What is left
/// moves up in the file, so that this takes no more memory than a few lines.
///
/// # Errors
/// What is no id, and the system's.
pub(crate) fn retain_named(
    request: &File,
    kind: gix::hash::Kind,
    is_kept: impl Fn(Word, &ObjectId) -> bool,
) -> Result<u64, Unnamed> {
    let (mut lines, mut haves, mut to) = (Lines::of(request), Haves::default(), 0);
    let mut moved = Vec::with_capacity(LINES_BYTES);
    while let Some(line) = lines.next()? {
        if haves.is_beyond(line) {
            continue;
        }
        if let Some(named) = named(line, kind) {
            let (word, id) = named?;
            if !is_kept(word, &id) {
                continue;
            }
        }
        if moved.len() + line.len() > LINES_BYTES {
            request.write_all_at(&moved, to)?;
            to += moved.len() as u64;
            moved.clear();
        }
        moved.extend_from_slice(line);
    }
    request.write_all_at(&moved, to)?;
    to += moved.len() as u64;
    request.set_len(to)?;
    Ok(to)
}

/// Room for a few of the longest lines.
const LINES_BYTES: usize = 4 * limits::PKT_LINE_BYTES_MAX;

/// The packet lines of a request, each with its length. What is read of the file goes no further back.
struct Lines<'f> {
    request: &'f File,
    /// From where on it has not been read.
    at: u64,
    buffer: Vec<u8>,
    /// What of the buffer was given out.
    used: usize,
}

impl Lines<'_> {
    fn of(request: &File) -> Lines<'_> {
        Lines {
            request,
            at: 0,
            buffer: Vec::new(),
            used: 0,
        }
    }

    /// The next one; what is cut off at the end is none.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.buffer.len() - self.used < limits::PKT_LINE_BYTES_MAX {
            self.fill()?;
        }
        let rest = &self.buffer[self.used..];
        let bytes = line_bytes(rest).filter(|bytes| *bytes <= rest.len());
        self.used += bytes.unwrap_or(0);
        Ok(bytes.map(|bytes| &self.buffer[self.used - bytes..self.used]))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.used);
        self.used = 0;
        let start = self.buffer.len();
        self.buffer.resize(LINES_BYTES, 0);
        let mut end = start;
        while end < LINES_BYTES {
            match self.request.read_at(&mut self.buffer[end..], self.at)? {
                0 => break,
                read => {
                    end += read;
                    self.at += read as u64;
                }
            }
        }
        self.buffer.truncate(end);
        Ok(())
    }
}

/// How many bytes the first line has, its length included. What ends a part has no more than that.
fn line_bytes(text: &[u8]) -> Option<usize> {
    let digits = text
        .get(..4)
        .and_then(|digits| str::from_utf8(digits).ok())?;
    let length = usize::from_str_radix(digits, 16).ok()?;
    Some(length.max(4))
}

/// The object that a line names, if it is of those that do.
fn named(line: &[u8], kind: gix::hash::Kind) -> Option<Result<(Word, ObjectId), Unnamed>> {
    let content = line.get(4..)?;
    let of_word = |(text, word): &(&[u8], Word)| Some((*word, content.strip_prefix(*text)?));
    let (word, rest) = Word::ALL.iter().find_map(of_word)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let hex = rest.get(..digits.count()).unwrap_or_default();
    let id = ObjectId::from_hex(hex).ok();
    let id = id.filter(|id| id.kind() == kind).ok_or(Unnamed::NoId);
    Some(id.map(|id| (word, id)))
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
        for cut in ["", "00", "zzzz", "0032want 11"] {
            let request = request_file(cut.as_bytes()).unwrap();
            assert!(super::wants(&request, 9).unwrap().is_empty(), "{cut}");
        }
    }
    fn text(file: &File) -> String {
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn line(content: &str) -> String {
        format!("{:04x}{content}", content.len() + 4)
    }

    #[test]
    fn what_is_named_is_whole_ids_of_the_format() {
        use gix::hash::Kind::{Sha1, Sha256};
        let (one, two) = ("a".repeat(40), "b".repeat(64));
        let said = |lines: &str, kind| {
            let request = request_file(lines.as_bytes()).unwrap();
            let mut said = Vec::new();
            let read = each_named(&request, kind, |word, id| {
                said.push((word, id.to_string()));
                Ok(())
            });
            read.map(|()| said)
        };
        let lines = [
            line(&format!("want {one} side-band-64k\n")),
            line(&format!("shallow {}", one.to_uppercase())),
            "0000".to_owned(),
            line(&format!("have {one}\n")),
            line("done\n"),
        ];
        let named = [Word::Want, Word::Shallow, Word::Have].map(|word| (word, one.clone()));
        assert_eq!(said(&lines.concat(), Sha1).unwrap(), named);
        assert!(said(&lines.concat(), Sha256).is_err());
        assert_eq!(
            said(&line(&format!("want {two}")), Sha256).unwrap().len(),
            1
        );
        // git takes the first forty.
        for word in ["want", "have", "shallow"] {
            for id in [
                format!("{one}ff"),
                one[1..].to_owned(),
                String::new(),
                two.clone(),
            ] {
                let refused = said(&line(&format!("{word} {id}\n")), Sha1);
                assert!(matches!(refused, Err(Unnamed::NoId)), "{word} {id}");
            }
        }
    }

    #[test]
    fn lines_are_taken_out_where_they_stand() {
        let id = |n: u32| format!("{n:040x}");
        let all = 0..20_000;
        let mut lines = vec![line(&format!("want {}\n", id(7))), "0000".into()];
        lines.extend(all.map(|n| line(&format!("have {}\n", id(n)))));
        lines.push(line(&"x".repeat(limits::PKT_LINE_BYTES_MAX - 4)));
        lines.push(line("done\n"));
        let request = request_file(lines.concat().as_bytes()).unwrap();
        let is_even =
            |word, id: &ObjectId| word != Word::Have || id.as_slice()[19].is_multiple_of(2);
        let left = retain_named(&request, gix::hash::Kind::Sha1, is_even).unwrap();
        let is_left = |line: &&String| {
            let of = line.strip_prefix("0032have ");
            of.is_none_or(|id| u32::from_str_radix(id.trim(), 16).unwrap() % 2 == 0)
        };
        let expected: String = lines.iter().filter(is_left).cloned().collect();
        assert!(text(&request) == expected, "something else was taken out");
        assert_eq!(left, expected.len() as u64);
        // What nobody looks at is not kept either.
        let count = limits::HAVES_READ_MAX + 10;
        let lines = (0..count).map(|n| line(&format!("have {}\n", id(n as u32))));
        let request = request_file(lines.collect::<String>().as_bytes()).unwrap();
        let mut read = 0;
        let kind = gix::hash::Kind::Sha1;
        let count = |_, _| {
            read += 1;
            Ok(())
        };
        each_named(&request, kind, count).unwrap();
        let left = retain_named(&request, kind, |_, _| true).unwrap();
        assert_eq!(read, limits::HAVES_READ_MAX);
        assert_eq!(left as usize, limits::HAVES_READ_MAX * 50);
    }
}
