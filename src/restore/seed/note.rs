//! When a part was read and what it was found to be, kept where no lock is needed: in its date. The seconds say when,
//! the nanoseconds in which boot of the machine, and how much was looked at. Whoever writes into the file or touches it
//! takes the note away by that, and behind a power cut, which leaves anything, it is of another boot. The date of its
//! last use says when that was.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use xxhash_rust::xxh64::xxh64;

/// The mode of a part; of one that has another somebody has done something to it.
pub(super) const SEALED: u32 = 0o444;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const NANOSECONDS: u64 = 1_000_000_000;
/// What a boot's number becomes, which is even, where a file is sound.
const SOUND: i64 = 1;
/// A date that stays.
const SAME: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: UTIME_OMIT,
};

/// What is known of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// It is what the manifest says.
    Right,
    /// Besides, it is what git's formats want, with the files that belong to it.
    Sound,
}

/// What tells the boot and the time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// What notes of this boot have, an even number; `None` where it cannot be told.
    pub boot: Option<i64>,
    /// How far it is ahead of the system's.
    pub ahead: Duration,
}

impl Clock {
    /// The system's.
    pub(super) fn new() -> Clock {
        let id = std::fs::read(BOOT_ID).ok().filter(|id| !id.is_empty());
        let boot = id.map(|id| ((xxh64(&id, 0) % NANOSECONDS) & !1).cast_signed());
        Clock {
            boot,
            ahead: Duration::ZERO,
        }
    }

    fn now(&self) -> Duration {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.unwrap_or_default() + self.ahead
    }

    fn used(&self) -> Timespec {
        let now = self.now();
        Timespec {
            tv_sec: now.as_secs().cast_signed(),
            tv_nsec: now.subsec_nanos().into(),
        }
    }

    /// Notes that all of a file was read, and is right, and is used.
    pub(super) fn note_read(&self, file: &File) -> io::Result<()> {
        let last_access = self.used();
        let last_modification = Timespec {
            tv_sec: last_access.tv_sec,
            tv_nsec: self.boot.unwrap_or(0),
        };
        set(file, last_access, last_modification)
    }

    /// Notes that a file which is known to be right is sound. Nothing of it is read for that: when it was stays as it is,
    /// or what is used again and again would never be read again.
    pub(super) fn note_sound(&self, file: &File) -> io::Result<()> {
        let found = file.metadata()?;
        let boot = self.boot.filter(|boot| *boot == found.mtime_nsec());
        let last_modification = |boot: i64| Timespec {
            tv_sec: found.mtime(),
            tv_nsec: boot | SOUND,
        };
        boot.map_or(Ok(()), |boot| set(file, SAME, last_modification(boot)))
    }

    /// Notes that a file is used.
    pub(super) fn note_used(&self, file: &File) -> io::Result<()> {
        set(file, self.used(), SAME)
    }

    /// What a file was found to be in this boot, and no longer ago than `interval`.
    pub(super) fn known(&self, found: &Metadata, interval: Duration) -> Option<Known> {
        let now = self.now().as_secs().cast_signed();
        let age = u64::try_from(now - found.mtime());
        let is_new = age.is_ok_and(|age| Duration::from_secs(age) < interval);
        let is_sealed = found.mode() & 0o7777 == SEALED;
        let known = match found.mtime_nsec() - self.boot? {
            0 => Known::Right,
            SOUND => Known::Sound,
            _ => return None,
        };
        (is_new && is_sealed).then_some(known)
    }
}

fn set(file: &File, last_access: Timespec, last_modification: Timespec) -> io::Result<()> {
    let times = Timestamps {
        last_access,
        last_modification,
    };
    Ok(rustix::fs::futimens(file, &times)?)
}
