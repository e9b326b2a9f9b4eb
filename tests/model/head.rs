//! Servers that publish what an upstream has, and others that collect, over one store whose answers get lost.
//!
//! What is bounded: pushes, rounds of each server, sweeps of each collector, and in all faults and crashes. Requests are
//! atomic, as the store promises; what comes between any two of them is what is looked at. An hour passes whenever it
//! likes: no clock is needed for any of this to be safe.

use std::collections::{BTreeMap, BTreeSet};

use stateright::{Model, Property};

use crate::world::{
    At, Bounds, Collector, FORWARD, ONCE, ONE, OWN, SERVED, Server, Sweep, Variant, WHOLE, World,
};
use crate::{fails, holds_in_all};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Push,
    Server(usize),
    /// Its write is done, and the answer gets lost.
    Unanswered(usize),
    /// Its write fails, and is done later or never.
    Late(usize),
    Arrives(usize),
    /// It cannot be told whether that is done; the next round shows it.
    GivesUp(usize),
    Crash(usize),
    Collector(usize),
    /// The same, an hour after what it has read was condemned.
    HourLater(usize),
    CrashCollector(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub variant: Variant,
    pub bounds: Bounds,
}

impl Model for Heads {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let server = |rounds: &u8| Server {
            at: At::Read,
            rounds: *rounds,
            shows: 0,
            builds: 0,
            lives: 0,
            drawn: 0,
            uploaded: BTreeMap::new(),
            late: None,
        };
        let collector = |sweeps: &u8| Collector {
            at: Sweep::Read,
            sweeps: *sweeps,
            drawn: 0,
        };
        vec![World {
            upstream: 0,
            pushes: self.bounds.pushes,
            faults: self.bounds.faults,
            crashes: self.bounds.crashes,
            head: None,
            objects: BTreeSet::new(),
            written: BTreeSet::new(),
            swaps: BTreeMap::new(),
            archives: BTreeMap::new(),
            servers: self.bounds.rounds.iter().map(server).collect(),
            collectors: self.bounds.sweeps.iter().map(collector).collect(),
            broken: None,
        }]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What comes after something is broken says nothing.
        if world.broken.is_some() {
            return;
        }
        if world.pushes > 0 {
            actions.push(Action::Push);
        }
        for (me, server) in world.servers.iter().enumerate() {
            if server.late.is_some() {
                actions.push(Action::Arrives(me));
            }
            if server.rounds == 0 {
                continue;
            }
            actions.push(Action::Server(me));
            if world.faults > 0 && matches!(server.at, At::Swap(..)) {
                actions.extend([Action::Unanswered(me), Action::Late(me)]);
            }
            if world.faults > 0 && matches!(server.at, At::Unsure(..)) {
                actions.push(Action::GivesUp(me));
            }
            if world.crashes > 0 && server.at != At::Read {
                actions.push(Action::Crash(me));
            }
        }
        for (me, collector) in world.collectors.iter().enumerate() {
            if collector.sweeps == 0 {
                continue;
            }
            actions.push(Action::Collector(me));
            if let Sweep::Swap(said, _) = &collector.at
                && !said.head().condemned.is_empty()
            {
                actions.push(Action::HourLater(me));
            }
            if world.crashes > 0 && collector.at != Sweep::Read {
                actions.push(Action::CrashCollector(me));
            }
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::Push => {
                world.pushes -= 1;
                world.upstream += 1;
            }
            Action::Server(me) => self.step(&mut world, me),
            Action::Unanswered(me) | Action::Late(me) => {
                let At::Swap(base, next) = world.servers[me].at.clone() else {
                    return None;
                };
                world.faults -= 1;
                match action {
                    Action::Unanswered(_) => drop(world.swap(&base, &next, me)),
                    _ => world.servers[me].late = Some((base.clone(), next.clone())),
                }
                world.servers[me].at = At::Unsure(base, next);
            }
            Action::Arrives(me) => {
                let (base, next) = world.servers[me].late.take()?;
                world.swap(&base, &next, me);
            }
            Action::GivesUp(me) => {
                world.faults -= 1;
                Self::end(&mut world, me);
            }
            Action::Crash(me) => Self::crash(&mut world, me),
            Action::Collector(me) => self.sweep(&mut world, me, false),
            Action::HourLater(me) => self.sweep(&mut world, me, true),
            Action::CrashCollector(me) => {
                world.crashes -= 1;
                Self::swept(&mut world, me);
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Heads>> {
        let steps = [
            (
                FORWARD,
                (|_, world| world.broken != Some(FORWARD)) as fn(&Heads, &World) -> bool,
            ),
            (SERVED, |_, world| world.broken != Some(SERVED)),
            (ONCE, |_, world| world.broken != Some(ONCE)),
            (OWN, |_, world| world.broken != Some(OWN)),
            (ONE, |_, world| world.broken != Some(ONE)),
            (WHOLE, |_, world| world.is_whole()),
        ];
        steps
            .map(|(name, holds)| Property::always(name, holds))
            .into()
    }
}

/// Two that publish, one that collects.
const PUBLISHED: Bounds = Bounds {
    pushes: 1,
    rounds: &[2, 1],
    sweeps: &[2],
    faults: 1,
    crashes: 0,
    tips: false,
};

/// One that publishes, two that collect.
const COLLECTED: Bounds = Bounds {
    pushes: 2,
    rounds: &[3],
    sweeps: &[1, 2],
    faults: 0,
    crashes: 0,
    tips: false,
};

/// Each of them ends in the middle of something, or gets no answer.
const INTERRUPTED: Bounds = Bounds {
    pushes: 1,
    rounds: &[3],
    sweeps: &[2],
    faults: 2,
    crashes: 1,
    tips: true,
};

/// Two that publish what is another archive each time.
const MADE: Bounds = Bounds {
    pushes: 1,
    rounds: &[1, 1],
    sweeps: &[1],
    faults: 1,
    crashes: 0,
    tips: true,
};

#[test]
fn all_orders_hold() {
    for bounds in [PUBLISHED, COLLECTED, INTERRUPTED, MADE] {
        let states = holds_in_all(Heads {
            variant: Variant::Sound,
            bounds,
        });
        eprintln!("{states} states of {bounds:?}");
    }
}

#[test]
fn each_broken_rule_is_seen() {
    for (variant, bounds, property) in [
        (Variant::PartsAfterHead, PUBLISHED, WHOLE),
        (Variant::ComparedBeforeHead, PUBLISHED, FORWARD),
        (Variant::LoserTakesRefs, PUBLISHED, SERVED),
        (Variant::CollectsInOneStep, PUBLISHED, WHOLE),
        (Variant::ListsBeforeHead, COLLECTED, WHOLE),
        (Variant::DrawsNumbersTwice, INTERRUPTED, ONCE),
        (Variant::BelievesRefusals, PUBLISHED, OWN),
        (Variant::CountsBuilds, MADE, ONE),
        (Variant::CountsWrites, PUBLISHED, OWN),
    ] {
        let steps = fails(Heads { variant, bounds }, property);
        eprintln!("{variant:?}: {property:?} does not hold after {steps} steps");
    }
}
