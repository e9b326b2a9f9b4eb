//! What leaves the disk: a pure function from sizes, ages and pins to victims.
//!
//! Bytes belong to files, and a file goes with the last of its names: a pack is in a mirror and in
//! snapshots, files of frames are in several snapshots. So what something gives back depends on what
//! else goes, and is counted as it is chosen.
//!
//! What was superseded goes first, longest unused first. All else goes by its value: what it costs to
//! have it again, for each byte that it gives back and each second that nobody has wanted it. A mirror
//! goes after its snapshot or with it.

use std::cmp::Reverse;
use std::collections::HashSet;

use crate::limits::FLOOR_IDLE_MS;

/// A file that has, or may have, several names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// What it takes of the disk.
    pub bytes: u64,
    /// Its names, those that no candidate has among them.
    pub names: u64,
}

/// Something that leaves as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What the caller knows it by; decides among equals.
    pub key: usize,
    /// Bytes of files that have no other name.
    pub own_bytes: u64,
    /// Its names of other files, each by its place in the list of those.
    pub shared: Vec<usize>,
    /// What it costs to have it again, in any unit.
    pub cost: u64,
    /// Time since somebody wanted it.
    pub idle_ms: u64,
    /// Whether somebody uses it now, or it must not go for another reason: it stays.
    pub pinned: bool,
}

/// What a repository has on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// Snapshots that newer ones have replaced.
    pub superseded: Vec<Candidate>,
    /// The one that is served.
    pub snapshot: Option<Candidate>,
    /// The mirror. It does not go before the snapshot.
    pub mirror: Option<Candidate>,
}

/// What must hold, and the disk as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Bytes in use.
    pub used_bytes: u64,
    /// Above so many, something leaves.
    pub high_bytes: u64,
    /// Until no more than these are in use.
    pub low_bytes: u64,
    /// Bytes free on the file system now.
    pub free_bytes: u64,
    /// Fewest bytes that should stay free on the file system.
    pub floor_bytes: u64,
    /// Bytes that somebody lacks at this moment, for whom the disk was full.
    pub short_bytes: u64,
    /// Whether for these only such mirrors leave as nobody has wanted for [`FLOOR_IDLE_MS`]: what lacks room
    /// is only to be kept, and can be served without.
    pub spares_mirrors: bool,
}

/// The answer of [`plan`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Keys of what leaves, in this order.
    pub victims: Vec<usize>,
    /// Bytes in use above the limit that nothing can be done about.
    pub over_bytes: u64,
    /// Free bytes that are lacking and that no eviction would bring: nothing leaves for their sake.
    pub floor_missed_bytes: u64,
}

/// Chooses what leaves.
///
/// Above the limit, or where somebody lacks room, as much leaves as is wanted, or all that can. What is
/// alone larger than the limit goes first, and is not counted: everything else would leave for it in
/// vain.
///
/// The floor is about a disk that others fill as well. For its sake only that leaves which nobody has
/// wanted for [`FLOOR_IDLE_MS`]: anything else would be back at once. And nothing leaves where that would
/// not reach it.
///
/// Stops as soon as all holds; never takes what is pinned, nor what gives nothing back. The order of
/// `holdings` does not matter.
pub fn plan(holdings: &[Holding], shared: &[Shared], bounds: Bounds) -> Plan {
    let mut taking = Taking::new(shared, bounds);
    taking.take_giants(holdings);
    let goal = match taking.used > bounds.high_bytes.into() {
        true => bounds.low_bytes.min(bounds.high_bytes),
        false => bounds.high_bytes,
    };
    let steps = taking.steps(holdings);
    for step in &steps {
        if taking.used <= goal.into() {
            break;
        }
        taking.take(step);
    }
    taking.reach_short(&steps);
    taking.reach_floor(&steps);
    Plan {
        over_bytes: taking.used.saturating_sub(bounds.high_bytes.into()) as u64,
        floor_missed_bytes: taking.floor_missed(),
        victims: taking.victims,
    }
}

/// What leaves together, in this order.
struct Step<'a> {
    all: Vec<&'a Candidate>,
    /// What has to be gone before.
    after: Option<usize>,
    has_mirror: bool,
}

impl<'a> Step<'a> {
    fn of(one: &'a Candidate, after: Option<usize>) -> Step<'a> {
        Step {
            all: vec![one],
            after,
            has_mirror: false,
        }
    }
}

impl<'a> Step<'a> {
    fn with_mirror(self) -> Step<'a> {
        Step {
            has_mirror: true,
            ..self
        }
    }

    /// Whether nobody has wanted any of it for a while.
    fn is_idle(&self) -> bool {
        self.all.iter().all(|one| one.idle_ms >= FLOOR_IDLE_MS)
    }
}

impl Holding {
    fn all(&self) -> impl Iterator<Item = &Candidate> {
        let snapshots = self.superseded.iter().chain(&self.snapshot);
        snapshots.chain(&self.mirror)
    }
}

/// What was chosen so far.
#[derive(Clone)]
struct Taking<'s> {
    shared: &'s [Shared],
    bounds: Bounds,
    /// Names that each shared file has left.
    names: Vec<u64>,
    victims: Vec<usize>,
    taken: HashSet<usize>,
    // u128: sums of foreign numbers must not wrap.
    /// Bytes in use that count against the limit.
    used: u128,
    /// Bytes that are given back.
    freed: u128,
}

impl<'s> Taking<'s> {
    fn new(shared: &'s [Shared], bounds: Bounds) -> Taking<'s> {
        Taking {
            shared,
            bounds,
            names: shared.iter().map(|file| file.names).collect(),
            victims: Vec::new(),
            taken: HashSet::new(),
            used: bounds.used_bytes.into(),
            freed: 0,
        }
    }

    /// Takes the names of a candidate away; gives the bytes that go with them.
    fn unname(&mut self, one: &Candidate) -> u128 {
        let mut bytes = u128::from(one.own_bytes);
        for file in &one.shared {
            let is_last = self.names[*file] == 1;
            self.names[*file] = self.names[*file].saturating_sub(1);
            bytes += u128::from(self.shared[*file].bytes) * u128::from(is_last);
        }
        bytes
    }

    /// The bytes that would go.
    fn gain(&mut self, step: &[&Candidate]) -> u128 {
        let names = |file: &usize| (*file, self.names[*file]);
        let before: Vec<_> = step
            .iter()
            .flat_map(|one| one.shared.iter().map(names))
            .collect();
        let bytes = step.iter().map(|one| self.unname(one)).sum();
        for (file, names) in before {
            self.names[file] = names;
        }
        bytes
    }

    /// Takes a step that gives something back, unless what goes before it was left.
    fn take(&mut self, step: &Step<'_>) {
        let is_due = step.after.is_none_or(|key| self.taken.contains(&key));
        if !is_due || self.gain(&step.all) == 0 {
            return;
        }
        for one in &step.all {
            let bytes = self.unname(one);
            self.taken.insert(one.key);
            self.victims.push(one.key);
            self.used = self.used.saturating_sub(bytes);
            self.freed += bytes;
        }
    }

    fn is_giant(&self, one: &Candidate) -> bool {
        let shared = one.shared.iter().map(|file| self.shared[*file].bytes);
        let bytes = u128::from(one.own_bytes) + shared.map(u128::from).sum::<u128>();
        bytes > self.bounds.high_bytes.into()
    }

    /// What is larger than the limit all by itself goes. Whether it can or not, it does not count.
    fn take_giants(&mut self, holdings: &[Holding]) {
        let mut used = self.used;
        let mut counted = HashSet::new();
        let giants = holdings.iter().flat_map(Holding::all);
        for one in giants.filter(|one| self.is_giant(one)) {
            let new = one.shared.iter().filter(|file| counted.insert(**file));
            let bytes: u128 = new.map(|file| u128::from(self.shared[*file].bytes)).sum();
            used = used.saturating_sub(bytes + u128::from(one.own_bytes));
        }
        let mut steps: Vec<Step<'_>> = Vec::new();
        for holding in holdings {
            let snapshot = holding.snapshot.as_ref().map(|one| one.key);
            let before = holding.superseded.iter().chain(&holding.snapshot);
            let before = before.map(|one| (one, None));
            let mirror = holding.mirror.iter().map(|one| (one, snapshot));
            let giants = before.chain(mirror);
            let giants = giants.filter(|(one, _)| !one.pinned && self.is_giant(one));
            steps.extend(giants.map(|(one, after)| Step::of(one, after)));
        }
        steps.sort_by_key(|step| (step.after.is_some(), step.all[0].key));
        steps.iter().for_each(|step| self.take(step));
        self.used = used;
    }

    /// In which order things leave.
    fn steps<'a>(&self, holdings: &'a [Holding]) -> Vec<Step<'a>> {
        let is_free = |one: &&Candidate| !one.pinned && !self.taken.contains(&one.key);
        let superseded = holdings.iter().flat_map(|holding| &holding.superseded);
        let mut superseded: Vec<&Candidate> = superseded.filter(is_free).collect();
        superseded.sort_by_key(|one| (Reverse(one.idle_ms), one.key));
        // What all else gives back is what it does once these are gone.
        let mut later = self.clone();
        for one in &superseded {
            later.unname(one);
        }
        let mut valued: Vec<(f64, usize, Step<'a>)> = Vec::new();
        for holding in holdings {
            let snapshot = holding.snapshot.as_ref();
            let snapshot = snapshot.filter(|one| !self.taken.contains(&one.key));
            let mirror = holding.mirror.as_ref().filter(is_free);
            match (snapshot, mirror) {
                (Some(snapshot), _) if snapshot.pinned => {}
                (Some(snapshot), Some(mirror)) => valued.extend(later.pair(snapshot, mirror)),
                (Some(one), None) => {
                    valued.push((later.value(&[one]), one.key, Step::of(one, None)));
                }
                (None, Some(one)) => {
                    let step = Step::of(one, None).with_mirror();
                    valued.push((later.value(&[one]), one.key, step));
                }
                (None, None) => {}
            }
        }
        valued.sort_by(|(a, first, _), (b, second, _)| a.total_cmp(b).then(first.cmp(second)));
        let superseded = superseded.into_iter().map(|one| Step::of(one, None));
        let valued = valued.into_iter().map(|(_, _, step)| step);
        superseded.chain(valued).collect()
    }

    /// A snapshot, and then its mirror; both at once where that is worth less.
    fn pair<'a>(
        &mut self,
        snapshot: &'a Candidate,
        mirror: &'a Candidate,
    ) -> Vec<(f64, usize, Step<'a>)> {
        let (alone, both) = (self.value(&[snapshot]), self.value(&[snapshot, mirror]));
        if both < alone || self.gain(&[snapshot]) == 0 {
            let all = vec![snapshot, mirror];
            let step = Step {
                all,
                after: None,
                has_mirror: true,
            };
            return vec![(both, snapshot.key, step)];
        }
        let behind = self.gain(&[snapshot, mirror]) - self.gain(&[snapshot]);
        let behind = worth(mirror) / behind.max(1) as f64;
        let step = Step::of(mirror, Some(snapshot.key)).with_mirror();
        vec![
            (alone, snapshot.key, Step::of(snapshot, None)),
            // Never before the other.
            (behind.max(alone.next_up()), mirror.key, step),
        ]
    }

    fn value(&mut self, step: &[&Candidate]) -> f64 {
        let bytes = self.gain(step).max(1) as f64;
        step.iter().map(|one| worth(one)).sum::<f64>() / bytes
    }

    fn floor_missed(&self) -> u64 {
        let free = u128::from(self.bounds.free_bytes) + self.freed;
        u128::from(self.bounds.floor_bytes).saturating_sub(free) as u64
    }

    /// Takes what somebody lacks, as far as there is something to take.
    fn reach_short(&mut self, steps: &[Step<'_>]) {
        for step in steps {
            if self.freed >= self.bounds.short_bytes.into() {
                break;
            }
            if !self.is_new(step) {
                continue;
            }
            let stays = step.has_mirror && self.bounds.spares_mirrors && !step.is_idle();
            match step.all[..] {
                [snapshot, _] if stays => self.take(&Step::of(snapshot, None)),
                _ if stays => {}
                _ => self.take(step),
            }
        }
    }

    /// Whether none of it was taken.
    fn is_new(&self, step: &Step<'_>) -> bool {
        step.all.iter().all(|one| !self.taken.contains(&one.key))
    }

    fn reach_floor(&mut self, steps: &[Step<'_>]) {
        let mut tried = self.clone();
        for step in steps {
            if tried.floor_missed() == 0 {
                break;
            }
            if step.is_idle() && tried.is_new(step) {
                tried.take(step);
            }
        }
        if tried.floor_missed() == 0 {
            *self = tried;
        }
    }
}

/// What a candidate is worth: its cost for each millisecond that nobody has wanted it.
fn worth(one: &Candidate) -> f64 {
    one.cost as f64 / one.idle_ms.max(1) as f64
}

#[cfg(test)]
mod tests;
