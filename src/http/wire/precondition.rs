//! Conditional requests (RFC 9110 section 13) for the one thing here that has a validator: a
//! snapshot, with a strong ETag that is always a quoted run of hex digits.
//!
//! There is no `Last-Modified`, so the conditions on dates (`If-Modified-Since`,
//! `If-Unmodified-Since`, a date in `If-Range`) have nothing to compare with: the first two must
//! be ignored then (sections 13.1.3 and 13.1.4), the last never matches.

use super::FieldLines;

/// The conditions of a request. Absent fields are conditions that always hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions<'a> {
    /// `If-Match`
    pub if_match: FieldLines<'a>,
    /// `If-None-Match`
    pub if_none_match: FieldLines<'a>,
}

/// What the conditions decide for a GET or HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer as if there were no conditions; `Range` counts.
    Proceed,
    /// 304: the client has it.
    NotModified,
    /// 412: it is not what the client wants to act on.
    Failed,
}

/// Evaluates the conditions in the order of RFC 9110 section 13.2.2. `etag` is the current one
/// with its quotes; `exists` is false when there is nothing to send, and `etag` is then ignored.
///
/// A malformed list matches nothing: `If-Match` then fails, `If-None-Match` sends everything.
pub fn evaluate(conditions: &Conditions<'_>, etag: &str, exists: bool) -> Verdict {
    let matches = |lines: &FieldLines<'_>, comparison| {
        exists && list_matches(lines, etag.as_bytes(), comparison).unwrap_or(false)
    };
    if !conditions.if_match.is_absent() && !matches(&conditions.if_match, Comparison::Strong) {
        return Verdict::Failed;
    }
    if matches(&conditions.if_none_match, Comparison::Weak) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// True when `Range` counts although the representation could have changed (section 13.1.5):
/// the value is our strong ETag, byte for byte. A weak tag and a date never match.
pub fn if_range_matches(value: &[u8], etag: &str) -> bool {
    value == etag.as_bytes()
}

/// RFC 9110 section 8.8.3.2. Ours is strong, so only the client's tag can be weak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

/// Whether any tag of the list is `etag`; none when the list is malformed. The lines count as
/// one list, so `*` must be alone in all of them.
fn list_matches(lines: &FieldLines<'_>, etag: &[u8], comparison: Comparison) -> Option<bool> {
    let mut has_tags = false;
    let mut stars = 0;
    let mut matched = false;
    for line in lines.iter() {
        let mut rest = line;
        loop {
            rest = skip_separators(rest);
            if rest.is_empty() {
                break;
            }
            if let Some(tail) = rest.strip_prefix(b"*") {
                stars += 1;
                rest = end_of_item(tail)?;
                continue;
            }
            let (tag, tail) = next_tag(rest)?;
            has_tags = true;
            matched |= tag.opaque == etag && (!tag.weak || comparison == Comparison::Weak);
            rest = end_of_item(tail)?;
        }
    }
    match (stars, has_tags) {
        (0, _) => Some(matched),
        (1, false) => Some(true),
        _ => None,
    }
}

struct Tag<'a> {
    weak: bool,
    /// With its quotes.
    opaque: &'a [u8],
}

fn next_tag(rest: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (weak, quoted) = match rest.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, rest),
    };
    let content = quoted.strip_prefix(b"\"")?;
    // A tag may hold commas but neither quotes nor spaces, and nothing is escaped in it.
    let content_bytes = content.iter().position(|&byte| byte == b'"')?;
    let (content, tail) = content.split_at(content_bytes);
    let is_valid = content.iter().all(|&byte| byte > b' ' && byte != 0x7f);
    let opaque = quoted.get(..content_bytes + 2)?;
    is_valid.then_some((Tag { weak, opaque }, tail.get(1..)?))
}

/// White space and empty items between tags, which a list may have (section 5.6.1).
fn skip_separators(rest: &[u8]) -> &[u8] {
    let skip = rest
        .iter()
        .take_while(|&&byte| matches!(byte, b' ' | b'\t' | b','))
        .count();
    rest.get(skip..).unwrap_or_default()
}

/// Behind an item comes a comma or the end of the line.
fn end_of_item(tail: &[u8]) -> Option<&[u8]> {
    let spaces = tail
        .iter()
        .take_while(|&&byte| matches!(byte, b' ' | b'\t'))
        .count();
    let tail = tail.get(spaces..)?;
    (tail.is_empty() || tail.starts_with(b",")).then_some(tail)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"abc123\"";

    fn lines<'a>(values: &[&'a str]) -> FieldLines<'a> {
        let mut lines = FieldLines::default();
        for value in values {
            assert!(lines.push(value.as_bytes()));
        }
        lines
    }

    fn verdict(if_match: &[&str], if_none_match: &[&str], exists: bool) -> Verdict {
        let conditions = Conditions {
            if_match: lines(if_match),
            if_none_match: lines(if_none_match),
        };
        evaluate(&conditions, ETAG, exists)
    }

    #[test]
    fn table() {
        use Verdict::{Failed, NotModified, Proceed};
        let rows: &[(&[&str], &[&str], bool, Verdict)] = &[
            (&[], &[], true, Proceed),
            (&[], &[], false, Proceed),
            (&["\"abc123\""], &[], true, Proceed),
            (&["W/\"abc123\""], &[], true, Failed),
            (&["\"x\", \"abc123\""], &[], true, Proceed),
            (&["\"x\"", "\"abc123\""], &[], true, Proceed),
            (&["\"a,b\",\"abc123\""], &[], true, Proceed),
            (&["\"x,abc123\""], &[], true, Failed),
            (&["*"], &[], true, Proceed),
            (&["*"], &[], false, Failed),
            (&["\"abc123\""], &[], false, Failed),
            (&[""], &[], true, Failed),
            (&["abc123"], &[], true, Failed),
            (&["\"abc123"], &[], true, Failed),
            (&["\"abc123\" \"x\""], &[], true, Failed),
            (&["*, \"abc123\""], &[], true, Failed),
            (&[], &["\"abc123\""], true, NotModified),
            (&[], &["W/\"abc123\""], true, NotModified),
            (&[], &["w/\"abc123\""], true, Proceed),
            (&[], &["\"ABC123\""], true, Proceed),
            (&[], &["*"], true, NotModified),
            (&[], &["*"], false, Proceed),
            (&[], &["\"abc123\""], false, Proceed),
            (&[], &[",, \t\"x\" ,\t W/\"abc123\" ,"], true, NotModified),
            (&[], &["\"abc123\", x"], true, Proceed),
            (&[], &["*", "*"], true, Proceed),
            (&["\"abc123\""], &["\"abc123\""], true, NotModified),
            (&["\"x\""], &["\"abc123\""], true, Failed),
            (&["*"], &["\"x\""], true, Proceed),
        ];
        for &(if_match, if_none_match, exists, expected) in rows {
            let actual = verdict(if_match, if_none_match, exists);
            assert_eq!(actual, expected, "{if_match:?} {if_none_match:?} {exists}");
        }
    }

    #[test]
    fn if_range_is_strong() {
        assert!(if_range_matches(b"\"abc123\"", ETAG));
        for other in [
            "W/\"abc123\"",
            "abc123",
            "*",
            "\"abc123\", \"x\"",
            "\"abc\"",
            "",
        ] {
            assert!(!if_range_matches(other.as_bytes(), ETAG), "{other}");
        }
        assert!(!if_range_matches(b"Sun, 06 Nov 1994 08:49:37 GMT", ETAG));
    }

    /// A list as the client means it, and how it looks on the wire.
    #[derive(Debug, Clone)]
    struct List {
        present: bool,
        tags: Vec<(bool, &'static str)>,
        text: String,
    }

    fn list() -> impl Strategy<Value = List> {
        let tag = (
            any::<bool>(),
            prop::sample::select(vec!["abc123", "x", "", "a,b", "*", "abc"]),
        );
        let separator = prop::sample::select(vec![",", ", ", " ,\t", ",,", ", , "]);
        let item = (tag, separator);
        (any::<bool>(), prop::collection::vec(item, 0..5)).prop_map(|(present, items)| {
            let mut text = String::new();
            for ((weak, tag), separator) in &items {
                text.push_str(&format!(
                    "{}\"{tag}\"{separator}",
                    if *weak { "W/" } else { "" }
                ));
            }
            List {
                present,
                tags: items.into_iter().map(|(tag, _)| tag).collect(),
                text,
            }
        })
    }

    /// RFC 9110 section 13.2.2, word for word, on what the client meant.
    fn oracle(if_match: &List, if_none_match: &List, exists: bool) -> Verdict {
        if if_match.present {
            let strong = |&(weak, tag): &(bool, &str)| !weak && tag == "abc123";
            if !(exists && if_match.tags.iter().any(strong)) {
                return Verdict::Failed;
            }
        }
        if if_none_match.present {
            let weak = |&(_, tag): &(bool, &str)| tag == "abc123";
            if exists && if_none_match.tags.iter().any(weak) {
                return Verdict::NotModified;
            }
        }
        Verdict::Proceed
    }

    proptest! {
        #[test]
        fn as_the_oracle(a in list(), b in list(), exists in any::<bool>()) {
            let value = |list: &List| if list.present { vec![list.text.clone()] } else { vec![] };
            let (left, right) = (value(&a), value(&b));
            let left: Vec<&str> = left.iter().map(String::as_str).collect();
            let right: Vec<&str> = right.iter().map(String::as_str).collect();
            prop_assert_eq!(verdict(&left, &right, exists), oracle(&a, &b, exists));
        }

        #[test]
        fn lines_mean_the_same_as_one_joined(
            parts in prop::collection::vec("(W/)?\"?(abc123|x|\\*)?\"?|\\*|,", 1..4),
        ) {
            let many: Vec<&str> = parts.iter().map(String::as_str).collect();
            let joined = parts.join(", ");
            prop_assert_eq!(verdict(&many, &[], true), verdict(&[&joined], &[], true));
            prop_assert_eq!(verdict(&[], &many, true), verdict(&[], &[&joined], true));
        }
    }
}
