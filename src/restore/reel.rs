//! What of an archive is played out of parts: the stretches of them that it takes, one behind the other. Packs are none
//! of it: they are put in place as they are.

use std::ops::Range;

use super::error::RestoreError;
use crate::extent::Segment;
use crate::limits::PLAYED_STRETCH_BYTES;
use crate::manifest::parts::{Contents, Manifest};

/// Bytes of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The part's place in the manifest. It is a file of frames.
    pub part: usize,
    /// Its first byte in the part.
    pub offset: u64,
    pub len: u64,
}

// With where it ends, and what it has of its part.
const _: () = assert!(
    size_of::<Stretch>() + size_of::<u64>() + size_of::<Range<u64>>() <= PLAYED_STRETCH_BYTES
);

/// Stretches that follow each other.
///
/// Invariant: `ends` are where those of `stretches` end, in the reel.
#[derive(Debug, Default)]
pub(super) struct Reel {
    stretches: Vec<Stretch>,
    ends: Vec<u64>,
}

impl Reel {
    /// What a manifest says of these contents, in the archive's order.
    pub(super) fn of(manifest: &Manifest, wanted: &[Contents]) -> Result<Reel, RestoreError> {
        let mut ranges: Vec<_> = wanted
            .iter()
            .flat_map(|contents| manifest.stretches(*contents))
            .collect();
        ranges.sort_by_key(|range| range.start);
        let mut reel = Reel::default();
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let segment = manifest.layout.segment_at(at);
                let stretch = segment.and_then(|segment| frames(manifest, segment));
                let Some(mut stretch) = stretch.filter(|stretch| stretch.len > 0) else {
                    return Err(RestoreError::Corrupt {
                        offset: at,
                        what: "the manifest: something of a pack is where none is".into(),
                    });
                };
                stretch.len = stretch.len.min(range.end - at);
                at += stretch.len;
                reel.push(stretch);
            }
        }
        Ok(reel)
    }

    fn push(&mut self, next: Stretch) {
        let end = self.bytes() + next.len;
        match (self.stretches.last_mut(), self.ends.last_mut()) {
            (Some(last), Some(last_end))
                if last.part == next.part && last.offset + last.len == next.offset =>
            {
                last.len += next.len;
                *last_end = end;
            }
            _ => {
                self.stretches.push(next);
                self.ends.push(end);
            }
        }
    }

    /// How much it is.
    pub(super) fn bytes(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// What it takes of a part, by where it begins.
    pub(super) fn of_part(&self, number: usize) -> Vec<Range<u64>> {
        let own = self.stretches.iter().filter(|own| own.part == number);
        let mut ranges: Vec<_> = own.map(|own| own.offset..own.offset + own.len).collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// What follows from `at` on and lies in one piece; `None` at its end.
    pub(super) fn at(&self, at: u64) -> Option<Stretch> {
        let found = self.ends.partition_point(|end| *end <= at);
        let (stretch, end) = (self.stretches.get(found)?, self.ends.get(found)?);
        let len = end - at;
        Some(Stretch {
            offset: stretch.offset + (stretch.len - len),
            len,
            ..*stretch
        })
    }
}

/// Where a segment lies, if that is in a file of frames.
fn frames(manifest: &Manifest, segment: Segment) -> Option<Stretch> {
    match segment {
        Segment::Inline(_) => None,
        Segment::Spool { offset, len } => Some(Stretch {
            part: manifest.linked().len(),
            offset,
            len,
        }),
        Segment::File { file, offset, len } => {
            let part = file as usize;
            let is_of_pack = manifest.parts.get(part)?.is_of_pack();
            (!is_of_pack).then_some(Stretch { part, offset, len })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_found_by_where_they_are_in_the_reel() {
        let mut reel = Reel::default();
        let push = |reel: &mut Reel, part, offset, len| reel.push(Stretch { part, offset, len });
        push(&mut reel, 1, 10, 5);
        push(&mut reel, 1, 15, 5);
        push(&mut reel, 0, 20, 3);
        push(&mut reel, 1, 23, 1);
        assert_eq!(reel.bytes(), 14);
        assert_eq!(reel.stretches.len(), 3);
        let at = |at| reel.at(at).map(|s| (s.part, s.offset, s.len));
        assert_eq!(at(0), Some((1, 10, 10)));
        assert_eq!(at(9), Some((1, 19, 1)));
        assert_eq!(at(10), Some((0, 20, 3)));
        assert_eq!(at(12), Some((0, 22, 1)));
        assert_eq!(at(13), Some((1, 23, 1)));
        assert_eq!(at(14), None);
        assert_eq!(Reel::default().at(0), None);
        assert_eq!(reel.of_part(1), [10..20, 23..24]);
    }
}
