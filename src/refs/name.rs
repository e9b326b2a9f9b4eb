//! Names of refs, by git's own rules, and ids.

use std::path::Path;

use gix::bstr::ByteSlice;

use super::error::RefsError;
use crate::limits;

pub(super) fn check_name(path: &Path, line: usize, name: &[u8]) -> Result<(), RefsError> {
    if is_ref_name(name) {
        return Ok(());
    }
    Err(RefsError::Name {
        path: path.to_owned(),
        line,
        name: name.into(),
    })
}

/// Whether git allows this as the full name of a ref under `refs/`.
pub(crate) fn is_ref_name(name: &[u8]) -> bool {
    // Refs are files, at least while git moves them.
    let fits = name.len() <= limits::PATH_BYTES_MAX
        && name
            .split(|b| *b == b'/')
            .all(|part| part.len() <= limits::NAME_BYTES_MAX);
    let is_valid = || is_plain(name) || gix::validate::reference::name(name.as_bstr()).is_ok();
    fits && name.starts_with(b"refs/") && is_valid()
}

/// Whether a name has nothing but letters, digits, `-`, `_` and single slashes between them, as nearly all
/// have: then git has nothing against it.
fn is_plain(name: &[u8]) -> bool {
    let mut before = b'/';
    let is_fine = name.iter().all(|byte| {
        let is_fine = match byte {
            b'/' => before != b'/',
            b'-' | b'_' => true,
            byte => byte.is_ascii_alphanumeric(),
        };
        before = *byte;
        is_fine
    });
    is_fine && before != b'/'
}

/// Looks at names in their order for what is in the way of what: one that is there twice, or that has
/// another one for a directory. It takes a look at each byte of a name and no more.
#[derive(Debug, Default)]
pub(crate) struct Way {
    last: Vec<u8>,
    /// How long those are that the last name begins with, itself included, each longer than the one
    /// before.
    prefixes: Vec<usize>,
}

impl Way {
    /// Takes the next name; not if one before is in its way.
    pub(crate) fn takes(&mut self, name: &[u8]) -> bool {
        let pairs = self.last.iter().zip(name);
        let common = pairs.take_while(|(a, b)| a == b).count();
        while self.prefixes.last().is_some_and(|last| *last > common) {
            self.prefixes.pop();
        }
        let is_above = |prefix: &usize| matches!(name.get(*prefix), None | Some(b'/'));
        if self.prefixes.iter().any(is_above) {
            return false;
        }
        self.last.truncate(common);
        self.last.extend_from_slice(&name[common..]);
        self.prefixes.push(name.len());
        true
    }
}

/// The first of the sorted `names` that another one is in the way of ([`Way`]).
pub(crate) fn in_the_way<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Option<&'n [u8]> {
    let mut way = Way::default();
    names.into_iter().find(|name| !way.takes(name))
}

/// An id that a caller gave, which must be whole; an error says what to write instead.
pub(crate) fn full_id(text: &str) -> Result<String, String> {
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    match is_id {
        true => Ok(text.to_ascii_lowercase()),
        false => Err(format!(
            "{text:?} is no commit; write all 40 or 64 hex digits"
        )),
    }
}
