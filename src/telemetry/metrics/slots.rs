//! Which atomics of a block count a family.

use super::family::{FAMILIES, Family, Kind};

/// Atomics per block.
pub(super) const SLOTS: usize = slot_base(FAMILIES.len());

/// How many atomics of a block a family takes. A histogram has one per bucket, one for what is
/// above the last bound, and one for the sum.
pub(super) const fn slots_of(family: &Family) -> usize {
    match (family.kind, family.values.len()) {
        (Kind::Histogram(bounds), _) => bounds.len() + 2,
        (_, 0) => 1,
        (_, values) => values,
    }
}

/// Where a family's atomics start.
pub(super) const fn slot_base(family: usize) -> usize {
    let (mut i, mut base) = (0, 0);
    while i < family {
        base += slots_of(&FAMILIES[i]);
        i += 1;
    }
    base
}

/// `slot_base` of each family, so that counting costs one look-up.
pub(super) const BASES: [usize; FAMILIES.len()] = {
    let mut bases = [0; FAMILIES.len()];
    let mut i = 0;
    while i < bases.len() {
        bases[i] = slot_base(i);
        i += 1;
    }
    bases
};
