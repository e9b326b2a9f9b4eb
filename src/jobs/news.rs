//! What webhooks say.

/// What a webhook says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// Something is other than before: the upstream is looked at.
    Moved,
    /// Commits were added to a branch: what is asked for next is made as well.
    Pushed,
}

/// A webhook that was proven to be one.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The hosts that it is proven to come from.
    pub hosts: Vec<String>,
    /// The repository's path there, as the host writes it.
    pub path: String,
    pub news: News,
}
