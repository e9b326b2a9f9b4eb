//! What a server does, a step at a time: between any two, others do theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tarpon::limits::REMOTE_KEPT_MS;
use tarpon::manifest::id::EntryId;
use tarpon::store::remote::change::{About, Change, NewSnapshot, NotYet, Uploaded};
use tarpon::store::remote::key::{PartKey, RandomId, manifest_name};

use crate::head::Heads;
use crate::world::{
    At, BYTES, Base, Keys, ONE, OWN, SERVED, Said, Server, Variant, World, head_of, listing_of,
    refs_of,
};

impl Heads {
    /// No two are ever the same, and the order in which servers draw makes no difference.
    fn draw(&self, world: &mut World, me: usize) -> RandomId {
        let server = &mut world.servers[me];
        server.drawn += 1;
        let lives = match self.variant {
            Variant::DrawsNumbersTwice => 0,
            _ => server.lives,
        };
        RandomId(u128::from_be_bytes({
            let mut bytes = [0; 16];
            bytes[..3].copy_from_slice(&[1 + me as u8, lives, server.drawn]);
            bytes
        }))
    }

    fn write_id(&self, world: &mut World, me: usize, base: &Base) -> RandomId {
        match self.variant {
            // It is the next one, whoever writes.
            Variant::CountsWrites => RandomId(1 + u128::from(head_of(base).sequence)),
            _ => self.draw(world, me),
        }
    }

    fn show(world: &mut World, me: usize, state: u8) {
        if state < world.servers[me].shows {
            world.breaks(SERVED);
        }
        world.servers[me].shows = state;
    }

    /// Packs and refs depend on the state alone, of which two have one pack in common.
    fn change(&self, world: &mut World, me: usize, state: u8) -> Change {
        let packs = [state / 2, state].map(|of| format!("pack-{of}.pack"));
        let packs: BTreeSet<String> = packs.into_iter().collect();
        let mut change = Change {
            mirror: Some((packs.into_iter().collect(), refs_of(state))),
            ..Change::default()
        };
        if !self.bounds.tips {
            return change;
        }
        world.servers[me].builds += 1;
        let builds = world.servers[me].builds;
        let made = self.draw(world, me);
        let id = match self.variant {
            Variant::CountsBuilds => u128::from(builds),
            _ => made.0,
        };
        let id = EntryId::from_bytes(id.to_be_bytes());
        let tip = format!("pack-tip{made}.pack");
        let earlier = world.archives.insert(id.to_string(), tip.clone());
        if earlier.is_some_and(|earlier| earlier != tip) {
            world.breaks(ONE);
        }
        change.snapshots.push(NewSnapshot {
            about: About {
                want: "HEAD depth 1".into(),
                kind: "1".into(),
            },
            id,
            shows: state.to_string(),
            manifest: manifest_name(tip.as_bytes()),
            parts: vec![tip],
            compared_unix_ms: 0,
        });
        change
    }

    /// As `Uploads::publish`: uploads what is not there, and draws up the head that names it.
    fn build(&self, world: &mut World, me: usize, (base, state, keys): (&Base, u8, &Keys)) {
        let (head, listing) = (head_of(base), listing_of(keys));
        let change = self.change(world, me, state);
        if head.says(&change, &listing) {
            return Self::end(world, me);
        }
        world.servers[me]
            .uploaded
            .retain(|_, (key, _)| keys.contains(key));
        let write = self.write_id(world, me, base);
        let now_unix_ms = head.sequence * REMOTE_KEPT_MS;
        let with = |server: &Server| {
            let uploaded = server.uploaded.iter().map(|(name, (key, removals))| {
                let uploaded = Uploaded {
                    key: key.clone(),
                    bytes: BYTES,
                    removals: *removals,
                };
                (name.clone(), uploaded)
            });
            let uploaded: BTreeMap<_, _> = uploaded.collect();
            let stamp = (write, now_unix_ms);
            head.with(&change, |_| Some(BYTES), (&listing, &uploaded), stamp)
        };
        let mut next = with(&world.servers[me]);
        let mut late = Vec::new();
        if let Err(NotYet::Missing(missing)) = &next {
            for name in missing {
                let nonce = self.draw(world, me);
                let key = PartKey::new(name, nonce).expect("a name of a part");
                match self.variant {
                    Variant::PartsAfterHead => late.push(key.clone()),
                    _ => world.upload(&key),
                }
                let uploaded = &mut world.servers[me].uploaded;
                uploaded.insert(name.clone(), (key, head.removals));
            }
            next = with(&world.servers[me]);
        }
        let Ok(next) = next.map(Said::new) else {
            return Self::end(world, me);
        };
        world.servers[me].at = match late.is_empty() {
            true => At::Swap(base.clone(), next),
            false => {
                world.swap(base, &next, me);
                At::UploadLate(late)
            }
        };
    }

    pub fn end(world: &mut World, me: usize) {
        let server = &mut world.servers[me];
        server.rounds -= 1;
        server.at = At::Read;
    }

    fn done(world: &mut World, me: usize, next: &Said) {
        if world.swaps.get(&next.head().write) != Some(&me) {
            world.breaks(OWN);
        }
        world.servers[me].uploaded.clear();
        Self::end(world, me);
    }

    fn lost(&self, world: &mut World, me: usize, next: &Said) {
        if world.swaps.get(&next.head().write) == Some(&me) {
            world.breaks(OWN);
        }
        if self.variant == Variant::LoserTakesRefs
            && let Some(shown) = world.head.as_ref().and_then(Said::shown)
        {
            Self::show(world, me, shown);
        }
        Self::end(world, me);
    }

    pub fn step(&self, world: &mut World, me: usize) {
        let stands = world.head.clone();
        match world.servers[me].at.clone() {
            At::Read if self.variant == Variant::ComparedBeforeHead => {
                let state = world.upstream;
                Self::show(world, me, state);
                world.servers[me].at = At::ReadLate(state);
            }
            At::Read => world.servers[me].at = At::Compare(stands),
            At::ReadLate(state) => world.servers[me].at = At::List(stands, state),
            At::Compare(base) => {
                let state = world.upstream;
                Self::show(world, me, state);
                world.servers[me].at = At::List(base, state);
            }
            At::List(base, state) => {
                let keys = Arc::new(world.objects.clone());
                world.servers[me].at = At::Build(base, state, keys);
            }
            At::Build(base, state, keys) => self.build(world, me, (&base, state, &keys)),
            At::Swap(base, next) => match world.swap(&base, &next, me) {
                true => Self::done(world, me, &next),
                false if self.variant == Variant::BelievesRefusals => self.lost(world, me, &next),
                false => world.servers[me].at = At::Unsure(base, next),
            },
            At::Unsure(..) if self.variant == Variant::BelievesRefusals => {
                let At::Unsure(_, next) = world.servers[me].at.clone() else {
                    return;
                };
                self.lost(world, me, &next);
            }
            At::Unsure(base, next) => {
                let is_own = |said: &Said| said.head().is_of(next.head().write);
                if stands.as_ref().is_some_and(is_own) {
                    Self::done(world, me, &next);
                } else if stands == base {
                    world.servers[me].at = At::Swap(base, next);
                } else {
                    self.lost(world, me, &next);
                }
            }
            At::UploadLate(keys) => {
                keys.iter().for_each(|key| world.upload(key));
                Self::end(world, me);
            }
        }
    }

    pub fn crash(world: &mut World, me: usize) {
        world.crashes -= 1;
        let server = &mut world.servers[me];
        server.rounds -= 1;
        (server.at, server.drawn) = (At::Read, 0);
        server.uploaded.clear();
        server.lives += 1;
    }
}
