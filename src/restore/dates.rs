//! The dates of what a restore writes.
//!
//! Every tracked file and link has one date: the second before the one in which the restore began.
//! The index has a later whole second, which is not in the future. So for every `git`, also for one
//! that compares whole seconds, no file is as young as the index and none is read again; what is
//! edited from now on has another date than its entry; and `make` takes no kept build output for
//! newer than its source because a commit is old.

use std::fs::File;
use std::io;
use std::time::{Duration, SystemTime};

use rustix::fs::{Timespec, Timestamps};

use crate::limits::INDEX_DATE_WAIT_MAX_MS;

/// When a restore began.
#[derive(Debug, Clone, Copy)]
pub struct Dates {
    began_s: i64,
}

impl Dates {
    /// For a restore that begins now.
    pub fn now() -> Dates {
        Dates {
            began_s: unix_s(SystemTime::now()),
        }
    }

    /// The date of every file, in seconds since 1970.
    pub fn file_s(self) -> i64 {
        self.began_s - 1
    }

    /// The date of every file, as the kernel takes it.
    pub fn of_files(self) -> Timestamps {
        let time = Timespec {
            tv_sec: self.file_s(),
            tv_nsec: 0,
        };
        Timestamps {
            last_access: time,
            last_modification: time,
        }
    }

    /// Dates an index whose latest entry is of `latest_s`. That is later than the files' own date
    /// only where a file system does not take it; the second after it is waited for.
    pub fn date_index(self, index: &File, latest_s: i64) -> io::Result<()> {
        let date_s = self.began_s.max(latest_s + 1);
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(date_s.try_into().unwrap_or(0));
        let wait = date.duration_since(SystemTime::now()).unwrap_or_default();
        // One that is further ahead has a clock of its own, which is then what counts.
        std::thread::sleep(wait.min(Duration::from_millis(INDEX_DATE_WAIT_MAX_MS)));
        index.set_modified(date)
    }
}

fn unix_s(time: SystemTime) -> i64 {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since_1970.unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn an_index_is_later_than_its_entries_and_not_in_the_future() {
        let dates = Dates::now();
        let file = tempfile::tempfile().unwrap();
        let dated = |latest_s| {
            dates.date_index(&file, latest_s).unwrap();
            let now_s = unix_s(SystemTime::now());
            let date_s = file.metadata().unwrap().mtime();
            assert!(date_s > latest_s && date_s <= now_s, "{date_s} {latest_s}");
            date_s
        };
        assert_eq!(dated(dates.file_s()), dates.file_s() + 1);
        assert_eq!(dated(0), dates.file_s() + 1);
        // What was made in this very second.
        dated(unix_s(SystemTime::now()));
    }
}
