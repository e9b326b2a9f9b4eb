//! The dates that files of an archive have: functions of what is in them, so that the same snapshot has
//! the same bytes whoever makes it and whenever.
//!
//! A file of the worktree has one that differs when its content does: who compares sizes and dates only
//! notices. All of `.git` has one that is later than any of these, so that git takes no entry of the index
//! for racily clean (git's `Documentation/technical/racy-git.txt`).

use std::ops::Range;

use gix::oid;
use xxhash_rust::xxh64::Xxh64;

use super::filter::Conversions;

/// Seconds since 1970 of the files of a worktree: 2000-01-01T00:00:00Z and 28 bits of seconds after it.
pub(crate) const DATES: Range<i64> = 946_684_800..946_684_800 + (1 << 28);
/// The date of everything in `.git`: 2008-07-03T21:24:16Z.
pub(crate) const GIT_DATE_S: i64 = DATES.end;

/// The date of a file of the worktree, or of a link or a submodule's directory.
pub(crate) fn worktree_date_s(id: &oid, conversions: &Conversions) -> i64 {
    let mut hash = Xxh64::new(0);
    hash.update(id.as_bytes());
    if !conversions.is_empty() {
        conversions.describe(|part| {
            hash.update(&(part.len() as u32).to_le_bytes());
            hash.update(part);
        });
    }
    DATES.start + (hash.digest() & 0x0fff_ffff) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use gix::ObjectId;

    #[test]
    fn another_content_has_another_date_before_that_of_git() {
        let id = |byte| ObjectId::from_bytes_or_panic(&[byte; 20]);
        let none = Conversions::default();
        let latin = Conversions::of_encoding("latin1");
        let dates = [(1, &none), (2, &none), (1, &latin)];
        let dates = dates.map(|(byte, conversions)| worktree_date_s(&id(byte), conversions));
        assert!(
            dates
                .iter()
                .all(|date| DATES.contains(date) && *date < GIT_DATE_S)
        );
        assert!(dates[0] != dates[1] && dates[0] != dates[2]);
        assert_eq!(dates[0], worktree_date_s(&id(1), &none), "always the same");
        // Stands in archives that are out there: another value is another format.
        assert_eq!(dates[0], 1_037_082_030);
    }
}
