//! Whether files of packs are those that their names say: git calls a pack, with all that belongs to it, after the sum at
//! its end. The checksums of a manifest show what a disk has broken and are forged easily; that sum is not. So whoever
//! gives one pack under the name of another, where each has the same checksums, has it kept by nobody.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use gix::hash::Kind;

use super::super::stop::Stop;
use super::check::Verdict;
use crate::limits::STREAM_READ_BYTES;
use crate::tree::sum::Sum;

const PREFIX: &str = "pack-";
const PACK: &str = "pack";

/// Whether a file that has the length of the part of this name ends as one of that pack does. Files of frames are called
/// after nothing that they contain.
pub(super) fn ends_as_named(file: &File, name: &str, bytes: u64) -> io::Result<bool> {
    let Some((stem, ending)) = split(name) else {
        return Ok(true);
    };
    let Some(kind) = kind_of(stem) else {
        return Ok(false);
    };
    // What belongs to a pack has a sum of its own behind that.
    let sums = if ending == PACK { 1 } else { 2 };
    let Some(at) = bytes.checked_sub(sums * kind.len_in_bytes() as u64) else {
        return Ok(false);
    };
    let mut sum = vec![0; kind.len_in_bytes()];
    file.read_exact_at(&mut sum, at)?;
    Ok(is_hex_of(stem, &sum))
}

/// Sums a file that ends as its name says, if it is a pack: whether it is that one.
pub(super) fn check(file: &File, name: &str, bytes: u64, stop: &Stop) -> Verdict {
    let kind = split(name).filter(|(_, ending)| *ending == PACK);
    let kind = kind.and_then(|(stem, _)| Some((stem, kind_of(stem)?)));
    let Some((stem, kind)) = kind else {
        return Verdict::Right;
    };
    let end = bytes.saturating_sub(kind.len_in_bytes() as u64);
    let (mut sum, mut at) = (Sum::new(kind), 0);
    let mut buffer = vec![0; STREAM_READ_BYTES];
    while at < end {
        if stop.is_set() {
            return Verdict::Stopped;
        }
        let left = usize::try_from(end - at).unwrap_or(usize::MAX);
        let next = &mut buffer[..left.min(STREAM_READ_BYTES)];
        if file.read_exact_at(next, at).is_err() {
            return Verdict::Wrong;
        }
        sum.update(next);
        at += next.len() as u64;
    }
    match is_hex_of(stem, &sum.finish()) {
        true => Verdict::Right,
        false => Verdict::Wrong,
    }
}

/// What a pack is called, and which of its files it is.
fn split(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PREFIX)?.split_once('.')
}

fn kind_of(stem: &str) -> Option<Kind> {
    [Kind::Sha1, Kind::Sha256]
        .into_iter()
        .find(|kind| kind.len_in_hex() == stem.len())
}

fn is_hex_of(stem: &str, sum: &[u8]) -> bool {
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    hex == stem
}
