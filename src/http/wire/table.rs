//! The table of routes: what there is, what it reads, who may have it, and who may keep it on the way.
//!
//! This is the only way to a route: an [`Endpoint`] exists because its row does, and a row that leaves
//! something open does not compile. The router walks it ([`route`](super::route)), `api`'s gate asks it who
//! may, answers say of themselves what it says about caches, and tests make their matrix of it.

use super::caching::Lifetime;
use super::query::{bundle_query, snapshot_query};
use super::repo_ref::RepoRef;
use super::{Method, Reject};
use crate::manifest::want::Named;

pub(super) const SNAPSHOT: &str = "/snapshot.tar.zst";
pub(super) const MANIFEST: &str = "/manifest";

const BASE: Reject = Reject::new(
    400,
    "send base=HASH once, with all 40 or 64 hex digits of a commit",
);
const FILTER: Reject = Reject::new(
    400,
    "send filter=FILTER once, as TARPON_LOG has it, such as info or tarpon=debug",
);
const SERVICE: Reject = Reject::new(
    400,
    "only git's smart protocol is served; add ?service=git-upload-pack once",
);
pub(super) const READ_ONLY: Reject = Reject::new(
    403,
    "this server is read-only: push to the upstream repository instead",
);

/// What is asked for, with what the target says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route<'a> {
    /// Of [`Endpoint::Snapshot`]
    Snapshot {
        /// The repository.
        repo: RepoRef<'a>,
        /// What of it, see [`Route::named`].
        query: &'a str,
    },
    /// Of [`Endpoint::Manifest`]
    Manifest {
        /// The repository.
        repo: RepoRef<'a>,
        /// What of it, see [`Route::named`].
        query: &'a str,
    },
    /// Of [`Endpoint::Part`]
    Part {
        /// The repository.
        repo: RepoRef<'a>,
        /// A name that a part can have.
        name: &'a str,
        /// Of which snapshot, see [`Route::named`].
        query: &'a str,
    },
    /// Of [`Endpoint::Bundle`]
    Bundle {
        /// The repository.
        repo: RepoRef<'a>,
        /// 40 or 64 hex digits, in the case that was sent.
        base: &'a str,
        /// To what it leads, see [`Route::named`].
        query: &'a str,
    },
    /// Of [`Endpoint::EnsureRefs`]
    EnsureRefs(RepoRef<'a>),
    /// Of [`Endpoint::InfoRefs`]
    InfoRefs(RepoRef<'a>),
    /// Of [`Endpoint::UploadPack`]
    UploadPack(RepoRef<'a>),
    /// Of [`Endpoint::Status`]
    Status(RepoRef<'a>),
    /// Of [`Endpoint::Webhook`], and of [`Endpoint::AnyWebhook`], where the body names the repository
    Webhook(Option<RepoRef<'a>>),
    /// Of [`Endpoint::Liveness`]
    Liveness,
    /// Of [`Endpoint::Readiness`]
    Readiness,
    /// Of [`Endpoint::Metrics`]
    Metrics,
    /// Of [`Endpoint::ServerStatus`]
    ServerStatus,
    /// Of [`Endpoint::LogFilter`]
    LogFilter(&'a str),
    /// Of [`Endpoint::Prewarm`], [`Endpoint::Refetch`] and [`Endpoint::Drop`]
    Wish(RepoRef<'a>, Wish),
}

/// What who runs the server wants done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Mirror it, and build what a plain request gets.
    Prewarm,
    /// Clone its mirror anew.
    Refetch,
    /// Remove all that there is of it.
    Drop,
}

impl<'a> Route<'a> {
    /// Its row's name.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Route::Snapshot { .. } => Endpoint::Snapshot,
            Route::Manifest { .. } => Endpoint::Manifest,
            Route::Part { .. } => Endpoint::Part,
            Route::Bundle { .. } => Endpoint::Bundle,
            Route::EnsureRefs(_) => Endpoint::EnsureRefs,
            Route::InfoRefs(_) => Endpoint::InfoRefs,
            Route::UploadPack(_) => Endpoint::UploadPack,
            Route::Status(_) => Endpoint::Status,
            Route::Webhook(Some(_)) => Endpoint::Webhook,
            Route::Webhook(None) => Endpoint::AnyWebhook,
            Route::Liveness => Endpoint::Liveness,
            Route::Readiness => Endpoint::Readiness,
            Route::Metrics => Endpoint::Metrics,
            Route::ServerStatus => Endpoint::ServerStatus,
            Route::LogFilter(_) => Endpoint::LogFilter,
            Route::Wish(_, Wish::Prewarm) => Endpoint::Prewarm,
            Route::Wish(_, Wish::Refetch) => Endpoint::Refetch,
            Route::Wish(_, Wish::Drop) => Endpoint::Drop,
        }
    }

    /// The repository that is asked about.
    pub fn repo(&self) -> Option<RepoRef<'a>> {
        match self {
            Route::Snapshot { repo, .. }
            | Route::Manifest { repo, .. }
            | Route::Part { repo, .. }
            | Route::Bundle { repo, .. }
            | Route::EnsureRefs(repo)
            | Route::InfoRefs(repo)
            | Route::UploadPack(repo)
            | Route::Status(repo)
            | Route::Wish(repo, _) => Some(*repo),
            Route::Webhook(repo) => *repo,
            Route::Liveness
            | Route::Readiness
            | Route::Metrics
            | Route::ServerStatus
            | Route::LogFilter(_) => None,
        }
    }

    /// What a snapshot is asked for of; of anything else nothing in particular.
    pub fn named(&self) -> Result<Named, Reject> {
        match self {
            Route::Snapshot { query, .. }
            | Route::Manifest { query, .. }
            | Route::Part { query, .. } => snapshot_query(query),
            Route::Bundle { query, .. } => bundle_query(query),
            _ => Ok(Named::default()),
        }
    }
}

/// Where a route is, and what the rest of the target makes of it: the query, which it checks.
pub enum At {
    /// At this path.
    Server {
        /// All of the path.
        path: &'static str,
        /// Reads the query.
        make: for<'a> fn(&'a str) -> Result<Route<'a>, Reject>,
    },
    /// Below `/admin/git/{host}/{path}`.
    Admin {
        /// How the path ends.
        end: &'static str,
        /// What is wanted.
        wish: Wish,
    },
    /// `/git/{host}/{path}/parts/NAME`, with a name that a part can have.
    Part,
    /// Below `/git/{host}/{path}`.
    Repository {
        /// How the path ends.
        end: &'static str,
        /// Reads the query.
        make: for<'a> fn(RepoRef<'a>, &'a str) -> Result<Route<'a>, Reject>,
    },
}

/// The methods that a route takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Methods {
    /// GET alone.
    Get,
    /// GET, and HEAD, whose answer has no body.
    GetHead,
    /// POST.
    Post,
}

impl Methods {
    /// As `Allow` has them.
    pub const fn names(self) -> &'static str {
        match self {
            Methods::Get => "GET",
            Methods::GetHead => "GET, HEAD",
            Methods::Post => "POST",
        }
    }

    /// Whether it is one of them.
    pub const fn contains(self, method: Method) -> bool {
        match method {
            Method::Get => !matches!(self, Methods::Post),
            Method::Head => matches!(self, Methods::GetHead),
            Method::Post => matches!(self, Methods::Post),
            Method::Other => false,
        }
    }
}

/// What an answer has in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Whether the process lives.
    Process,
    /// Counts, and names beside some.
    Counts,
    /// Content of one repository: its archive, its objects, its refs.
    Content,
    /// What the server has of one repository, and how it fares.
    State,
    /// Names of all repositories, and how they fare.
    Names,
    /// Nothing: it hears what others say.
    Nothing,
}

/// Who may have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Whoever reaches the server.
    Nothing,
    /// Who may read the repository, by the access of its host.
    Read,
    /// Who signs the body with a secret of the host: its endpoint sees to that.
    Signature,
    /// Whoever reaches the server; names of repositories only who may have them.
    Counts,
    /// Who may have the names of all repositories.
    Names,
    /// Who runs the server.
    Admin,
}

/// Who may keep an answer on the way, and for how long, where it is no refusal: those nobody keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nobody.
    Never,
    /// Whoever asks here before he uses it.
    Asked,
    /// The same, but for what names a commit, which is always the same: an hour.
    ByWant,
    /// Whoever may have it, an hour: it never changes.
    Always,
}

impl Kept {
    /// How long an answer of what was asked for may be used.
    pub(crate) fn lifetime(self, named: &Named) -> Lifetime {
        match self {
            Kept::Never => Lifetime::Never,
            Kept::ByWant if named.commit().is_some() => Lifetime::Hour,
            Kept::Asked | Kept::ByWant => Lifetime::Asked,
            Kept::Always => Lifetime::Immutable,
        }
    }
}

/// A route.
pub struct Row {
    /// Its name.
    pub endpoint: Endpoint,
    /// Where it is.
    pub at: At,
    /// How it is asked for.
    pub methods: Methods,
    /// What it reads.
    pub reads: Reads,
    /// Who may have it.
    pub need: Need,
    /// Who may keep it.
    pub kept: Kept,
}

/// Makes the names and the table of the same rows.
macro_rules! table {
    ($($(#[$text:meta])+ $name:ident { $($field:ident: $value:expr,)+ })+) => {
        /// The name of each route. HEAD is allowed where GET is, except for bundles and git's own protocol.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Endpoint { $($(#[$text])+ $name,)+ }

        /// Every route, in the order in which it is looked for.
        pub const TABLE: &[Row] = &[$(Row { endpoint: Endpoint::$name, $($field: $value,)+ },)+];

        impl Endpoint {
            /// Its row.
            pub const fn row(self) -> &'static Row {
                // The table has a row for each name, in their order.
                &TABLE[self as usize]
            }
        }
    };
}

table! {
    /// `GET`, `HEAD /git/{host}/{path}/snapshot.tar.zst`
    Snapshot {
        at: At::Repository { end: SNAPSHOT, make: |repo, query| Ok(Route::Snapshot { repo, query }) },
        methods: Methods::GetHead,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::ByWant,
    }
    /// `GET`, `HEAD /git/{host}/{path}/manifest`. What answers can be the archive, too: nobody keeps one for the
    /// other.
    Manifest {
        at: At::Repository { end: MANIFEST, make: |repo, query| Ok(Route::Manifest { repo, query }) },
        methods: Methods::GetHead,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::Never,
    }
    /// `GET /git/{host}/{path}/snapshot.bundle?base=HEX&ref=NAME&commit=HEX`
    Bundle {
        at: At::Repository { end: "/snapshot.bundle", make: bundle },
        methods: Methods::Get,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::Asked,
    }
    /// `POST /git/{host}/{path}/ensure-refs`
    EnsureRefs {
        at: At::Repository { end: "/ensure-refs", make: |repo, _| Ok(Route::EnsureRefs(repo)) },
        methods: Methods::Post,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::Never,
    }
    /// `GET /git/{host}/{path}/info/refs?service=git-upload-pack`
    InfoRefs {
        at: At::Repository { end: "/info/refs", make: info_refs },
        methods: Methods::Get,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::Asked,
    }
    /// `POST /git/{host}/{path}/git-upload-pack`
    UploadPack {
        at: At::Repository { end: "/git-upload-pack", make: |repo, _| Ok(Route::UploadPack(repo)) },
        methods: Methods::Post,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::Asked,
    }
    /// `GET`, `HEAD /git/{host}/{path}/status`
    Status {
        at: At::Repository { end: "/status", make: |repo, _| Ok(Route::Status(repo)) },
        methods: Methods::GetHead,
        reads: Reads::State,
        need: Need::Read,
        kept: Kept::Never,
    }
    /// `POST /git/{host}/{path}/webhook`
    Webhook {
        at: At::Repository { end: "/webhook", make: |repo, _| Ok(Route::Webhook(Some(repo))) },
        methods: Methods::Post,
        reads: Reads::Nothing,
        need: Need::Signature,
        kept: Kept::Never,
    }
    /// `GET`, `HEAD /git/{host}/{path}/parts/NAME`. Behind the others: a repository can be called `parts`.
    Part {
        at: At::Part,
        methods: Methods::GetHead,
        reads: Reads::Content,
        need: Need::Read,
        kept: Kept::Always,
    }
    /// `POST /webhook`
    AnyWebhook {
        at: At::Server { path: "/webhook", make: |_| Ok(Route::Webhook(None)) },
        methods: Methods::Post,
        reads: Reads::Nothing,
        need: Need::Signature,
        kept: Kept::Never,
    }
    /// `GET`, `HEAD /_liveness`
    Liveness {
        at: At::Server { path: "/_liveness", make: |_| Ok(Route::Liveness) },
        methods: Methods::GetHead,
        reads: Reads::Process,
        need: Need::Nothing,
        kept: Kept::Never,
    }
    /// `GET`, `HEAD /_readiness`
    Readiness {
        at: At::Server { path: "/_readiness", make: |_| Ok(Route::Readiness) },
        methods: Methods::GetHead,
        reads: Reads::Process,
        need: Need::Nothing,
        kept: Kept::Never,
    }
    /// `GET`, `HEAD /metrics`
    Metrics {
        at: At::Server { path: "/metrics", make: |_| Ok(Route::Metrics) },
        methods: Methods::GetHead,
        reads: Reads::Counts,
        need: Need::Counts,
        kept: Kept::Never,
    }
    /// `GET`, `HEAD /status`
    ServerStatus {
        at: At::Server { path: "/status", make: |_| Ok(Route::ServerStatus) },
        methods: Methods::GetHead,
        reads: Reads::Names,
        need: Need::Names,
        kept: Kept::Never,
    }
    /// `POST /admin/log?filter=FILTER`
    LogFilter {
        at: At::Server { path: "/admin/log", make: log_filter },
        methods: Methods::Post,
        reads: Reads::Nothing,
        need: Need::Admin,
        kept: Kept::Never,
    }
    /// `POST /admin/git/{host}/{path}/prewarm`
    Prewarm {
        at: At::Admin { end: "/prewarm", wish: Wish::Prewarm },
        methods: Methods::Post,
        reads: Reads::Nothing,
        need: Need::Admin,
        kept: Kept::Never,
    }
    /// `POST /admin/git/{host}/{path}/refetch`
    Refetch {
        at: At::Admin { end: "/refetch", wish: Wish::Refetch },
        methods: Methods::Post,
        reads: Reads::Nothing,
        need: Need::Admin,
        kept: Kept::Never,
    }
    /// `POST /admin/git/{host}/{path}/drop`
    Drop {
        at: At::Admin { end: "/drop", wish: Wish::Drop },
        methods: Methods::Post,
        reads: Reads::Nothing,
        need: Need::Admin,
        kept: Kept::Never,
    }
}

fn bundle<'a>(repo: RepoRef<'a>, query: &'a str) -> Result<Route<'a>, Reject> {
    let base = parameter(query, "base").ok_or(BASE)?;
    let is_hash = matches!(base.len(), 40 | 64) && base.bytes().all(|b| b.is_ascii_hexdigit());
    match is_hash {
        true => Ok(Route::Bundle { repo, base, query }),
        false => Err(BASE),
    }
}

fn log_filter(query: &str) -> Result<Route<'_>, Reject> {
    parameter(query, "filter")
        .map(Route::LogFilter)
        .ok_or(FILTER)
}

fn info_refs<'a>(repo: RepoRef<'a>, query: &'a str) -> Result<Route<'a>, Reject> {
    match parameter(query, "service") {
        Some("git-upload-pack") => Ok(Route::InfoRefs(repo)),
        Some("git-receive-pack") => Err(READ_ONLY),
        _ => Err(SERVICE),
    }
}

/// The value of a parameter that is there exactly once.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut values = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(key, value)| (key == name).then_some(value));
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What has something of a repository in it is for those who may read that, and nobody keeps what he may
    /// not give to others.
    #[test]
    fn what_reads_a_repository_needs_the_right_to() {
        for row in TABLE {
            let is_of_repository = matches!(row.at, At::Repository { .. } | At::Part);
            match row.reads {
                Reads::Content | Reads::State => {
                    assert_eq!(row.need, Need::Read, "{:?}", row.endpoint);
                    assert!(is_of_repository, "{:?}", row.endpoint);
                }
                Reads::Counts | Reads::Process | Reads::Names | Reads::Nothing => {
                    assert_ne!(row.need, Need::Read, "{:?}", row.endpoint);
                    assert_eq!(row.kept, Kept::Never, "{:?}", row.endpoint);
                    let is_admin = matches!(row.at, At::Admin { .. });
                    assert!(!is_admin || row.need == Need::Admin, "{:?}", row.endpoint);
                    assert!(row.reads != Reads::Names || row.need == Need::Names);
                }
            }
        }
    }
}
