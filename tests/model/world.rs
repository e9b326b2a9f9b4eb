//! What there is: a store, servers, collectors, and what must hold of them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use tarpon::store::remote::head::Head;
use tarpon::store::remote::key::{Identity, PartKey, RandomId, refs_name};
use tarpon::store::remote::listing::Listing;

/// Every part is so long.
pub const BYTES: u64 = 1;

pub const WHOLE: &str = "what a head names, or may name again, is there";
pub const FORWARD: &str = "refs in the store do not go back";
pub const SERVED: &str = "refs of a server do not go back";
pub const ONCE: &str = "no key is written twice";
pub const OWN: &str = "nobody takes his own write for another's, or another's for his own";
pub const ONE: &str = "two archives do not have one ETag";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    Sound,
    PartsAfterHead,
    ComparedBeforeHead,
    LoserTakesRefs,
    CollectsInOneStep,
    ListsBeforeHead,
    DrawsNumbersTwice,
    BelievesRefusals,
    CountsBuilds,
    CountsWrites,
}

/// What happens how often.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub pushes: u8,
    /// Of each server.
    pub rounds: &'static [u8],
    /// Of each collector.
    pub sweeps: &'static [u8],
    pub faults: u8,
    pub crashes: u8,
    /// Whether there is a snapshot for which git makes another pack each time.
    pub tips: bool,
}

/// A head that does not change any more.
#[derive(Debug, Clone)]
pub struct Said(Arc<(Head, Vec<u8>)>);

impl Said {
    pub fn new(head: Head) -> Said {
        let bytes = head.encode().expect("a sound head");
        Said(Arc::new((head, bytes)))
    }

    pub fn head(&self) -> &Head {
        &self.0.0
    }

    /// The state of the upstream that it shows.
    pub fn shown(&self) -> Option<u8> {
        let refs = self.head().refs.as_ref()?;
        (0..9).find(|state| refs.name() == refs_of(*state))
    }
}

impl PartialEq for Said {
    fn eq(&self, other: &Said) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.1 == other.0.1
    }
}

impl Eq for Said {}

impl Hash for Said {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.0.1.hash(hasher);
    }
}

pub fn refs_of(state: u8) -> String {
    refs_name(&[state])
}

pub fn empty() -> Head {
    Head::empty(Identity {
        host: "h".into(),
        path: "r".into(),
        url: "https://h/r".into(),
    })
}

/// As it was read; none stands there yet.
pub type Base = Option<Said>;
pub type Keys = Arc<BTreeSet<PartKey>>;

pub fn head_of(base: &Base) -> Head {
    base.as_ref().map_or_else(empty, |said| said.head().clone())
}

pub fn listing_of(keys: &BTreeSet<PartKey>) -> Listing {
    keys.iter().map(|key| (key.clone(), BYTES)).collect()
}

/// What a server does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum At {
    Read,
    /// The head was read, the upstream not compared yet. Of the broken kind it is the other way round.
    Compare(Base),
    ReadLate(u8),
    List(Base, u8),
    Build(Base, u8, Keys),
    Swap(Base, Said),
    /// It was refused, or nobody has answered: what stands there is read.
    Unsure(Base, Said),
    /// Of the broken kind that swaps before it has uploaded.
    UploadLate(Vec<PartKey>),
}

/// A server that publishes. What is on its disk outlasts a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub at: At,
    pub rounds: u8,
    pub shows: u8,
    pub builds: u8,
    pub lives: u8,
    pub drawn: u8,
    /// By the name: the key, and the removals that there were.
    pub uploaded: BTreeMap<String, (PartKey, u64)>,
    /// A write that has failed and arrives later.
    pub late: Option<(Base, Said)>,
}

/// What a collector does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sweep {
    Read,
    List(Said),
    /// Of the broken kind that lists first.
    ReadLate(Keys),
    /// Removes these; then it swaps, if it has not.
    Remove(Vec<PartKey>, Option<(Said, Keys)>),
    Swap(Said, Keys),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Collector {
    pub at: Sweep,
    pub sweeps: u8,
    pub drawn: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub upstream: u8,
    pub pushes: u8,
    pub faults: u8,
    pub crashes: u8,
    pub head: Base,
    pub objects: BTreeSet<PartKey>,
    /// Every key that was ever written.
    pub written: BTreeSet<PartKey>,
    /// Every write of a head that stood, and whose it was.
    pub swaps: BTreeMap<RandomId, usize>,
    /// What was made, by its ETag.
    pub archives: BTreeMap<String, String>,
    pub servers: Vec<Server>,
    pub collectors: Vec<Collector>,
    pub broken: Option<&'static str>,
}

impl World {
    pub fn breaks(&mut self, what: &'static str) {
        self.broken = self.broken.or(Some(what));
    }

    /// Swaps the head, if it is still the one that was read.
    pub fn swap(&mut self, base: &Base, next: &Said, who: usize) -> bool {
        if self.head != *base {
            return false;
        }
        if let (Some(before), Some(after)) =
            (self.head.as_ref().and_then(Said::shown), next.shown())
            && after < before
        {
            self.breaks(FORWARD);
        }
        self.swaps.insert(next.head().write, who);
        self.head = Some(next.clone());
        true
    }

    pub fn upload(&mut self, key: &PartKey) {
        if !self.written.insert(key.clone()) {
            self.breaks(ONCE);
        }
        self.objects.insert(key.clone());
    }

    pub fn is_whole(&self) -> bool {
        let head = self.head.as_ref();
        head.is_none_or(|said| {
            let parts = said.head().parts.iter().map(|part| &part.key);
            let condemned = said.head().condemned.iter().map(|one| &one.key);
            parts.chain(condemned).all(|key| self.objects.contains(key))
        })
    }
}
