//! An archive that is complete, with all its bytes in files: it is read without a lock, for what hits
//! need must not wait for a thread that the system has put aside.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use crate::extent::{Layout, Next, Segment};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Whole {
    layout: Layout,
    readers: AtomicUsize,
    /// Why no more of it is sent, whole as it is.
    condemned: OnceLock<Arc<str>>,
}

impl Whole {
    pub(super) fn new(layout: Layout) -> Whole {
        Whole {
            layout,
            readers: AtomicUsize::new(0),
            condemned: OnceLock::new(),
        }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// From here on nobody gets more of it.
    pub(super) fn condemn(&self, why: &str) {
        // The first reason is as good as any other.
        let _ = self.condemned.set(Arc::from(why));
    }

    pub(super) fn condemned(&self) -> Option<&Arc<str>> {
        self.condemned.get()
    }

    /// Counts a reader in, unless there is nothing for it.
    pub(super) fn enter(&self) -> bool {
        let is_sound = self.condemned().is_none();
        if is_sound {
            self.readers.fetch_add(1, Ordering::AcqRel);
        }
        is_sound
    }

    /// Counts a reader out.
    pub(super) fn leave(&self) {
        let before = self.readers.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "nobody has entered");
    }

    pub(super) fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }

    /// What stands at wire offset `at`, at most `max` bytes of it.
    pub(super) fn next(&self, at: u64, max: u64) -> Next {
        if let Some(why) = self.condemned() {
            return Next::Failed(why.clone());
        }
        let Some(mut segment) = self.layout.segment_at(at) else {
            return Next::End;
        };
        segment.truncate(max);
        match segment {
            Segment::Inline(inline) => Next::Inline(inline),
            Segment::File { file, offset, len } => Next::File {
                file: Some(file),
                offset,
                len,
            },
            Segment::Spool { offset, len } => Next::File {
                file: None,
                offset,
                len,
            },
        }
    }

    /// The file ranges that the `len` wire bytes from `at` come from.
    pub(super) fn file_ranges(&self, at: u64, len: u64, each: impl FnMut(Option<u32>, Range<u64>)) {
        self.layout.file_ranges(at..at.saturating_add(len), each);
    }
}
