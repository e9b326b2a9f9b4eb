//! What a restore waits for before anything comes, in the server's words.

use super::summary::size;
use crate::io::say::line;
use crate::manifest::preamble::Waits;

/// What is waited for, as the server says.
#[derive(Debug)]
pub(super) enum Waited {
    /// What it waits for itself, and how much of that has come.
    Server { words: String, received_bytes: u64 },
    /// It is busy, and has said when to come again, and perhaps why; for so long that is done.
    Busy { why: String, limit_s: u64 },
    /// It cannot be reached, and is asked again.
    Unreached { why: String },
}

impl Waited {
    pub(super) fn unreached(why: &std::io::Error) -> Waited {
        let why = why.to_string();
        Waited::Unreached { why }
    }

    /// In a few words, if that is asked for and they are known.
    pub(super) fn text(&self, in_short: bool) -> String {
        let (words, received_bytes) = match self {
            Waited::Busy { why, .. } if why.is_empty() => {
                return "the restore waits for its turn".into();
            }
            Waited::Busy { why, .. } if in_short => return format!("put off: {}", line(why)),
            Waited::Unreached { .. } if in_short => return "the server is asked again".into(),
            Waited::Unreached { why } => {
                return format!("the server is asked again (\"{}\")", line(why));
            }
            Waited::Busy { why, .. } => {
                return format!("the restore was told to come again (\"{}\")", line(why));
            }
            Waited::Server {
                words,
                received_bytes,
            } => (words, *received_bytes),
        };
        let known = Waits::of(words).filter(|_| in_short);
        let what = match known {
            Some(waits) => waits.in_short().to_owned(),
            None => format!("the server waits for {}", line(words)),
        };
        match received_bytes {
            0 => what,
            bytes => format!("{what}: {} so far", size(bytes)),
        }
    }
}

/// What it is, or else `what`, for how long that has been so, and how long it may be: zero where nobody says so.
pub(super) fn line_of(
    (said, what): (Option<&Waited>, &str),
    (waited_s, limit_s): (u64, u64),
    in_short: bool,
) -> String {
    let limit_s = match said {
        Some(Waited::Busy { limit_s: busy, .. }) => limit_s.min(*busy),
        Some(Waited::Unreached { .. }) => 0,
        _ => limit_s,
    };
    let what = said.map_or(what.into(), |said| said.text(in_short));
    match (limit_s, in_short) {
        (0, _) => format!("{what}, {waited_s} s"),
        (_, true) => format!("{what}, {waited_s} s, at most {limit_s}"),
        (_, false) => format!("{what}, {waited_s} s of at most {limit_s}"),
    }
}
