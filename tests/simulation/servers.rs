//! Servers over one object store: they publish what an upstream has, collect what nobody names, and take a lease, while
//! the store fails, and they are paused and killed.
//!
//! - `SIM_SEEDS=N` or `FIRST..END`, `SIM_SEED=S`: as in the simulation of the cache.
//!
//! Each way in which one of the rules can be broken is a [`Variant`] that the same checks must catch: what sees nothing
//! shows nothing.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};

use serde_json::json;
use tarpon::limits::{LEASE_MS, LISTED_TWICE_MS, REMOTE_KEPT_MS, SMALL_OBJECT_BYTES_MAX};
use tarpon::manifest::id::EntryId;
use tarpon::store::remote::change::{About, Change, Generation, NewSnapshot, Uploaded};
use tarpon::store::remote::collect::{Swept, sweep};
use tarpon::store::remote::head::{Condemned, Head};
use tarpon::store::remote::key::{Identity, PartKey, Place, RandomId, manifest_name, refs_name};
use tarpon::store::remote::lease::{Lease, Watch};
use tarpon::store::remote::listing::Listing;
use tarpon::store::remote::memory::Memory;
use tarpon::store::remote::objects::{Condition, Objects};
use tarpon::store::remote::publish::{Base, Contents, Draw, Published, RemoteError, Uploads};
use tarpon::store::remote::swap::Swapped;
use tarpon::store::remote::twice::{Twice, names_of};

use super::cloud::{Cloud, SimObjects, pause, secrets};
use super::rng::Rng;

const STEPS: u64 = 300;
/// So many seeds are run by default: each takes much longer than one of the cache's.
const SEEDS_DEFAULT: u64 = 2_000;
/// Within so many seeds each broken rule is seen.
const SEEDS_TO_SEE: u64 = 3_000;

/// Which rule is broken.
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
    ExpiresByDate,
    CountsBuilds,
    BelievesHeads,
    ForgetsGenerations,
    NeverTells,
    TellsAlone,
    BelievesOneListing,
    ImportsLate,
    ForgetsDuties,
    ForgetsHeads,
    JudgesByKind,
    DropsWhatIsReached,
    AdoptsLate,
}

/// What a server remembers beside its mirror, and what the checks know of that.
#[derive(Clone)]
struct Remembered {
    memory: Memory,
    /// What has expired here, of which the others are to be told.
    due: BTreeSet<u64>,
    /// The latest state of the upstream that a head has shown which was seen here.
    shown: u64,
}

/// What a server has in its mirror.
#[derive(Default)]
struct Disk {
    /// The state of the upstream that it serves.
    shows: u64,
    builds: u64,
    /// What is in its packs that was in the upstream for a while.
    holds: BTreeSet<u64>,
    generation: Generation,
    /// Whether it was ever compared with the upstream.
    is_compared: bool,
    /// Whether the upstream has listed nothing the last time.
    has_listed_nothing: bool,
}

impl Remembered {
    fn of(place: &Place) -> Remembered {
        Remembered {
            memory: Memory::of(place.identity.clone()),
            due: BTreeSet::new(),
            shown: 0,
        }
    }
}

/// A state in which the upstream has something that it has in no other.
fn is_secret(state: u64) -> bool {
    state % 3 == 1
}

/// Random numbers, and what is broken about them.
struct Numbers {
    cloud: Rc<RefCell<Cloud>>,
    variant: Variant,
    me: u64,
    count: u64,
}

impl Draw for Numbers {
    fn draw(&mut self) -> RandomId {
        self.count += 1;
        if self.variant == Variant::DrawsNumbersTwice {
            return RandomId(u128::from(self.me + 1) << 64 | u128::from(self.count));
        }
        drawn(&self.cloud)
    }
}

fn drawn(cloud: &RefCell<Cloud>) -> RandomId {
    let rng = &mut cloud.borrow_mut().rng;
    let (high, low) = (rng.next_u64(), rng.next_u64());
    RandomId((u128::from(high) << 64) | u128::from(low))
}

/// Which of them these are: there are few.
fn held_mask(secrets: &BTreeSet<u64>) -> u128 {
    secrets
        .iter()
        .fold(0, |mask, secret| mask | 1 << (secret / 3 % 60))
}

/// Of the same refs and other packs another archive is made.
fn full_id(holds: &BTreeSet<u64>, state: u64) -> EntryId {
    let id = (held_mask(holds) << 64 | u128::from(state)) << 1;
    EntryId::from_bytes(id.to_be_bytes())
}

/// A server, until it is killed; its disk stays.
struct Server {
    objects: SimObjects,
    cloud: Rc<RefCell<Cloud>>,
    variant: Variant,
    me: RandomId,
    /// How far its date is off.
    skew_ms: i64,
    disk: Rc<RefCell<Disk>>,
    remembered: Rc<RefCell<Remembered>>,
    numbers: Numbers,
    uploads: Uploads,
    watch: Watch,
    twice: Twice,
    caught: Option<(Generation, Generation)>,
    /// What it was of, or had seen, where that was not followed.
    left: Option<Generation>,
    is_over: Rc<Cell<bool>>,
}

impl Server {
    async fn run(mut self) {
        loop {
            let choice = self.cloud.borrow_mut().rng.below(10);
            let is_over = self.is_over.get();
            match choice {
                0 | 1 if !is_over => self.collect().await,
                2 | 3 if !is_over => self.lease().await,
                4 if !is_over => pause().await,
                5 if !is_over => self.expire(),
                // What went wrong is tried again.
                6 if !is_over => drop(self.adopt().await),
                7 | 8 if !is_over && self.variant == Variant::DropsWhatIsReached => {
                    drop(self.adopt().await);
                }
                _ => {
                    // What went wrong is tried again.
                    let is_done = self.publish().await.unwrap_or(false);
                    if is_over && is_done {
                        return;
                    }
                }
            }
        }
    }

    fn now_unix_ms(&self) -> u64 {
        self.cloud
            .borrow()
            .now_ms
            .saturating_add_signed(self.skew_ms)
    }

    /// Looks what the upstream has, if it answers.
    async fn compare(&mut self) -> Option<u64> {
        pause().await;
        let now = self.cloud.borrow().answer();
        pause().await;
        let now = now?;
        self.show(now);
        let disk = &mut *self.disk.borrow_mut();
        disk.is_compared = true;
        if is_secret(now) {
            disk.holds.insert(now);
        }
        Some(now)
    }

    /// The same; once in a while it lists nothing.
    async fn list_refs(&mut self) -> Option<Option<u64>> {
        let state = self.compare().await?;
        let is_strange = self.cloud.borrow_mut().lists_nothing();
        // Who believes it is found out sooner.
        let is_strange = is_strange || self.variant == Variant::BelievesOneListing;
        let disk = &mut *self.disk.borrow_mut();
        disk.has_listed_nothing = is_strange && !disk.has_listed_nothing;
        Some((!disk.has_listed_nothing).then_some(state))
    }

    /// What no ref leads to goes, and others are to be told of it.
    fn expire(&mut self) {
        let raise = self.numbers.draw();
        let disk = &mut *self.disk.borrow_mut();
        let shows = disk.shows;
        // What it has not compared yet it cannot know to be gone.
        let stays = disk.holds.split_off(&shows);
        let gone = std::mem::replace(&mut disk.holds, stays);
        self.cloud.borrow_mut().expired.extend(&gone);
        let remembered = &mut *self.remembered.borrow_mut();
        if !gone.is_empty() {
            remembered.memory.due = Some(raise);
        }
        remembered.due.extend(gone);
    }

    /// One whose disk is empty begins with what is shared.
    async fn import(&mut self, place: &Place) -> Result<(), RemoteError> {
        if self.disk.borrow().builds > 0 {
            return Ok(());
        }
        let base = self.read(place).await?;
        if base.is_below() || self.remembered.borrow().memory.due.is_some() {
            return Ok(());
        }
        let head = base.head;
        let shown = self.cloud.borrow().shown(&head);
        if shown.is_some_and(|shown| shown < self.remembered.borrow().shown) {
            let what = "what is older than what was seen is taken";
            self.cloud.borrow_mut().breaks(what);
        }
        let Some(current) = head
            .current(&self.about("HEAD"))
            .filter(|it| head.is_valid(it))
        else {
            return Ok(());
        };
        // It takes its time, and more of it shows sooner who forgets that.
        let pauses = match self.variant {
            Variant::ImportsLate => 60,
            _ => 5,
        };
        for _ in 0..pauses {
            pause().await;
        }
        let mut generation = head.at();
        if self.variant == Variant::ImportsLate {
            generation = Base::read(&self.objects, place).await?.head.at();
        }
        let disk = &mut *self.disk.borrow_mut();
        disk.builds += 1;
        disk.holds = secrets(current.parts.iter().map(PartKey::name)).collect();
        disk.generation = generation;
        Ok(())
    }

    /// As `jobs::adoption` does: the packs of a head that shows the same take the place of its own, but for what these have
    /// that is reached, or was left lately. A fetch or an expiry may come in between.
    async fn adopt(&mut self) -> Result<(), RemoteError> {
        let place = self.cloud.borrow().place.clone();
        let base = self.read(&place).await?;
        let (at, own) = {
            let disk = self.disk.borrow();
            let shows = (full_id(&disk.holds, disk.shows), disk.shows.to_string());
            (disk.generation, shows)
        };
        let own = (own.0.as_str(), &*own.1);
        let current = base.head.to_adopt(&self.about("HEAD"), own, at);
        let Some(current) = current.filter(|_| !base.is_below()) else {
            return Ok(());
        };
        let theirs = secrets(current.parts.iter().map(PartKey::name)).collect();
        for _ in 0..5 {
            pause().await;
        }
        // It is seen where something is fetched meanwhile.
        let meanwhile = match self.variant {
            Variant::DropsWhatIsReached => 0,
            _ => self.cloud.borrow_mut().rng.below(3),
        };
        match meanwhile {
            0 => drop(self.compare().await),
            1 => self.expire(),
            _ => drop(self.at_generation(&place).await?),
        }
        let is_due = self.remembered.borrow().memory.due.is_some();
        let disk = &mut *self.disk.borrow_mut();
        if (disk.generation != at || is_due) && self.variant != Variant::AdoptsLate {
            return Ok(());
        }
        let own = std::mem::replace(&mut disk.holds, theirs);
        if self.variant != Variant::DropsWhatIsReached {
            disk.holds.extend(own);
        }
        let is_whole = !is_secret(disk.shows) || disk.holds.contains(&disk.shows);
        if disk.is_compared && !is_whole {
            let what = "what refs lead to has gone from a mirror";
            self.cloud.borrow_mut().breaks(what);
        }
        Ok(())
    }

    /// As `jobs::generation` does: head and disk are of one generation, or the others are to be told of the next one. `None`
    /// if that cannot be just now.
    async fn at_generation(
        &mut self,
        place: &Place,
    ) -> Result<Option<(Base, Generation)>, RemoteError> {
        self.import(place).await?;
        let base = self.read(place).await?;
        if self.variant == Variant::ForgetsGenerations {
            let disk = &mut *self.disk.borrow_mut();
            self.remembered.borrow_mut().memory.due = None;
            disk.generation = base.head.at();
            return Ok(Some((base, disk.generation)));
        }
        self.note_heard(&base);
        let own = self.disk.borrow().generation;
        let seen = self.remembered.borrow().memory.at();
        let is_caught = self.caught == Some((own, base.head.at()));
        if base.head.is_past(own) && !is_caught || own.is_before(seen) {
            let Some(listed) = self.list_refs().await else {
                return Ok(None);
            };
            let names = names_of(listed.iter().map(|_| "refs/heads/main"));
            let times = (self.cloud.borrow().now_ms, LISTED_TWICE_MS);
            let is_believed = self.twice.take(base.head.at(), names, times).is_ok();
            if !is_believed && self.variant != Variant::BelievesOneListing {
                return Ok(None);
            }
            let raise = self.numbers.draw();
            let disk = &mut *self.disk.borrow_mut();
            disk.holds.retain(|secret| Some(*secret) == listed);
            if listed.is_none() {
                let what = "what the upstream has is removed for one listing";
                self.cloud.borrow_mut().breaks(what);
            }
            let is_later = base.head.is_later(seen);
            if !base.head.follows(own) || is_later && !base.head.follows(seen) {
                let memory = &mut self.remembered.borrow_mut().memory;
                memory.due.get_or_insert(raise);
                self.left = [seen, own].into_iter().find(|one| !base.head.follows(*one));
            }
            disk.generation = if is_later { base.head.at() } else { seen };
            self.caught = Some((disk.generation, base.head.at()));
        }
        let own = self.disk.borrow().generation;
        let raise_due = self.remembered.borrow().memory.due;
        self.left = self.left.filter(|_| raise_due.is_some());
        let generation = match raise_due {
            Some(raise) if self.variant != Variant::NeverTells => Generation {
                number: own.number + 1,
                raise,
            },
            _ => own,
        };
        if generation != own && self.variant == Variant::TellsAlone {
            self.tell_alone(place, &base, generation).await?;
            return Ok(None);
        }
        Ok(Some((base, generation)))
    }

    /// What it has told before it was killed, or before it got an answer.
    fn note_heard(&self, base: &Base) {
        let due = self.remembered.borrow().memory.due;
        if let Some(raise) = due.filter(|raise| base.head.has_raised(*raise)) {
            if base.head.at().raise == raise {
                self.disk.borrow_mut().generation = base.head.at();
            }
            self.end_duty(base.head.write, (raise, base.head.at()));
        }
    }

    fn end_duty(&self, write: RandomId, (raise, now): (RandomId, Generation)) {
        let remembered = &mut *self.remembered.borrow_mut();
        remembered.memory.set_at(now);
        if remembered.memory.due.take_if(|due| *due == raise).is_some() {
            let due = std::mem::take(&mut remembered.due);
            self.cloud.borrow_mut().note_told(write, &due);
        }
    }

    /// What is shared comes after.
    fn after(&self) -> Generation {
        self.left.unwrap_or(self.disk.borrow().generation)
    }

    /// It is told by this write.
    fn note_told(&self, write: RandomId, generation: Generation) {
        self.disk.borrow_mut().generation = generation;
        self.end_duty(write, (generation.raise, generation));
    }

    async fn tell_alone(
        &mut self,
        place: &Place,
        base: &Base,
        generation: Generation,
    ) -> Result<(), RemoteError> {
        let change = Change {
            generation,
            after: self.after(),
            ..Change::default()
        };
        let stamp = (&mut self.numbers, self.cloud.borrow().now_ms);
        let (listing, nothing) = (Listing::default(), Contents::new());
        let what = (&change, &nothing);
        let mut uploads = Uploads::default();
        let told = uploads.publish(&self.objects, place, (base, &listing), what, stamp);
        if let Published::Done(write) = told.await? {
            self.note_told(write, generation);
        }
        Ok(())
    }

    /// What is shared where the upstream does not answer: what others are to be told by, if the head shows nothing newer.
    fn uncompared(&self, base: &Base, generation: Generation) -> Option<u64> {
        let disk = self.disk.borrow();
        let is_to_tell = generation != disk.generation || base.head.at() != generation;
        let shows = disk.shows.to_string();
        let refs = refs_name(shows.as_bytes());
        let mut is_no_newer = base.head.is_no_newer(Some(&refs));
        if self.variant == Variant::JudgesByKind {
            let current = base.head.current(&self.about("HEAD"));
            let current = current.filter(|current| base.head.is_valid(current));
            is_no_newer = current.is_none_or(|current| current.shows == shows);
        }
        (is_to_tell && base.is_there() && disk.is_compared && is_no_newer).then_some(disk.shows)
    }

    /// Of servers with an even number, and of the others, snapshots are of two kinds.
    fn about(&self, want: &str) -> About {
        About {
            want: want.into(),
            kind: (self.me.0 % 2).to_string(),
        }
    }

    async fn read(&mut self, place: &Place) -> Result<Base, RemoteError> {
        let base = Base::read(&self.objects, place).await?;
        let remembered = &mut *self.remembered.borrow_mut();
        let above = base.clone().above(&remembered.memory);
        remembered.memory.note(&base.head);
        if !above.is_below() {
            let shown = self.cloud.borrow().shown(&base.head);
            remembered.shown = remembered.shown.max(shown.unwrap_or(0));
        }
        Ok(above)
    }

    /// What is there, or what a head and this server believe is.
    async fn list(&self, base: &Base, place: &Place) -> Result<Listing, RemoteError> {
        if self.variant != Variant::BelievesHeads {
            return Ok(Listing::read(&self.objects, place).await?);
        }
        let parts = base.head.parts.iter();
        let condemned = base.head.condemned.iter();
        let condemned = condemned.filter_map(|one| Some((one.key.clone(), one.bytes?)));
        Ok(parts
            .map(|part| (part.key.clone(), part.bytes))
            .chain(condemned)
            .collect())
    }

    fn show(&self, state: u64) {
        let mut disk = self.disk.borrow_mut();
        if state < disk.shows {
            self.cloud.borrow_mut().breaks("a server goes back");
        }
        disk.shows = state;
    }

    /// Whether the store says what the upstream has.
    async fn publish(&mut self) -> Result<bool, RemoteError> {
        let place = self.cloud.borrow().place.clone();
        let mut agreed = None;
        if self.variant != Variant::ComparedBeforeHead {
            agreed = Some(self.at_generation(&place).await?);
        }
        let state = self.compare().await;
        let agreed = match agreed {
            Some(agreed) => agreed,
            None => self.at_generation(&place).await?,
        };
        let Some((base, generation)) = agreed else {
            return Ok(false);
        };
        let Some(state) = state.or_else(|| self.uncompared(&base, generation)) else {
            return Ok(false);
        };
        let (change, contents) = self.build(state, generation);
        let listing = self.list(&base, &place).await?;
        if base.head.says(&change, &listing) {
            return Ok(true);
        }
        let published = match self.variant {
            Variant::PartsAfterHead => {
                let base = (&base, &listing);
                self.publish_head_first(base, &change, &contents).await?
            }
            Variant::BelievesRefusals => {
                let base = (&base, &listing);
                self.publish_believing(base, &change, &contents).await?
            }
            _ => {
                let stamp = (&mut self.numbers, self.cloud.borrow().now_ms);
                let what = (&change, &contents);
                let uploads = &mut self.uploads;
                let there = (&base, &listing);
                uploads
                    .publish(&self.objects, &place, there, what, stamp)
                    .await?
            }
        };
        match published {
            Published::Already => Ok(true),
            Published::Behind => Ok(false),
            Published::Done(write) => {
                self.cloud.borrow_mut().note_done(write);
                self.note_told(write, generation);
                Ok(true)
            }
            Published::Lost(write) => {
                self.cloud.borrow_mut().note_lost(write);
                if self.variant == Variant::LoserTakesRefs {
                    let winner = Base::read(&self.objects, &place).await?.head;
                    let shown = self.cloud.borrow().shown(&winner);
                    shown.inspect(|shown| self.show(*shown));
                }
                Ok(false)
            }
        }
    }

    /// What a server makes of a state: packs and frames that depend on it alone, and a snapshot without history, for
    /// which git makes another pack each time.
    fn build(&mut self, state: u64, generation: Generation) -> (Change, Contents<Vec<u8>>) {
        let mut contents = Contents::new();
        let mut add = |name: String, content: String| {
            contents.insert(name.clone(), (content.len() as u64, content.into_bytes()));
            name
        };
        let packs =
            [state / 3, state].map(|of| add(format!("pack-{of}.pack"), format!("pack {of}")));
        let held = self.disk.borrow().holds.clone();
        let held = held
            .iter()
            .map(|secret| add(format!("pack-5ec{secret}.pack"), format!("secret {secret}")));
        let held = Vec::from_iter(held);
        let packs: BTreeSet<String> = packs.into_iter().chain(held).collect();
        let refs = add(refs_name(state.to_string().as_bytes()), state.to_string());
        let frames = add(
            format!("{:032x}", state / 2),
            format!("frames {}", state / 2),
        );
        let mut full = Vec::from_iter(packs.iter().cloned());
        full.push(frames.clone());
        let made = drawn(&self.cloud);
        self.disk.borrow_mut().builds += 1;
        let builds = self.disk.borrow().builds;
        let salt = match self.variant {
            Variant::CountsBuilds => u128::from(builds),
            _ => made.0,
        };
        let tip = add(format!("pack-tip{made}.pack"), format!("tip {made}"));
        let full_id = full_id(&self.disk.borrow().holds, state);
        let tip_id = EntryId::from_bytes((salt << 1 | 1).to_be_bytes());
        let snapshots = [
            ("HEAD", full_id, full),
            ("HEAD depth 1", tip_id, vec![tip, frames]),
        ];
        let snapshots = snapshots.map(|(want, id, parts)| {
            let text = format!("{want} {state} {parts:?}");
            self.cloud.borrow_mut().note_archive(id.as_str(), &text);
            NewSnapshot {
                about: self.about(want),
                id,
                shows: state.to_string(),
                manifest: add(manifest_name(text.as_bytes()), text),
                parts,
                compared_unix_ms: 0,
            }
        });
        // What has a pack of its own is made when somebody asks for it.
        let is_asked_for = made.0.is_multiple_of(3);
        let count = if is_asked_for { 2 } else { 1 };
        let change = Change {
            generation,
            after: self.after(),
            mirror: Some((Vec::from_iter(packs), refs)),
            snapshots: snapshots.into_iter().take(count).collect(),
            ..Change::default()
        };
        (change, contents)
    }

    /// Keys for all that a change names, and the head that names them.
    fn draw_up(
        &mut self,
        (base, listing): (&Base, &Listing),
        change: &Change,
        contents: &Contents<Vec<u8>>,
    ) -> Option<(Head, BTreeMap<String, Uploaded>)> {
        let mut uploaded = BTreeMap::new();
        for name in change.names() {
            let (bytes, removals) = (contents[name].0, base.head.removals);
            let key = PartKey::new(name, self.numbers.draw()).expect("a name");
            let part = Uploaded {
                key,
                bytes,
                removals,
            };
            uploaded.insert(name.to_owned(), part);
        }
        let lengths = |name: &str| contents.get(name).map(|(bytes, _)| *bytes);
        let stamp = (self.numbers.draw(), self.now_unix_ms());
        let there = (listing, &uploaded);
        let next = base.head.with(change, lengths, there, stamp);
        Some((next.ok()?, uploaded))
    }

    async fn upload(
        &self,
        parts: &BTreeMap<String, Uploaded>,
        contents: &Contents<Vec<u8>>,
    ) -> Result<(), RemoteError> {
        let place = self.cloud.borrow().place.clone();
        for part in parts.values() {
            let content = &contents[part.key.name()].1;
            self.objects.upload(&place.part(&part.key), content).await?;
        }
        Ok(())
    }

    async fn publish_head_first(
        &mut self,
        (base, listing): (&Base, &Listing),
        change: &Change,
        contents: &Contents<Vec<u8>>,
    ) -> Result<Published, RemoteError> {
        let place = self.cloud.borrow().place.clone();
        let drawn = self.draw_up((base, listing), change, contents);
        let Some((next, parts)) = drawn else {
            return Ok(Published::Behind);
        };
        let swapped = base.swap(&self.objects, &place, &next).await?;
        self.upload(&parts, contents).await?;
        Ok(match swapped {
            Swapped::Done => Published::Done(next.write),
            Swapped::Lost(_) => Published::Lost(next.write),
        })
    }

    async fn publish_believing(
        &mut self,
        (base, listing): (&Base, &Listing),
        change: &Change,
        contents: &Contents<Vec<u8>>,
    ) -> Result<Published, RemoteError> {
        let key = self.cloud.borrow().place.head();
        let drawn = self.draw_up((base, listing), change, contents);
        let Some((next, parts)) = drawn else {
            return Ok(Published::Behind);
        };
        self.upload(&parts, contents).await?;
        let bytes = next.encode().expect("a short head");
        Ok(
            match self.objects.swap(&key, bytes, &base.condition()).await {
                Ok(_) => Published::Done(next.write),
                Err(_) => Published::Lost(next.write),
            },
        )
    }

    async fn collect(&mut self) {
        let place = self.cloud.borrow().place.clone();
        let now_ms = self.cloud.borrow().now_ms;
        let is_due = |condemned: &Condemned| condemned.since_unix_ms + REMOTE_KEPT_MS <= now_ms;
        // The next one goes on.
        let _ = match self.variant {
            Variant::CollectsInOneStep => self.collect_at_once(&place).await,
            Variant::ListsBeforeHead => self.collect_listed(&place, is_due).await,
            _ => {
                let stamp = (&mut self.numbers, now_ms);
                let memory = self.remembered.borrow().memory.clone();
                let at = (&place, Some(&memory));
                sweep(&self.objects, at, is_due, stamp).await.map(drop)
            }
        };
    }

    async fn collect_at_once(&mut self, place: &Place) -> Result<(), RemoteError> {
        let listed = Listing::read(&self.objects, place).await?;
        let head = Base::read(&self.objects, place).await?.head;
        for key in listed.keys() {
            if head.stored(key).is_none() {
                self.objects.delete(&place.part(key)).await?;
            }
        }
        Ok(())
    }

    async fn collect_listed(
        &mut self,
        place: &Place,
        is_due: impl Fn(&Condemned) -> bool,
    ) -> Result<(), RemoteError> {
        let listed = Listing::read(&self.objects, place).await?;
        for _ in 0..30 {
            pause().await;
        }
        let base = Base::read(&self.objects, place).await?;
        for key in &base.head.removed {
            self.objects.delete(&place.part(key)).await?;
        }
        let stamp = (self.numbers.draw(), self.cloud.borrow().now_ms);
        if let Some(next) = base.head.collecting(&listed, is_due, stamp) {
            base.swap(&self.objects, place, &next).await?;
        }
        Ok(())
    }

    async fn lease(&mut self) {
        let key = self.cloud.borrow().place.lease();
        let cloud = self.cloud.clone();
        let numbers = &mut self.numbers;
        let is_leaving = self.cloud.borrow_mut().rng.below(6) == 0;
        // Nothing right rests on it.
        let _ = match self.variant {
            Variant::ExpiresByDate => self.lease_by_date(&key).await,
            _ if is_leaving => {
                let given = self.watch.give_back(&self.objects, &key, self.me, numbers);
                given.await.ok()
            }
            _ => {
                let stamp = (numbers, move || cloud.borrow().now_ms);
                let taken = self.watch.take(&self.objects, &key, self.me, stamp).await;
                taken.ok().map(drop)
            }
        };
    }

    async fn lease_by_date(&mut self, key: &str) -> Option<()> {
        let found = self.objects.get(key, SMALL_OBJECT_BYTES_MAX).await.ok()?;
        let now_ms = self.now_unix_ms();
        let lease = found
            .as_ref()
            .map(|found| serde_json::from_slice::<Lease>(&found.bytes));
        if let Some(Ok(lease)) = &lease {
            let until_ms = lease.more["until"].as_u64()?;
            if lease.holder != Some(self.me) && now_ms < until_ms {
                return None;
            }
        }
        let mut lease = Lease {
            holder: Some(self.me),
            write: self.numbers.draw(),
            compared: None,
            more: serde_json::Map::new(),
        };
        lease.more.insert("until".into(), json!(now_ms + LEASE_MS));
        let condition = match found {
            None => Condition::Absent,
            Some(found) => Condition::Unchanged(found.version),
        };
        let bytes = serde_json::to_vec(&lease).expect("texts");
        self.objects
            .swap(key, bytes, &condition)
            .await
            .ok()
            .map(drop)
    }
}

/// What a seed has come to.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    faults: u64,
    swaps: u64,
    removed: u64,
    takeovers: u64,
    kills: u64,
}

/// What goes lost now and then: of two at once nobody may be left who knows what has expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loses {
    /// All that a server has, and not its mirror alone.
    Disks,
    /// All that is in the store.
    Store,
    /// The same, and what was there some time ago is there again.
    Time,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;

struct World {
    cloud: Rc<RefCell<Cloud>>,
    variant: Variant,
    disks: Vec<Rc<RefCell<Disk>>>,
    remembered: Vec<Rc<RefCell<Remembered>>>,
    tasks: Vec<Option<Task>>,
    is_over: Rc<Cell<bool>>,
    loses: Loses,
    /// Until which step each is paused.
    paused: Vec<u64>,
    kills: u64,
}

impl World {
    fn new(seed: u64, variant: Variant) -> World {
        let place = Place::of(Identity {
            host: "h".into(),
            path: "r".into(),
            url: "https://h/r".into(),
        });
        let cloud = Rc::new(RefCell::new(Cloud::new(Rng::new(seed), place)));
        let servers = 2 + cloud.borrow_mut().rng.below(2) as usize;
        let fault_one_in = [0, 4, 12, 40][cloud.borrow_mut().rng.below(4) as usize];
        cloud.borrow_mut().fail_one_in(fault_one_in);
        let disk = || Rc::<RefCell<Disk>>::default();
        let place = cloud.borrow().place.clone();
        let remembered = || Rc::new(RefCell::new(Remembered::of(&place)));
        let mut world = World {
            cloud,
            variant,
            disks: (0..servers).map(|_| disk()).collect(),
            remembered: (0..servers).map(|_| remembered()).collect(),
            tasks: Vec::new(),
            is_over: Rc::default(),
            loses: [Loses::Disks, Loses::Store, Loses::Time][seed as usize % 3],
            paused: vec![0; servers],
            kills: 0,
        };
        for me in 0..servers {
            let task = world.start(me);
            world.tasks.push(Some(task));
        }
        world
    }

    fn start(&self, me: usize) -> Task {
        let skew_ms =
            self.cloud.borrow_mut().rng.below(20 * LEASE_MS) as i64 - 10 * LEASE_MS as i64;
        let numbers = Numbers {
            cloud: self.cloud.clone(),
            variant: self.variant,
            me: me as u64,
            count: 0,
        };
        let server = Server {
            objects: SimObjects(self.cloud.clone()),
            cloud: self.cloud.clone(),
            variant: self.variant,
            me: RandomId(me as u128 + 1),
            skew_ms,
            disk: self.disks[me].clone(),
            remembered: self.remembered[me].clone(),
            numbers,
            uploads: Uploads::default(),
            watch: Watch::default(),
            twice: Twice::default(),
            caught: None,
            left: None,
            is_over: self.is_over.clone(),
        };
        Box::pin(server.run())
    }

    fn below(&self, bound: u64) -> u64 {
        self.cloud.borrow_mut().rng.below(bound)
    }

    fn step(&mut self, step: u64) {
        let who = self.below(self.tasks.len() as u64) as usize;
        match self.below(64) {
            0 => self.cloud.borrow_mut().upstream += 1,
            1..=3 => self.cloud.borrow_mut().deliver(),
            4..=6 => {
                let longest = [
                    LEASE_MS / 3,
                    LEASE_MS * 2,
                    REMOTE_KEPT_MS,
                    3 * REMOTE_KEPT_MS,
                ];
                let ms = self.below(longest[self.below(4) as usize]);
                self.cloud.borrow_mut().now_ms += ms;
            }
            7 => {
                self.kills += 1;
                if self.below(3) == 0 {
                    self.lose(who);
                }
                self.tasks[who] = Some(self.start(who));
            }
            9 if self.below(8) == 0 => match self.loses {
                Loses::Disks => {}
                Loses::Store => self.cloud.borrow_mut().empty(),
                Loses::Time => self.cloud.borrow_mut().save_or_restore(),
            },
            10 => self.cloud.borrow_mut().leave_or_come(),
            // Who believes too much where there is nobody to ask is seen sooner.
            11..=16 if self.variant == Variant::JudgesByKind => {
                self.cloud.borrow_mut().leave_or_come();
            }
            8 => self.paused[who] = step + self.below(STEPS / 2),
            _ if self.paused[who] > step => {}
            _ => self.poll(who),
        }
    }

    /// A mirror leaves, or all that is on the disk. Of two things at once nobody may be left who knows what has expired.
    fn lose(&self, who: usize) {
        let remembered = &mut *self.remembered[who].borrow_mut();
        let is_told = remembered.memory.due.is_none();
        let place = Place::of(remembered.memory.repository.clone());
        *self.disks[who].borrow_mut() = Disk::default();
        let is_all = self.loses == Loses::Disks && is_told && self.below(2) == 0;
        if is_all || self.variant == Variant::ForgetsDuties {
            *remembered = Remembered::of(&place);
        }
        if self.variant == Variant::ForgetsHeads {
            let due = remembered.memory.due;
            remembered.memory = Memory {
                due,
                ..Memory::of(place.identity)
            };
        }
    }

    fn poll(&mut self, who: usize) {
        let mut context = Context::from_waker(Waker::noop());
        if let Some(task) = &mut self.tasks[who]
            && task.as_mut().poll(&mut context).is_ready()
        {
            self.tasks[who] = None;
        }
    }

    fn is_broken(&self) -> bool {
        self.cloud.borrow().broken.is_some()
    }

    /// Nothing fails any more: all come to the same, and what nobody needs goes.
    fn settle(&mut self) {
        self.cloud.borrow_mut().fail_one_in(0);
        self.cloud.borrow_mut().deliver_all();
        self.cloud.borrow_mut().is_away = false;
        self.is_over.set(true);
        // Of what one tells at its end the others hear when they look the next time.
        for _ in 0..2 {
            let mut polls = 0;
            while self.tasks.iter().any(Option::is_some) && !self.is_broken() {
                let who = self.below(self.tasks.len() as u64) as usize;
                self.poll(who);
                // Whoever waits for some time to pass comes to it.
                self.cloud.borrow_mut().now_ms += 100;
                polls += 1;
                assert!(polls < 100_000, "servers never come to an end");
            }
            for me in 0..self.tasks.len() {
                self.tasks[me] = Some(self.start(me));
            }
        }
        let sweeps = if self.is_broken() { 0 } else { 4 };
        for _ in 0..sweeps {
            self.cloud.borrow_mut().now_ms += REMOTE_KEPT_MS;
            self.collect();
        }
        self.check_end();
    }

    fn collect(&self) {
        let (objects, place) = (
            SimObjects(self.cloud.clone()),
            self.cloud.borrow().place.clone(),
        );
        let now_ms = self.cloud.borrow().now_ms;
        let mut numbers = Numbers {
            cloud: self.cloud.clone(),
            variant: Variant::Sound,
            me: 0,
            count: 0,
        };
        let is_due = |condemned: &Condemned| condemned.since_unix_ms + REMOTE_KEPT_MS <= now_ms;
        let mut swept = Box::pin(sweep(
            &objects,
            (&place, None),
            is_due,
            (&mut numbers, now_ms),
        ));
        let mut context = Context::from_waker(Waker::noop());
        let swept = loop {
            if let std::task::Poll::Ready(swept) = swept.as_mut().poll(&mut context) {
                break swept;
            }
        };
        assert!(
            !matches!(swept, Ok(Swept::Lost) | Err(_)),
            "nobody else writes: {swept:?}"
        );
    }

    fn check_end(&self) {
        let cloud = &mut *self.cloud.borrow_mut();
        if cloud.broken.is_some() {
            return;
        }
        let head = cloud.head().expect("somebody has published");
        if cloud.shown(&head) != Some(cloud.upstream) {
            cloud.breaks("the store does not show what the upstream has");
        }
        if !cloud.is_whole() {
            cloud.breaks("something is named and not there at the end");
        }
        let stored = cloud.parts();
        let stored = secrets(
            stored
                .iter()
                .filter_map(|key| Some(key.rsplit_once('.')?.0)),
        );
        let mut left: BTreeSet<u64> = stored.collect();
        for disk in &self.disks {
            left.extend(&disk.borrow().holds);
        }
        if left.intersection(&cloud.expired).next().is_some() {
            cloud.breaks("what has expired is there at the end");
        }
        let named = head.parts.iter().map(|part| part.key.to_string());
        if named.collect::<BTreeSet<_>>() != cloud.parts() {
            cloud.breaks("something stays that nobody names");
        }
    }
}

fn run(seed: u64, variant: Variant) -> Result<Counts, String> {
    let mut world = World::new(seed, variant);
    for step in 0..STEPS {
        world.step(step);
        if world.is_broken() {
            break;
        }
    }
    world.settle();
    let cloud = world.cloud.borrow();
    match &cloud.broken {
        Some(broken) => Err(broken.clone()),
        None => Ok(Counts {
            faults: cloud.faults,
            swaps: cloud.swaps,
            removed: cloud.removed,
            takeovers: cloud.takeovers,
            kills: world.kills,
        }),
    }
}

#[test]
fn servers_over_one_store_hold() {
    let seeds = super::seeds(SEEDS_DEFAULT);
    let count = seeds.end - seeds.start;
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Counts::default());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let counts = run(seed, Variant::Sound).unwrap_or_else(|broken| {
                next.store(seeds.end, Ordering::Relaxed);
                panic!("seed {seed}: {broken}");
            });
            let total = &mut *total.lock().unwrap();
            total.faults += counts.faults;
            total.swaps += counts.swaps;
            total.removed += counts.removed;
            total.takeovers += counts.takeovers;
            total.kills += counts.kills;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let total = total.into_inner().unwrap();
    eprintln!("{count} seeds: {total:?}");
    let is_deep =
        total.swaps >= 5 * count && total.removed >= count && total.takeovers * 20 >= count;
    assert!(is_deep || count < 1000, "too little happens: {total:?}");
}

#[test]
fn each_broken_rule_is_seen() {
    let variants = [
        (Variant::PartsAfterHead, &["is named and not there"][..]),
        (
            Variant::ComparedBeforeHead,
            &[
                "refs in the store go back",
                "what has expired is",
                "older than what was seen is taken",
            ][..],
        ),
        (Variant::LoserTakesRefs, &["a server goes back"][..]),
        (Variant::CollectsInOneStep, &["is named and not there"][..]),
        (Variant::ListsBeforeHead, &["is named and not there"][..]),
        (
            Variant::DrawsNumbersTwice,
            &["is written twice", "said to be lost"][..],
        ),
        (Variant::BelievesRefusals, &["said to be lost"][..]),
        (
            Variant::ExpiresByDate,
            &["a lease is taken from who has renewed it"][..],
        ),
        (Variant::CountsBuilds, &["two archives have one id"][..]),
        (
            Variant::BelievesHeads,
            &["is named and not there", "nobody has it"][..],
        ),
        (Variant::ForgetsGenerations, &["what has expired is"][..]),
        (Variant::NeverTells, &["what has expired is"][..]),
        (
            Variant::TellsAlone,
            &["names nothing of what is wanted"][..],
        ),
        (
            Variant::BelievesOneListing,
            &["removed for one listing"][..],
        ),
        (Variant::ImportsLate, &["what has expired is"][..]),
        (
            Variant::JudgesByKind,
            &[
                "refs in the store go back",
                "older than what was seen is taken",
            ][..],
        ),
        (Variant::ForgetsDuties, &["what has expired is"][..]),
        (Variant::DropsWhatIsReached, &["has gone from a mirror"][..]),
        (Variant::AdoptsLate, &["what has expired is"][..]),
        (
            Variant::ForgetsHeads,
            &["older than what was seen is taken", "what has expired is"][..],
        ),
    ];
    for (variant, expected) in variants {
        let seen = (0..SEEDS_TO_SEE).find_map(|seed| Some((seed, run(seed, variant).err()?)));
        let (seed, broken) = seen.unwrap_or_else(|| panic!("nobody sees {variant:?}"));
        eprintln!("{variant:?}: seed {seed}: {broken}");
        assert!(
            expected.iter().any(|expected| broken.contains(expected)),
            "{variant:?}: seed {seed}: {broken}"
        );
    }
}
