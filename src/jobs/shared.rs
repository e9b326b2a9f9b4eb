//! The object store that servers share, as jobs use it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;

use super::adopting::Adoption;
use super::archive_id::kind;
use super::guarded::Guarded;
use super::leased::Leases;
use super::makings::Makings;
use super::memories::{Memories, say_restored};
use super::named::Straight;
use crate::archive::growth::Abandoned;
use crate::archive::open_files::OpenError;
use crate::archive::place::Archive;
use crate::config::Config;
use crate::io::say::without_logins;
use crate::io::shortage::is_disk_full;
use crate::limits::{
    ADOPTIONS_AT_ONCE, DOWNLOADS_BEHIND_MAX, DOWNLOADS_MAX, OFFERS_AT_ONCE, REMOTE_META_BYTES_MAX,
    STORE_LOOKS_AT_ONCE,
};
use crate::manifest::meta::MetaError;
use crate::manifest::want::Want;
use crate::mirror::MirrorError;
use crate::repos::error::StartError;
use crate::repos::repo::Repo;
use crate::store::files::StoreError;
use crate::store::remote::any::AnyStore;
use crate::store::remote::change::{About, Generation};
use crate::store::remote::entry::EntryError;
use crate::store::remote::head::Head;
use crate::store::remote::key::{Identity, PartKey, Place, RandomId};
use crate::store::remote::objects::{ObjectError, Objects};
use crate::store::remote::publish::{Base, RemoteError};
use crate::store::remote::signed::Signs;
use crate::store::remote::sums::{BadSums, KnownSums, Unchecked};
use crate::store::remote::twice::Twice;
use crate::telemetry::metrics::{Level, Meter};

/// See the module's text.
pub(super) struct Shared {
    pub(super) objects: Guarded,
    /// Whether nothing is written there.
    pub(super) is_readonly: bool,
    /// Of what this server makes.
    kind: String,
    /// What is to be uploaded, of each repository that somebody is at: the newest of each want.
    pub(super) offers: RefCell<HashMap<Arc<str>, Vec<Weak<Archive>>>>,
    /// The snapshots that are being made and will be offered.
    pub(super) makings: Makings,
    /// Those of which nothing is uploaded for a while, for that has failed.
    pub(super) put_off: RefCell<HashSet<Arc<str>>>,
    /// Held by what uploads.
    pub(super) turns: Semaphore,
    /// Held by what takes over packs for mirrors.
    pub(super) adoptions: Semaphore,
    /// Held by each request that downloads what somebody waits for.
    pub(super) downloads: Arc<Semaphore>,
    /// The same for what nobody waits for.
    pub(super) downloads_behind: Arc<Semaphore>,
    /// Of files that were uploaded.
    pub(super) sums: Arc<KnownSums>,
    /// It is said that the store refuses what this server has to do there.
    pub(super) is_refused: Cell<bool>,
    /// What is remembered of repositories, whether they have mirrors or not.
    pub(super) memories: Memories,
    /// Held by what looks at heads, and at what is to be removed.
    pub(super) looks: Semaphore,
    /// On how many days somebody has looked at all heads, and when that was read.
    pub(super) looked_days: Cell<Option<(Instant, u64)>>,
    /// Where clients get parts by themselves, if they are sent there.
    pub(super) straight: Option<Straight>,
    /// What was seen of them.
    pub(super) seen: RefCell<HashMap<Arc<str>, Seen>>,
    /// Who works on what.
    pub(super) leases: Leases,
}

/// What was seen of a head.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// It is said that the store was emptied, or restored.
    is_said: bool,
    /// As it was read last, of a repository in use.
    pub(super) last: Option<Rc<Base>>,
    /// When it was last looked at.
    pub(super) looked: Option<Instant>,
    /// When it is to be, whether somebody uses the repository or not.
    pub(super) next: Option<Instant>,
    /// Somebody looks now.
    pub(super) is_looked_at: bool,
    /// Held while something expires here, or the others are told of it.
    pub(super) telling: Arc<Mutex<()>>,
    /// Held while something that it names is taken into the mirror.
    pub(super) bringing: Arc<Mutex<()>>,
    /// Since when something has expired that may be here still.
    pub(super) behind: Option<Behind>,
    /// With a head of which generation a mirror of which one has caught up last.
    pub(super) caught: Option<(Generation, Generation)>,
    /// Which one that was or had seen, if the head did not follow it.
    pub(super) left: Option<Generation>,
    /// What the upstream was seen to list since.
    pub(super) listed_refs: Twice,
    /// Since when others are to be told of something.
    pub(super) owed: Option<Instant>,
    /// Of which write it was heard that it shows something else.
    pub(super) followed: Option<RandomId>,
    /// Of which write all that it names was there, and when.
    pub(super) listed: Option<(RandomId, Instant)>,
    /// What is said of its uses.
    pub(super) uses: Uses,
    /// How its packs take the place of this server's.
    pub(super) adoption: Adoption,
    /// How often something had been shared when it was emptied, and since when that is known.
    pub(super) emptied: Option<(u64, Instant)>,
    /// When what nothing names was last looked for.
    pub(super) swept: Option<Instant>,
}

impl Seen {
    /// Whether a head is what it should be: nothing has expired, and nothing was restored.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_said && self.behind.is_none() && self.owed.is_none() && self.left.is_none()
    }
}

/// What of the uses of a repository is said, and when that is tried again.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// The date of which it was said last.
    pub(super) said: u64,
    /// Not before.
    pub(super) again: Option<Instant>,
}

/// A mirror may have what has expired elsewhere, for as long as this is there.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) since: Instant,
    meter: Meter,
}

impl Behind {
    pub(super) fn new(meter: &Meter) -> Behind {
        meter.up(Level::StoreBehind);
        Behind {
            since: Instant::now(),
            meter: meter.clone(),
        }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.meter.down(Level::StoreBehind);
    }
}

/// Why a snapshot was not shared, or not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShareError {
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Entry(#[from] StoreError),
    #[error(transparent)]
    Parts(#[from] EntryError),
    #[error("the metadata of a snapshot are not sound: {0}")]
    Meta(#[from] MetaError),
    #[error("{key} is not what its name or its head says: {what}")]
    Other { key: String, what: String },
    #[error("{part} is not what it should be: {how}")]
    Broken { part: PartKey, how: String },
    #[error("the checksums of its pieces are not sound: {0}")]
    Sums(#[from] BadSums),
    #[error(transparent)]
    Unchecked(#[from] Unchecked),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
    #[error("not all of the archive came")]
    Short,
    #[error("the store does not answer within {wait_ms} ms")]
    Slow { wait_ms: u64 },
    #[error("the upstream cannot be compared: {0}")]
    Upstream(String),
    #[error("others write all the time")]
    Busy,
    #[error("others are to be told first what has expired here")]
    Owed,
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    #[error("a thread has ended: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

impl From<StartError> for ShareError {
    fn from(why: StartError) -> ShareError {
        ShareError::Upstream(why.message)
    }
}

impl ShareError {
    /// Whether the store does not let this server do what it has to.
    pub(super) fn is_denied(&self) -> bool {
        let denied = |why: &ObjectError| matches!(why, ObjectError::Denied { .. });
        match self {
            ShareError::Object(why) | ShareError::Remote(RemoteError::Object(why)) => denied(why),
            _ => false,
        }
    }

    /// Whether there was no room on the disk for it.
    pub(super) fn is_disk_full(&self) -> bool {
        is_disk_full(self)
    }
}

impl Shared {
    /// What the settings name, if they name one.
    pub(super) fn of(
        store: Option<(AnyStore, Option<Signs>)>,
        config: &Config,
        meter: &Meter,
    ) -> Option<Shared> {
        let (objects, signs) = store?;
        let is_readonly = config.store.as_ref()?.is_readonly;
        Some(Shared {
            objects: Guarded::new(objects, meter.clone()),
            straight: signs.map(Straight::new),
            is_readonly,
            kind: kind(config.level, &config.follow),
            offers: RefCell::default(),
            makings: Makings::default(),
            put_off: RefCell::default(),
            turns: Semaphore::new(OFFERS_AT_ONCE),
            adoptions: Semaphore::new(ADOPTIONS_AT_ONCE),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            downloads_behind: Arc::new(Semaphore::new(DOWNLOADS_BEHIND_MAX)),
            sums: Arc::default(),
            is_refused: Cell::default(),
            memories: Memories::of(&config.state, is_readonly),
            looked_days: Cell::default(),
            looks: Semaphore::new(STORE_LOOKS_AT_ONCE),
            seen: RefCell::default(),
            leases: Leases::new(),
        })
    }

    /// Under what a snapshot stands in a head.
    pub(super) fn about(&self, want: &Want) -> About {
        About {
            want: want.to_string(),
            kind: self.kind.clone(),
        }
    }

    /// Reads a head. What is written on top of it goes above all that was seen.
    pub(super) async fn base(&self, name: &Arc<str>, place: &Place) -> Result<Base, ShareError> {
        let before = self
            .seen
            .borrow()
            .get(name)
            .and_then(|seen| seen.last.clone());
        let before = before.as_deref();
        let memories = &self.memories;
        let remembered = memories.of_place(place).await?;
        let read = Base::read_unless(&self.objects, place, before).await?;
        let base = memories.above(&self.objects, (place, read.clone()), remembered);
        let base = base.await;
        let mut all = self.seen.borrow_mut();
        if !base.is_there() && !base.is_below() && !all.contains_key(name) {
            // Anybody can ask for what there is not.
            return Ok(base);
        }
        let seen = all.entry(name.clone()).or_default();
        if base.is_below() && !seen.is_said {
            say_restored(place, &read.head, base.head.sequence);
        }
        seen.is_said = base.is_below();
        seen.emptied = emptied_since(&base.head, seen.emptied);
        if before.is_none_or(|before| !before.is_as(&read)) {
            seen.last = Some(Rc::new(read));
        }
        Ok(base)
    }

    /// What is known of a head.
    pub(super) fn with_seen<T>(&self, name: &Arc<str>, with: impl FnOnce(&mut Seen) -> T) -> T {
        with(self.seen.borrow_mut().entry(name.clone()).or_default())
    }

    /// Whether a mirror may have for so long what has expired elsewhere.
    pub(super) fn is_long_behind(&self, name: &str, time: Duration) -> bool {
        let seen = self.seen.borrow();
        let behind = seen.get(name).and_then(|seen| seen.behind.as_ref());
        behind.is_some_and(|behind| behind.since.elapsed() >= time)
    }

    /// The same in a store that was emptied or restored, of which nothing takes its place.
    pub(super) fn is_stuck_behind(&self, name: &str, time: Duration) -> bool {
        let is_said = self
            .seen
            .borrow()
            .get(name)
            .is_some_and(|seen| seen.is_said);
        is_said && self.is_long_behind(name, time)
    }

    /// A head is to be looked at within so long, whether somebody uses the repository or not.
    pub(super) fn look_within(&self, name: &Arc<str>, wait: Duration) {
        let at = Instant::now() + wait;
        self.with_seen(name, |seen| {
            seen.next = Some(seen.next.map_or(at, |next| next.min(at)));
        });
    }

    /// Of which repositories something is to be uploaded, or made before that.
    pub(super) fn to_offer(&self) -> HashSet<Arc<str>> {
        let mut names = self.makings.names();
        names.extend(self.offers.borrow().keys().cloned());
        names
    }

    /// Whether something of these is to be uploaded that can be, as far as is known, or was being made by then.
    pub(super) fn is_offering(&self, (names, then): (&HashSet<Arc<str>>, u64)) -> bool {
        let put_off = self.put_off.borrow();
        let is_offered = |name: &Arc<str>| names.contains(name) && !put_off.contains(name);
        // What is made for a store that answers nothing, or refuses it, is waited for in vain.
        let can_be = !self.objects.rests() && !self.is_refused.get();
        can_be && self.makings.is_any_before(then) || self.offers.borrow().keys().any(is_offered)
    }

    /// Reads a small part, whose name says what is in it.
    pub(super) async fn small(
        &self,
        place: &Place,
        key: &PartKey,
        name: fn(&[u8]) -> String,
    ) -> Result<Vec<u8>, ShareError> {
        let part = place.part(key);
        let found = self.objects.get(&part, REMOTE_META_BYTES_MAX).await?;
        let broken = |how: &str| ShareError::Broken {
            part: key.clone(),
            how: how.into(),
        };
        let bytes = found.ok_or_else(|| broken("it is not there"))?.bytes;
        // It may be long.
        let named = spawn_blocking(move || (name(&bytes), bytes));
        let (found, bytes) = named.await?;
        match found == key.name() {
            true => Ok(bytes),
            false => Err(broken("its content has another name")),
        }
    }
}

/// Where the objects of a repository are.
pub(super) fn place_of(repo: &Repo) -> Place {
    let (host, path) = repo.name.split_once('/').unwrap_or((&*repo.name, ""));
    Place::of(Identity {
        host: host.to_owned(),
        path: path.to_owned(),
        url: without_logins(&repo.url),
    })
}

/// How often something had been shared when a head was emptied, if it is, and since when that is known.
fn emptied_since(head: &Head, before: Option<(u64, Instant)>) -> Option<(u64, Instant)> {
    if !head.is_emptied() {
        return None;
    }
    let known = before.filter(|(shares, _)| *shares == head.shares);
    known.or_else(|| Some((head.shares, Instant::now())))
}

/// A cause and what caused it, in one line.
pub(super) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let why = error.to_string();
        if !text.contains(&why) {
            text = format!("{text}: {why}");
        }
        cause = error.source();
    }
    text
}
