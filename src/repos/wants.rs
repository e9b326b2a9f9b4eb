//! What there is for each want of a repository: nothing, builds, an archive, or builds that failed. Each is
//! on its own.

use std::collections::HashMap;
use std::sync::Arc;

use gix::bstr::{BString, ByteSlice};
use sha2::{Digest, Sha256};

use super::builds::{Builds, NotBuilt};
use super::served::{RefsEpoch, Snapshot};
use crate::archive::place::Archive;
use crate::io::clock::unix_ms;
use crate::limits::{WANT_IN_USE_MS, WANT_NAMES_MAX, WANTS_KNOWN_MAX};
use crate::manifest::want::{NameKind, Named, Shape, Want};

/// What there is for one want.
#[derive(Debug, Default)]
pub(super) struct Served {
    pub(super) snapshot: Snapshot,
    pub(super) builds: Builds,
    /// The epoch when the last build was begun: it shows these refs or younger ones.
    pub(super) building: RefsEpoch,
    /// How the builds since the last one that succeeded failed.
    pub(super) failing: Option<NotBuilt>,
}

impl Served {
    /// Whether builds fail again and again, and none is to begin now.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.as_ref().is_some_and(|f| !f.left().is_zero())
    }

    /// Whether there is nothing to remember.
    fn is_bare(&self) -> bool {
        let has_failed = self.failing.as_ref().is_some_and(|f| !f.is_over());
        self.snapshot.archive().is_none() && self.builds.is_none() && !has_failed
    }

    /// Whether there is nothing but, perhaps, that builds have failed.
    fn only_failed(&self) -> bool {
        self.snapshot.archive().is_none() && self.builds.is_none()
    }

    /// Whether somebody has wanted it lately.
    pub(super) fn is_in_use(&self) -> bool {
        self.is_used_within(WANT_IN_USE_MS)
    }

    /// Whether somebody has wanted it within so long.
    pub(super) fn is_used_within(&self, ms: u64) -> bool {
        let used =
            |archive: &Arc<Archive>| unix_ms().saturating_sub(archive.last_used_unix_ms()) < ms;
        self.snapshot.archive().is_some_and(used)
    }
}

fn stands_for(name: &[u8]) -> [u8; 32] {
    Sha256::digest(name).into()
}

/// See the module's text.
///
/// Invariant: of others than the default one there is only what has an archive, is being built or fails. The
/// second are bounded by who gets a permit, the last by these and their time, the first by the sweep.
#[derive(Debug, Default)]
pub(super) struct Wants {
    pub(super) default: Served,
    others: HashMap<Arc<Want>, Served>,
    /// What short names led to when they were asked for since the refs last moved. They are clients' own, and may be
    /// long: what stands for one has a length.
    names: HashMap<[u8; 32], Option<NameKind>>,
    /// Of the refs as they were seen last.
    refs: [u8; 32],
}

impl Wants {
    pub(super) fn get(&self, want: &Want) -> Option<&Served> {
        match want.is_default() {
            true => Some(&self.default),
            false => self.others.get(want),
        }
    }

    /// The same to be changed; it is there from now on.
    pub(super) fn entry(&mut self, want: &Arc<Want>) -> &mut Served {
        match want.is_default() {
            true => &mut self.default,
            false => self.others.entry(want.clone()).or_default(),
        }
    }

    /// Changes what there is for a want; forgets it if nothing is left.
    pub(super) fn change<T>(&mut self, want: &Want, change: impl FnOnce(&mut Served) -> T) -> T
    where
        T: Default,
    {
        if want.is_default() {
            return change(&mut self.default);
        }
        let Some(served) = self.others.get_mut(want) else {
            return T::default();
        };
        let changed = change(served);
        if served.is_bare() {
            self.others.remove(want);
        }
        changed
    }

    /// Whether nothing is served or built.
    pub(super) fn are_idle(&self) -> bool {
        self.all().all(Served::only_failed)
    }

    /// All, the default one first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Served> {
        std::iter::once(&self.default).chain(self.others.values())
    }

    /// The same to be changed.
    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Served> {
        std::iter::once(&mut self.default).chain(self.others.values_mut())
    }

    /// Those that have the mirror's packs have not those of now.
    pub(super) fn set_packs_outdated(&mut self) {
        self.default.snapshot.set_outdated();
        for (want, served) in &mut self.others {
            if want.shape() == Shape::Full {
                served.snapshot.set_outdated();
            }
        }
    }

    /// Others than the default one.
    pub(super) fn others(&self) -> impl Iterator<Item = (&Arc<Want>, &Served)> {
        self.others.iter()
    }

    /// How many others are being built. Of failures, only so many are remembered, and not for long.
    pub(super) fn building(&mut self) -> usize {
        self.others.retain(|_, served| !served.is_bare());
        if self.others.len() >= WANTS_KNOWN_MAX {
            self.others.retain(|_, served| !served.only_failed());
        }
        let building = self.others.values().filter(|one| !one.builds.is_none());
        building.count()
    }

    /// What is asked for, as far as that is known without a look at the refs.
    pub(super) fn meant(&self, named: &Named) -> Option<Want> {
        let short = named.name().filter(|_| named.full_name().is_none());
        let full = match short {
            Some(short) => {
                let kind = self.names.get(&stands_for(short))?;
                kind.map(|kind| kind.full(short))
            }
            None => named.full_name().map(BString::from),
        };
        named.want(full)
    }

    /// Notes what a short name leads to until the refs move.
    pub(super) fn note_name(&mut self, named: &Named, full: Option<BString>) {
        if named.full_name().is_some() {
            return;
        }
        if self.names.len() >= WANT_NAMES_MAX {
            self.names.clear();
        }
        if let Some(short) = named.name() {
            let kind = full.and_then(|full| NameKind::of(full.as_bstr()));
            self.names.insert(stands_for(short), kind);
        }
    }

    /// The refs are others: names may lead elsewhere.
    pub(super) fn forget_names(&mut self) {
        self.names.clear();
    }

    /// The same if they are.
    pub(super) fn note_refs(&mut self, refs: [u8; 32]) {
        if self.refs != refs {
            self.refs = refs;
            self.names.clear();
        }
    }

    /// Takes out the archives of others that are chosen.
    pub(super) fn take_others(
        &mut self,
        is_chosen: impl Fn(&Want, &Served) -> bool,
    ) -> Vec<Arc<Archive>> {
        let mut taken = Vec::new();
        for (want, served) in &mut self.others {
            if served.snapshot.archive().is_some() && is_chosen(want, served) {
                taken.extend(served.snapshot.take());
            }
        }
        self.others.retain(|_, served| !served.is_bare());
        taken
    }
}
