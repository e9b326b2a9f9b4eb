//! The id of a snapshot.

use std::fmt;
use std::str::FromStr;

/// The id of an entry: 16 bytes as 32 lower-case hex characters. It is the name of the entry's
/// directory and the text of its strong ETag.
///
/// Invariant: the bytes are ASCII `0-9a-f`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId([u8; 32]);

/// The text is not 32 lower-case hex characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry id is 32 lower-case hex characters")]
pub struct BadEntryId;

impl EntryId {
    /// The id of these bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> EntryId {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        let mut text = [0; 32];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        EntryId(text)
    }

    /// The id of this text; upper-case hex is refused, so that an id has one spelling.
    pub fn parse(text: &str) -> Result<EntryId, BadEntryId> {
        EntryId::from_hex(text.as_bytes().try_into().map_err(|_| BadEntryId)?)
    }

    /// The same of its 32 characters.
    pub(super) fn from_hex(bytes: [u8; 32]) -> Result<EntryId, BadEntryId> {
        if !is_lower_hex(&bytes) {
            return Err(BadEntryId);
        }
        Ok(EntryId(bytes))
    }

    /// The 32 characters.
    pub fn as_str(&self) -> &str {
        // ASCII by the invariant, so this cannot fail.
        std::str::from_utf8(&self.0).expect("an entry id is ASCII")
    }
}

impl FromStr for EntryId {
    type Err = BadEntryId;
    fn from_str(text: &str) -> Result<EntryId, BadEntryId> {
        EntryId::parse(text)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryId({self})")
    }
}

/// Whether a text is of lower-case hex characters alone.
pub(crate) fn is_lower_hex(text: &[u8]) -> bool {
    let hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.iter().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = EntryId::from_bytes([
            0, 1, 0x2f, 0xff, 0xa0, 0x0a, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        ]);
        assert_eq!(id.as_str(), "00012fffa00a060708090a0b0c0d0e0f");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "0", &"a".repeat(31), &"a".repeat(33), &"A".repeat(32)] {
            assert_eq!(EntryId::parse(text), Err(BadEntryId), "{text:?}");
        }
        assert_eq!(EntryId::parse(&"g".repeat(32)), Err(BadEntryId));
        assert_eq!(EntryId::parse(&"é".repeat(16)), Err(BadEntryId));
    }
}
