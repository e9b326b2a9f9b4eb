//! `packed-refs`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gix::ObjectId;
use gix::bstr::ByteSlice;
use rustix::fs::OFlags;

use super::error::RefsError;
use super::file::read_file;
use super::list::Ref;
use super::name::check_name;
use super::recent::Stamp;
use crate::limits;

/// The contents of `packed-refs`, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub refs: Vec<Ref>,
    pub fully_peeled: bool,
}

/// Reads those of `packed-refs` whose names `wanted` likes, and what the file looked like; a missing file
/// is an empty one. Of lines with other names nothing but the form is looked at.
pub(crate) fn read_packed_where(
    mirror: &Path,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<(Packed, Option<Stamp>), RefsError> {
    let path = mirror.join("packed-refs");
    match read_file(&path, limits::PACKED_REFS_BYTES_MAX)? {
        Some((bytes, found)) => {
            let packed = parse_packed(&path, &bytes, wanted)?;
            Ok((packed, Some(Stamp::of(&found))))
        }
        None => {
            let packed = Packed {
                refs: Vec::new(),
                fully_peeled: true,
            };
            Ok((packed, None))
        }
    }
}

/// Hands each ref of `packed-refs` to `each` while the file is read, in its order; that may have
/// `bytes_max` bytes, none of which stays. It is no link.
pub(crate) fn each_packed<E: From<RefsError>>(
    mirror: &Path,
    bytes_max: u64,
    mut each: impl FnMut(&[u8], ObjectId) -> Result<(), E>,
) -> Result<(), E> {
    let path = mirror.join("packed-refs");
    let fail = |source| RefsError::Io {
        path: path.clone(),
        source,
    };
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut options = File::options();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error).into()),
    };
    let found = file.metadata().map_err(fail)?;
    if !found.is_file() {
        // A pipe would end at once, as if it had no refs.
        return Err(fail(io::Error::other("it is no file")).into());
    }
    if found.len() > bytes_max {
        let limit = bytes_max;
        return Err(RefsError::TooLarge { path, limit }.into());
    }
    let mut file = BufReader::with_capacity(PACKED_READ_BYTES, file.take(bytes_max));
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = (&mut file)
            .take(limits::PACKED_LINE_BYTES_MAX)
            .read_until(b'\n', &mut line);
        if read.map_err(fail)? == 0 {
            break;
        }
        if line.pop() != Some(b'\n') {
            let what = "the line is too long, or cut off";
            return Err(malformed(&path, number, what).into());
        }
        if let PackedLine::Ref(id, name) = packed_line(&path, number, &line, &|_| true)? {
            each(name, id)?;
        }
    }
    Ok(())
}

const PACKED_READ_BYTES: usize = 64 * 1024;

/// What a line of `packed-refs` says.
enum PackedLine<'l> {
    /// Whether it is known of every tag what that leads to.
    Traits(bool),
    /// What the tag above leads to.
    Peeled(ObjectId),
    Comment,
    /// A ref that is not wanted.
    Other,
    Ref(ObjectId, &'l [u8]),
}

fn malformed(path: &Path, line: usize, what: &'static str) -> RefsError {
    RefsError::Malformed {
        path: path.to_owned(),
        line,
        what,
    }
}

fn packed_line<'l>(
    path: &Path,
    number: usize,
    line: &'l [u8],
    wanted: &impl Fn(&[u8]) -> bool,
) -> Result<PackedLine<'l>, RefsError> {
    if let Some(traits) = line.strip_prefix(b"# pack-refs with:") {
        let is_peeled = traits.fields().any(|word| word == b"fully-peeled");
        return Ok(PackedLine::Traits(is_peeled));
    }
    if let Some(hex) = line.strip_prefix(b"^") {
        let id = ObjectId::from_hex(hex);
        let id = id.map_err(|_| malformed(path, number, "not an object id after ^"));
        return id.map(PackedLine::Peeled);
    }
    if line.starts_with(b"#") {
        return Ok(PackedLine::Comment);
    }
    let (hex, name) = line
        .split_once_str(" ")
        .ok_or_else(|| malformed(path, number, "no space"))?;
    if !wanted(name) {
        return Ok(PackedLine::Other);
    }
    let target =
        ObjectId::from_hex(hex).map_err(|_| malformed(path, number, "not an object id"))?;
    check_name(path, number, name)?;
    Ok(PackedLine::Ref(target, name))
}

pub(super) fn parse_packed(
    path: &Path,
    bytes: &[u8],
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Packed, RefsError> {
    let malformed = |line, what| malformed(path, line, what);
    let mut packed = Packed::default();
    if !bytes.is_empty() && !bytes.ends_with(b"\n") {
        return Err(malformed(
            ByteSlice::lines(bytes).count(),
            "the file is cut off",
        ));
    }
    let mut sorted = true;
    // Whether the last ref was one that is not wanted.
    let mut is_other = false;
    for (at, line) in ByteSlice::lines(bytes).enumerate() {
        let number = at + 1;
        match packed_line(path, number, line, &wanted)? {
            PackedLine::Traits(fully_peeled) => packed.fully_peeled = fully_peeled,
            PackedLine::Comment => {}
            PackedLine::Other => is_other = true,
            PackedLine::Peeled(_) if is_other => {}
            PackedLine::Peeled(id) => {
                let tag = packed.refs.last_mut().filter(|tag| tag.peeled.is_none());
                tag.ok_or_else(|| malformed(number, "a ^ line follows no ref"))?
                    .peeled = Some(id);
            }
            PackedLine::Ref(target, name) => {
                is_other = false;
                sorted &= packed
                    .refs
                    .last()
                    .is_none_or(|last| last.name.as_slice() < name);
                packed.refs.push(Ref {
                    name: name.into(),
                    target,
                    peeled: None,
                });
            }
        }
    }
    if !sorted {
        packed.refs.sort_by(|a, b| a.name.cmp(&b.name));
        if packed
            .refs
            .windows(2)
            .any(|pair| pair[0].name == pair[1].name)
        {
            return Err(malformed(1, "a ref is there twice"));
        }
    }
    Ok(packed)
}
