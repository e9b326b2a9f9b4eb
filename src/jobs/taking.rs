//! Snapshots that are looked for in the store and taken from there: mirrors that are made of their packs wait for these.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use crate::archive::place::Archive;

/// For whom a snapshot is taken from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenFor {
    /// Who asks for it.
    Request,
    /// Who may ask for it, by what was used lately.
    Warmth,
    /// A mirror, which is made of its packs.
    Mirror,
}

/// A snapshot whose packs are all there, once they are.
type Packs = Option<Arc<Archive>>;

type Running = Rc<RefCell<HashMap<Arc<str>, watch::Receiver<Packs>>>>;

/// See the module's text.
#[derive(Default)]
pub(super) struct Takings {
    running: Running,
}

/// One of them. It has ended when this is dropped.
pub(super) struct Taking {
    running: Running,
    name: Arc<str>,
    packs: watch::Sender<Packs>,
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.running.borrow_mut().remove(&self.name);
    }
}

impl Taking {
    /// All packs of what is taken are there, in files that its directory has.
    pub(super) fn has_packs(&self, archive: Arc<Archive>) {
        self.packs.send_replace(Some(archive));
    }
}

impl Takings {
    /// Begins that of a repository, unless there is one.
    pub(super) fn begin(&self, name: &Arc<str>) -> Option<Taking> {
        let mut running = self.running.borrow_mut();
        let Entry::Vacant(vacant) = running.entry(name.clone()) else {
            return None;
        };
        let (packs, receiver) = watch::channel(None);
        vacant.insert(receiver);
        Some(Taking {
            running: self.running.clone(),
            name: name.clone(),
            packs,
        })
    }

    /// Waits for the packs of what is being taken of a repository; nothing if there are none to come, or nothing is taken.
    pub(super) async fn packs(&self, name: &Arc<str>) -> Option<Arc<Archive>> {
        let mut packs = self.running.borrow().get(name)?.clone();
        let packs = packs.wait_for(Option::is_some).await;
        packs.ok()?.clone()
    }

    /// Whether something is taken of a repository.
    pub(super) fn is_any(&self, name: &Arc<str>) -> bool {
        self.running.borrow().contains_key(name)
    }
}
