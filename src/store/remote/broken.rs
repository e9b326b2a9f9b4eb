//! A part that was found to be lost or to be something else: whoever has it is to upload it again.

use std::collections::BTreeSet;

use super::key::{PartKey, Place};
use super::memory::Memory;
use super::objects::Objects;
use super::publish::{Base, Draw, RemoteError};
use super::swap::Swapped;
use crate::limits::REMOTE_TRIES_MAX;

/// Has the head say that these are broken. What is uploaded again has another key, so this holds whoever writes meanwhile.
/// Whether it says so by now; one that does not come up to what was seen is not told.
///
/// # Errors
/// See [`RemoteError`].
pub async fn mark_broken(
    objects: &impl Objects,
    (place, seen): (&Place, Option<&Memory>),
    broken: &BTreeSet<PartKey>,
    random: &mut impl Draw,
) -> Result<bool, RemoteError> {
    for _ in 0..REMOTE_TRIES_MAX {
        let Some(base) = Base::read(objects, place).await?.unless_below(seen) else {
            return Ok(false);
        };
        let Some(next) = base.head.with_broken(broken.iter().cloned(), random.draw()) else {
            return Ok(true);
        };
        if let Swapped::Done = base.swap(objects, place, &next).await? {
            return Ok(true);
        }
    }
    Ok(false)
}
