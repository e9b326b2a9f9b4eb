//! What a pack's file begins with.
//!
//! Format: git's `Documentation/gitformat-pack.txt`.

pub(crate) const HEADER_BYTES: usize = 12;

/// The head of a pack's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// 2 or 3, which differ in nothing that matters here; git makes 2.
    pub version: u32,
    pub objects: u32,
}

impl Header {
    /// Reads it; an error says what is wrong with it.
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Header, &'static str> {
        let number = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|n| bytes[at + n]);
            u32::from_be_bytes([a, b, c, d])
        };
        let (version, objects) = (number(4), number(8));
        match (bytes.starts_with(b"PACK"), version) {
            (false, _) => Err("it is no pack"),
            (true, 2 | 3) => Ok(Header { version, objects }),
            (true, _) => Err("it is a pack of another version"),
        }
    }
}
