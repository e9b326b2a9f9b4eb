//! Small repositories of single commits, without what was before these: what there is where no mirror stands yet.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use gix::bstr::{BString, ByteSlice};
use tokio::sync::Mutex;

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
}

/// A repository that is not mirrored yet, of which single commits are there.
pub(super) struct Cold {
    /// Held by whoever asks its upstream: shallow fetches change the same list of where history ends.
    pub fetching: Mutex<()>,
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
    pub(super) fn new() -> Rc<Cold> {
        Rc::new(Cold {
            fetching: Mutex::new(()),
            source: RefCell::default(),
            looked: Cell::default(),
            fetched: RefCell::default(),
            others: RefCell::default(),
            is_planned: Cell::default(),
            has_clone: Cell::default(),
        })
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
