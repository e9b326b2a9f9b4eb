//! What nothing names any more leaves the store, in steps that need no clock to be safe: it is condemned by a swap;
//! later another swap gives it up, and from there on no head names it again; only then is it removed.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;

use super::head::Condemned;
use super::key::{PartKey, Place};
use super::listing::Listing;
use super::memory::Memory;
use super::objects::{ObjectError, Objects};
use super::publish::{Base, Draw, RemoteError};
use super::swap::Swapped;
use crate::limits::REMOVALS_AT_ONCE;

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
    /// Somebody else has written meanwhile, or what is there does not come up to what was seen: the next sweep does it.
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
    (place, seen): (&Place, Option<&Memory>),
    is_due: impl Fn(&Condemned) -> bool,
    (random, now_unix_ms): (&mut impl Draw, u64),
) -> Result<Swept, RemoteError> {
    let Some(base) = Base::read(objects, place).await?.unless_below(seen) else {
        return Ok(Swept::Lost);
    };
    if !base.is_there() {
        return Ok(Swept::Clean);
    }
    let listing = Listing::read(objects, place).await?;
    // Whoever gave it up may not have come to it; after the next swap nobody knows of it.
    let removed: BTreeSet<&PartKey> = base.head.removed.iter().collect();
    let left = listing.keys().filter(|key| removed.contains(key));
    remove(objects, place, &Vec::from_iter(left.cloned())).await?;
    let stamp = (random.draw(), now_unix_ms);
    let Some(next) = base.head.collecting(&listing, is_due, stamp) else {
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

/// A few at once: each is a request of its own.
async fn remove(
    objects: &impl Objects,
    place: &Place,
    keys: &[PartKey],
) -> Result<(), ObjectError> {
    for some in keys.chunks(REMOVALS_AT_ONCE) {
        let removals = some.iter();
        let removals = removals.map(async |key| objects.delete(&place.part(key)).await);
        let mut running: Vec<_> = removals.map(|one| Some(Box::pin(one))).collect();
        let mut removed = Ok(());
        poll_fn(|context| {
            for one in &mut running {
                if let Some(Poll::Ready(ended)) = one.as_mut().map(|one| one.as_mut().poll(context))
                {
                    *one = None;
                    removed = std::mem::replace(&mut removed, Ok(())).and(ended);
                }
            }
            match running.iter().all(Option::is_none) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        removed?;
    }
    Ok(())
}
