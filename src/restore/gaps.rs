//! Frames without content: a server may send some while it has nothing to say yet, but not many in
//! a short time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::error::RestoreError;
use crate::limits::{EMPTY_FRAMES_MAX, EMPTY_FRAMES_MS};

/// When the frames without content came that follow each other, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    came: VecDeque<Instant>,
}

impl Gaps {
    /// A frame brought content.
    pub(super) fn content(&mut self) {
        self.came.clear();
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
        let mut gaps = Gaps::default();
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
        let mut gaps = Gaps::default();
        for number in 0..7200 {
            gaps.nothing_at(0, now + Duration::from_secs(5 * number))
                .unwrap();
        }
        assert!(gaps.came.len() <= 121);
    }
}
