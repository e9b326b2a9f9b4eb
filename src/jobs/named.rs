//! What lies in the store for clients to be sent there, as heads have named it: that is remembered for a while, and stays for
//! longer than that.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::limits::{REDIRECT_HEAD_AGAIN_MS, REDIRECT_HEAD_MS, REDIRECT_HEADS_MAX};
use crate::store::remote::head::Head;
use crate::store::remote::key::PartKey;
use crate::store::remote::objects::ObjectError;
use crate::store::remote::publish::Base;
use crate::store::remote::signed::Signs;

/// See the module's text.
pub(super) struct Straight {
    signs: Signs,
    heads: RefCell<HashMap<Arc<str>, Rc<Slot>>>,
}

/// What the head of one repository has named, once that is known. Whoever comes while it is read waits for that, and for no
/// other repository's.
type Slot = Mutex<Option<Named>>;

/// What a head has named.
struct Named {
    read: Instant,
    parts: HashMap<String, (PartKey, u64)>,
}

impl Named {
    fn of(head: &Head) -> Named {
        let sound = head
            .parts
            .iter()
            .filter(|part| !head.broken.contains(&part.key));
        let parts = sound.map(|part| {
            let name = part.key.name().to_owned();
            (name, (part.key.clone(), part.bytes))
        });
        Named {
            read: Instant::now(),
            parts: parts.collect(),
        }
    }

    fn has(&self, name: &str, bytes: u64) -> Option<&PartKey> {
        let (key, stored) = self.parts.get(name)?;
        (*stored == bytes).then_some(key)
    }

    fn is_older(&self, ms: u64) -> bool {
        self.read.elapsed() >= Duration::from_millis(ms)
    }
}

impl Straight {
    /// One that knows nothing yet.
    pub(super) fn new(signs: Signs) -> Straight {
        Straight {
            signs,
            heads: RefCell::default(),
        }
    }

    /// The URL of an object, for one who reads it.
    ///
    /// # Errors
    /// See [`Signs::url`].
    pub(super) async fn url(&self, key: &str) -> Result<String, ObjectError> {
        self.signs.url(key).await
    }

    /// By which key a part of this length is in the store, if it is. `base` reads the head.
    pub(super) async fn key<E>(
        &self,
        name: &Arc<str>,
        (part, bytes): (&str, u64),
        base: impl Future<Output = Result<Base, E>>,
    ) -> Result<Option<PartKey>, E> {
        let slot = self.slot(name);
        let mut known = slot.lock().await;
        if let Some(named) = known.as_ref().filter(|it| !it.is_older(REDIRECT_HEAD_MS)) {
            let key = named.has(part, bytes);
            if key.is_some() || !named.is_older(REDIRECT_HEAD_AGAIN_MS) {
                return Ok(key.cloned());
            }
        }
        // A store that does not answer is not asked again for a while, either.
        *known = Some(Named {
            read: Instant::now(),
            parts: HashMap::new(),
        });
        let named = known.insert(Named::of(&base.await?.head));
        Ok(named.has(part, bytes).cloned())
    }

    /// That of a repository. Those that nobody reads make room where there are many.
    fn slot(&self, name: &Arc<str>) -> Rc<Slot> {
        let mut heads = self.heads.borrow_mut();
        if let Some(slot) = heads.get(name) {
            return slot.clone();
        }
        if heads.len() >= REDIRECT_HEADS_MAX {
            heads.retain(|_, slot| Rc::strong_count(slot) > 1);
        }
        heads.entry(name.clone()).or_default().clone()
    }
}
