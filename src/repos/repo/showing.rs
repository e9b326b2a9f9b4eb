//! Whether what is served shows what there is.

use std::sync::Arc;

use super::{RefsEpoch, Repo};
use crate::archive::place::Archive;
use crate::manifest::want::{Shape, Want};
use crate::repos::wants::Served;

impl Repo {
    /// A snapshot of now would show this. If the current one shows something else, refs have moved:
    /// perhaps unseen, as when the server ended before the build that should have followed a
    /// fetch, or when somebody put another mirror there. A build that runs may have begun after
    /// they moved, and no other must follow it. Gives the archive of a ref that is no more.
    pub(crate) fn compare_shown(
        &self,
        want: &Want,
        shown_now: Option<&[u8; 32]>,
        epoch: RefsEpoch,
    ) -> Option<Arc<Archive>> {
        let mut state = self.lock();
        let expired = state.expired;
        state.wants.change(want, |served| {
            if let Some(now) = shown_now.filter(|_| want.shape() == Shape::Tip)
                && served.snapshot.renew(now, epoch, expired).is_some()
            {
                return None;
            }
            let shown = served.snapshot.archive().map(|archive| archive.shown);
            match shown_now {
                None => served.snapshot.take(),
                Some(now) => {
                    if shown.is_some_and(|shown| shown != *now) {
                        served.snapshot.set_outdated();
                    }
                    None
                }
            }
        })
    }

    /// The archive of a want, if it shows this, which is what there was in this epoch: then it is as new, and
    /// nothing has to be built.
    pub(crate) fn renew(
        &self,
        want: &Want,
        shown_now: &[u8; 32],
        epoch: RefsEpoch,
    ) -> Option<Arc<Archive>> {
        let mut state = self.lock();
        let expired = state.expired;
        let renew = |served: &mut Served| served.snapshot.renew(shown_now, epoch, expired);
        state.wants.change(want, renew)
    }
}
