//! How a piece of a part is fetched: asked for again where its connection breaks, and where what came is not right.

use super::error::RestoreError;
use super::http::Conn;
use super::link::pause;
use super::pieces::{Piece, Taken};
use super::source::Source;
use super::untaken::{Untaken, reusable};
use crate::limits::{CORRUPT_TRIES_MAX, PACE_BYTES};
use crate::manifest::parts::Part;
use crate::tree::frontier::Frontier;

/// Writes bytes, and where they begin.
pub(super) type Write<'w> = dyn Fn(&[u8], u64) -> Result<(), RestoreError> + 'w;

/// A piece that is fetched.
pub(super) struct Coming<'p, 'a> {
    pub source: &'p Source<'a>,
    pub part: &'p Part,
    pub piece: &'p Piece,
    /// Of the frames that the archive has of it.
    pub sums: &'p [u32],
    /// Who writes what comes, and where that begins.
    pub write: &'p Write<'p>,
    /// Of a pack, which is looked at while it comes.
    pub frontier: Option<&'p Frontier>,
    /// In a row, that bring next to nothing.
    pub tries_max: u32,
}

impl<'a> Coming<'_, 'a> {
    /// Fetches it, with as many tries as bring more than a little, and few that bring what is not right.
    pub(super) fn fetch(
        &self,
        conn: &mut Option<Conn<'a>>,
        buffer: &mut [u8],
    ) -> Result<(), RestoreError> {
        let (mut taken, mut tries, mut corrupted) = (Taken::new(self.piece), 0, 0);
        loop {
            let before = taken.at;
            let why = match self.try_once(conn, &mut taken, buffer) {
                Ok(true) => return Ok(()),
                Ok(false) => "the answer ended early".to_owned(),
                Err(Failed::Corrupt(error)) => {
                    corrupted += 1;
                    if corrupted >= CORRUPT_TRIES_MAX {
                        return Err(error);
                    }
                    error.to_string()
                }
                Err(Failed::Untaken(Untaken::Final(error))) => return Err(error),
                Err(Failed::Untaken(Untaken::Again(why))) => why,
            };
            *conn = None;
            let is_much = taken.at.saturating_sub(before) >= PACE_BYTES as u64;
            tries = if is_much { 1 } else { tries + 1 };
            let link = self.source.link;
            if tries >= self.tries_max || link.stop.is_set() {
                let (name, at) = (&self.part.name, taken.at);
                let what = format!("{name} broke at byte {at}, {tries} tries: {why}");
                return Err(RestoreError::Server(what));
            }
            link.progress.resumed();
            pause(link.stop, tries);
        }
    }

    /// One request for what is left of it; whether it is whole now.
    fn try_once(
        &self,
        slot: &mut Option<Conn<'a>>,
        taken: &mut Taken,
        buffer: &mut [u8],
    ) -> Result<bool, Failed> {
        let (link, end) = (self.source.link, self.piece.range.end);
        let conn = reusable(slot, link)?;
        let conn = self.source.ask(conn, self.part, taken.at..end)?;
        while taken.at < end {
            let left = usize::try_from(end - taken.at).unwrap_or(usize::MAX);
            let want = left.min(buffer.len());
            let got = conn.read(&mut buffer[..want])?;
            if got == 0 {
                return Ok(false);
            }
            link.progress.received(got);
            let written = (self.write)(&buffer[..got], taken.at);
            written.map_err(Untaken::Final)?;
            if let Err(at) = taken.add(&buffer[..got], self.piece, self.sums) {
                return Err(Failed::Corrupt(corrupt(self.part, at)));
            }
            if let Some(frontier) = self.frontier {
                frontier.came(self.piece.range.start..taken.sound_end(self.piece));
            }
        }
        Ok(true)
    }
}

/// A part is not what the manifest says from `offset` on, or before.
pub(super) fn corrupt(part: &Part, offset: u64) -> RestoreError {
    let what = format!("{} is not what the manifest says", part.name);
    RestoreError::Corrupt { offset, what }
}

/// Why a request brought no piece.
enum Failed {
    Untaken(Untaken),
    /// What came of it is not right.
    Corrupt(RestoreError),
}

impl<E: Into<Untaken>> From<E> for Failed {
    fn from(error: E) -> Failed {
        Failed::Untaken(error.into())
    }
}
