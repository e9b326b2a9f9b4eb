//! All refs of a mirror, at one moment.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use gix::bstr::BString;

use super::error::RefsError;
use super::list::{Follow, MirrorRefs, Ref, check_one_hash};
use super::loose::{Loose, read_head, read_loose};
use super::packed::read_packed_where;
use super::recent::{Listed, Recent, Stamp};
use crate::limits;

/// Reads HEAD and the followed refs of the bare repository at `mirror`.
///
/// # Errors
/// A file that cannot be read or is not what git writes, with its path and line. A symbolic
/// ref under `refs/` that leads nowhere is left out, as git does.
pub fn read(mirror: &Path, follow: &Follow) -> Result<MirrorRefs, RefsError> {
    read_with(mirror, follow, &Recent::default())
}

impl Recent {
    /// As [`read`](read()), which looks at the same files, but reads a `packed-refs` again only if it is
    /// another than the last time.
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, mirror: &Path, follow: &Follow) -> Result<MirrorRefs, RefsError> {
        read_with(mirror, follow, self)
    }
}

fn read_with(mirror: &Path, follow: &Follow, recent: &Recent) -> Result<MirrorRefs, RefsError> {
    let head = read_head(mirror)?;
    let loose = read_loose(mirror)?;
    let Listed { refs, fully_peeled } = match loose.is_empty() {
        true => packed(mirror, follow, recent)?,
        false => merged(mirror, follow, &loose)?,
    };
    check_one_hash(mirror, &head, &refs)?;
    Ok(MirrorRefs {
        head,
        refs,
        fully_peeled,
    })
}

/// The followed refs where all are packed.
fn packed(mirror: &Path, follow: &Follow, recent: &Recent) -> Result<Listed, RefsError> {
    let path = mirror.join("packed-refs");
    let seen = Stamp::at(&path).map_err(|source| RefsError::Io { path, source })?;
    if let Some(listed) = seen.and_then(|stamp| recent.find(mirror, follow, &stamp)) {
        return Ok(listed);
    }
    let (packed, stamp) = read_packed_where(mirror, |name| follow.matches(name))?;
    let listed = Listed {
        refs: Arc::new(packed.refs),
        fully_peeled: packed.fully_peeled,
    };
    if let Some(stamp) = stamp {
        recent.keep(mirror, follow, stamp, &listed);
    }
    Ok(listed)
}

/// The followed refs where some are loose files, which hide those that are packed.
fn merged(
    mirror: &Path,
    follow: &Follow,
    loose: &BTreeMap<BString, Loose>,
) -> Result<Listed, RefsError> {
    let (mut packed, _) = read_packed_where(mirror, |_| true)?;
    // A symbolic ref that is followed can lead to one that is not.
    let leads_out = |(name, loose): (&BString, &Loose)| {
        let is_symbolic = matches!(loose, Loose::Symbolic(_));
        is_symbolic && !name.starts_with(b"refs/heads/") && follow.matches(name)
    };
    let leads_out = loose.iter().any(leads_out);
    let tags_unknown = |(name, loose): (&BString, &Loose)| {
        // git lets nothing but commits into refs/heads/.
        matches!(loose, Loose::Direct(_))
            && !name.starts_with(b"refs/heads/")
            && (leads_out || follow.matches(name))
    };
    let fully_peeled = packed.fully_peeled && !loose.iter().any(tags_unknown);
    let resolved: Vec<Ref> = loose
        .iter()
        .filter(|(name, _)| follow.matches(name))
        .filter_map(|(name, _)| resolve(name, loose, &packed.refs))
        .collect();
    packed
        .refs
        .retain(|r| follow.matches(&r.name) && !loose.contains_key(&r.name));
    let mut refs = packed.refs;
    if !resolved.is_empty() {
        refs.extend(resolved);
        refs.sort_by(|a, b| a.name.cmp(&b.name));
    }
    Ok(Listed {
        refs: Arc::new(refs),
        fully_peeled,
    })
}

/// Follows a loose ref to an object through at most
/// [`REF_SYMBOLIC_DEPTH_MAX`](limits::REF_SYMBOLIC_DEPTH_MAX) symbolic ones.
fn resolve(name: &BString, loose: &BTreeMap<BString, Loose>, packed: &[Ref]) -> Option<Ref> {
    let mut at = name;
    for _ in 0..=limits::REF_SYMBOLIC_DEPTH_MAX {
        match loose.get(at) {
            Some(Loose::Direct(id)) => {
                return Some(Ref {
                    name: name.clone(),
                    target: *id,
                    peeled: None,
                });
            }
            Some(Loose::Symbolic(next)) => at = next,
            None => {
                let found = packed.binary_search_by(|r| r.name.cmp(at)).ok()?;
                return Some(Ref {
                    name: name.clone(),
                    ..packed.get(found)?.clone()
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
