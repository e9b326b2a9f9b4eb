//! Bundles that were made lately. Their files have no names, so nothing of them outlives the
//! server, and one that is dropped here stays readable for who is sending it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::archive::open_files::OpenFile;
use crate::archive::place::Files;
use crate::limits::{
    BUNDLE_AGE_MAX_MS, BUNDLES_BYTES_MAX, BUNDLES_MADE_BYTES_MAX, BUNDLES_MAX, BUNDLES_PART,
};
use crate::manifest::want::CommitId;
use crate::repos::head::MirrorHead;

/// What a bundle is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BundleKey {
    /// `host/path` of the repository.
    pub repository: Arc<str>,
    /// The commit that it starts from, in lower-case hex.
    pub base: String,
    pub tip: Tip,
}

/// What a bundle leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Tip {
    /// The mirror's HEAD.
    Head(Arc<MirrorHead>),
    /// A commit that was named, or that what was named led to.
    Commit(CommitId),
}

impl Tip {
    /// Whether nobody asks for this one any more, now that there is `other`. Commits stay what they are.
    fn is_left_behind(&self, other: &Tip) -> bool {
        matches!((self, other), (Tip::Head(old), Tip::Head(new)) if old != new)
    }
}

impl std::fmt::Display for Tip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Tip::Head(head) => f.write_str(head.commit.as_deref().unwrap_or_default()),
            Tip::Commit(commit) => write!(f, "{commit}"),
        }
    }
}

/// A whole bundle.
#[derive(Debug)]
pub(crate) struct BundleFile {
    /// The bundle is the spool of these; there are no others.
    pub files: Arc<Files>,
    /// Its length.
    pub bytes: u64,
}

impl BundleFile {
    /// Takes over a file that is written.
    pub(crate) fn new(file: File) -> io::Result<BundleFile> {
        let bytes = file.metadata()?.len();
        let files = Arc::new(Files::new(OpenFile::uncounted(file), Vec::new()));
        Ok(BundleFile { files, bytes })
    }
}

#[derive(Debug)]
struct Kept {
    bundle: Arc<BundleFile>,
    made: Instant,
    used: Instant,
}

/// Invariant: `bytes` is the sum of what is kept, at most [`BUNDLES_BYTES_MAX`] in at most
/// [`BUNDLES_MAX`] bundles; `made` has all that are kept or still being sent.
#[derive(Debug, Default)]
pub(crate) struct BundleCache {
    kept: HashMap<BundleKey, Kept>,
    bytes: u64,
    made: Vec<Weak<BundleFile>>,
}

impl BundleCache {
    /// A bundle that is kept.
    pub(crate) fn get(&mut self, key: &BundleKey, now: Instant) -> Option<Arc<BundleFile>> {
        let kept = self.kept.get_mut(key)?;
        kept.used = now;
        Some(kept.bundle.clone())
    }

    /// Whether another one may be made: those that take room on the disk, the ones that are only being
    /// sent among them, have less than [`BUNDLES_MADE_BYTES_MAX`], and than their part of the
    /// `disk_bytes` that all may have. What nobody reads makes room.
    pub(crate) fn has_room(&mut self, disk_bytes: u64) -> bool {
        let max = BUNDLES_MADE_BYTES_MAX.min(disk_bytes / BUNDLES_PART);
        if self.made_bytes() < max {
            return true;
        }
        self.drop_unread();
        self.made_bytes() < max
    }

    /// Drops those that nobody reads: to make one anew takes seconds, all else takes longer.
    pub(crate) fn drop_unread(&mut self) {
        self.retain(|_, kept| Arc::strong_count(&kept.bundle) > 1);
    }

    /// Bytes of those that are kept or being sent.
    pub(crate) fn made_bytes(&mut self) -> u64 {
        self.made.retain(|bundle| bundle.strong_count() > 0);
        let there = self.made.iter().filter_map(Weak::upgrade);
        there.map(|bundle| bundle.bytes).sum()
    }

    /// Keeps a bundle if it is not too large. Those to other HEADs of its repository go, and as
    /// many others, longest unused first, as make room.
    pub(crate) fn insert(&mut self, key: BundleKey, bundle: Arc<BundleFile>, now: Instant) {
        self.made.push(Arc::downgrade(&bundle));
        self.retain(|other, _| {
            other.repository != key.repository || !other.tip.is_left_behind(&key.tip)
        });
        self.remove(&key);
        if bundle.bytes > BUNDLES_BYTES_MAX {
            return;
        }
        while self.kept.len() >= BUNDLES_MAX || self.bytes + bundle.bytes > BUNDLES_BYTES_MAX {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            self.remove(&oldest);
        }
        self.bytes += bundle.bytes;
        let kept = Kept {
            bundle,
            made: now,
            used: now,
        };
        self.kept.insert(key, kept);
    }

    /// Drops those of a repository.
    pub(crate) fn forget(&mut self, repository: &str) {
        self.retain(|key, _| *key.repository != *repository);
    }

    /// Drops what was made longer ago than [`BUNDLE_AGE_MAX_MS`].
    pub(crate) fn expire(&mut self, now: Instant) {
        let age = Duration::from_millis(BUNDLE_AGE_MAX_MS);
        self.retain(|_, kept| now.saturating_duration_since(kept.made) <= age);
    }

    fn remove(&mut self, key: &BundleKey) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.bundle.bytes;
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(&BundleKey, &Kept) -> bool) {
        let bytes = &mut self.bytes;
        self.kept.retain(|key, kept| {
            let keeps = keep(key, kept);
            if !keeps {
                *bytes -= kept.bundle.bytes;
            }
            keeps
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(repository: &str, base: usize, head: &str) -> BundleKey {
        BundleKey {
            repository: repository.into(),
            base: base.to_string(),
            tip: Tip::Head(Arc::new(MirrorHead {
                branch: None,
                commit: Some(head.into()),
            })),
        }
    }

    fn bundle(bytes: u64) -> Arc<BundleFile> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        Arc::new(BundleFile::new(file).unwrap())
    }

    /// Those that are only being sent count, too; what nobody reads makes room.
    #[test]
    fn what_is_being_sent_takes_room() {
        let mut cache = BundleCache::default();
        let now = Instant::now();
        cache.insert(key("r", 0, "h"), bundle(BUNDLES_BYTES_MAX), now);
        let sent = bundle(BUNDLES_MADE_BYTES_MAX - BUNDLES_BYTES_MAX);
        cache.insert(key("r", 1, "h"), sent.clone(), now);
        assert_eq!(cache.kept.len(), 1, "too large to be kept");
        let has_room = |cache: &mut BundleCache| cache.has_room(u64::MAX);
        assert!(has_room(&mut cache) && cache.kept.is_empty());
        let more = bundle(BUNDLES_BYTES_MAX);
        cache.insert(key("r", 2, "h"), more.clone(), now);
        assert!(!has_room(&mut cache), "both are being sent");
        drop((sent, more));
        assert!(has_room(&mut cache));
        let small = bundle(1000);
        cache.insert(key("r", 3, "h"), small.clone(), now);
        assert!(!cache.has_room(1000 * BUNDLES_PART), "that is their part");
        drop(small);
        assert!(cache.has_room(1000 * BUNDLES_PART) && cache.kept.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let mut cache = BundleCache::default();
        let start = Instant::now();
        let at = |n: usize| start + Duration::from_millis(n as u64);
        for n in 0..=BUNDLES_MAX {
            cache.insert(key("r", n, "h"), bundle(1), at(n));
            // The first one is in use all the time.
            assert!(cache.get(&key("r", 0, "h"), at(n)).is_some(), "{n}");
        }
        assert!(cache.get(&key("r", 1, "h"), at(1)).is_none());
        assert_eq!(
            (cache.kept.len(), cache.bytes),
            (BUNDLES_MAX, BUNDLES_MAX as u64)
        );
        let later = at(1000);
        cache.insert(key("r", 999, "h"), bundle(BUNDLES_BYTES_MAX), later);
        assert_eq!((cache.kept.len(), cache.bytes), (1, BUNDLES_BYTES_MAX));
        cache.insert(key("r", 1000, "h"), bundle(BUNDLES_BYTES_MAX + 1), later);
        assert_eq!(cache.kept.len(), 1, "too large to be kept");
        cache.insert(key("r", 999, "h"), bundle(5), later);
        assert_eq!((cache.kept.len(), cache.bytes), (1, 5), "the same again");
        cache.forget("other");
        assert_eq!(cache.kept.len(), 1);
        cache.forget("r");
        assert_eq!((cache.kept.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn a_new_head_or_age_ends_a_bundle() {
        let mut cache = BundleCache::default();
        let now = Instant::now();
        cache.insert(key("r", 1, "old"), bundle(3), now);
        cache.insert(key("other", 1, "old"), bundle(4), now);
        cache.insert(key("r", 2, "new"), bundle(5), now);
        assert!(cache.get(&key("r", 1, "old"), now).is_none());
        assert!(cache.get(&key("other", 1, "old"), now).is_some());
        assert_eq!(cache.bytes, 9);
        let age = Duration::from_millis(BUNDLE_AGE_MAX_MS);
        cache.expire(now + age);
        assert_eq!(cache.bytes, 9);
        cache.expire(now + age + Duration::from_millis(1));
        assert_eq!((cache.kept.len(), cache.bytes), (0, 0));
    }
}
