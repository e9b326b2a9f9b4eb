//! What an answer says to caches on the way: whether it may be kept, and for whom.
//!
//! Every head is begun with it, so that no answer can leave it out, and what is no success is never kept,
//! whoever writes it.

/// How long an answer may be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Not at all.
    Never,
    /// Not at all, and nobody may put it into another form: it is sent while it is made.
    Live,
    /// Only by who asks here first.
    Asked,
    /// An hour: it is always the same.
    Hour,
    /// The same of what never changes, whoever reloads it.
    Immutable,
}

/// Whom a kept answer may be given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Whoever asks.
    Everybody,
    /// Whoever sent the same credentials: others may not have it.
    Asker,
}

/// Both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caching {
    pub lifetime: Lifetime,
    pub reach: Reach,
}

/// The headers by which the answers of a host differ that is not open.
pub(crate) const VARY: &str = "Authorization, Tarpon-Authorization";

impl Caching {
    /// Of what says nothing of any repository and is not to be kept.
    pub(crate) const NEVER: Caching = Caching {
        lifetime: Lifetime::Never,
        reach: Reach::Everybody,
    };

    /// The same for an answer with `status`.
    pub(super) fn of_status(self, status: u16) -> Caching {
        match status {
            400.. => Caching {
                lifetime: Lifetime::Never,
                ..self
            },
            _ => self,
        }
    }

    /// The value of `Cache-Control`.
    pub(super) fn value(self) -> &'static str {
        match (self.lifetime, self.reach) {
            (Lifetime::Never, Reach::Everybody) => "no-store",
            (Lifetime::Never, Reach::Asker) => "private, no-store",
            (Lifetime::Live, Reach::Everybody) => "no-store, no-transform",
            (Lifetime::Live, Reach::Asker) => "private, no-store, no-transform",
            (Lifetime::Asked, Reach::Everybody) => "no-cache",
            (Lifetime::Asked, Reach::Asker) => "private, no-cache",
            (Lifetime::Hour, Reach::Everybody) => "max-age=3600",
            (Lifetime::Hour, Reach::Asker) => "private, max-age=3600",
            (Lifetime::Immutable, Reach::Everybody) => "public, max-age=3600, immutable",
            (Lifetime::Immutable, Reach::Asker) => "private, max-age=3600, immutable",
        }
    }
}
