//! Why there is nothing to answer with.

/// Why a request for a snapshot could not be answered, as the client hears it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct StartError {
    /// HTTP status.
    pub status: u16,
    /// One line that says what to do.
    pub message: String,
}
