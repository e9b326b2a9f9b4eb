//! Sums of git's files: SHA-1 as the processor has it, which is several times as fast as one that
//! looks for collisions. They tell that a file is as it was written or sent; objects are compared with
//! their ids elsewhere.

use gix::hash::Kind;
use sha1::Digest;

/// A sum in the making.
#[derive(Debug, Clone)]
pub(crate) enum Sum {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl Sum {
    /// Of nothing yet, as ids of the kind `hash` are made.
    pub(crate) fn new(hash: Kind) -> Sum {
        match hash {
            Kind::Sha256 => Sum::Sha256(sha2::Sha256::default()),
            _ => Sum::Sha1(sha1::Sha1::default()),
        }
    }

    /// Adds what follows.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha1(sum) => sum.update(bytes),
            Sum::Sha256(sum) => sum.update(bytes),
        }
    }

    /// The sum of all that.
    pub(crate) fn finish(self) -> Vec<u8> {
        match self {
            Sum::Sha1(sum) => sum.finalize().to_vec(),
            Sum::Sha256(sum) => sum.finalize().to_vec(),
        }
    }
}
