//! What is lent just now, and what is known of the heads that say what may be.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::flights::Flights;
use crate::archive::place::Archive;
use crate::limits::LENT_HEADS_MAX;
use crate::store::remote::head::Head;

/// A repository, and the id of a snapshot of it.
pub(super) type Key = (Arc<str>, String);

/// What was read of the head of a repository, and when; nothing if there is none, or nobody may have what it names.
pub(super) struct Read {
    pub(super) at: Instant,
    pub(super) head: Option<Rc<Head>>,
}

pub(super) type Slot = Rc<Mutex<Option<Read>>>;

/// See the module's text.
#[derive(Default)]
pub(super) struct Lent {
    heads: RefCell<HashMap<Arc<str>, Slot>>,
    pub(super) running: RefCell<HashMap<Key, Arc<Archive>>>,
    pub(super) making: Flights<Key, Option<Arc<Archive>>>,
}

impl Lent {
    /// Whoever comes while a head is read waits for that. Those that nobody reads make room where there are many.
    pub(super) fn slot(&self, name: &Arc<str>) -> Slot {
        let mut heads = self.heads.borrow_mut();
        if !heads.contains_key(name) && heads.len() >= LENT_HEADS_MAX {
            heads.retain(|_, slot| Rc::strong_count(slot) > 1);
        }
        heads.entry(name.clone()).or_default().clone()
    }
}
