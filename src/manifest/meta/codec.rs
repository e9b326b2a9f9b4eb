//! The metadata file of a cache entry, its outline and its manifest, as pure codecs.
//!
//! Layout of the file, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | magic |
//! | 4 | format version |
//! | 8 | length of the payload |
//! | … | payload: [`Fields`], the outline or the manifest, in the order of its `wire_struct!` line |
//! | 32 | SHA-256 of everything before it |
//!
//! Magic, version and digest keep their places in every version, so a file of another version
//! is told from a damaged one. The digest is checked before anything else is believed. A list
//! or text is its count (8 bytes) and its items; a count is checked against the bytes that are
//! left before anything is allocated. There is one encoding of each value, and reading accepts
//! only that one: `encode(decode(b)) == b`.

use sha2::{Digest, Sha256};

use super::{Fields, Meta};
use crate::extent::{Extent, Layout};
use crate::limits::{EXTENT_HELD_BYTES, META_BYTES_MAX};
use crate::manifest::id::EntryId;
use crate::manifest::record::Linked;
use crate::manifest::want::Want;
use input::Input;

pub use input::{MetaError, VERSION};

mod input;

const MAGIC: [u8; 8] = *b"tarpon\x1a\n";
const DIGEST_BYTES: usize = 32;
const EXTENT_SPOOL: u8 = 0;
const EXTENT_RAW_RUN: u8 = 1;
const EXTENT_STORED: u8 = 2;

// An extent, and where it begins.
const _: () = assert!(size_of::<Extent>() + size_of::<u64>() <= EXTENT_HELD_BYTES);
const _: () = assert!(META_BYTES_MAX as usize > Header::BYTES_MIN + Fields::BYTES_MIN);

impl Meta {
    /// The bytes of the metadata file.
    pub fn encode(&self) -> Vec<u8> {
        seal(MAGIC, &self.0)
    }

    /// Reads a metadata file. Any bytes give an entry that holds every invariant, or an error.
    pub fn decode(bytes: &[u8]) -> Result<Meta, MetaError> {
        let fields: Fields = unseal(MAGIC, bytes)?;
        if let Err(source) = fields.check() {
            let offset = Header::BYTES_MIN + fields.offset_of(source.field());
            return Err(MetaError::Invalid { offset, source });
        }
        Ok(Meta(fields))
    }
}

/// A file of this kind with `payload`.
fn seal(magic: [u8; 8], payload: &impl Wire) -> Vec<u8> {
    let mut out = Vec::new();
    let mut header = Header {
        magic,
        version: VERSION,
        payload_bytes: 0,
    };
    header.put(&mut out);
    payload.put(&mut out);
    header.payload_bytes = (out.len() - Header::BYTES_MIN) as u64;
    let mut sealed = Vec::new();
    header.put(&mut sealed);
    out[..Header::BYTES_MIN].copy_from_slice(&sealed);
    let digest = Sha256::digest(&out);
    out.extend_from_slice(&digest);
    out
}

/// The payload of a file of this kind, and nothing behind it.
fn unseal<T: Wire>(magic: [u8; 8], bytes: &[u8]) -> Result<T, MetaError> {
    take_all(&mut open_sealed(magic, bytes)?)
}

/// What an input has, and nothing behind it.
fn take_all<T: Wire>(input: &mut Input<'_>) -> Result<T, MetaError> {
    let payload = T::take(input)?;
    match input.left {
        0 => Ok(payload),
        bytes => Err(MetaError::Trailing {
            offset: input.at,
            bytes,
        }),
    }
}

/// Checks all that stands around the payload, and gives the payload.
fn open_sealed(magic: [u8; 8], bytes: &[u8]) -> Result<Input<'_>, MetaError> {
    let bytes_min = Header::BYTES_MIN + DIGEST_BYTES;
    if bytes.len() < bytes_min {
        return Err(MetaError::End {
            offset: bytes.len(),
            wanted: bytes_min - bytes.len(),
        });
    }
    let (sealed, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    let mut input = Input {
        window: sealed.into(),
        taken: 0,
        at: 0,
        left: sealed.len(),
        more: None,
        room_bytes: usize::MAX,
        text_bytes_max: usize::MAX,
    };
    let header = Header::take(&mut input)?;
    if header.magic != magic {
        return Err(MetaError::Magic);
    }
    if Sha256::digest(sealed).as_slice() != digest {
        return Err(MetaError::Digest {
            offset: sealed.len(),
        });
    }
    header.check_version()?;
    let present = input.left;
    if header.payload_bytes != present as u64 {
        return Err(MetaError::PayloadLength {
            offset: header.offset_of("payload_bytes"),
            stated: header.payload_bytes,
            present,
        });
    }
    Ok(input)
}

/// A value with exactly one form in the file.
trait Wire: Sized {
    /// Fewest bytes of a value.
    const BYTES_MIN: usize;
    /// What a value in a list counts for against what may be held, besides its own lists and texts. Of what stands in a
    /// manifest it is the format's, and not this build's: another one reads and writes the same.
    const HELD_BYTES: usize = size_of::<Self>();
    fn put(&self, out: &mut Vec<u8>);
    /// Counts in the input what [`Wire::held_bytes`] says of what it gives.
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError>;
    /// What its lists and texts count for.
    fn held_bytes(&self) -> usize {
        0
    }
}

/// The fields of a struct in the order of the file: the one definition for both directions.
macro_rules! wire_struct {
    ($name:ident $(($held:expr))? { $($field:ident: $type:ty),* $(,)? }) => {
        impl Wire for $name {
            const BYTES_MIN: usize = 0 $(+ <$type as Wire>::BYTES_MIN)*;
            $(const HELD_BYTES: usize = $held;)?
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
                Ok($name { $($field: <$type as Wire>::take(input)?,)* })
            }
            fn held_bytes(&self) -> usize {
                0 $(+ self.$field.held_bytes())*
            }
        }
    };
    (@with_offsets $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        wire_struct!($name { $($field: $type),* });
        impl $name {
            /// Where the field stands from the struct's beginning, for errors.
            fn offset_of(&self, field: &str) -> usize {
                let mut before = Vec::new();
                $(
                    if field == stringify!($field) {
                        return before.len();
                    }
                    self.$field.put(&mut before);
                )*
                before.len()
            }
        }
    };
}

/// What stands before the payload.
struct Header {
    magic: [u8; 8],
    version: u32,
    payload_bytes: u64,
}

impl Header {
    fn check_version(&self) -> Result<(), MetaError> {
        match self.version == VERSION {
            true => Ok(()),
            false => Err(MetaError::Version {
                offset: self.offset_of("version"),
                version: self.version,
            }),
        }
    }
}

wire_struct!(@with_offsets Header { magic: [u8; 8], version: u32, payload_bytes: u64 });
wire_struct!(@with_offsets Fields {
    id: EntryId,
    repository: String,
    want: Want,
    commit: Option<String>,
    shown: [u8; 32],
    created_unix_ms: u64,
    linked: Vec<Linked>,
    spool: String,
    layout: Layout,
    spool_checksum: u64,
});
wire_struct!(Linked {
    path: String,
    bytes: u64,
    whole: Option<u64>,
});

macro_rules! wire_integer {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            const BYTES_MIN: usize = size_of::<$type>();
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
                Ok(<$type>::from_le_bytes(input.array()?))
            }
        }
    )*};
}
wire_integer!(u8, u32, u64);

impl<const N: usize> Wire for [u8; N] {
    const BYTES_MIN: usize = N;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        input.array()
    }
}

/// The list's count and its items; the other direction is that of `Vec`.
fn put_list<T: Wire>(list: &[T], out: &mut Vec<u8>) {
    (list.len() as u64).put(out);
    for item in list {
        item.put(out);
    }
}

/// What a list and all that its items hold count for.
fn list_held_bytes<T: Wire>(list: &[T]) -> usize {
    let own: usize = list.iter().map(Wire::held_bytes).sum();
    list.len() * T::HELD_BYTES + own
}

impl<T: Wire> Wire for Vec<T> {
    const BYTES_MIN: usize = u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        put_list(self, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let count = input.count(T::BYTES_MIN)?;
        let take = |_| {
            // What counts is no less than what is taken.
            const { assert!(size_of::<T>() <= T::HELD_BYTES) };
            input.holds(T::HELD_BYTES)?;
            T::take(input)
        };
        (0..count).map(take).collect()
    }
    fn held_bytes(&self) -> usize {
        list_held_bytes(self)
    }
}

/// The text's length and its bytes; the other direction is that of `String`.
fn put_text(text: &str, out: &mut Vec<u8>) {
    (text.len() as u64).put(out);
    out.extend_from_slice(text.as_bytes());
}

impl Wire for String {
    const BYTES_MIN: usize = u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        put_text(self, out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let len = input.text()?;
        let offset = input.at;
        let text = std::str::from_utf8(input.take(len)?).map_err(|error| MetaError::Value {
            offset: offset + error.valid_up_to(),
            expected: "UTF-8",
        })?;
        Ok(text.to_owned())
    }
    fn held_bytes(&self) -> usize {
        self.len()
    }
}

/// Absent is the empty text, which no present value is.
impl Wire for Option<String> {
    const BYTES_MIN: usize = String::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        put_text(self.as_deref().unwrap_or_default(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        Ok(Some(String::take(input)?).filter(|text| !text.is_empty()))
    }
    fn held_bytes(&self) -> usize {
        self.as_ref().map_or(0, Wire::held_bytes)
    }
}

/// A byte that is 1 or 0, and the number if it is there.
impl Wire for Option<u64> {
    const BYTES_MIN: usize = u8::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        u8::from(self.is_some()).put(out);
        if let Some(number) = self {
            number.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        match u8::take(input)? {
            0 => Ok(None),
            1 => Ok(Some(u64::take(input)?)),
            _ => Err(MetaError::Value {
                offset,
                expected: "0 or 1",
            }),
        }
    }
}

impl Wire for EntryId {
    const BYTES_MIN: usize = 32;
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_str().as_bytes());
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        let bytes: [u8; 32] = input.array()?;
        EntryId::from_hex(bytes).map_err(|_| MetaError::Value {
            offset,
            expected: "an entry id",
        })
    }
}

/// With where it begins, which a layout has besides.
impl Wire for Extent {
    const BYTES_MIN: usize = u8::BYTES_MIN + 2 * u64::BYTES_MIN;
    const HELD_BYTES: usize = EXTENT_HELD_BYTES;
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Extent::Spool { offset, len } => {
                EXTENT_SPOOL.put(out);
                offset.put(out);
                len.put(out);
            }
            Extent::RawRun {
                file,
                offset,
                len,
                first_checksum,
            } => {
                EXTENT_RAW_RUN.put(out);
                file.put(out);
                offset.put(out);
                len.put(out);
                first_checksum.put(out);
            }
            Extent::Stored { file, offset, len } => {
                EXTENT_STORED.put(out);
                file.put(out);
                offset.put(out);
                len.put(out);
            }
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        // Fields are read in the order they stand here.
        match u8::take(input)? {
            EXTENT_SPOOL => Ok(Extent::Spool {
                offset: u64::take(input)?,
                len: u64::take(input)?,
            }),
            EXTENT_RAW_RUN => Ok(Extent::RawRun {
                file: u32::take(input)?,
                offset: u64::take(input)?,
                len: u64::take(input)?,
                first_checksum: u32::take(input)?,
            }),
            EXTENT_STORED => Ok(Extent::Stored {
                file: u32::take(input)?,
                offset: u64::take(input)?,
                len: u64::take(input)?,
            }),
            _ => Err(MetaError::Value {
                offset,
                expected: "a kind of extent",
            }),
        }
    }
}

/// The lengths stand in the file although they follow from the extents: so they can be seen
/// without counting, and tie the two together.
impl Wire for Layout {
    const BYTES_MIN: usize = 4 * u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        self.wire_bytes().put(out);
        self.spool_bytes().put(out);
        put_list(self.extents(), out);
        put_list(self.checksums(), out);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        let stated = (u64::take(input)?, u64::take(input)?);
        let extents = Vec::take(input)?;
        let checksums = Vec::take(input)?;
        let layout = Layout::from_parts(extents, checksums)
            .map_err(|source| MetaError::Layout { offset, source })?;
        if stated != (layout.wire_bytes(), layout.spool_bytes()) {
            return Err(MetaError::Value {
                offset,
                expected: "the lengths that the extents have",
            });
        }
        Ok(layout)
    }
    fn held_bytes(&self) -> usize {
        list_held_bytes(self.extents()) + list_held_bytes(self.checksums())
    }
}

// Behind the macro that they use.
mod outline;
pub(super) mod parts;
mod want;

#[cfg(test)]
mod tests;
