//! A want in the metadata file: its kind, its shape, and what the kind has: a name, a commit.

use gix::ObjectId;
use gix::bstr::BString;

use super::{Input, MetaError, Wire};
use crate::manifest::want::{Revision, Shape, Want};

const HEAD: u8 = 0;
const REF: u8 = 1;
const COMMIT: u8 = 2;
const BRANCH_AT: u8 = 3;
const FULL: u8 = 0;
const TIP: u8 = 1;

impl Wire for Want {
    const BYTES_MIN: usize = u8::BYTES_MIN + u8::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        let shape = match self.shape() {
            Shape::Full => FULL,
            Shape::Tip => TIP,
        };
        match self.revision() {
            Revision::Head => out.extend([HEAD, shape]),
            Revision::Ref(name) => {
                out.extend([REF, shape]);
                name.put(out);
            }
            Revision::Commit(id) => {
                out.extend([COMMIT, shape]);
                id.put(out);
            }
            Revision::BranchAt(name, id) => {
                out.extend([BRANCH_AT, shape]);
                name.put(out);
                id.put(out);
            }
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        let no = |expected| MetaError::Value { offset, expected };
        let (kind, shape) = (u8::take(input)?, u8::take(input)?);
        let shape = match shape {
            FULL => Shape::Full,
            TIP => Shape::Tip,
            _ => return Err(no("a shape")),
        };
        // Fields are read in the order they stand here.
        let revision = match kind {
            HEAD => Revision::Head,
            REF => Revision::Ref(BString::take(input)?),
            COMMIT => Revision::Commit(ObjectId::take(input)?),
            BRANCH_AT => Revision::BranchAt(BString::take(input)?, ObjectId::take(input)?),
            _ => return Err(no("a kind of want")),
        };
        Want::new(revision, shape).ok_or_else(|| no("the full name of a ref"))
    }
    fn held_bytes(&self) -> usize {
        match self.revision() {
            Revision::Head | Revision::Commit(_) => 0,
            Revision::Ref(name) | Revision::BranchAt(name, _) => name.held_bytes(),
        }
    }
}

impl Wire for BString {
    const BYTES_MIN: usize = Vec::<u8>::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        (self.len() as u64).put(out);
        out.extend_from_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let len = input.text()?;
        Ok(input.take(len)?.into())
    }
    fn held_bytes(&self) -> usize {
        self.len()
    }
}

/// The bytes of the id, which tell its kind by their number.
impl Wire for ObjectId {
    const BYTES_MIN: usize = u64::BYTES_MIN;
    fn put(&self, out: &mut Vec<u8>) {
        let bytes = self.as_bytes();
        (bytes.len() as u64).put(out);
        out.extend_from_slice(bytes);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, MetaError> {
        let offset = input.at;
        let len = input.count(1)?;
        ObjectId::try_from(input.take(len)?).map_err(|_| MetaError::Value {
            offset,
            expected: "an object's id",
        })
    }
}
