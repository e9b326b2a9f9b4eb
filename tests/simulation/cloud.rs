//! An object store in memory that fails on purpose, and what must hold of what is written there.
//!
//! A request is refused though its condition holds, is done though the answer says that it is not, or arrives long after
//! its sender has given it up. Nothing here asks the time or the machine, so a seed repeats exactly.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;

use tarpon::limits::LEASE_MS;
use tarpon::store::remote::head::Head;
use tarpon::store::remote::key::{PartKey, Place, RandomId};
use tarpon::store::remote::lease::Lease;
use tarpon::store::remote::objects::{Condition, Found, Listed, ObjectError, Objects, Version};

use super::rng::Rng;

/// A write or removal that has left its sender.
#[derive(Debug, Clone)]
enum Sent {
    Swap(String, Vec<u8>, Condition),
    Upload(String, Vec<u8>),
    Delete(String),
}

/// What the upstream, the store and their clock are.
pub struct Cloud {
    pub rng: Rng,
    pub now_ms: u64,
    /// Which state the upstream is in, and since when it was in each.
    pub upstream: u64,
    /// It does not answer.
    pub is_away: bool,
    pub place: Place,
    objects: BTreeMap<String, (Vec<u8>, u64)>,
    versions: u64,
    /// What the object says.
    head: Option<Rc<Head>>,
    /// Under way, and given up by their senders.
    late: Vec<Sent>,
    /// One in so many requests goes wrong; none for 0.
    fault_one_in: u64,
    written: BTreeSet<String>,
    /// Writes of heads that happened, and what those said who made them.
    pub applied: BTreeSet<RandomId>,
    lost: BTreeSet<RandomId>,
    /// The same of before the store was emptied or restored.
    old: BTreeSet<RandomId>,
    /// Parts that went when it was, or may go: they are found to be lost, and nobody can know before.
    lost_parts: BTreeSet<String>,
    /// What stood there some time ago.
    saved: Option<BTreeMap<String, (Vec<u8>, u64)>>,
    /// The last state that a head showed.
    shown: u64,
    /// What somebody has seen expire and told the others.
    told: BTreeSet<u64>,
    /// What somebody has seen expire.
    pub expired: BTreeSet<u64>,
    /// What the archive with an id is.
    archives: BTreeMap<String, String>,
    leased_ms: u64,
    /// The first thing that must not be.
    pub broken: Option<String>,
    pub faults: u64,
    pub swaps: u64,
    pub removed: u64,
    pub takeovers: u64,
}

/// The store, as one server has it.
#[derive(Clone)]
pub struct SimObjects(pub Rc<RefCell<Cloud>>);

/// Lets others go first.
pub async fn pause() {
    let mut is_over = false;
    poll_fn(move |_| match std::mem::replace(&mut is_over, true) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

enum Fault {
    None,
    /// Not done, and said so.
    Before,
    /// Refused, whatever holds.
    Refused,
    /// Done, and said that it is not.
    After,
    /// The same in the words of a refusal: the store has tried again by itself.
    AfterRefused,
    /// It arrives later.
    Late,
}

impl Cloud {
    pub fn new(rng: Rng, place: Place) -> Cloud {
        Cloud {
            rng,
            now_ms: 1_700_000_000_000,
            upstream: 0,
            is_away: false,
            place,
            objects: BTreeMap::new(),
            versions: 0,
            head: None,
            late: Vec::new(),
            fault_one_in: 0,
            written: BTreeSet::new(),
            applied: BTreeSet::new(),
            lost: BTreeSet::new(),
            old: BTreeSet::new(),
            lost_parts: BTreeSet::new(),
            saved: None,
            shown: 0,
            told: BTreeSet::new(),
            expired: BTreeSet::new(),
            archives: BTreeMap::new(),
            leased_ms: 0,
            broken: None,
            faults: 0,
            swaps: 0,
            removed: 0,
            takeovers: 0,
        }
    }

    /// What the upstream has, if it says so.
    pub fn answer(&self) -> Option<u64> {
        (!self.is_away).then_some(self.upstream)
    }

    /// Whether it lists nothing, though it has something.
    pub fn lists_nothing(&mut self) -> bool {
        self.fault_one_in > 0 && self.rng.below(2) == 0
    }

    pub fn leave_or_come(&mut self) {
        self.is_away = !self.is_away;
    }

    /// From now on one in so many requests fails; none for 0.
    pub fn fail_one_in(&mut self, requests: u64) {
        self.fault_one_in = requests;
    }

    pub fn breaks(&mut self, what: impl Into<String>) {
        self.broken.get_or_insert(what.into());
    }

    fn fault(&mut self) -> Fault {
        if self.fault_one_in == 0 || self.rng.below(self.fault_one_in) > 0 {
            return Fault::None;
        }
        self.faults += 1;
        match self.rng.below(5) {
            0 => Fault::Before,
            1 => Fault::Refused,
            2 => Fault::After,
            3 => Fault::AfterRefused,
            _ => Fault::Late,
        }
    }

    /// Something that its sender has given up arrives.
    pub fn deliver(&mut self) {
        if !self.late.is_empty() {
            let number = self.rng.below(self.late.len() as u64) as usize;
            let sent = self.late.swap_remove(number);
            // Nobody hears of it.
            let _ = self.apply(sent);
        }
    }

    pub fn deliver_all(&mut self) {
        while !self.late.is_empty() {
            self.deliver();
        }
    }

    /// Whether the condition held.
    fn apply(&mut self, sent: Sent) -> Option<Version> {
        self.versions += 1;
        let version = self.versions;
        match sent {
            Sent::Upload(key, bytes) => {
                if !self.written.insert(key.clone()) {
                    self.breaks(format!("{key} is written twice"));
                }
                self.objects.insert(key, (bytes, version));
            }
            Sent::Delete(key) => {
                self.removed += u64::from(self.objects.remove(&key).is_some());
                self.check_parts();
            }
            Sent::Swap(key, bytes, condition) => {
                if !condition.holds_of(self.found(&key).as_ref()) {
                    return None;
                }
                let before = self.objects.insert(key.clone(), (bytes, version));
                self.swaps += 1;
                if key == self.place.head() {
                    self.check_head();
                } else if key == self.place.lease() {
                    self.check_lease(before.map(|(bytes, _)| bytes));
                }
            }
        }
        Some(Version(version.to_string()))
    }

    fn found(&self, key: &str) -> Option<Found> {
        self.objects.get(key).map(|(bytes, version)| Found {
            bytes: bytes.clone(),
            version: Version(version.to_string()),
        })
    }

    pub fn head(&self) -> Option<Rc<Head>> {
        self.head.clone()
    }

    /// The state of the upstream that a head shows.
    pub fn shown(&self, head: &Head) -> Option<u64> {
        let (bytes, _) = self.objects.get(&self.place.part(head.refs.as_ref()?))?;
        std::str::from_utf8(bytes).ok()?.parse().ok()
    }

    fn check_head(&mut self) {
        let (bytes, _) = &self.objects[&self.place.head()];
        let head = Rc::new(Head::decode(bytes, &self.place.identity).expect("a sound head"));
        let before = self.head.replace(head.clone());
        self.applied.insert(head.write);
        if self.lost.contains(&head.write) {
            self.breaks("a write that was said to be lost is there");
        }
        let names = |head: &Head| {
            let mut snapshots = head.snapshots.iter();
            snapshots.any(|one| one.replaced_unix_ms.is_none() && one.about.want == "HEAD")
        };
        if before.as_ref().is_some_and(|before| names(before)) && !names(&head) {
            self.breaks("a head names nothing of what is wanted");
        }
        if before.is_some_and(|before| head.sequence <= before.sequence) {
            self.breaks("a head does not follow the one before");
        }
        if let Some(shown) = self.shown(&head) {
            if shown < self.shown {
                self.breaks("refs in the store go back");
            }
            self.shown = shown;
        }
        let names = head.parts.iter().map(|part| part.key.name());
        if secrets(names).any(|secret| self.told.contains(&secret)) {
            self.breaks("what has expired is named again");
        }
        self.check_parts();
    }

    /// A server has had these expire, and the head says so by this write.
    pub fn note_told(&mut self, write: RandomId, secrets: &BTreeSet<u64>) {
        if !self.old.contains(&write) {
            self.told.extend(secrets);
        }
    }

    /// Somebody removes all that is there.
    pub fn empty(&mut self) {
        self.replace_all(BTreeMap::new());
    }

    /// Somebody saves all that is there, or restores what was saved, which is another version of it then.
    pub fn save_or_restore(&mut self) {
        match self.saved.take() {
            None => self.saved = Some(self.objects.clone()),
            Some(mut saved) => {
                self.versions += 1;
                let version = self.versions;
                saved.values_mut().for_each(|(_, of_it)| *of_it = version);
                self.replace_all(saved);
            }
        }
    }

    fn replace_all(&mut self, objects: BTreeMap<String, (Vec<u8>, u64)>) {
        // Who has found no head before that finds none now, and names what he uploaded then.
        let written = self.written.iter();
        let names = written.filter_map(|key| key.rsplit('/').next());
        self.lost_parts.extend(names.map(str::to_owned));
        self.old.append(&mut self.applied.clone());
        self.late.clear();
        // It has forgotten what it was told, until those look who know better.
        self.told.clear();
        self.shown = 0;
        self.objects = objects;
        let head = self.objects.get(&self.place.head());
        self.head = head.map(|(bytes, _)| {
            Rc::new(Head::decode(bytes, &self.place.identity).expect("a sound head"))
        });
    }

    /// Whether all is there that the head names.
    pub fn is_whole(&self) -> bool {
        let head = self.head.as_ref();
        head.is_some_and(|head| {
            let mut keys = head.parts.iter().map(|part| self.place.part(&part.key));
            keys.all(|key| self.objects.contains_key(&key))
        })
    }

    /// What a head names or may have taken off its list is there.
    fn check_parts(&mut self) {
        let Some(head) = self.head() else { return };
        let named = head.parts.iter().map(|part| &part.key);
        let condemned = head.condemned.iter().map(|condemned| &condemned.key);
        let is_gone = |key: &&PartKey| {
            let is_there = self.objects.contains_key(&self.place.part(key));
            !is_there && !self.lost_parts.contains(&key.to_string())
        };
        if let Some(key) = named.chain(condemned).find(is_gone) {
            let what = format!("{key} is named and not there");
            self.breaks(what);
        }
    }

    fn check_lease(&mut self, before: Option<Vec<u8>>) {
        let lease = |bytes: &[u8]| serde_json::from_slice::<Lease>(bytes).expect("a lease");
        let before = before.and_then(|bytes| lease(&bytes).holder);
        let after = self.objects.get(&self.place.lease());
        let after = after.and_then(|(bytes, _)| lease(bytes).holder);
        if before.is_some() && after != before && after.is_some() {
            self.takeovers += 1;
            if self.now_ms - self.leased_ms < LEASE_MS {
                self.breaks("a lease is taken from who has renewed it");
            }
        }
        self.leased_ms = self.now_ms;
    }

    /// A server says that its write was lost.
    pub fn note_lost(&mut self, write: RandomId) {
        if self.old.contains(&write) {
            return;
        }
        self.lost.insert(write);
        if self.applied.contains(&write) {
            self.breaks("a write that is there is said to be lost");
        }
    }

    /// A server says that its write is done.
    pub fn note_done(&mut self, write: RandomId) {
        if !self.applied.contains(&write) {
            self.breaks("a write is said to be done, and is not");
        }
    }

    /// A server would answer with this archive.
    pub fn note_archive(&mut self, id: &str, content: &str) {
        let known = self.archives.entry(id.into()).or_insert(content.into());
        if known != content {
            self.breaks("two archives have one id");
        }
    }

    /// Keys of parts that are there.
    pub fn parts(&self) -> BTreeSet<String> {
        let dir = self.place.parts() + "/";
        let keys = self.objects.keys();
        keys.filter_map(|key| key.strip_prefix(&dir))
            .map(str::to_owned)
            .collect()
    }
}

/// What is in packs of these names that no ref leads to, or did not always.
pub fn secrets<'n>(names: impl Iterator<Item = &'n str>) -> impl Iterator<Item = u64> {
    names.filter_map(|name| {
        let of = name.strip_prefix("pack-5ec")?.strip_suffix(".pack")?;
        of.parse().ok()
    })
}

impl SimObjects {
    async fn send(&self, op: &'static str, key: &str, sent: Sent) -> Result<Version, ObjectError> {
        pause().await;
        let answer = {
            let cloud = &mut *self.0.borrow_mut();
            let refused = || ObjectError::Refused {
                op,
                key: key.into(),
            };
            let failed = || ObjectError::Failed {
                op,
                key: key.into(),
                source: "no answer".into(),
            };
            match cloud.fault() {
                Fault::None => cloud.apply(sent).ok_or_else(refused),
                Fault::Before => Err(failed()),
                Fault::Refused => Err(refused()),
                Fault::After => {
                    cloud.apply(sent);
                    Err(failed())
                }
                Fault::AfterRefused => {
                    cloud.apply(sent);
                    Err(refused())
                }
                Fault::Late => {
                    cloud.late.push(sent);
                    Err(failed())
                }
            }
        };
        pause().await;
        answer
    }

    async fn ask<T>(
        &self,
        op: &'static str,
        key: &str,
        look: impl FnOnce(&Cloud) -> T,
    ) -> Result<T, ObjectError> {
        pause().await;
        let answer = {
            let cloud = &mut *self.0.borrow_mut();
            match cloud.fault() {
                Fault::None => Ok(look(cloud)),
                _ => Err(ObjectError::Failed {
                    op,
                    key: key.into(),
                    source: "no answer".into(),
                }),
            }
        };
        pause().await;
        answer
    }
}

impl Objects for SimObjects {
    type Content = Vec<u8>;

    async fn swap(
        &self,
        key: &str,
        bytes: Vec<u8>,
        condition: &Condition,
    ) -> Result<Version, ObjectError> {
        let sent = Sent::Swap(key.into(), bytes, condition.clone());
        self.send("write", key, sent).await
    }

    async fn upload(&self, key: &str, content: &Vec<u8>) -> Result<(), ObjectError> {
        let sent = Sent::Upload(key.into(), content.clone());
        self.send("upload", key, sent).await.map(drop)
    }

    async fn get(&self, key: &str, _: usize) -> Result<Option<Found>, ObjectError> {
        self.ask("read", key, |cloud| cloud.found(key)).await
    }

    async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let cut = |cloud: &Cloud| {
            let (bytes, _) = cloud.objects.get(key)?;
            bytes
                .get(range.start as usize..range.end as usize)
                .map(<[u8]>::to_vec)
        };
        let found = self.ask("read", key, cut).await?;
        found.ok_or_else(|| ObjectError::Failed {
            op: "read",
            key: key.into(),
            source: "it is not there".into(),
        })
    }

    async fn list(&self, dir: &str) -> Result<Vec<Listed>, ObjectError> {
        let listed = |cloud: &Cloud| {
            let below = format!("{dir}/");
            let of_it = cloud.objects.range(below.clone()..);
            let of_it = of_it.map_while(|(key, (bytes, _))| {
                let name = key.strip_prefix(&below)?.to_owned();
                let bytes = bytes.len() as u64;
                Some(Listed { name, bytes })
            });
            of_it.collect()
        };
        self.ask("list", dir, listed).await
    }

    async fn before_again(&self, _: usize) {
        pause().await;
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        let sent = Sent::Delete(key.into());
        self.send("remove", key, sent).await.map(drop)
    }
}
