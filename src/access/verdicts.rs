//! What upstreams have said lately of who may read what. Every core looks here for each request, so it is kept
//! in parts, and found by one hash of all that counts: the upstream, the repository, the credential, and for
//! what lies outside of the refs that are followed its id.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::credential::Mark;
use crate::config::RepoKey;
use crate::limits::{
    VERDICT_NO_MS, VERDICT_REMEMBERED_MS, VERDICT_SHARDS, VERDICTS_NO_MAX, VERDICTS_YES_MAX,
};

/// What a verdict is about, and whom. Made of a mark, whose key nobody knows, so nobody makes two the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct About([u8; 32]);

impl About {
    /// A repository of the upstream with this base, and whoever has this mark.
    pub(crate) fn repository(base: &str, key: &RepoKey<'_>, mark: &Mark) -> About {
        About::of(&[mark.bytes(), base.as_bytes(), key.path().as_bytes()])
    }

    /// An object of it, by its id.
    pub(crate) fn object(&self, id: &[u8]) -> About {
        About::of(&[&self.0, id])
    }

    fn of(parts: &[&[u8]]) -> About {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        About(hash.finalize().into())
    }

    fn shard(&self) -> usize {
        usize::from(self.0[0]) % VERDICT_SHARDS
    }
}

/// What is known without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Yes,
    No,
    /// It was yes, so long ago that the upstream is to be asked again.
    Before(Instant),
    Nothing,
}

/// Verdicts, for all threads.
#[derive(Debug)]
pub(crate) struct Verdicts {
    shards: Vec<Mutex<Shard>>,
    /// For how long a yes counts.
    young: Duration,
    /// For how long an upstream that cannot be asked is believed beyond that.
    stale: Duration,
    /// For how long a no counts.
    no_lasts: Duration,
}

#[derive(Debug)]
struct Shard {
    yes: Kept,
    no: Kept,
}

impl Verdicts {
    /// None yet. A yes counts for so long; when its upstream cannot be asked, for `stale` longer.
    pub(crate) fn new(young: Duration, stale: Duration) -> Verdicts {
        let no_lasts = Duration::from_millis(VERDICT_NO_MS).min(young);
        let kept = (young + stale).max(Duration::from_millis(VERDICT_REMEMBERED_MS));
        let shard = |_| {
            Mutex::new(Shard {
                yes: Kept::new(VERDICTS_YES_MAX / VERDICT_SHARDS, kept),
                no: Kept::new(VERDICTS_NO_MAX / VERDICT_SHARDS, no_lasts),
            })
        };
        Verdicts {
            shards: (0..VERDICT_SHARDS).map(shard).collect(),
            young,
            stale,
            no_lasts,
        }
    }

    /// What is known.
    pub(crate) fn known(&self, about: &About, now: Instant) -> Known {
        let shard = self.shard(about);
        if shard.no.get(about, now).is_some() {
            return Known::No;
        }
        match shard.yes.get(about, now) {
            Some(asked) if now.saturating_duration_since(asked) < self.young => Known::Yes,
            Some(asked) if self.covers(asked, now) => Known::Before(asked),
            Some(_) | None => Known::Nothing,
        }
    }

    /// Whether the last that was said is a yes, however long ago that was said: nothing may be had by it, but whoever
    /// it is of is no stranger.
    pub(crate) fn was_yes(&self, about: &About, now: Instant) -> bool {
        let shard = self.shard(about);
        shard.yes.get(about, now).is_some() && shard.no.get(about, now).is_none()
    }

    /// The upstream, which was asked then, says so.
    pub(crate) fn note(&self, about: About, is_yes: bool, asked: Instant) {
        let mut shard = self.shard(&about);
        let Shard { yes, no } = &mut *shard;
        let (to, from) = match is_yes {
            true => (yes, no),
            false => (no, yes),
        };
        // What was asked later counts, whichever answer comes first.
        let is_later = |kept: &Kept| kept.asked.get(&about).is_some_and(|other| *other > asked);
        if is_later(from) || is_later(to) {
            return;
        }
        from.remove(&about);
        to.put(about, asked);
    }

    /// Whether a yes of then still counts, as the upstream cannot be asked.
    pub(crate) fn covers(&self, asked: Instant, now: Instant) -> bool {
        now.saturating_duration_since(asked) < self.young + self.stale
    }

    /// Whether whoever was let in `since` then on what was said before, as the upstream could not be asked, may go
    /// on without its being asked again: for as long as it would be believed that it says no.
    pub(crate) fn is_believed(&self, about: &About, since: Instant, now: Instant) -> bool {
        match self.known(about, now) {
            Known::Yes => true,
            Known::Before(_) => now.saturating_duration_since(since) < self.no_lasts,
            Known::No | Known::Nothing => false,
        }
    }

    /// A panic leaves at worst a verdict that is there and in no order: it is pushed out by none.
    fn shard(&self, about: &About) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[about.shard()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers of one kind, with the moment at which each was asked for; of too many the oldest are forgotten.
#[derive(Debug)]
struct Kept {
    asked: HashMap<About, Instant>,
    /// In the order in which they came. Of one that came twice the moments differ, and the last counts.
    order: VecDeque<(About, Instant)>,
    max: usize,
    lasts: Duration,
}

impl Kept {
    fn new(max: usize, lasts: Duration) -> Kept {
        Kept {
            asked: HashMap::new(),
            order: VecDeque::new(),
            max,
            lasts,
        }
    }

    fn get(&self, about: &About, now: Instant) -> Option<Instant> {
        let asked = *self.asked.get(about)?;
        (now.saturating_duration_since(asked) < self.lasts).then_some(asked)
    }

    fn put(&mut self, about: About, asked: Instant) {
        self.asked.insert(about, asked);
        self.order.push_back((about, asked));
        while self.order.len() > self.max {
            self.forget_first();
        }
        while let Some((_, first)) = self.order.front()
            && asked.saturating_duration_since(*first) >= self.lasts
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((about, asked)) = self.order.pop_front()
            && self.asked.get(&about) == Some(&asked)
        {
            self.asked.remove(&about);
        }
    }

    fn remove(&mut self, about: &About) {
        self.asked.remove(about);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::credential::Credential;
    use crate::limits::VERDICT_YES_MS;

    fn about(name: &str) -> About {
        let key = RepoKey::of_test("h", name);
        About::repository("https://h/", &key, &Credential::NONE.mark())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_verdict_is_of_one_upstream_repository_credential_and_object() {
        let bearer = Credential::read(Some(b"Bearer x")).unwrap();
        let of = |base, path, credential: &Credential| {
            About::repository(base, &RepoKey::of_test("h", path), &credential.mark())
        };
        let all = [
            of("https://h/", "h/a", &Credential::NONE),
            of("https://h/", "h/a", &bearer),
            of("https://h/", "h/ab", &bearer),
            of("https://i/", "h/a", &bearer),
            of("https://h/h", "/a", &bearer),
            of("https://h/", "h/a", &bearer).object(b"1"),
            of("https://h/", "h/a", &bearer).object(b"2"),
            of("https://h/", "h/a", &Credential::NONE).object(b"1"),
        ];
        let different: std::collections::HashSet<About> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
        assert_eq!(
            of("https://h/", "h/a", &bearer),
            of("https://h/", "h/a", &bearer.clone())
        );
    }

    #[test]
    fn a_yes_lasts_a_minute_and_a_no_ten_seconds() {
        let (verdicts, now) = (
            Verdicts::new(ms(VERDICT_YES_MS), Duration::ZERO),
            Instant::now(),
        );
        let (yes, no) = (about("h/yes"), about("h/no"));
        verdicts.note(yes, true, now);
        verdicts.note(no, false, now);
        let known = |about, after| verdicts.known(&about, now + ms(after));
        assert_eq!(
            (known(yes, 0), known(yes, VERDICT_YES_MS - 1)),
            (Known::Yes, Known::Yes)
        );
        assert_eq!(known(yes, VERDICT_YES_MS), Known::Nothing);
        // He is no stranger, for long.
        let was_yes = |about, after| verdicts.was_yes(&about, now + ms(after));
        assert!(was_yes(yes, VERDICT_YES_MS) && was_yes(yes, VERDICT_REMEMBERED_MS - 1));
        assert!(!was_yes(yes, VERDICT_REMEMBERED_MS) && !was_yes(no, 0));
        assert!(!was_yes(about("h/other"), 0));
        assert_eq!(
            (known(no, 0), known(no, VERDICT_NO_MS - 1)),
            (Known::No, Known::No)
        );
        assert_eq!(
            (known(no, VERDICT_NO_MS), known(about("h/other"), 0)),
            (Known::Nothing, Known::Nothing)
        );
        // What was asked last counts, also where it is answered first.
        verdicts.note(yes, false, now + ms(2));
        verdicts.note(yes, true, now + ms(1));
        assert_eq!(known(yes, 3), Known::No);
        assert!(!was_yes(yes, 3) && !was_yes(yes, 2 + VERDICT_NO_MS));
        assert_eq!(
            known(yes, 2 + VERDICT_NO_MS),
            Known::Nothing,
            "the yes of before is forgotten"
        );
        verdicts.note(no, true, now + ms(5));
        assert_eq!(known(no, 6), Known::Yes);
        verdicts.note(no, true, now);
        assert_eq!(known(no, VERDICT_YES_MS), Known::Yes, "it was asked later");
    }

    #[test]
    fn a_yes_of_before_counts_for_as_long_as_the_operator_says() {
        let (verdicts, now) = (Verdicts::new(ms(VERDICT_YES_MS), ms(5_000)), Instant::now());
        verdicts.note(about("h/a"), true, now);
        let later = |after| now + ms(VERDICT_YES_MS + after);
        assert_eq!(
            verdicts.known(&about("h/a"), later(4_999)),
            Known::Before(now)
        );
        assert!(verdicts.covers(now, later(4_999)) && !verdicts.covers(now, later(5_000)));
        assert_eq!(verdicts.known(&about("h/a"), later(5_000)), Known::Nothing);
        assert!(!Verdicts::new(ms(VERDICT_YES_MS), Duration::ZERO).covers(now, later(0)));
        // Whoever was let in by that is not let in for ever.
        let is_believed = |since, after| verdicts.is_believed(&about("h/a"), since, later(after));
        assert!(is_believed(later(0), 4_999) && !is_believed(later(0), 5_000));
        let long_ago = now - ms(VERDICT_NO_MS);
        assert!(!is_believed(long_ago, 0));
        verdicts.note(about("h/a"), false, later(1));
        assert!(!is_believed(later(0), 2), "it has said no since");
    }

    #[test]
    fn yeses_and_noes_are_bounded_apart() {
        let (verdicts, now) = (
            Verdicts::new(ms(VERDICT_YES_MS), Duration::ZERO),
            Instant::now(),
        );
        verdicts.note(about("h/first"), true, now);
        for number in 0..2 * VERDICTS_NO_MAX {
            verdicts.note(about(&format!("h/{number}")), false, now);
        }
        assert_eq!(verdicts.known(&about("h/first"), now), Known::Yes);
        let count = |kept: fn(&Shard) -> &Kept| {
            let shards = verdicts.shards.iter();
            let counts = shards.map(|shard| {
                let shard = shard.lock().unwrap();
                let kept = kept(&shard);
                assert!(kept.order.len() <= kept.max && kept.asked.len() <= kept.order.len());
                kept.asked.len()
            });
            counts.sum::<usize>()
        };
        assert_eq!(
            (count(|shard| &shard.no), count(|shard| &shard.yes)),
            (VERDICTS_NO_MAX, 1)
        );
        // What is too old goes by itself.
        let later = now + ms(VERDICT_NO_MS);
        (0..1000)
            .for_each(|number| verdicts.note(about(&format!("h/later{number}")), false, later));
        assert_eq!(count(|shard| &shard.no), 1000);
    }
}
