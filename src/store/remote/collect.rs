//! What nothing names any more leaves the store, in steps that need no clock to be safe: it is condemned by a swap;
//! later another swap gives it up, and from there on no head names it again; only then is it removed.

use std::collections::BTreeSet;

use super::head::Condemned;
use super::key::{PartKey, Place};
use super::objects::Objects;
use super::publish::{Base, Draw, RemoteError};
use super::swap::Swapped;

/// What a sweep has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// There was nothing to do.
    Clean,
    /// So many parts are condemned by now, and so many removed.
    Done {
        /// Those that stay for a while.
        condemned: usize,
        /// Those that are gone.
        removed: usize,
    },
    /// Somebody else has written meanwhile: the next sweep does it.
    Lost,
}

/// Sweeps the parts of one repository. Two at once do no harm.
///
/// The head is read before its parts are listed: so what was given up before that head is not seen any more, and is
/// not taken for something that nobody has named yet.
///
/// # Errors
/// See [`RemoteError`]; the next sweep goes on.
pub async fn sweep(
    objects: &impl Objects,
    place: &Place,
    is_due: impl Fn(&Condemned) -> bool,
    (random, now_unix_ms): (&mut impl Draw, u64),
) -> Result<Swept, RemoteError> {
    let base = Base::read(objects, place).await?;
    if !base.is_there() {
        return Ok(Swept::Clean);
    }
    // Whoever gave it up may not have come to it; after the next swap nobody knows of it.
    remove(objects, place, &base.head.removed).await?;
    let listed = objects.list(&place.parts()).await?;
    // What nobody of us has put there stays.
    let listed: BTreeSet<PartKey> = listed.iter().filter_map(|name| name.parse().ok()).collect();
    let stamp = (random.draw(), now_unix_ms);
    let Some(next) = base.head.collecting(&listed, is_due, stamp) else {
        return Ok(Swept::Clean);
    };
    match base.swap(objects, place, &next).await? {
        Swapped::Lost(_) => Ok(Swept::Lost),
        Swapped::Done => {
            let has_removed = next.removals > base.head.removals;
            let removed = if has_removed { &next.removed[..] } else { &[] };
            remove(objects, place, removed).await?;
            Ok(Swept::Done {
                condemned: next.condemned.len(),
                removed: removed.len(),
            })
        }
    }
}

async fn remove(
    objects: &impl Objects,
    place: &Place,
    keys: &[PartKey],
) -> Result<(), RemoteError> {
    for key in keys {
        objects.delete(&place.part(key)).await?;
    }
    Ok(())
}
