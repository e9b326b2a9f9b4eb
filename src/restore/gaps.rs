//! Frames without content: a server may send some while it has nothing to say yet, but not many in
//! a short time, and not for ever.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::error::RestoreError;
use crate::limits::{EMPTY_FRAMES_MAX, EMPTY_FRAMES_MS};

/// When the frames without content came that follow each other, as far as it matters.
#[derive(Debug)]
pub(super) struct Gaps {
    came: VecDeque<Instant>,
    /// When the last content came, or the answer began.
    since: Instant,
    /// How long there may be none.
    limit: Duration,
}

impl Gaps {
    /// Of an answer that begins now, in which nothing may come for as long as `limit`.
    pub(super) fn new(limit: Duration) -> Gaps {
        Gaps {
            came: VecDeque::new(),
            since: Instant::now(),
            limit,
        }
    }

    /// A frame brought content.
    pub(super) fn content(&mut self) {
        self.came.clear();
        self.since = Instant::now();
    }

    /// The frame at `offset` brought none.
    pub(super) fn nothing(&mut self, offset: u64) -> Result<(), RestoreError> {
        self.nothing_at(offset, Instant::now())
    }

    fn nothing_at(&mut self, offset: u64, now: Instant) -> Result<(), RestoreError> {
        let time = Duration::from_millis(EMPTY_FRAMES_MS);
        let is_past = |came: &Instant| now.saturating_duration_since(*came) > time;
        while self.came.front().is_some_and(is_past) {
            self.came.pop_front();
        }
        self.came.push_back(now);
        if now.saturating_duration_since(self.since) >= self.limit {
            return Err(RestoreError::Server(format!(
                "the server says that it lives, but has sent nothing of the archive for {} s; \
                 --wait-limit allows more",
                self.limit.as_secs_f32()
            )));
        }
        match self.came.len() < EMPTY_FRAMES_MAX {
            true => Ok(()),
            false => Err(RestoreError::Corrupt {
                offset,
                what: "there are too many frames without content".into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_ends_it_and_a_sign_of_life_every_few_seconds_does_not() {
        let mut gaps = Gaps::new(Duration::MAX);
        let now = Instant::now();
        for _ in 1..EMPTY_FRAMES_MAX {
            gaps.nothing_at(0, now).unwrap();
        }
        gaps.content();
        for _ in 1..EMPTY_FRAMES_MAX {
            gaps.nothing_at(0, now).unwrap();
        }
        let error = gaps.nothing_at(7, now).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        // One every 5 s, for ten hours.
        let mut gaps = Gaps::new(Duration::MAX);
        for number in 0..7200 {
            gaps.nothing_at(0, now + Duration::from_secs(5 * number))
                .unwrap();
        }
        assert!(gaps.came.len() <= 121);
    }

    #[test]
    fn signs_of_life_are_not_enough_for_ever() {
        let limit = Duration::from_secs(60);
        let mut gaps = Gaps::new(limit);
        for _ in 0..2 {
            let begin = gaps.since;
            gaps.nothing_at(0, begin + limit / 2).unwrap();
            let error = gaps.nothing_at(0, begin + limit).unwrap_err();
            assert_eq!(error.exit_code(), 3, "{error}");
            gaps.content();
        }
    }
}
