//! Ranges and conditions against a model that follows the text of RFC 9110 word by word, with
//! numbers of any length and lists read one character at a time.
//!
//! An input is lines: `len NUMBER`, `Range: V`, `If-Range: V`, `If-Match: V`, `If-None-Match: V`;
//! lines with other beginnings are nothing. `absent` means that there is nothing to send.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tarpon::http::wire::FieldLines;
use tarpon::http::wire::precondition::{Conditions, Verdict, evaluate, if_range_matches};
use tarpon::http::wire::range::{Selection, requested, select};

const ETAG: &str = "\"abc123\"";

#[derive(Default)]
struct Request<'a> {
    len: u64,
    is_absent: bool,
    range: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
    if_match: Vec<&'a [u8]>,
    if_none_match: Vec<&'a [u8]>,
}

fuzz_target!(|data: &[u8]| {
    let request = read(data);
    let selection = select(request.range, request.len);
    assert_eq!(selection, model_range(request.range, request.len));
    assert_eq!(requested(request.range).resolve(request.len), selection);

    let exists = !request.is_absent;
    let conditions = Conditions {
        if_match: lines(&request.if_match),
        if_none_match: lines(&request.if_none_match),
    };
    assert_eq!(
        evaluate(&conditions, ETAG, exists),
        model_conditions(&request)
    );
    if let Some(value) = request.if_range {
        // Section 13.1.5: a strong comparison; a tag that is not strong, and a date, do not match.
        let tags = model_tags(value);
        let is_ours = matches!(tags.as_deref(), Some([(false, tag)]) if *tag == ETAG.as_bytes());
        assert_eq!(
            if_range_matches(value, ETAG),
            is_ours && value == ETAG.as_bytes()
        );
    }
});

fn read(data: &[u8]) -> Request<'_> {
    let mut request = Request {
        len: 10,
        ..Request::default()
    };
    for line in data.split(|byte| *byte == b'\n') {
        let value = |name: &str| {
            let (first, value) = line.split_at_checked(name.len())?;
            first
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| value.trim_ascii())
        };
        if let Some(len) = value("len ") {
            let text = std::str::from_utf8(len).unwrap_or_default();
            request.len = text.parse().unwrap_or(request.len);
        }
        request.is_absent |= line == b"absent";
        request.range = value("Range:").or(request.range);
        request.if_range = value("If-Range:").or(request.if_range);
        request
            .if_match
            .extend(value("If-Match:").filter(|_| request.if_match.len() < 4));
        let has_room = request.if_none_match.len() < 4;
        request
            .if_none_match
            .extend(value("If-None-Match:").filter(|_| has_room));
    }
    request
}

fn lines<'a>(values: &[&'a [u8]]) -> FieldLines<'a> {
    let mut lines = FieldLines::default();
    for value in values {
        assert!(lines.push(value));
    }
    lines
}

/// A number as its digits without leading zeros: first the count decides, then the digits.
type Number = (usize, Vec<u8>);

fn number(digits: &[u8]) -> Option<Number> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    is_number.then(|| (digits.len() - zeros, digits[zeros..].to_vec()))
}

fn number_of(value: u64) -> Number {
    number(value.to_string().as_bytes()).unwrap()
}

/// The number, which is known to be below some u64.
fn small(number: &Number) -> u64 {
    let digits = std::str::from_utf8(&number.1).unwrap();
    if digits.is_empty() {
        0
    } else {
        digits.parse().unwrap()
    }
}

/// Section 14.1.2 and 14.2: one range of bytes is served; what is invalid, of another unit, or
/// several ranges, is ignored.
fn model_range(range: Option<&[u8]>, len: u64) -> Selection {
    model_one_range(range, len).unwrap_or(Selection::Full)
}

/// `None`: the field is ignored.
fn model_one_range(range: Option<&[u8]>, len: u64) -> Option<Selection> {
    let value = range?;
    let (unit, spec) = value.split_at_checked(6)?;
    if !unit.eq_ignore_ascii_case(b"bytes=") {
        return None;
    }
    let mut parts = spec.split(|byte| *byte == b'-');
    let (first, last) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    if first.is_empty() {
        // "If the representation is shorter than the suffix-length, the entire representation."
        let suffix = number(last)?;
        if suffix.0 == 0 {
            return Some(Selection::Unsatisfiable);
        }
        if len == 0 {
            return None;
        }
        let start = if suffix >= number_of(len) {
            0
        } else {
            len - small(&suffix)
        };
        return Some(Selection::Part {
            start,
            end_inclusive: len - 1,
        });
    }
    let start = number(first)?;
    let end = if last.is_empty() {
        None
    } else {
        Some(number(last)?)
    };
    // "An int-range is invalid if the last-pos value is present and less than first-pos."
    if end.as_ref().is_some_and(|end| *end < start) {
        return None;
    }
    if start >= number_of(len) {
        return Some(Selection::Unsatisfiable);
    }
    // "... last-pos is absent or greater than or equal to the current length": up to the end.
    let end_inclusive = match end {
        Some(end) if end < number_of(len) => small(&end),
        _ => len - 1,
    };
    Some(Selection::Part {
        start: small(&start),
        end_inclusive,
    })
}

/// Section 13.2.2, steps 1 and 3; there are no dates here.
fn model_conditions(request: &Request<'_>) -> Verdict {
    let exists = !request.is_absent;
    if !request.if_match.is_empty() {
        // Section 13.1.1: strong comparison.
        let held = exists && model_list(&request.if_match, |weak| !weak);
        if !held {
            return Verdict::Failed;
        }
    }
    // Section 13.1.2: weak comparison.
    if !request.if_none_match.is_empty() && exists && model_list(&request.if_none_match, |_| true) {
        return Verdict::NotModified;
    }
    Verdict::Proceed
}

/// Whether "*" or a tag of the list is ours; nothing is when the list is malformed.
fn model_list(lines: &[&[u8]], counts: impl Fn(bool) -> bool) -> bool {
    let joined = lines.join(&b", "[..]);
    let items: Vec<&[u8]> = split_list(&joined);
    if items == [b"*"] {
        return true;
    }
    match model_tags(&joined) {
        Some(tags) => tags
            .iter()
            .any(|(weak, tag)| *tag == ETAG.as_bytes() && counts(*weak)),
        None => false,
    }
}

/// Items between commas that are not inside of quotes; empty ones do not count (5.6.1.2).
fn split_list(list: &[u8]) -> Vec<&[u8]> {
    let mut is_quoted = false;
    let items = list.split(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b',' && !is_quoted
    });
    let trimmed = items.map(trim_ows);
    trimmed.filter(|item| !item.is_empty()).collect()
}

/// Spaces and tabs only (section 5.6.3).
fn trim_ows(item: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = item.iter().position(is_text).unwrap_or(item.len());
    let end = item
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &item[start..end]
}

/// Section 8.8.3: `[ "W/" ] DQUOTE *( %x21 / %x23-7E / obs-text ) DQUOTE`, as (weak, tag).
fn model_tags(list: &[u8]) -> Option<Vec<(bool, &[u8])>> {
    let tag = |item: &'_ [u8]| -> Option<(bool, usize)> {
        let weak = item.starts_with(b"W/");
        let skip = if weak { 2 } else { 0 };
        let inner = item[skip..].strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let is_valid = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..);
        inner.iter().all(is_valid).then_some((weak, skip))
    };
    let items = split_list(list).into_iter();
    items
        .map(|item| tag(item).map(|(weak, skip)| (weak, &item[skip..])))
        .collect()
}
