//! What webhooks say.

/// A webhook that was proven to be one: something is other than before, so the upstream is looked at.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The hosts that it is proven to come from.
    pub hosts: Vec<String>,
    /// The repository's path there, as the host writes it.
    pub path: String,
    /// The full name of the branch that commits were added to, if that is all: what will be asked for is made
    /// as well.
    pub pushed: Option<String>,
}
