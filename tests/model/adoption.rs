//! Servers that have cloned by themselves come to one archive, while something expires at any of them.
//!
//! What is bounded: rounds of each server, and how often something expires at it. There is one push, by which one object is
//! left; all have seen it by then, each in a pack of its own. Heads follow each other by the functions of the product, and
//! what is adopted is what they say. A raise is the number of a swap that no other one has.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Model, Property};
use tarpon::limits::REMOTE_KEPT_MS;
use tarpon::manifest::id::EntryId;
use tarpon::store::remote::change::{About, Change, Generation, NewSnapshot, NotYet, Uploaded};
use tarpon::store::remote::key::{PartKey, RandomId, manifest_name};

use crate::world::{BYTES, Base, Said, head_of, listing_of, refs_of};
use crate::{fails, holds_in_all};

/// What has expired is not in what a head of now shows.
const GONE: &str = "what has expired is in no snapshot of now";
const CLEAN: &str = "what has expired by a generation is in no mirror of it";
const SERVED: &str = "refs of a server do not go back";
const KEPT: &str = "a mirror has what its refs lead to";
const ONE: &str = "all come to one archive after something has expired";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Sound,
    /// Whoever is refused takes over what has won, and its refs.
    LoserTakesRefs,
    /// Packs come into a mirror whatever generation it is of by then.
    AdoptsIntoAnother,
    /// Who adopts is of the head's generation from then on, without having removed anything.
    AdoptionRaises,
    /// What was made before something expired is shared as if it were made since.
    SharesWhatWas,
    /// Who hears of a later generation is of that from then on, and removes nothing.
    CatchesUpByName,
    /// All own packs go, whatever is in them alone.
    DropsAllOwn,
}

/// Objects are bits.
type Objects = u8;
/// What is in a pack, and who has made it.
type Packs = BTreeSet<(Objects, u8)>;

/// What the refs of a state of the upstream lead to. By the last one the second object is left.
const LEADS: [Objects; 2] = [0b011, 0b101];

/// What a server does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum At {
    Read,
    /// The head was read.
    Compare(Base),
    /// What is shared is of this generation.
    Agreed(Base, Generation),
    /// Packs that a head of that generation names have come.
    Take(Packs, Generation),
    Swap(Base, Said, Generation),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Server {
    at: At,
    rounds: u8,
    expiries: u8,
    drawn: u8,
    shows: u8,
    packs: Packs,
    /// What a snapshot was last made of.
    made: Option<Packs>,
    generation: Generation,
    /// By which raise others are told of what has expired here.
    due: Option<RandomId>,
    /// What has.
    gone: Objects,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    upstream: u8,
    head: Base,
    objects: BTreeSet<PartKey>,
    servers: Vec<Server>,
    /// What has expired by each raise that somebody has told.
    expired: BTreeMap<RandomId, Objects>,
    broken: Option<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Push,
    /// Somebody asks, and the upstream is compared.
    Fetch(usize),
    Expire(usize),
    Step(usize),
}

#[derive(Debug, Clone, Copy)]
struct Adoption {
    variant: Variant,
    /// Of each server.
    rounds: &'static [u8],
    expiries: &'static [u8],
}

fn mask(packs: &Packs) -> Objects {
    packs.iter().fold(0, |all, (objects, _)| all | objects)
}

fn pack_name((objects, maker): (Objects, u8)) -> String {
    format!("pack-{objects}m{maker}.pack")
}

/// The pack of a name that [`pack_name`] has given.
fn pack_of(name: &str) -> Option<(Objects, u8)> {
    let name = name.strip_prefix("pack-")?.strip_suffix(".pack")?;
    let (objects, maker) = name.split_once('m')?;
    Some((objects.parse().ok()?, maker.parse().ok()?))
}

fn packs_of<'k>(keys: impl IntoIterator<Item = &'k PartKey>) -> Packs {
    let packs = keys.into_iter().filter_map(|key| pack_of(key.name()));
    packs.collect()
}

/// The `ETag` of what a server has.
fn id_of(shows: u8, packs: &Packs) -> EntryId {
    let mut hasher = DefaultHasher::new();
    (shows, packs).hash(&mut hasher);
    let hash = hasher.finish().to_be_bytes();
    EntryId::from_bytes(std::array::from_fn(|at| hash[at % hash.len()]))
}

fn about() -> About {
    About {
        want: "HEAD".into(),
        kind: "1".into(),
    }
}

impl World {
    fn breaks(&mut self, what: &'static str) {
        self.broken = self.broken.or(Some(what));
    }

    fn show(&mut self, me: usize, state: u8) {
        if state < self.servers[me].shows {
            self.breaks(SERVED);
        }
        self.servers[me].shows = state;
    }

    /// The upstream is compared: what is lacked comes in a pack.
    fn fetch(&mut self, me: usize) {
        let state = self.upstream;
        if self.servers[me].shows != state {
            self.show(me, state);
            let server = &mut self.servers[me];
            let lacked = LEADS[usize::from(state)] & !mask(&server.packs);
            if lacked != 0 {
                server.packs.insert((lacked, me as u8));
            }
            server.made = None;
        }
    }

    /// One number that nobody else has.
    fn draw(&mut self, me: usize) -> RandomId {
        let server = &mut self.servers[me];
        server.drawn += 1;
        RandomId((1 + me as u128) << 8 | u128::from(server.drawn))
    }

    fn end(&mut self, me: usize) {
        let server = &mut self.servers[me];
        server.rounds -= 1;
        server.at = At::Read;
    }

    fn expired_by(&self, raise: RandomId) -> Objects {
        self.expired.get(&raise).copied().unwrap_or_default()
    }

    /// No head of now shows what has expired by it.
    fn is_gone(&self) -> bool {
        self.head.as_ref().is_none_or(|said| {
            let head = said.head();
            let snapshots = head.snapshots.iter().filter(|one| head.is_valid(one));
            let shown = packs_of(snapshots.flat_map(|one| &one.parts).chain(&head.packs));
            mask(&shown) & self.expired_by(head.raise) == 0
        })
    }

    fn is_clean(&self) -> bool {
        let is_clean =
            |server: &Server| mask(&server.packs) & self.expired_by(server.generation.raise) == 0;
        self.servers.iter().all(is_clean)
    }

    fn is_kept(&self) -> bool {
        let leads = |server: &Server| LEADS[usize::from(server.shows)];
        let is_kept = |server: &Server| leads(server) & !mask(&server.packs) == 0;
        self.servers.iter().all(is_kept)
    }

    fn is_one(&self) -> bool {
        let ids: BTreeSet<EntryId> = self
            .servers
            .iter()
            .map(|server| id_of(server.shows, &server.packs))
            .collect();
        !self.expired.is_empty() && ids.len() == 1
    }
}

impl Server {
    /// What nothing leads to is removed, and what is left is in one pack.
    fn remove_unreached(&mut self, me: usize) -> Objects {
        let unreached = mask(&self.packs) & !LEADS[usize::from(self.shows)];
        if unreached != 0 {
            self.packs = [(LEADS[usize::from(self.shows)], me as u8)].into();
        }
        unreached
    }
}

impl Adoption {
    /// As `at_generation`, once the head was read.
    fn compare(&self, world: &mut World, me: usize, base: Base) {
        world.fetch(me);
        let head = head_of(&base);
        let server = &mut world.servers[me];
        if head.is_past(server.generation) {
            if self.variant != Variant::CatchesUpByName && self.variant != Variant::AdoptionRaises {
                server.remove_unreached(me);
                server.made = None;
            }
            if self.variant != Variant::AdoptionRaises {
                server.generation = head.at();
            }
        }
        let own = server.generation;
        let next = server.due.map(|raise| Generation {
            number: own.number + 1,
            raise,
        });
        server.at = At::Agreed(base, next.unwrap_or(own));
    }

    /// Takes over what the head shows, or shares what is here.
    fn agreed(&self, world: &mut World, me: usize, base: Base, generation: Generation) {
        let server = &mut world.servers[me];
        let packs = server.made.get_or_insert(server.packs.clone()).clone();
        let (head, shows) = (head_of(&base), server.shows.to_string());
        let id = id_of(server.shows, &packs);
        let of = match self.variant {
            Variant::AdoptionRaises => head.at(),
            _ => generation,
        };
        if let Some(current) = head.to_adopt(&about(), (id.as_str(), &shows), of) {
            server.at = At::Take(packs_of(&current.parts), head.at());
            return;
        }
        let names: Vec<String> = packs.iter().map(|pack| pack_name(*pack)).collect();
        let change = Change {
            generation,
            after: server.generation,
            used: None,
            mirror: Some((names.clone(), refs_of(server.shows))),
            snapshots: vec![NewSnapshot {
                about: about(),
                id,
                shows,
                manifest: manifest_name(id.as_str().as_bytes()),
                parts: names,
                compared_unix_ms: 0,
            }],
        };
        if head.says(&change, &listing_of(&world.objects)) {
            return world.end(me);
        }
        match self.share(world, me, &base, &change) {
            Ok(next) => world.servers[me].at = At::Swap(base, next, generation),
            Err(_) => world.end(me),
        }
    }

    /// The head that says it, once all of it is uploaded. No key matters here: nobody collects.
    fn share(
        &self,
        world: &mut World,
        me: usize,
        base: &Base,
        change: &Change,
    ) -> Result<Said, NotYet> {
        let head = head_of(base);
        let stamp = (world.draw(me), head.sequence * REMOTE_KEPT_MS);
        let with = |objects: &BTreeSet<PartKey>, uploaded: &BTreeMap<String, Uploaded>| {
            head.with(
                change,
                |_| Some(BYTES),
                (&listing_of(objects), uploaded),
                stamp,
            )
        };
        let mut uploaded = BTreeMap::new();
        let mut next = with(&world.objects, &uploaded);
        if let Err(NotYet::Missing(missing)) = &next {
            for name in missing {
                let key = PartKey::new(name, RandomId(1 + me as u128)).expect("a name of a part");
                world.objects.insert(key.clone());
                let removals = head.removals;
                let bytes = BYTES;
                let one = Uploaded {
                    key,
                    bytes,
                    removals,
                };
                uploaded.insert(name.clone(), one);
            }
            next = with(&world.objects, &uploaded);
        }
        next.map(Said::new)
    }

    /// As `adopt_packs`, once they have come.
    fn take(&self, world: &mut World, me: usize, packs: Packs, at: Generation) {
        let server = &mut world.servers[me];
        let may = server.due.is_none() && server.generation == at;
        let is_blind = matches!(
            self.variant,
            Variant::AdoptsIntoAnother | Variant::AdoptionRaises
        );
        if may || is_blind {
            let rest = mask(&server.packs) & !mask(&packs);
            server.packs = packs;
            if rest != 0 && self.variant != Variant::DropsAllOwn {
                server.packs.insert((rest, me as u8));
            }
            server.made = None;
            if self.variant == Variant::AdoptionRaises {
                server.generation = at;
            }
        }
        world.end(me);
    }

    fn swap(
        &self,
        world: &mut World,
        me: usize,
        base: &Base,
        (next, generation): (Said, Generation),
    ) {
        if world.head == *base {
            world.head = Some(next);
            let server = &mut world.servers[me];
            if generation != head_of(base).at() {
                server.generation = generation;
                server.due = server.due.filter(|due| *due != generation.raise);
                let gone = server.gone | world.expired_by(head_of(base).raise);
                world.expired.insert(generation.raise, gone);
            }
        } else if self.variant == Variant::LoserTakesRefs
            && let Some(shown) = world.head.as_ref().and_then(Said::shown)
        {
            world.show(me, shown);
        }
        world.end(me);
    }

    fn step(&self, world: &mut World, me: usize) {
        match world.servers[me].at.clone() {
            At::Read => {
                let base = world.head.clone();
                world.servers[me].at = At::Compare(base);
            }
            At::Compare(base) => self.compare(world, me, base),
            At::Agreed(base, generation) => self.agreed(world, me, base, generation),
            At::Take(packs, at) => self.take(world, me, packs, at),
            At::Swap(base, next, at) => self.swap(world, me, &base, (next, at)),
        }
    }

    /// Something expires; others are to be told.
    fn expire(&self, world: &mut World, me: usize) {
        let raise = world.draw(me);
        let server = &mut world.servers[me];
        server.expiries -= 1;
        server.gone |= server.remove_unreached(me);
        server.due = Some(raise);
        if self.variant != Variant::SharesWhatWas {
            server.made = None;
        }
    }
}

impl Model for Adoption {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let server = |(me, (rounds, expiries)): (usize, (&u8, &u8))| Server {
            at: At::Read,
            rounds: *rounds,
            expiries: *expiries,
            drawn: 0,
            shows: 0,
            packs: [(LEADS[0], me as u8)].into(),
            made: None,
            generation: Generation::default(),
            due: None,
            gone: 0,
        };
        let servers = self.rounds.iter().zip(self.expiries).enumerate();
        vec![World {
            upstream: 0,
            head: None,
            objects: BTreeSet::new(),
            servers: servers.map(server).collect(),
            expired: BTreeMap::new(),
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What comes after something is broken says nothing.
        if world.broken.is_some() {
            return;
        }
        if world.upstream == 0 {
            actions.push(Action::Push);
        }
        for (me, server) in world.servers.iter().enumerate() {
            if server.rounds == 0 {
                continue;
            }
            actions.push(Action::Step(me));
            if server.shows != world.upstream && server.at != At::Read {
                actions.push(Action::Fetch(me));
            }
            let unreached = mask(&server.packs) & !LEADS[usize::from(server.shows)];
            if server.expiries > 0 && unreached != 0 {
                actions.push(Action::Expire(me));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Push => world.upstream = 1,
            Action::Fetch(me) => world.fetch(me),
            Action::Expire(me) => self.expire(&mut world, me),
            Action::Step(me) => self.step(&mut world, me),
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Adoption>> {
        vec![
            Property::always(SERVED, |_, world: &World| world.broken != Some(SERVED)),
            Property::always(GONE, |_, world: &World| world.is_gone()),
            Property::always(CLEAN, |_, world: &World| world.is_clean()),
            Property::always(KEPT, |_, world: &World| world.is_kept()),
            Property::sometimes(ONE, |_, world: &World| world.is_one()),
        ]
    }
}

const TWO: Adoption = Adoption {
    variant: Variant::Sound,
    rounds: &[3, 3],
    expiries: &[1, 1],
};

const THREE: Adoption = Adoption {
    variant: Variant::Sound,
    rounds: &[2, 2, 1],
    expiries: &[1, 0, 0],
};

#[test]
fn all_orders_of_adoption_hold() {
    for model in [TWO, THREE] {
        let states = holds_in_all(model);
        eprintln!("{states} states of {model:?}");
    }
}

#[test]
fn each_broken_adoption_is_seen() {
    for (variant, property) in [
        (Variant::LoserTakesRefs, SERVED),
        (Variant::AdoptsIntoAnother, CLEAN),
        (Variant::AdoptionRaises, CLEAN),
        (Variant::CatchesUpByName, CLEAN),
        (Variant::SharesWhatWas, GONE),
        (Variant::DropsAllOwn, KEPT),
    ] {
        let steps = fails(Adoption { variant, ..TWO }, property);
        eprintln!("{variant:?}: {property:?} does not hold after {steps} steps");
    }
}
