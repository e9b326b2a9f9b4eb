//! Requests for stretches of files that stand: why one brought nothing, and on which connection the next one goes.

use std::io;

use super::error::RestoreError;
use super::http::Conn;
use super::link::Link;

/// Why a request brought nothing.
pub(super) enum Untaken {
    /// Worth another try.
    Again(String),
    Final(RestoreError),
}

impl From<RestoreError> for Untaken {
    fn from(error: RestoreError) -> Self {
        Self::Final(error)
    }
}

impl From<io::Error> for Untaken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Whoever is not believed is so the next time.
            io::ErrorKind::PermissionDenied => Self::Final(RestoreError::Server(error.to_string())),
            _ => Self::Again(error.to_string()),
        }
    }
}

/// The connection in `slot` if it can be used once more, else a new one.
pub(super) fn reusable<'s, 'a>(
    slot: &'s mut Option<Conn<'a>>,
    link: Link<'a>,
) -> io::Result<&'s mut Conn<'a>> {
    let conn = match slot.take().filter(Conn::is_reusable) {
        Some(conn) => conn,
        None => Conn::open(link)?,
    };
    Ok(slot.insert(conn))
}
