//! Objects that an upstream was asked for lately, and did not give.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::limits::{ABSENT_IDS_MAX, UPSTREAM_ANSWER_KEPT_MS};

/// The repository, and what stands for the object: names are clients' own, and may be long.
type Key = (Arc<str>, [u8; 32]);

fn key(repository: &Arc<str>, id: &str) -> Key {
    (repository.clone(), Sha256::digest(id).into())
}

/// See the module's text. They are forgotten after [`UPSTREAM_ANSWER_KEPT_MS`], or when there are too many.
#[derive(Debug, Default)]
pub(super) struct Absent {
    known: HashSet<Key>,
    /// In the order of asking.
    since: VecDeque<(Instant, Key)>,
}

impl Absent {
    /// Whether the upstream of `repository` lacked the object lately.
    pub(super) fn has(&mut self, repository: &Arc<str>, id: &str, now: Instant) -> bool {
        let kept = Duration::from_millis(UPSTREAM_ANSWER_KEPT_MS);
        while let Some((since, _)) = self.since.front()
            && now.saturating_duration_since(*since) >= kept
        {
            self.forget_first();
        }
        self.known.contains(&key(repository, id))
    }

    /// It lacks it now.
    pub(super) fn note(&mut self, repository: &Arc<str>, id: &str, now: Instant) {
        let key = key(repository, id);
        if !self.known.insert(key.clone()) {
            return;
        }
        self.since.push_back((now, key));
        if self.since.len() > ABSENT_IDS_MAX {
            self.forget_first();
        }
    }

    /// Its upstream may have others now.
    pub(super) fn forget(&mut self, repository: &Arc<str>) {
        self.known.retain(|(of, _)| of != repository);
        self.since.retain(|(_, (of, _))| of != repository);
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.since.pop_front() {
            self.known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_remembered_for_a_while() {
        let (mut absent, now) = (Absent::default(), Instant::now());
        let (a, b) = (Arc::from("h/a"), Arc::from("h/b"));
        absent.note(&a, "1", now);
        let later = now + Duration::from_millis(UPSTREAM_ANSWER_KEPT_MS - 1);
        absent.note(&a, "1", later);
        assert!(absent.has(&a, "1", later) && !absent.has(&b, "1", later));
        assert!(!absent.has(&a, "1", later + Duration::from_millis(1)));
        for id in 0..=ABSENT_IDS_MAX {
            absent.note(&b, &id.to_string(), later);
        }
        assert!(!absent.has(&b, "0", later) && absent.has(&b, "1", later));
        assert_eq!(absent.known.len(), ABSENT_IDS_MAX);
        absent.note(&a, "1", later);
        absent.forget(&b);
        assert!(absent.has(&a, "1", later) && !absent.has(&b, "2", later));
        assert_eq!((absent.known.len(), absent.since.len()), (1, 1));
    }
}
