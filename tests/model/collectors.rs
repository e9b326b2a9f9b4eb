//! What a collector does, a step at a time.

use std::sync::Arc;

use tarpon::limits::REMOTE_KEPT_MS;
use tarpon::store::remote::key::{PartKey, RandomId};

use crate::head::Heads;
use crate::world::{Keys, Said, Sweep, Variant, World, listing_of};

impl Heads {
    /// As `collect::sweep`.
    pub fn sweep(&self, world: &mut World, me: usize, is_due: bool) {
        let keys = Arc::new(world.objects.clone());
        let at = world.collectors[me].at.clone();
        world.collectors[me].at = match (at, world.head.clone()) {
            (Sweep::Read, _) if self.variant == Variant::ListsBeforeHead => Sweep::ReadLate(keys),
            (Sweep::Read | Sweep::ReadLate(_), None) => return Self::swept(world, me),
            (Sweep::ReadLate(keys), Some(said)) => self.listed(said, keys),
            (Sweep::Read, Some(said)) => Sweep::List(said),
            (Sweep::List(said), _) => self.listed(said, keys),
            (Sweep::Remove(mut left, then), _) => {
                let key = left.pop();
                world.objects.retain(|one| Some(one) != key.as_ref());
                match (left.is_empty(), then) {
                    (false, then) => Sweep::Remove(left, then),
                    (true, Some((said, keys))) => Sweep::Swap(said, keys),
                    (true, None) => return Self::swept(world, me),
                }
            }
            (Sweep::Swap(base, keys), _) => {
                world.collectors[me].drawn += 1;
                let write =
                    RandomId((0xc0 + me as u128) << 8 | u128::from(world.collectors[me].drawn));
                let stamp = (write, base.head().sequence * REMOTE_KEPT_MS);
                let next = base
                    .head()
                    .collecting(&listing_of(&keys), |_| is_due, stamp);
                let Some(next) = next.map(Said::new) else {
                    return Self::swept(world, me);
                };
                let has_removed = next.head().removals > base.head().removals;
                let removed = next.head().removed.clone();
                let who = world.servers.len() + me;
                if !world.swap(&Some(base), &next, who) || !has_removed {
                    return Self::swept(world, me);
                }
                Sweep::Remove(removed, None)
            }
        };
    }

    /// What was given up before may be there still; it goes first.
    fn listed(&self, said: Said, keys: Keys) -> Sweep {
        if self.variant == Variant::CollectsInOneStep {
            let is_orphan = |key: &&PartKey| said.head().stored(key).is_none();
            let orphans = keys.iter().filter(is_orphan).cloned().collect::<Vec<_>>();
            return match orphans.is_empty() {
                true => Sweep::Swap(said, keys),
                false => Sweep::Remove(orphans, None),
            };
        }
        let removed = said.head().removed.iter();
        let left: Vec<_> = removed.filter(|key| keys.contains(*key)).cloned().collect();
        match left.is_empty() {
            true => Sweep::Swap(said, keys),
            false => Sweep::Remove(left, Some((said, keys))),
        }
    }

    pub fn swept(world: &mut World, me: usize) {
        let collector = &mut world.collectors[me];
        collector.sweeps -= 1;
        collector.at = Sweep::Read;
    }
}
