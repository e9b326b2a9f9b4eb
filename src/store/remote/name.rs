//! Whether the content of a part is what its name says, while it is read from its begin to its end.
//!
//! A manifest, metadata, outline, list of checksums or of refs is named by its SHA-256. A pack and its index are named
//! by the sum that the pack ends with, and each has one of its own at its end. The name of a file of frames is random.
//!
//! Formats: gitformat-pack(5), "pack-*.pack files", "Version 2 pack-*.idx files" and "pack-*.rev files".

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::limits::PACK_CHECK_BYTES;
use crate::manifest::id::is_lower_hex;
use crate::store::remote::key::hex;

/// See the module's text.
pub(crate) struct NameCheck {
    kind: Kind,
    /// Of all of it.
    bytes: u64,
    /// So many were there.
    at: u64,
    /// The last ones of them.
    tail: Vec<u8>,
}

enum Kind {
    Content { named: String, sum: Sha256 },
    Sha1 { pack: Pack, sum: Sha1 },
    Sha256 { pack: Pack, sum: Sha256 },
    Random,
}

/// A file of a pack.
struct Pack {
    /// What the pack ends with, in hex.
    named: String,
    /// Whether it is the pack itself.
    is_pack: bool,
}

impl NameCheck {
    /// That of a part of this name and length.
    pub(crate) fn of(name: &str, bytes: u64) -> NameCheck {
        NameCheck {
            kind: Kind::of(name),
            bytes,
            at: 0,
            tail: Vec::new(),
        }
    }

    /// Whether the name says anything.
    pub(crate) fn says_nothing(&self) -> bool {
        matches!(self.kind, Kind::Random)
    }

    /// What comes next of the content.
    pub(crate) fn take(&mut self, piece: &[u8]) {
        let covered = self.bytes.saturating_sub(self.kind.sum_bytes() as u64);
        let covered = covered.saturating_sub(self.at).min(piece.len() as u64);
        // Not more than a piece, which is in memory.
        let summed = &piece[..covered as usize];
        match &mut self.kind {
            Kind::Content { sum, .. } | Kind::Sha256 { sum, .. } => sum.update(summed),
            Kind::Sha1 { sum, .. } => sum.update(summed),
            Kind::Random => {}
        }
        let keep = 2 * self.kind.sum_bytes();
        self.tail
            .extend_from_slice(&piece[piece.len().saturating_sub(keep)..]);
        let surplus = self.tail.len().saturating_sub(keep);
        self.tail.drain(..surplus);
        self.at += piece.len() as u64;
    }

    /// What is wrong with all that was there.
    pub(crate) fn wrong(self) -> Option<&'static str> {
        if self.at != self.bytes {
            return Some("not all of it is there");
        }
        match self.kind {
            Kind::Content { named, sum } => {
                let found = hex(&sum.finalize());
                (!found.starts_with(&named)).then_some("its content has another name")
            }
            Kind::Sha1 { pack, sum } => pack.wrong(&self.tail, &sum.finalize()),
            Kind::Sha256 { pack, sum } => pack.wrong(&self.tail, &sum.finalize()),
            Kind::Random => None,
        }
    }
}

/// The name of a file and what is wrong with it, if it is not what that says: git trusts what lies in its place.
///
/// # Errors
/// It cannot be read.
pub(crate) fn wrong_file(path: &Path) -> io::Result<Option<(String, &'static str)>> {
    let mut file = File::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut check = NameCheck::of(&name, file.metadata()?.len());
    let mut piece = vec![0; PACK_CHECK_BYTES];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            break;
        }
        check.take(&piece[..read]);
    }
    Ok(check.wrong().map(|how| (name.into_owned(), how)))
}

impl Kind {
    fn of(name: &str) -> Kind {
        let is_hash = |text: &str| is_lower_hex(text.as_bytes());
        let pack = name.strip_prefix("pack-").and_then(|it| it.split_once('.'));
        if let Some((stem, extension)) = pack {
            let pack = Pack {
                named: stem.to_owned(),
                is_pack: extension == "pack",
            };
            return match stem.len() {
                40 if is_hash(stem) => Kind::Sha1 {
                    pack,
                    sum: Sha1::new(),
                },
                64 if is_hash(stem) => Kind::Sha256 {
                    pack,
                    sum: Sha256::new(),
                },
                _ => Kind::Random,
            };
        }
        match name.rsplit_once('-') {
            Some((_, named)) if !named.is_empty() && is_hash(named) => Kind::Content {
                named: named.to_owned(),
                sum: Sha256::new(),
            },
            _ => Kind::Random,
        }
    }

    /// How many bytes its own sum takes at its end.
    fn sum_bytes(&self) -> usize {
        match self {
            Kind::Sha1 { .. } => 20,
            Kind::Sha256 { .. } => 32,
            Kind::Content { .. } | Kind::Random => 0,
        }
    }
}

impl Pack {
    fn wrong(&self, tail: &[u8], found: &[u8]) -> Option<&'static str> {
        let own = tail.len().saturating_sub(found.len());
        if tail[own..] != *found {
            return Some("it does not end with the sum of its content");
        }
        let of_pack = match self.is_pack {
            true => &tail[own..],
            false => &tail[..own],
        };
        (hex(of_pack) != self.named).then_some("it is that of another pack")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::remote::key::{manifest_name, refs_name};

    fn wrong(name: &str, content: &[u8], piece: usize) -> Option<&'static str> {
        let mut check = NameCheck::of(name, content.len() as u64);
        content.chunks(piece).for_each(|piece| check.take(piece));
        check.wrong()
    }

    #[test]
    fn content_is_what_its_name_says() {
        let content = b"what refs there are";
        for piece in [1, 5, 100] {
            assert_eq!(wrong(&refs_name(content), content, piece), None);
            assert_eq!(wrong(&manifest_name(content), content, piece), None);
            assert!(wrong(&refs_name(b"others"), content, piece).is_some());
        }
        assert_eq!(wrong(&refs_name(b""), b"", 1), None);
        assert!(wrong(&refs_name(content), &content[1..], 9).is_some());
    }

    #[test]
    fn packs_end_with_their_sums() {
        let sealed = |content: &[u8]| {
            let sum: [u8; 20] = Sha1::digest(content).into();
            (hex(&sum), [content, &sum].concat())
        };
        let (id, pack) = sealed(b"PACK and some objects");
        let (_, index) = sealed(&[b"where they are", &pack[pack.len() - 20..]].concat());
        let name = |end: &str| format!("pack-{id}.{end}");
        let other = format!("pack-{}.idx", "a".repeat(40));
        for piece in [1, 7, 20, 39, 1000] {
            assert_eq!(wrong(&name("pack"), &pack, piece), None);
            assert_eq!(wrong(&name("idx"), &index, piece), None);
            assert_eq!(wrong(&name("rev"), &index, piece), None);
            assert!(wrong(&name("pack"), &index, piece).is_some());
            assert!(wrong(&name("idx"), &pack, piece).is_some());
            assert!(wrong(&other, &index, piece).is_some());
            for at in [0, pack.len() - 30, pack.len() - 1] {
                let mut rotten = pack.clone();
                rotten[at] ^= 1;
                assert!(wrong(&name("pack"), &rotten, piece).is_some());
                rotten.truncate(at);
                assert!(wrong(&name("pack"), &rotten, piece).is_some());
            }
        }
    }

    #[test]
    fn a_random_name_says_nothing() {
        for name in ["0f".repeat(16), "pack-of-somebody.pack".to_owned()] {
            assert!(NameCheck::of(&name, 1).says_nothing(), "{name}");
        }
        assert_eq!(wrong(&"0f".repeat(16), b"x", 1), None);
        let mut short = NameCheck::of(&"0f".repeat(16), 2);
        short.take(b"x");
        assert!(short.wrong().is_some());
    }
}
