//! Who has the lease of a repository, while time passes and dates differ.

use stateright::{Model, Property};
use tarpon::limits::LEASE_MS;
use tarpon::store::remote::lease::Watch;
use tarpon::store::remote::objects::Version;

use crate::{fails, holds_in_all};

/// So many ticks are as long as a lease.
const TICKS: u64 = 2;
const SERVERS: usize = 2;
/// It ends here: time has no end.
const NOW_MAX: u64 = 6;
const WRITES_MAX: u8 = 4;
/// How far the date of each server is off, and its monotonic clock.
const OFF: [u64; SERVERS] = [0, TICKS];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Sound,
    ExpiresByDate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Lease {
    holder: usize,
    write: u8,
    /// When it was written, by nobody's clock.
    at: u64,
    /// By the date of who wrote it.
    until: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    lease: Option<Lease>,
    writes: u8,
    watches: Vec<Watch>,
    /// Who has read it and found it to be free, and what he read.
    takes: Vec<Option<Option<u8>>>,
    is_stolen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Tick,
    Look(usize),
    Write(usize),
}

struct Leases(Variant);

impl Leases {
    fn is_free(&self, world: &mut World, me: usize) -> bool {
        let Some(lease) = world.lease else {
            return true;
        };
        let now = world.now + OFF[me];
        match self.0 {
            _ if lease.holder == me => true,
            Variant::ExpiresByDate => now >= lease.until,
            Variant::Sound => {
                let version = Version(lease.write.to_string());
                world.watches[me].has_expired(&version, now * (LEASE_MS / TICKS))
            }
        }
    }
}

impl Model for Leases {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now: 0,
            lease: None,
            writes: 0,
            watches: vec![Watch::default(); SERVERS],
            takes: vec![None; SERVERS],
            is_stolen: false,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        if world.now < NOW_MAX {
            actions.push(Action::Tick);
        }
        for me in 0..SERVERS {
            actions.push(match world.takes[me] {
                None => Action::Look(me),
                Some(_) => Action::Write(me),
            });
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Tick => world.now += 1,
            Action::Look(me) => {
                if self.is_free(&mut world, me) {
                    world.takes[me] = Some(world.lease.map(|lease| lease.write));
                }
            }
            Action::Write(me) => {
                let read = world.takes[me].take()?;
                let stands = world.lease.map(|lease| lease.write);
                // It is refused, or there were enough.
                if read != stands || world.writes == WRITES_MAX {
                    return Some(world);
                }
                if let Some(lease) = world.lease.filter(|lease| lease.holder != me) {
                    world.is_stolen |= world.now - lease.at < TICKS;
                }
                world.writes += 1;
                world.lease = Some(Lease {
                    holder: me,
                    write: world.writes,
                    at: world.now,
                    until: world.now + OFF[me] + TICKS,
                });
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Leases>> {
        vec![
            Property::always(
                "nobody takes what was renewed in time",
                |_, world: &World| !world.is_stolen,
            ),
            Property::sometimes("one that is not renewed is taken", |_, world: &World| {
                world
                    .lease
                    .is_some_and(|lease| lease.write > 1 && lease.holder == 1)
            }),
        ]
    }
}

#[test]
fn a_lease_that_is_renewed_is_not_taken() {
    let states = holds_in_all(Leases(Variant::Sound));
    eprintln!("{states} states");
}

#[test]
fn dates_are_no_clock() {
    fails(
        Leases(Variant::ExpiresByDate),
        "nobody takes what was renewed in time",
    );
}
