//! What leaves the disk: a pure function from sizes, ages and pins to victims.
//!
//! Bytes belong to files, and a file goes with the last of its names: a pack is in a mirror and in
//! snapshots, files of frames are in several snapshots. So what something gives back depends on what
//! else goes, and is counted as it is chosen.
//!
//! What was superseded goes first, and what was only fetched to build from, longest unused first. All else goes by its value: what it costs to
//! have it again, for each byte that it gives back and each second that nobody has wanted it. Of a
//! repository, the snapshot of a plain request goes after those of refs and commits or with the last of
//! them, and the mirror after that or with it.

mod why;

pub use why::Why;

use std::cmp::Reverse;
use std::collections::HashSet;

use crate::limits::{FLOOR_IDLE_MS, WANTS_MAX, WANTS_OF_REPOSITORY_MAX, WANTS_OF_REPOSITORY_PART};

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
    /// What single commits were fetched into before there is a mirror: nothing that is served needs it.
    pub tips: Option<Candidate>,
    /// Those of refs and commits.
    pub others: Vec<Candidate>,
    /// The one that a plain request is answered from. It does not go before the others.
    pub snapshot: Option<Candidate>,
    /// The mirror. It does not go before the snapshots.
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
    /// How many snapshots of refs and commits there may be.
    pub others: OthersMax,
}

/// How many snapshots there may be besides those of plain requests, by default any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OthersMax {
    /// Of one repository.
    pub of_one: usize,
    /// Bytes that they alone have, of one repository.
    pub of_one_bytes: u64,
    /// Of all repositories.
    pub of_all: usize,
}

impl Default for OthersMax {
    fn default() -> Self {
        OthersMax {
            of_one: usize::MAX,
            of_one_bytes: u64::MAX,
            of_all: usize::MAX,
        }
    }
}

impl OthersMax {
    /// Where there may be so many bytes in all.
    #[must_use]
    pub fn of(high_bytes: u64) -> OthersMax {
        OthersMax {
            of_one: WANTS_OF_REPOSITORY_MAX,
            of_one_bytes: high_bytes / WANTS_OF_REPOSITORY_PART,
            of_all: WANTS_MAX,
        }
    }
}

/// The answer of [`plan`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Keys of what leaves, in this order.
    pub victims: Vec<usize>,
    /// Why, of each of these.
    pub reasons: Vec<Why>,
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
    taking.take_many(holdings);
    let goal = match taking.used > bounds.high_bytes.into() {
        true => bounds.low_bytes.min(bounds.high_bytes),
        false => bounds.high_bytes,
    };
    let steps = taking.steps(holdings);
    taking.why = Why::Limit;
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
        reasons: taking.reasons,
    }
}

/// What leaves together, in this order.
struct Step<'a> {
    all: Vec<&'a Candidate>,
    /// What has to be gone before.
    after: Vec<usize>,
    has_mirror: bool,
}

impl<'a> Step<'a> {
    fn of(one: &'a Candidate) -> Step<'a> {
        Step::of_all(vec![one])
    }

    fn of_all(all: Vec<&'a Candidate>) -> Step<'a> {
        Step {
            all,
            after: Vec::new(),
            has_mirror: false,
        }
    }

    fn after(self, after: Vec<usize>) -> Step<'a> {
        Step { after, ..self }
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
    /// All of it.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Candidate> {
        self.unneeded().chain(self.served()).chain(&self.mirror)
    }

    /// What is served without.
    fn unneeded(&self) -> impl Iterator<Item = &Candidate> {
        self.superseded.iter().chain(&self.tips)
    }

    /// What is served, in the order in which it leaves.
    fn served(&self) -> impl Iterator<Item = &Candidate> {
        self.others.iter().chain(&self.snapshot)
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
    reasons: Vec<Why>,
    /// Why something is taken now.
    why: Why,
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
            reasons: Vec::new(),
            why: Why::Limit,
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

    /// Takes what is left of a step, if that gives something back, unless what goes before it was left.
    fn take(&mut self, step: &Step<'_>) {
        let is_due = step.after.iter().all(|key| self.taken.contains(key));
        let left = self.left(&step.all);
        if !is_due || self.gain(&left) == 0 {
            return;
        }
        for one in left {
            let bytes = self.unname(one);
            self.taken.insert(one.key);
            self.victims.push(one.key);
            self.reasons.push(self.why);
            self.used = self.used.saturating_sub(bytes);
            self.freed += bytes;
        }
    }

    /// Those that were not taken.
    fn left<'a>(&self, all: &[&'a Candidate]) -> Vec<&'a Candidate> {
        let all = all.iter().copied();
        all.filter(|one| !self.taken.contains(&one.key)).collect()
    }

    /// Takes the least valuable of the snapshots of refs and commits of which there are too many.
    fn take_many(&mut self, holdings: &[Holding]) {
        self.why = Why::Count;
        let max = self.bounds.others;
        let mut of_all = Vec::new();
        let mut holdings = Vec::from_iter(holdings);
        holdings.sort_by_key(|holding| holding.others.iter().map(|one| one.key).min());
        for holding in holdings {
            let others = self.left(&Vec::from_iter(&holding.others));
            let (mut count, mut bytes) = (others.len(), self.gain(&others));
            for one in self.by_value(&others) {
                if count <= max.of_one && bytes <= max.of_one_bytes.into() {
                    break;
                }
                self.take(&Step::of(one));
                count -= 1;
                bytes = self.gain(&self.left(&others));
            }
            of_all.extend(self.left(&others));
        }
        let too_many = of_all.len().saturating_sub(max.of_all);
        for one in self.by_value(&of_all).into_iter().take(too_many) {
            self.take(&Step::of(one));
        }
    }

    /// Those that can go, the least valuable first.
    fn by_value<'a>(&mut self, all: &[&'a Candidate]) -> Vec<&'a Candidate> {
        let free = all.iter().filter(|one| !one.pinned);
        let mut valued: Vec<_> = free.map(|one| (self.value(&[one]), *one)).collect();
        valued.sort_by(|(a, first), (b, second)| a.total_cmp(b).then(first.key.cmp(&second.key)));
        valued.into_iter().map(|(_, one)| one).collect()
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
            let keys = |all: Vec<&Candidate>| all.iter().map(|one| one.key).collect();
            let first = holding.unneeded().chain(&holding.others);
            let first = first.map(|one| (one, Vec::new()));
            let snapshot = holding.snapshot.iter();
            let snapshot = snapshot.map(|one| (one, keys(holding.others.iter().collect())));
            let mirror = holding.mirror.iter();
            let mirror = mirror.map(|one| (one, keys(holding.served().collect())));
            let giants = first.chain(snapshot).chain(mirror);
            let giants = giants.filter(|(one, _)| !one.pinned && self.is_giant(one));
            steps.extend(giants.map(|(one, after)| Step::of(one).after(after)));
        }
        steps.sort_by_key(|step| (step.after.len(), step.all[0].key));
        steps.iter().for_each(|step| self.take(step));
        self.used = used;
    }

    /// In which order things leave.
    fn steps<'a>(&self, holdings: &'a [Holding]) -> Vec<Step<'a>> {
        let is_free = |one: &&Candidate| !one.pinned && !self.taken.contains(&one.key);
        let superseded = holdings.iter().flat_map(Holding::unneeded);
        let mut superseded: Vec<&Candidate> = superseded.filter(is_free).collect();
        superseded.sort_by_key(|one| (Reverse(one.idle_ms), one.key));
        // What all else gives back is what it does once these are gone.
        let mut later = self.clone();
        for one in &superseded {
            later.unname(one);
        }
        let mut valued: Vec<(f64, usize, Step<'a>)> = Vec::new();
        for holding in holdings {
            let others = self.left(&Vec::from_iter(&holding.others));
            for one in others.into_iter().filter(is_free) {
                valued.push((later.value(&[one]), one.key, Step::of(one)));
            }
            let served = self.left(&Vec::from_iter(holding.served()));
            if served.iter().any(|one| one.pinned) {
                continue;
            }
            let mirror = holding.mirror.as_ref().filter(|one| is_free(one));
            match (served.last(), mirror) {
                (Some(_), Some(mirror)) => valued.extend(later.pair(served, mirror)),
                (Some(last), None) if holding.snapshot.is_some() => {
                    valued.push((later.value(&served), last.key, Step::of_all(served)));
                }
                (None, Some(one)) => {
                    let step = Step::of(one).with_mirror();
                    valued.push((later.value(&[one]), one.key, step));
                }
                (_, None) => {}
            }
        }
        valued.sort_by(|(a, first, _), (b, second, _)| a.total_cmp(b).then(first.cmp(second)));
        let superseded = superseded.into_iter().map(Step::of);
        let valued = valued.into_iter().map(|(_, _, step)| step);
        superseded.chain(valued).collect()
    }

    /// All snapshots that are served, and then their mirror; both at once where that is worth less.
    fn pair<'a>(
        &mut self,
        served: Vec<&'a Candidate>,
        mirror: &'a Candidate,
    ) -> Vec<(f64, usize, Step<'a>)> {
        let mut all = served.clone();
        all.push(mirror);
        let (alone, both) = (self.value(&served), self.value(&all));
        let (first, keys) = (all[0].key, served.iter().map(|one| one.key).collect());
        if both < alone || self.gain(&served) == 0 {
            return vec![(both, first, Step::of_all(all).with_mirror())];
        }
        let behind = self.gain(&all) - self.gain(&served);
        let behind = worth(mirror) / behind.max(1) as f64;
        let step = Step::of(mirror).after(keys).with_mirror();
        vec![
            (alone, first, Step::of_all(served)),
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
        self.why = Why::Full;
        for step in steps {
            if self.freed >= self.bounds.short_bytes.into() {
                break;
            }
            if !self.is_new(step) {
                continue;
            }
            let stays = step.has_mirror && self.bounds.spares_mirrors && !step.is_idle();
            match step.all.split_last() {
                // The mirror is the last.
                Some((_, served)) if stays => self.take(&Step::of_all(served.to_vec())),
                _ => self.take(step),
            }
        }
    }

    /// Whether something of it was not taken.
    fn is_new(&self, step: &Step<'_>) -> bool {
        step.all.iter().any(|one| !self.taken.contains(&one.key))
    }

    fn reach_floor(&mut self, steps: &[Step<'_>]) {
        let mut tried = self.clone();
        tried.why = Why::Floor;
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
