//! Names of objects.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::manifest::id::is_lower_hex;
use crate::manifest::parts::is_part_name;

/// 128 random bits, as 32 lower-case hex characters: of a write, an upload, a server, a store.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct RandomId(pub u128);

/// The text is no name of that kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct BadName {
    /// What was read.
    pub text: String,
    /// What it should have been.
    pub expected: &'static str,
}

impl RandomId {
    /// One that nobody else has.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn drawn() -> io::Result<RandomId> {
        let mut bytes = [0; 16];
        let mut filled = 0;
        while filled < bytes.len() {
            let flags = rustix::rand::GetRandomFlags::empty();
            filled += rustix::rand::getrandom(&mut bytes[filled..], flags)?;
        }
        Ok(RandomId(u128::from_ne_bytes(bytes)))
    }
}

impl fmt::Display for RandomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<RandomId> for String {
    fn from(id: RandomId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for RandomId {
    type Error = BadName;
    fn try_from(text: String) -> Result<RandomId, BadName> {
        let is_id = text.len() == 32 && is_lower_hex(text.as_bytes());
        match u128::from_str_radix(&text, 16) {
            Ok(id) if is_id => Ok(RandomId(id)),
            _ => Err(BadName {
                text,
                expected: "32 lower-case hex characters",
            }),
        }
    }
}

/// The last element of a part's key, `NAME.NONCE`: the name says what is in it, the number which upload wrote it. No
/// key is written twice, so what it names is for ever the same or gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PartKey {
    name: String,
    nonce: RandomId,
}

const MANIFEST: &str = "manifest-";
/// How the name of an entry's metadata begins.
pub const META: &str = "meta-";
/// How the name of an outline begins.
pub const OUTLINE: &str = "outline-";
/// How the name of a list of checksums begins.
pub const SUMS: &str = "sums-";
const REFS: &str = "refs-";
/// So much of a SHA-256 names a content: some stores take no long keys.
const CONTENT_HASH_BYTES: usize = 20;
/// So much of one names the directory of a repository, which its head has in full.
const PLACE_HASH_BYTES: usize = 16;

/// The name of a manifest, or of a list of refs, with these bytes.
#[must_use]
pub fn manifest_name(bytes: &[u8]) -> String {
    content_name(MANIFEST, bytes)
}

/// The same of a list of refs.
#[must_use]
pub fn refs_name(bytes: &[u8]) -> String {
    content_name(REFS, bytes)
}

/// The same of the metadata of an entry.
#[must_use]
pub fn meta_name(bytes: &[u8]) -> String {
    content_name(META, bytes)
}

/// The same of an outline.
#[must_use]
pub fn outline_name(bytes: &[u8]) -> String {
    content_name(OUTLINE, bytes)
}

/// The same of a list of checksums.
#[must_use]
pub fn sums_name(bytes: &[u8]) -> String {
    content_name(SUMS, bytes)
}

fn content_name(kind: &str, bytes: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(bytes).into();
    format!("{kind}{}", hex(&digest[..CONTENT_HASH_BYTES]))
}

/// Bytes as lower-case hex characters.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the store may have a part of this name: what snapshots are made of, a manifest, or a list of refs.
#[must_use]
pub fn is_stored_name(name: &str) -> bool {
    let is_content_name = |kind| {
        name.strip_prefix(kind).is_some_and(|digest: &str| {
            digest.len() == 2 * CONTENT_HASH_BYTES && is_lower_hex(digest.as_bytes())
        })
    };
    is_part_name(name)
        || [MANIFEST, REFS, META, OUTLINE, SUMS]
            .into_iter()
            .any(is_content_name)
}

impl PartKey {
    /// A key for one upload of a part; `None` if nothing is stored by this name.
    #[must_use]
    pub fn new(name: &str, nonce: RandomId) -> Option<PartKey> {
        is_stored_name(name).then(|| PartKey {
            name: name.to_owned(),
            nonce,
        })
    }

    /// The name of the part.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.nonce)
    }
}

impl From<PartKey> for String {
    fn from(key: PartKey) -> String {
        key.to_string()
    }
}

impl TryFrom<String> for PartKey {
    type Error = BadName;
    fn try_from(text: String) -> Result<PartKey, BadName> {
        text.parse()
    }
}

impl FromStr for PartKey {
    type Err = BadName;
    fn from_str(text: &str) -> Result<PartKey, BadName> {
        let key = text.rsplit_once('.').and_then(|(name, nonce)| {
            PartKey::new(name, RandomId::try_from(nonce.to_owned()).ok()?)
        });
        key.ok_or_else(|| BadName {
            text: text.to_owned(),
            expected: "the name of a part, a dot, and 32 lower-case hex characters",
        })
    }
}

/// Which repository something in the store is of, in full. Two with the same directory are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The host by which servers know it.
    pub host: String,
    /// Its path there.
    pub path: String,
    /// Where it comes from.
    pub url: String,
}

/// Where the objects of one repository are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Whose they are.
    pub identity: Identity,
    dir: String,
}

impl Place {
    /// Where those of a repository are.
    #[must_use]
    pub fn of(identity: Identity) -> Place {
        let mut digest = Sha256::new();
        let Identity { host, path, url } = &identity;
        for text in [host, path, url] {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let dir = format!("v1/repos/{}", hex(&digest[..PLACE_HASH_BYTES]));
        Place { identity, dir }
    }

    /// The directory of all of them.
    #[must_use]
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// Its head.
    #[must_use]
    pub fn head(&self) -> String {
        format!("{}/head.json", self.dir)
    }

    /// Who works on it.
    #[must_use]
    pub fn lease(&self) -> String {
        format!("{}/lease.json", self.dir)
    }

    /// The directory of its parts.
    #[must_use]
    pub fn parts(&self) -> String {
        format!("{}/parts", self.dir)
    }

    /// One of them.
    #[must_use]
    pub fn part(&self, key: &PartKey) -> String {
        format!("{}/parts/{key}", self.dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_parts_are_no_other_paths() {
        let (id, hex40) = (RandomId(7), "a".repeat(40));
        for name in [
            format!("pack-{hex40}.idx"),
            "0f".repeat(16),
            manifest_name(b"x"),
            refs_name(b""),
        ] {
            let key = PartKey::new(&name, id).expect("a name");
            assert_eq!(key.to_string().parse(), Ok(key.clone()));
            assert_eq!(key.name(), name);
        }
        for name in ["", "head.json", "manifest-", "refs-0f", "../x", "manifest"] {
            assert_eq!(PartKey::new(name, id), None, "{name:?}");
        }
        let no_key = |text: String| assert!(text.parse::<PartKey>().is_err(), "{text}");
        no_key(format!("pack-{hex40}.pack"));
        no_key(format!("pack-{hex40}.pack.{:032X}", 0xabc));
        no_key(format!("pack-{hex40}.pack.+{:031x}", 7));
        no_key(format!("a/pack-{hex40}.pack.{id}"));
    }

    #[test]
    fn repositories_have_places_of_their_own() {
        let of = |host: &str, path: &str| {
            let [host, path, url] = [host, path, "https://u"].map(str::to_owned);
            Place::of(Identity { host, path, url })
        };
        assert_ne!(of("ab", "c").head(), of("a", "bc").head());
        assert_eq!(of("ab", "c"), of("ab", "c"));
    }
}
