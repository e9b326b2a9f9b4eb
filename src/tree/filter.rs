//! From blob to worktree file: the conversions that git applies on checkout according to
//! `.gitattributes`: `ident`, line ends, `working-tree-encoding`, in this order (git's
//! `convert.c`). Never an external filter: the archive is what a clone without configured
//! drivers gives.

use std::collections::HashMap;

use gix::attrs::StateRef;
use gix::bstr::{BStr, BString, ByteSlice};
use gix::filter::plumbing::eol::{self, AttributesDigest, Mode, Stats};
use gix::objs::Find;
use gix::oid;

use super::iconv::{Encoder, Identity};
use super::rules::{ATTRIBUTES, AttributeFiles, Rules, RulesError, Which};
use crate::limits::{FILTER_PIECE_BYTES, LETTER_BYTES_MAX};

/// git's configuration as in a fresh clone on Linux: no `core.autocrlf`, no `core.eol`.
const EOL: eol::Configuration = eol::Configuration {
    auto_crlf: eol::AutoCrlf::Disabled,
    eol: None,
};

/// What went wrong in a conversion.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("attributes of '{path}' cannot be read: {source}")]
    Attributes { path: BString, source: RulesError },
    #[error("'{path}' has working-tree-encoding set to true or false, which git refuses too")]
    Encoding { path: BString },
    #[error("'{path}' cannot be converted: {detail}")]
    Convert { path: BString, detail: String },
}

/// What a file goes through on checkout, as its attributes ask for it. The same conversions make the
/// same file of the same blob.
///
/// Invariant: it is empty if the file is the blob.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Conversions {
    ident: bool,
    /// Only rules that turn line ends into CRLF.
    eol: Option<AttributesDigest>,
    encoding: Option<BString>,
}

impl Conversions {
    /// Whether the file is the blob.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Conversions::default()
    }

    /// Whether keywords are expanded.
    pub(crate) fn has_ident(&self) -> bool {
        self.ident
    }

    /// Gives `part` all that decides what they do, in parts that are never taken for each other.
    pub(crate) fn describe(&self, mut part: impl FnMut(&[u8])) {
        let eol = match self.eol {
            None => 0,
            Some(AttributesDigest::TextCrlf) => 1,
            Some(AttributesDigest::TextAutoCrlf) => 2,
            // Those that the invariant leaves out.
            Some(_) => 3,
        };
        part(&[u8::from(self.ident), eol, u8::from(self.encoding.is_some())]);
        if let Some(name) = &self.encoding {
            part(name);
            part(Identity::of_system().as_bytes());
        }
    }

    /// What is decided by text that is encoded with this name.
    #[cfg(test)]
    pub(crate) fn of_encoding(name: &str) -> Conversions {
        Conversions {
            encoding: Some(name.into()),
            ..Conversions::default()
        }
    }
}

/// The text of a large file: a blob, whose line ends may become others.
struct Text<'b> {
    blob: &'b [u8],
    has_crlf: bool,
}

impl Text<'_> {
    fn each<E>(&self, each: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut last = 0;
        let mut converted = Vec::new();
        for piece in self.blob.chunks(FILTER_PIECE_BYTES) {
            if !self.has_crlf {
                each(piece)?;
                continue;
            }
            converted.clear();
            for line in piece.split_inclusive(|b| *b == b'\n') {
                let text = line.strip_suffix(b"\n").unwrap_or(line);
                converted.extend_from_slice(text);
                last = text.last().copied().unwrap_or(last);
                if text.len() < line.len() {
                    converted.extend_from_slice(if last == b'\r' { b"\n" } else { b"\r\n" });
                    last = b'\n';
                }
            }
            each(&converted)?;
        }
        Ok(())
    }

    /// The same in another encoding; whether all of it has a form there.
    fn each_encoded<E>(
        &self,
        encoder: &mut Encoder,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (mut text, mut encoded) = (Vec::new(), Vec::new());
        let mut has_form = true;
        encoder.begin(&mut encoded);
        self.each(&mut |piece: &[u8]| {
            text.extend_from_slice(piece);
            let taken = encoder.push(&text, &mut encoded);
            has_form &= taken.is_some_and(|taken| text.len() - taken < LETTER_BYTES_MAX);
            if !has_form {
                text.clear();
                return Ok(());
            }
            text.drain(..taken.unwrap_or_default());
            each(&encoded)?;
            encoded.clear();
            Ok(())
        })?;
        Ok(has_form && text.is_empty())
    }
}

/// Converts files; one for each thread.
pub(crate) struct Filter {
    rules: Rules,
    encoders: HashMap<BString, Option<Encoder>>,
    buffer: Vec<u8>,
    spare: Vec<u8>,
}

impl Filter {
    /// A filter for a tree with these attribute files, which may take so much memory for those of one path.
    pub(crate) fn new(
        attributes: &AttributeFiles,
        limit_bytes: usize,
    ) -> Result<Filter, RulesError> {
        Ok(Filter {
            rules: Rules::new(attributes, limit_bytes)?,
            encoders: HashMap::new(),
            buffer: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// The bytes of the worktree file at `path` for the blob `id` with the content `blob`;
    /// `None` if they are the blob's.
    pub(crate) fn convert(
        &mut self,
        wanted: &Conversions,
        path: &BStr,
        id: &oid,
        blob: &[u8],
    ) -> Result<Option<&[u8]>, FilterError> {
        if wanted.is_empty() || blob.is_empty() {
            return Ok(None);
        }
        let mut changed = wanted.ident && expand_ident(blob, id, &mut self.buffer);
        if let Some(digest) = wanted.eol {
            let source = if changed { &self.buffer[..] } else { blob };
            let converted = eol::convert_to_worktree(source, digest, &mut self.spare, EOL);
            let converted = converted.map_err(|e| FilterError::Convert {
                path: path.to_owned(),
                detail: e.to_string(),
            })?;
            if converted {
                std::mem::swap(&mut self.buffer, &mut self.spare);
                changed = true;
            }
        }
        if let Some(name) = &wanted.encoding {
            let source = if changed { &self.buffer[..] } else { blob };
            let open = |name: &BString| Encoder::open(name);
            let encoder = self.encoders.entry(name.clone()).or_insert_with_key(open);
            // Like git: what the encoding cannot hold, or an unknown one, is left as it is.
            if let Some(encoded) = encoder.as_mut().and_then(|e| e.encode(source)) {
                self.buffer = encoded;
                changed = true;
            }
        }
        Ok(changed.then_some(&self.buffer[..]))
    }

    /// Gives `each` what [`Filter::convert`] makes of a blob, piece by piece: for one that is too large to be held,
    /// whose keywords have been expanded ([`expand_ident_to`]).
    pub(crate) fn convert_large<E>(
        &mut self,
        wanted: &Conversions,
        blob: &[u8],
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let will_convert = |digest| Stats::from_bytes(blob).will_convert_lf_to_crlf(digest, EOL);
        let text = Text {
            blob,
            has_crlf: !blob.is_empty() && wanted.eol.is_some_and(will_convert),
        };
        let Some(name) = wanted.encoding.as_ref().filter(|_| !blob.is_empty()) else {
            return text.each(&mut each);
        };
        let open = |name: &BString| Encoder::open(name);
        let encoder = self.encoders.entry(name.clone()).or_insert_with_key(open);
        let Some(encoder) = encoder else {
            return text.each(&mut each);
        };
        // Once to see whether all of it has a form there.
        match text.each_encoded(encoder, |_| Ok::<_, E>(()))? {
            true => text.each_encoded(encoder, each).map(drop),
            false => text.each(&mut each),
        }
    }

    /// Whether a program of the user's would convert the file at `path`, if he had configured one.
    pub(crate) fn has_driver(
        &mut self,
        path: &BStr,
        objects: &dyn Find,
    ) -> Result<bool, FilterError> {
        let outcome = self.rules.look(Which::Driver, path, objects);
        let outcome = outcome.map_err(|error| unread(path, error))?;
        let state = outcome.iter_selected().next();
        Ok(state.is_some_and(|found| matches!(found.assignment.state, StateRef::Value(_))))
    }

    /// What the file at `path` goes through, by the attributes of its path (git's
    /// `git_path_check_crlf` and `convert_attrs`).
    pub(crate) fn conversions(
        &mut self,
        path: &BStr,
        objects: &dyn Find,
    ) -> Result<Conversions, FilterError> {
        let outcome = self.rules.look(Which::Conversions, path, objects);
        let outcome = outcome.map_err(|error| unread(path, error))?;
        let mut states = [StateRef::Unspecified; ATTRIBUTES.len()];
        for (state, found) in states.iter_mut().zip(outcome.iter_selected()) {
            *state = found.assignment.state;
        }
        let [crlf, ident, eol, text, encoding] = states;
        let encoding = match encoding {
            StateRef::Unspecified => None,
            StateRef::Value(name) => Some(name.as_bstr()),
            StateRef::Set | StateRef::Unset => {
                return Err(FilterError::Encoding {
                    path: path.to_owned(),
                });
            }
        };
        let utf8 = |name: &&BStr| {
            name.eq_ignore_ascii_case(b"utf-8") || name.eq_ignore_ascii_case(b"utf8")
        };
        let eol = line_ends(line_end_rule(text).or(line_end_rule(crlf)), eol);
        Ok(Conversions {
            ident: ident == StateRef::Set,
            eol: eol.filter(|digest| digest.to_eol(EOL) == Some(Mode::CrLf)),
            encoding: encoding.filter(|e| !utf8(e)).map(BStr::to_owned),
        })
    }
}

fn unread(path: &BStr, source: RulesError) -> FilterError {
    FilterError::Attributes {
        path: path.to_owned(),
        source,
    }
}

fn line_end_rule(state: StateRef<'_>) -> Option<AttributesDigest> {
    match state {
        StateRef::Set => Some(AttributesDigest::Text),
        StateRef::Unset => Some(AttributesDigest::Binary),
        StateRef::Value(v) if v.as_bstr() == "input" => Some(AttributesDigest::TextInput),
        StateRef::Value(v) if v.as_bstr() == "auto" => Some(AttributesDigest::TextAuto),
        StateRef::Value(_) | StateRef::Unspecified => None,
    }
}

/// Combines `text` (or the older `crlf`) with `eol`.
fn line_ends(rule: Option<AttributesDigest>, eol: StateRef<'_>) -> Option<AttributesDigest> {
    if rule == Some(AttributesDigest::Binary) {
        return rule;
    }
    let StateRef::Value(value) = eol else {
        return rule;
    };
    let auto = rule == Some(AttributesDigest::TextAuto);
    match value.as_bstr().as_bytes() {
        b"lf" if auto => Some(AttributesDigest::TextAutoInput),
        b"crlf" if auto => Some(AttributesDigest::TextAutoCrlf),
        b"lf" => Some(AttributesDigest::TextInput),
        b"crlf" => Some(AttributesDigest::TextCrlf),
        _ => rule,
    }
}

/// Replaces `$Id$` and git's own expansions of it by `$Id: <id> $` (git's `ident_to_worktree`).
/// Returns whether `out` holds a changed text.
fn expand_ident(source: &[u8], id: &oid, out: &mut Vec<u8>) -> bool {
    out.clear();
    let push = |piece: &[u8]| {
        out.extend_from_slice(piece);
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(is_changed) = expand_ident_to(source, id, push);
    is_changed
}

/// The same, piece by piece.
pub(crate) fn expand_ident_to<E>(
    source: &[u8],
    id: &oid,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<bool, E> {
    let mut rest = source;
    let mut changed = false;
    while let Some(dollar) = rest.find_byte(b'$') {
        let (before, after) = rest.split_at(dollar + 1);
        each(before)?;
        rest = after;
        let Some(end) = ident_end(rest) else {
            continue;
        };
        rest = &rest[end..];
        each(b"Id: ")?;
        each(id.to_hex().to_string().as_bytes())?;
        each(b" $")?;
        changed = true;
    }
    each(rest)?;
    Ok(changed)
}

/// For text after a `$`: where the keyword that begins there ends, if there is one to replace.
fn ident_end(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"Id$") {
        return Some(3);
    }
    let value = rest.strip_prefix(b"Id:")?;
    let end = value.find_byte(b'$')?;
    let value = &value[..end];
    if value.contains(&b'\n') {
        return None;
    }
    // A space elsewhere than at both ends: some other version control system's keyword.
    let inner_space = value.iter().skip(1).position(|b| *b == b' ');
    let foreign = inner_space.is_some_and(|at| at + 2 < value.len());
    (!foreign).then_some(3 + end + 1)
}

#[cfg(test)]
mod tests {
    use gix::ObjectId;

    use super::*;

    #[test]
    fn ident_keywords_are_expanded_like_git_does() {
        let id = ObjectId::null(gix::hash::Kind::Sha1);
        let expand = |text: &str| {
            let mut out = Vec::new();
            let changed = expand_ident(text.as_bytes(), &id, &mut out);
            assert_eq!(changed, out != text.as_bytes(), "{text}");
            String::from_utf8(out).unwrap()
        };
        let full = format!("$Id: {id} $");
        assert_eq!(expand("a $Id$ b $Id$"), format!("a {full} b {full}"));
        assert_eq!(expand("$Id: abc $"), full);
        assert_eq!(expand("$Id:$"), full);
        assert_eq!(expand("$Id: a b $"), "$Id: a b $");
        assert_eq!(expand("$Id: a\n$"), "$Id: a\n$");
        assert_eq!(expand("$Idx$ $Id"), "$Idx$ $Id");
    }
}
