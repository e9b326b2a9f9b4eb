//! Small repositories of single commits, without what was before these: what there is where no mirror stands yet.
//!
//! One lasts as long as somebody has need of it: a request that asks its upstream, or waits for what is built of its
//! commits (it has a [`Claim`]), or the clone that is to follow. What nobody is about to use can go at any time: what
//! is wanted again is fetched again.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::{BString, ByteSlice};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::leaving::ListedTips;
use crate::io::clock::unix_ms;
use crate::limits::{COLD_CLONES_MAX, COLD_FETCHES_MAX, COLD_LISTINGS_BYTES_MAX};
use crate::manifest::want::CommitId;
use crate::mirror::removals::Removals;
use crate::mirror::{Seen, TipOf};
use crate::refs::{Head, MirrorRefs, Ref};

/// The directory of such a repository; gone with the last who uses it.
#[derive(Debug)]
pub(super) struct ColdDir {
    pub path: PathBuf,
    pub removals: Removals,
}

impl ColdDir {
    /// The path: whoever takes it has it removed.
    fn take(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }
}

impl Drop for ColdDir {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if path != Path::new("") {
            self.removals.start(path);
        }
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

/// What a listing takes of the memory.
fn listing_bytes(refs: &MirrorRefs) -> u64 {
    let one = |one: &Ref| size_of::<Ref>() + one.name.capacity();
    refs.refs.iter().map(one).sum::<usize>() as u64
}

/// Held by a request that waits for what is built of a commit, and by that build.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    _count: Arc<()>,
}

/// How much was fetched into a repository of single commits.
#[derive(Debug, Clone, Copy, Default)]
struct Filled {
    fetches: usize,
    bytes: u64,
    /// Whether a fetch has begun and not ended: it runs, or was cut off.
    is_open: bool,
}

/// A repository that is not mirrored yet, of which single commits are there.
pub(super) struct Cold {
    /// Held by whoever asks its upstream: shallow fetches change the same list of where history ends.
    fetching: Arc<Mutex<()>>,
    source: RefCell<Option<ColdSource>>,
    filled: Cell<Filled>,
    listing_bytes: Cell<u64>,
    pub looked: Cell<Option<Instant>>,
    /// What was fetched since the upstream's refs are these.
    pub fetched: RefCell<HashSet<(TipOf, CommitId)>>,
    /// What refs that are not followed led to, when they were fetched.
    pub others: RefCell<HashMap<BString, (Instant, CommitId)>>,
    used_unix_ms: Cell<u64>,
    claims: Arc<()>,
    /// Whether somebody looks whether somebody waits for what is built of it.
    is_planned: Cell<bool>,
    /// Whether the clone behind it runs or is to be tried again.
    has_clone: Cell<bool>,
}

impl Cold {
    fn new() -> Rc<Cold> {
        Rc::new(Cold {
            fetching: Arc::default(),
            source: RefCell::default(),
            filled: Cell::default(),
            listing_bytes: Cell::default(),
            looked: Cell::default(),
            fetched: RefCell::default(),
            others: RefCell::default(),
            used_unix_ms: Cell::new(unix_ms()),
            claims: Arc::default(),
            is_planned: Cell::default(),
            has_clone: Cell::default(),
        })
    }

    /// Whether somebody counts on it who does not hold it.
    fn is_of_use(&self) -> bool {
        self.has_clone.get() || self.is_planned.get()
    }

    /// Whether somebody waits for what is built of it.
    pub(super) fn is_claimed(&self) -> bool {
        Arc::strong_count(&self.claims) > 1
    }

    /// For whoever waits for that.
    pub(super) fn claim(&self) -> Claim {
        Claim {
            _count: self.claims.clone(),
        }
    }

    /// What there is.
    pub(super) fn source(&self) -> Option<ColdSource> {
        self.used_unix_ms.set(unix_ms());
        self.source.borrow().clone()
    }

    /// There is this from here on. What was fetched into another directory is not there.
    pub(super) fn set_source(&self, source: ColdSource) {
        let before = self.source.take();
        if before.is_none_or(|before| !Arc::ptr_eq(&before.dir, &source.dir)) {
            self.filled.take();
            self.fetched.borrow_mut().clear();
            self.others.borrow_mut().clear();
        }
        self.listing_bytes.set(listing_bytes(&source.seen.refs));
        self.used_unix_ms.set(unix_ms());
        *self.source.borrow_mut() = Some(source);
    }

    /// Forgets what there is.
    fn forget(&self) -> Option<ColdSource> {
        self.looked.take();
        self.fetched.borrow_mut().clear();
        self.others.borrow_mut().clear();
        self.filled.take();
        self.listing_bytes.take();
        self.source.take()
    }

    /// Whether what comes next is to go to what there is; else elsewhere.
    pub(super) fn takes_more(&self, bytes_max: u64) -> bool {
        let Filled {
            fetches,
            bytes,
            is_open,
        } = self.filled.get();
        fetches < COLD_FETCHES_MAX && bytes < bytes_max && !is_open
    }

    /// Something is fetched.
    pub(super) fn begin_fetch(&self) {
        self.filled.set(Filled {
            is_open: true,
            ..self.filled.get()
        });
    }

    /// It is there, or the upstream has it not, and there are so many bytes now; how many more than before.
    pub(super) fn end_fetch(&self, bytes: u64) -> u64 {
        let before = self.filled.get();
        self.filled.set(Filled {
            fetches: before.fetches + 1,
            bytes,
            is_open: false,
        });
        bytes.saturating_sub(before.bytes)
    }

    /// Notes that a commit is there.
    pub(super) fn note_fetched(&self, what: TipOf, id: CommitId) {
        self.fetched.borrow_mut().insert((what, id));
    }

    /// Whether nobody fetches into it, builds from it, or is about to.
    fn is_idle(&self) -> bool {
        let source = self.source.borrow();
        let dir = source.as_ref().map(|source| &source.dir);
        let is_built_from = dir.is_some_and(|dir| Arc::strong_count(dir) > 1);
        !is_built_from && !self.is_claimed() && self.fetching.try_lock().is_ok()
    }
}

type Known = Rc<RefCell<HashMap<Arc<str>, Rc<Cold>>>>;

/// Those that there are, by the names of their repositories. All who look one up find the same: it only leaves
/// with the last who holds it, or once there is a mirror; and who has waited for it looks again.
#[derive(Default)]
pub(super) struct Colds(Known);

impl Colds {
    /// What is known of a repository now. It may not be held while something is waited for.
    fn known(&self, name: &Arc<str>) -> Option<Rc<Cold>> {
        self.0.borrow().get(name).cloned()
    }

    /// Whether there is anything of a repository: it may have been dropped.
    pub(super) fn is_known(&self, name: &Arc<str>) -> bool {
        self.0.borrow().contains_key(name)
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

    /// It stays from here on until [`end_plan`](Self::end_plan), which is the caller's duty; nothing where it is
    /// somebody's.
    pub(super) fn plan(&self, name: &Arc<str>) -> Option<Weak<Cold>> {
        let cold = self.known(name)?;
        (!cold.is_planned.replace(true)).then(|| Rc::downgrade(&cold))
    }

    /// The plan is over: what nobody else has need of goes.
    pub(super) fn end_plan(&self, name: &Arc<str>, planned: &Weak<Cold>) {
        if let Some(cold) = planned.upgrade() {
            cold.is_planned.set(false);
            drop(self.hold(name, cold));
        }
    }

    /// The clone begins, unless it has, or very many have.
    pub(super) fn begin_clone(&self, name: &Arc<str>) -> bool {
        let known = self.0.borrow();
        let clones = known.values().filter(|cold| cold.has_clone.get()).count();
        let cold = known.get(name).filter(|_| clones < COLD_CLONES_MAX);
        cold.is_some_and(|cold| !cold.has_clone.replace(true))
    }

    /// For whoever builds from it.
    pub(super) fn claim(&self, name: &Arc<str>) -> Option<Claim> {
        self.known(name).map(|cold| cold.claim())
    }

    /// What a sweep looks at.
    pub(super) fn listed(&self, name: &Arc<str>) -> Option<ListedTips> {
        let cold = self.known(name)?;
        let is_idle = cold.is_idle();
        let source = cold.source.borrow();
        Some(ListedTips {
            path: source.as_ref()?.path().to_owned(),
            is_idle,
            used_unix_ms: cold.used_unix_ms.get(),
        })
    }

    /// Forgets what there is, if nobody is about to use it: the directory, which is the caller's to be removed.
    pub(super) fn take_idle(&self, name: &Arc<str>) -> Option<PathBuf> {
        let cold = self.known(name).filter(|cold| cold.is_idle())?;
        Arc::into_inner(cold.forget()?.dir).map(ColdDir::take)
    }

    /// Forgets what nobody is about to use, longest unused first, until what is remembered of upstreams takes no more
    /// memory than it may.
    pub(super) fn trim(&self) {
        let known = self.0.borrow();
        let mut all = Vec::from_iter(known.values());
        let mut bytes: u64 = all.iter().map(|cold| cold.listing_bytes.get()).sum();
        all.sort_by_key(|cold| cold.used_unix_ms.get());
        for cold in all {
            if bytes <= COLD_LISTINGS_BYTES_MAX {
                return;
            }
            if cold.is_idle() {
                bytes -= cold.listing_bytes.get();
                drop(cold.forget());
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

    fn source(dir: &Path, refs: usize) -> ColdSource {
        let one = |number| Ref {
            name: format!("refs/heads/{number:05}").into(),
            target: CommitId::null(gix::hash::Kind::Sha1),
            peeled: None,
        };
        let path = dir.join(refs.to_string());
        std::fs::create_dir(&path).unwrap();
        ColdSource {
            dir: Arc::new(ColdDir {
                path,
                removals: Removals::default(),
            }),
            seen: Seen {
                refs: MirrorRefs {
                    head: Head::Symbolic("refs/heads/main".into()),
                    refs: Arc::new((0..refs).map(one).collect()),
                    fully_peeled: true,
                },
                hash: gix::hash::Kind::Sha1,
                url: String::new(),
            },
        }
    }

    #[tokio::test]
    async fn all_who_wait_for_one_have_the_one_that_is_known() {
        let (all, name) = (Colds::default(), Arc::from("h/a"));
        let first = all.alone(&name).await;
        let mut planned = None;
        let next = async {
            let second = all.alone(&name).await;
            let known = all.known(&name);
            assert!(known.is_some_and(|known| Rc::ptr_eq(&known, &second.held.cold)));
            planned = all.plan(&name);
            assert!(all.plan(&name).is_none(), "once");
        };
        let leave = async {
            tokio::task::yield_now().await;
            drop(first);
        };
        tokio::join!(next, leave);
        assert!(all.known(&name).is_some(), "somebody looks after it");
        let held = all.alone(&name).await;
        let after = async {
            let new = all.alone(&name).await;
            assert!(!new.is_planned.get(), "that one has left");
        };
        let forget = async {
            tokio::task::yield_now().await;
            all.forget(&name);
            drop(held);
        };
        tokio::join!(after, forget);
        assert!(all.known(&name).is_none(), "nobody needs it");
        all.end_plan(&name, &planned.unwrap());
    }

    /// What was made for somebody goes with him, unless a clone is to follow.
    #[tokio::test]
    async fn the_last_who_waits_takes_it_along() {
        let dir = tempfile::tempdir().unwrap();
        let (all, name) = (Colds::default(), Arc::from("h/a"));
        let alone = all.alone(&name).await;
        alone.set_source(source(dir.path(), 1));
        let path = alone.source().unwrap().path().to_owned();
        let (claim, planned) = (alone.claim(), all.plan(&name).unwrap());
        drop(alone);
        assert!(all.known(&name).unwrap().is_claimed());
        drop(claim);
        assert!(!all.known(&name).unwrap().is_claimed());
        all.known(&name).unwrap().has_clone.set(true);
        all.end_plan(&name, &planned);
        assert!(path.is_dir() && all.plan(&name).is_some());
        all.known(&name).unwrap().has_clone.set(false);
        all.end_plan(&name, &planned);
        assert!(all.known(&name).is_none());
        while path.is_dir() {
            std::thread::yield_now();
        }
    }

    /// Neither the disk nor the memory is full of what nobody is about to use.
    #[tokio::test]
    async fn what_nobody_is_about_to_use_can_go() {
        let dir = tempfile::tempdir().unwrap();
        let all = Colds::default();
        let refs_max = COLD_LISTINGS_BYTES_MAX as usize / size_of::<Ref>();
        let [old, new] = ["h/old", "h/new"].map(Arc::<str>::from);
        for (name, refs, at) in [(&old, refs_max / 2, 7), (&new, refs_max / 3, 8)] {
            let alone = all.alone(name).await;
            alone.set_source(source(dir.path(), refs));
            alone.used_unix_ms.set(at);
            all.plan(name).unwrap();
        }
        let has = |name| all.known(name).unwrap().source.borrow().is_some();
        let held = all.alone(&old).await;
        all.trim();
        assert!(has(&old) && !has(&new), "that one is in use");
        drop(held);
        let is_kept = || !all.listed(&old).unwrap().is_idle && all.take_idle(&old).is_none();
        let build = all.known(&old).unwrap().source().unwrap();
        assert!(is_kept());
        drop(build);
        let claim = all.known(&old).unwrap().claim();
        assert!(is_kept(), "it is about to be built");
        drop(claim);
        let path = all.listed(&old).unwrap().path;
        assert_eq!(all.take_idle(&old), Some(path));
        assert!(!has(&old) && all.listed(&old).is_none());
    }
}
