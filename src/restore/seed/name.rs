//! What a part is called in a seed: its own name, and what it contains as the manifest has it. So no two parts that
//! differ have one name there, whoever has brought them, and a name says what is to be found below it.

use std::hash::{BuildHasher, RandomState};

use sha2::{Digest, Sha256};
use xxhash_rust::xxh64::Xxh64;

use crate::extent::Extent;
use crate::manifest::parts::{Manifest, is_part_name};

/// What the names of files begin with that are not whole yet.
const NEW: &str = ".new-";
/// Digits of a random name and of a repository's.
const LONG_DIGITS: usize = 32;
/// Digits of what a part contains.
const SUM_DIGITS: usize = 16;

/// The name of a part.
pub(super) fn of_part(manifest: &Manifest, number: usize) -> String {
    let part = &manifest.parts[number];
    let mut sum = Xxh64::new(0);
    sum.update(&part.bytes.to_le_bytes());
    if let Some(whole) = part.whole {
        sum.update(&whole.to_le_bytes());
    }
    let layout = &manifest.layout;
    for extent in layout.extents() {
        if let Extent::RawRun {
            file,
            offset,
            len,
            first_checksum,
        } = *extent
            && file as usize == number
        {
            sum.update(&offset.to_le_bytes());
            let frames = crate::extent::raw_frames(len);
            let first = first_checksum as usize;
            for checksum in &layout.checksums()[first..first + frames as usize] {
                sum.update(&checksum.to_le_bytes());
            }
        }
    }
    format!("{}.{:016x}", part.name, sum.digest())
}

/// Whether a part can be called so.
pub(super) fn is_of_part(name: &str) -> bool {
    let split = name.rsplit_once('.');
    split.is_some_and(|(part, sum)| is_hex(sum, SUM_DIGITS) && is_part_name(part))
}

/// A name that nothing else has or will have, for what is not whole yet.
pub(super) fn new() -> String {
    let half = || RandomState::new().hash_one(NEW);
    format!("{NEW}{:016x}{:016x}", half(), half())
}

/// Whether it is such a name.
pub(super) fn is_new(name: &str) -> bool {
    name.strip_prefix(NEW)
        .is_some_and(|rest| is_hex(rest, LONG_DIGITS))
}

/// The directory of a repository, which is at this URL of its server. A server is believed as to what is in its own
/// repositories, and nobody else.
pub(super) fn of_repository(url: &str) -> String {
    let digest = Sha256::digest(url);
    let digits = digest.iter().take(LONG_DIGITS / 2);
    digits.map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the directory of a repository can be called so.
pub(super) fn is_of_repository(name: &str) -> bool {
    is_hex(name, LONG_DIGITS)
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == digits && text.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        let part = format!("pack-{}.pack.{:016x}", "a".repeat(40), 5);
        let (new, repository) = (new(), of_repository("http://host/git/a/b"));
        assert!(is_of_part(&part) && !is_new(&part) && !is_of_repository(&part));
        assert!(is_new(&new) && !is_of_part(&new) && !is_of_repository(&new));
        assert!(is_of_repository(&repository) && !is_of_part(&repository));
        assert_ne!(repository, of_repository("http://host/git/a/c"));
        assert_ne!(new, super::new());
        for name in ["", ".", "..", ".new-", "pack-a.pack", "x.0000000000000005"] {
            assert!(!is_of_part(name) && !is_new(name) && !is_of_repository(name));
        }
    }
}
