//! What tests of repositories begin with.

use std::sync::Arc;

use crate::archive::place::Archive;
use crate::manifest::id::EntryId;
use crate::manifest::want::Want;

/// An archive of `host/path` that grows.
pub(super) fn archive(created_unix_ms: u64) -> Arc<Archive> {
    archive_of(&Arc::default(), created_unix_ms)
}

/// The same of something else than a plain request wants.
pub(super) fn archive_of(want: &Arc<Want>, created_unix_ms: u64) -> Arc<Archive> {
    let id = EntryId::from_bytes(u128::from(created_unix_ms).to_le_bytes());
    let name = Arc::from("host/path");
    Arc::new(Archive::growing(
        id,
        name,
        want.clone(),
        None,
        [0; 32],
        created_unix_ms,
    ))
}
