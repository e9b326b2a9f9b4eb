//! Where the parts of a snapshot are asked for.

use std::ops::Range;

use super::error::RestoreError;
use super::http::Conn;
use super::link::Link;
use super::request::Request;
use super::untaken::Untaken;
use crate::manifest::parts::Part;

/// Where the parts of a snapshot are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub link: Link<'a>,
    /// The path of its repository.
    pub base: &'a str,
    /// What of it, as a query.
    pub query: &'a str,
}

impl Source<'_> {
    /// Asks for bytes of a part, which `conn` gives next.
    pub(super) fn ask(
        &self,
        conn: &mut Conn<'_>,
        part: &Part,
        wanted: Range<u64>,
    ) -> Result<(), Untaken> {
        let target = format!("{}/parts/{}{}", self.base, part.name, self.query);
        let range = format!("bytes={}-{}", wanted.start, wanted.end - 1);
        let fields = [("Range", range.as_str())];
        let answer = conn.ask(&Request::get(&target, &fields), self.link.stall)?;
        match answer.status {
            206 if answer.content_range() == Some((Some(wanted.start), Some(part.bytes))) => Ok(()),
            // Another length, or gone: there is another manifest.
            200 | 206 | 404 | 410 | 416 => Err(Untaken::Final(RestoreError::Changed)),
            status if status >= 500 => {
                let text = conn.read_text().unwrap_or_default();
                Err(Untaken::Again(format!("{status}: {text}")))
            }
            _ => Err(Untaken::Final(conn.refused(&answer))),
        }
    }
}
