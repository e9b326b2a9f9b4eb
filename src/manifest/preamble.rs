//! What stands in a response before its archive where that has to be waited for: frames that every zstd
//! decoder passes over (RFC 8878, sections 3.1.1 and 3.1.2), so that nothing between here and there takes
//! the response for dead.
//!
//! The first one is a frame without content, for tar knows an archive by its first bytes; then come
//! skippable frames with one line of JSON each. The last of them tells what the archive is, or why
//! there is none.

use serde::{Deserialize, Serialize};

use crate::limits::PREAMBLE_MESSAGE_BYTES_MAX;

/// A zstd frame of no bytes: magic number, a single segment, a content size of 0, one last raw block of 0
/// bytes.
pub(crate) const EMPTY_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];

/// The magic number of the skippable frames that are written; the lowest 4 bits of others are free.
pub(crate) const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;

/// What an archive can have to wait for. A preamble names it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waits {
    /// For other clones to end.
    CloneTurn,
    Clone,
    /// For one commit without its history, before a clone.
    Tip,
    /// For what the upstream says that it has, for one who must not get anything older or names what is not
    /// there.
    Comparison,
    /// For what the upstream has and the mirror has not.
    Fetch,
    /// For other builds, or for clients that take theirs slowly.
    Turn,
}

impl Waits {
    const ALL: [Waits; 6] = [
        Waits::CloneTurn,
        Waits::Clone,
        Waits::Tip,
        Waits::Comparison,
        Waits::Fetch,
        Waits::Turn,
    ];

    /// In words, behind "waits for".
    pub(crate) fn words(self) -> &'static str {
        match self {
            Waits::CloneTurn => "its turn to be cloned",
            Waits::Clone => "the first clone of the repository",
            Waits::Tip => "a fetch of that commit alone",
            Waits::Comparison => "a look at its upstream",
            Waits::Fetch => "a fetch from its upstream",
            Waits::Turn => "its turn to be built",
        }
    }

    /// In as few as a narrow terminal has room for.
    pub(crate) fn in_short(self) -> &'static str {
        match self {
            Waits::CloneTurn => "waiting to be cloned",
            Waits::Clone => "cloning",
            Waits::Tip => "fetching one commit",
            Waits::Comparison => "asking its upstream",
            Waits::Fetch => "fetching",
            Waits::Turn => "waiting to be built",
        }
    }

    /// What is meant by some words.
    pub(crate) fn of(words: &str) -> Option<Waits> {
        Waits::ALL.into_iter().find(|one| one.words() == words)
    }
}

/// One line of a preamble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Line {
    /// What is waited for, how long already, and what of it has come.
    Waiting {
        #[serde(rename = "for")]
        what: String,
        waited_s: u64,
        received_bytes: u64,
    },
    /// The archive follows.
    Ready {
        etag: String,
        commit: Option<String>,
    },
    /// Nothing follows; the answer would have had this status.
    Failed { status: u16, message: String },
}

impl Line {
    /// The line in a frame of its own.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0; 8];
        // Strings and numbers can always be written.
        let _ = serde_json::to_writer(&mut frame, &self.bounded());
        let len = frame.len() as u32 - 8;
        frame[..4].copy_from_slice(&SKIPPABLE_MAGIC.to_le_bytes());
        frame[4..8].copy_from_slice(&len.to_le_bytes());
        frame
    }

    /// Reads what such a frame holds; `None` if that is something else.
    pub(crate) fn read(content: &[u8]) -> Option<Line> {
        serde_json::from_slice(content).ok()
    }

    /// A message of git may be long.
    fn bounded(&self) -> Line {
        let mut line = self.clone();
        if let Line::Failed { message, .. } = &mut line {
            let mut end = message.len().min(PREAMBLE_MESSAGE_BYTES_MAX);
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_has_words_of_its_own() {
        for waits in Waits::ALL {
            assert_eq!(Waits::of(waits.words()), Some(waits));
        }
        assert_eq!(Waits::of("the weather"), None);
    }

    #[test]
    fn decoders_pass_over_it_and_find_what_follows() {
        let waiting = Line::Waiting {
            what: "the first clone".into(),
            waited_s: 5,
            received_bytes: 1 << 40,
        };
        let ready = Line::Ready {
            etag: "\"abc\"".into(),
            commit: None,
        };
        let failed = Line::Failed {
            status: 404,
            message: "ü".repeat(PREAMBLE_MESSAGE_BYTES_MAX),
        };
        let mut wire = EMPTY_FRAME.to_vec();
        for line in [&waiting, &ready, &failed] {
            let frame = line.frame();
            let read = Line::read(&frame[8..]).unwrap();
            match line {
                Line::Failed { message, .. } => {
                    let Line::Failed { message: read, .. } = read else {
                        panic!("{read:?}");
                    };
                    assert!(
                        read.len() > PREAMBLE_MESSAGE_BYTES_MAX - 2 && message.starts_with(&read)
                    );
                }
                line => assert_eq!(read, *line),
            }
            wire.extend(frame);
        }
        wire.extend(zstd_safe_frame(b"archive"));
        let mut content = Vec::with_capacity(100);
        let read = zstd_safe::decompress(&mut content, &wire).unwrap();
        assert_eq!((&content[..], read), (&b"archive"[..], 7));
        assert_eq!(Line::read(b"{}"), None);
        assert_eq!(Line::read(&[0xff; 9]), None);
    }

    fn zstd_safe_frame(content: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(100);
        zstd_safe::compress(&mut frame, content, 1).unwrap();
        frame
    }
}
