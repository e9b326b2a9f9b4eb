//! Small repositories of single commits, without what was before these: what there is where no mirror stands yet.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::{BString, ByteSlice};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::limits::COLD_REFS_MAX;
use crate::manifest::want::CommitId;
use crate::mirror::removals::Removals;
use crate::mirror::{Seen, TipOf};
use crate::refs::Head;

/// The directory of such a repository; gone with the last who uses it.
#[derive(Debug)]
pub(super) struct ColdDir {
    pub path: PathBuf,
    pub removals: Removals,
}

impl Drop for ColdDir {
    fn drop(&mut self) {
        self.removals.start(std::mem::take(&mut self.path));
    }
}

/// What a build takes its commit from.
#[derive(Debug, Clone)]
pub(super) struct ColdSource {
    pub dir: Arc<ColdDir>,
    /// The upstream, before it was fetched.
    pub seen: Seen,
}

impl ColdSource {
    /// The repository.
    pub(super) fn path(&self) -> &Path {
        &self.dir.path
    }

    /// What the upstream's HEAD leads to.
    pub(super) fn head(&self) -> Option<(TipOf, CommitId)> {
        match self.seen.refs.clone_head() {
            Head::Symbolic(name) => self.at(&name),
            Head::Detached(id) => Some((TipOf::Head, id)),
        }
    }

    /// What the ref of this full name leads to.
    pub(super) fn at(&self, name: &BString) -> Option<(TipOf, CommitId)> {
        let found = self.seen.refs.get(name.as_bstr())?;
        Some((TipOf::Ref(name.clone()), found.target))
    }

    /// The same where what leads to a commit was found to lead elsewhere, to a tag of something or to a commit.
    pub(super) fn corrected(
        &self,
        what: &TipOf,
        (target, peeled): (CommitId, Option<CommitId>),
    ) -> ColdSource {
        let mut source = self.clone();
        let refs = &mut source.seen.refs;
        match what {
            TipOf::Head => refs.head = Head::Detached(target),
            TipOf::Ref(name) => {
                let all = Arc::make_mut(&mut refs.refs).iter_mut();
                for moved in all.filter(|one| one.name == *name) {
                    (moved.target, moved.peeled) = (target, peeled);
                }
            }
            TipOf::Commit(_) | TipOf::Listed(_) => {}
        }
        source
    }
}

/// A repository that is not mirrored yet, of which single commits are there.
pub(super) struct Cold {
    /// Held by whoever asks its upstream: shallow fetches change the same list of where history ends.
    fetching: Arc<Mutex<()>>,
    pub source: RefCell<Option<ColdSource>>,
    pub looked: Cell<Option<Instant>>,
    /// What was fetched since the upstream's refs are these.
    pub fetched: RefCell<HashSet<(TipOf, CommitId)>>,
    /// What refs that are not followed led to, when they were fetched.
    pub others: RefCell<HashMap<BString, (Instant, CommitId)>>,
    /// Whether the clone behind it will begin in a while at the latest.
    pub is_planned: Cell<bool>,
    /// Whether the clone behind it runs or is to be tried again.
    pub has_clone: Cell<bool>,
}

impl Cold {
    fn new() -> Rc<Cold> {
        Rc::new(Cold {
            fetching: Arc::default(),
            source: RefCell::default(),
            looked: Cell::default(),
            fetched: RefCell::default(),
            others: RefCell::default(),
            is_planned: Cell::default(),
            has_clone: Cell::default(),
        })
    }

    /// Whether somebody counts on it who does not hold it.
    fn is_of_use(&self) -> bool {
        self.has_clone.get() || self.is_planned.get()
    }

    /// Notes that a commit is there. Where there are very many, all are forgotten: what is wanted again is
    /// fetched again.
    pub(super) fn note_fetched(&self, what: TipOf, id: CommitId) {
        let mut fetched = self.fetched.borrow_mut();
        if fetched.len() >= COLD_REFS_MAX {
            fetched.clear();
        }
        fetched.insert((what, id));
    }
}

type Known = Rc<RefCell<HashMap<Arc<str>, Rc<Cold>>>>;

/// Those that there are, by the names of their repositories. All who look one up find the same: it only leaves
/// with the last who holds it, or once there is a mirror; and who has waited for it looks again.
#[derive(Default)]
pub(super) struct Colds(Known);

impl Colds {
    /// What is known of a repository now. It may not be held while something is waited for.
    pub(super) fn known(&self, name: &Arc<str>) -> Option<Rc<Cold>> {
        self.0.borrow().get(name).cloned()
    }

    /// That of a repository, once nobody else asks its upstream.
    pub(super) async fn alone(&self, name: &Arc<str>) -> Alone {
        loop {
            let held = self.hold(name, self.known_or_new(name));
            if let Some(alone) = held.alone().await {
                return alone;
            }
        }
    }

    fn known_or_new(&self, name: &Arc<str>) -> Rc<Cold> {
        let mut known = self.0.borrow_mut();
        let cold = known.entry(name.clone()).or_insert_with(Cold::new);
        cold.clone()
    }

    /// The same, unless nothing is known of it.
    pub(super) async fn known_alone(&self, name: &Arc<str>) -> Option<Alone> {
        loop {
            let held = self.hold(name, self.known(name)?);
            if let Some(alone) = held.alone().await {
                return Some(alone);
            }
        }
    }

    /// The same, unless somebody has it.
    pub(super) fn try_alone(&self, name: &Arc<str>) -> Option<Alone> {
        let held = self.hold(name, self.known(name)?);
        let guard = held.cold.fetching.clone().try_lock_owned().ok()?;
        Some(Alone {
            held,
            _guard: guard,
        })
    }

    fn hold(&self, name: &Arc<str>, cold: Rc<Cold>) -> Held {
        Held {
            known: self.0.clone(),
            name: name.clone(),
            cold,
        }
    }

    /// There is a mirror, or nobody wants one.
    pub(super) fn forget(&self, name: &Arc<str>) {
        let _gone = self.0.borrow_mut().remove(name);
    }

    /// Forgets what nobody is about to fetch: what is wanted again is fetched again.
    pub(super) fn forget_fetched(&self) {
        for cold in self.0.borrow().values() {
            if let Ok(_alone) = cold.fetching.try_lock() {
                cold.source.take();
                cold.looked.take();
                cold.fetched.borrow_mut().clear();
            }
        }
    }

    pub(super) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

/// One that somebody needs, or waits for.
struct Held {
    known: Known,
    name: Arc<str>,
    cold: Rc<Cold>,
}

impl Held {
    fn is_known(&self) -> bool {
        let known = self.known.borrow();
        known
            .get(&self.name)
            .is_some_and(|known| Rc::ptr_eq(known, &self.cold))
    }

    /// Waits for the others; nothing if it has left meanwhile.
    async fn alone(self) -> Option<Alone> {
        let guard = self.cold.fetching.clone().lock_owned().await;
        self.is_known().then_some(Alone {
            held: self,
            _guard: guard,
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // The map's and this one.
        let is_last = Rc::strong_count(&self.cold) <= 2;
        if is_last && !self.cold.is_of_use() && self.is_known() {
            let _gone = self.known.borrow_mut().remove(&self.name);
        }
    }
}

/// The right to ask the upstream of a repository without a mirror, and what is known of it.
pub(super) struct Alone {
    held: Held,
    _guard: OwnedMutexGuard<()>,
}

impl Deref for Alone {
    type Target = Cold;

    fn deref(&self) -> &Cold {
        &self.held.cold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_who_wait_for_one_have_the_one_that_is_known() {
        let (all, name) = (Colds::default(), Arc::from("h/a"));
        let first = all.alone(&name).await;
        let next = async {
            let second = all.alone(&name).await;
            let known = all.known(&name);
            assert!(known.is_some_and(|known| Rc::ptr_eq(&known, &second.held.cold)));
            second.is_planned.set(true);
        };
        let leave = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        tokio::join!(next, leave);
        assert!(all.known(&name).is_some(), "its clone is to follow");
        let planned = all.alone(&name).await;
        let after = async {
            let new = all.alone(&name).await;
            assert!(!new.is_planned.get(), "that one has left");
        };
        let forget = async {
            tokio::task::yield_now().await;
            all.forget(&name);
            drop(planned);
        };
        tokio::join!(after, forget);
        assert!(all.known(&name).is_none(), "nobody needs it");
    }
}
