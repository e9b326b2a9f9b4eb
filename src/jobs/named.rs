//! What lies in the store for clients to be sent there, as heads have named it: that is remembered for a while, and stays for
//! longer than that.

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
    heads: Mutex<HashMap<Arc<str>, Rc<Named>>>,
}

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
            heads: Mutex::default(),
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
        // Whoever comes meanwhile has what is read.
        let mut heads = self.heads.lock().await;
        if let Some(named) = heads.get(name).filter(|it| !it.is_older(REDIRECT_HEAD_MS)) {
            let key = named.has(part, bytes);
            if key.is_some() || !named.is_older(REDIRECT_HEAD_AGAIN_MS) {
                return Ok(key.cloned());
            }
        }
        heads.retain(|_, named| !named.is_older(REDIRECT_HEAD_MS));
        if heads.len() >= REDIRECT_HEADS_MAX {
            heads.clear();
        }
        // A store that does not answer is not asked again for a while, either.
        let nothing = Named {
            read: Instant::now(),
            parts: HashMap::new(),
        };
        heads.insert(name.clone(), Rc::new(nothing));
        let named = Rc::new(Named::of(&base.await?.head));
        heads.insert(name.clone(), named.clone());
        Ok(named.has(part, bytes).cloned())
    }
}
