//! Byte ranges (RFC 9110 section 14): one range is served, everything else is answered whole.
//!
//! A server may ignore `Range`, so several ranges, other units and malformed values all mean the
//! full representation. Numbers too large for an u64 are honoured as "beyond any end".

use std::cmp::Ordering;

/// What a `Range` header asks for, before the length is known: an archive may still be growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// No range, or one that is ignored: everything.
    Full,
    /// `a-b`, both inclusive; never empty.
    Bounded {
        /// First byte.
        start: u64,
        /// Last byte; may be beyond the end.
        end_inclusive: u64,
    },
    /// `a-`: from there to the end.
    From {
        /// First byte; may be beyond the end.
        start: u64,
    },
    /// `-n`: the last bytes, which only a known length can place.
    Suffix {
        /// How many; may be more than there are, or zero.
        length: u64,
    },
}

/// What to send of a representation whose length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Everything, with 200.
    Full,
    /// A part, with 206: `start <= end_inclusive < len`.
    Part {
        /// First byte.
        start: u64,
        /// Last byte.
        end_inclusive: u64,
    },
    /// Nothing, with 416 and `Content-Range: bytes */len`.
    Unsatisfiable,
}

/// Reads the value of a `Range` header.
pub fn requested(range: Option<&[u8]>) -> Requested {
    range.and_then(single).unwrap_or(Requested::Full)
}

/// What to send of `len` bytes for the value of a `Range` header.
pub fn select(range: Option<&[u8]>, len: u64) -> Selection {
    requested(range).resolve(len)
}

impl Requested {
    /// What to send once the length is known.
    pub fn resolve(self, len: u64) -> Selection {
        let last = len.saturating_sub(1);
        match self {
            Self::Full => Selection::Full,
            Self::Bounded { start, .. } | Self::From { start } if start >= len => {
                Selection::Unsatisfiable
            }
            Self::Bounded {
                start,
                end_inclusive,
            } => Selection::Part {
                start,
                end_inclusive: end_inclusive.min(last),
            },
            Self::From { start } => Selection::Part {
                start,
                end_inclusive: last,
            },
            Self::Suffix { length: 0 } => Selection::Unsatisfiable,
            // A non-zero suffix is always satisfiable, but no Content-Range can describe
            // a part of nothing.
            Self::Suffix { .. } if len == 0 => Selection::Full,
            Self::Suffix { length } => Selection::Part {
                start: len.saturating_sub(length),
                end_inclusive: last,
            },
        }
    }
}

fn single(value: &[u8]) -> Option<Requested> {
    let (unit, range) = split_once(value, b'=')?;
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let (first, last) = split_once(range, b'-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, true) => None,
        (true, false) => Some(Requested::Suffix {
            length: decimal_saturating(last)?,
        }),
        (false, true) => Some(Requested::From {
            start: decimal_saturating(first)?,
        }),
        (false, false) => {
            let start = decimal_saturating(first)?;
            let end_inclusive = decimal_saturating(last)?;
            // Compared as digits: two numbers that both saturate would look equal.
            let is_reversed = compare(first, last) == Ordering::Greater;
            (!is_reversed).then_some(Requested::Bounded {
                start,
                end_inclusive,
            })
        }
    }
}

fn split_once(value: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = value.iter().position(|&byte| byte == separator)?;
    Some((value.get(..at)?, value.get(at + 1..)?))
}

fn decimal_saturating(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(value.saturating_mul(10).saturating_add(digit))
    })
}

fn compare(left: &[u8], right: &[u8]) -> Ordering {
    let (left, right) = (significant(left), significant(right));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|&&byte| byte == b'0').count();
    digits.get(zeros..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::wire::head::{Parse, Scan, parse_from};

    fn text(value: &str, len: u64) -> Selection {
        select(Some(value.as_bytes()), len)
    }

    fn part(start: u64, end_inclusive: u64) -> Selection {
        Selection::Part {
            start,
            end_inclusive,
        }
    }

    /// Decimal digits as the number they are; far more of them than the tests use fit.
    fn number(text: &str) -> Option<u128> {
        (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse().unwrap())
    }

    /// The RFC, byte by byte: tries every position of a small representation.
    fn oracle(value: &str, len: u64) -> Selection {
        let Some(spec) = value
            .to_ascii_lowercase()
            .strip_prefix("bytes=")
            .map(str::to_owned)
        else {
            return Selection::Full;
        };
        let parts: Vec<&str> = spec.split('-').collect();
        let selected: Vec<u64> = match parts[..] {
            ["", last] => match number(last) {
                Some(n) if n > 0 && len == 0 => return Selection::Full,
                Some(n) => (0..len).filter(|&at| u128::from(len - at) <= n).collect(),
                None => return Selection::Full,
            },
            [first, ""] => match number(first) {
                Some(first) => (0..len).filter(|&at| u128::from(at) >= first).collect(),
                None => return Selection::Full,
            },
            [first, last] => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => (0..len)
                    .filter(|&at| (first..=last).contains(&u128::from(at)))
                    .collect(),
                _ => return Selection::Full,
            },
            _ => return Selection::Full,
        };
        match (selected.first(), selected.last()) {
            (Some(&start), Some(&end)) => part(start, end),
            _ => Selection::Unsatisfiable,
        }
    }

    #[test]
    fn table() {
        assert_eq!(select(None, 10), Selection::Full);
        assert_eq!(text("bytes=0-0", 10), part(0, 0));
        assert_eq!(text("Bytes=0-", 10), part(0, 9));
        assert_eq!(text("bytes=5-100", 10), part(5, 9));
        assert_eq!(text("bytes=-3", 10), part(7, 9));
        assert_eq!(text("bytes=-30", 10), part(0, 9));
        for unsatisfiable in [
            "bytes=10-",
            "bytes=10-20",
            "bytes=-0",
            "bytes=18446744073709551616-",
        ] {
            assert_eq!(
                text(unsatisfiable, 10),
                Selection::Unsatisfiable,
                "{unsatisfiable}"
            );
        }
        let ignored = [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes= 0-1",
            "bytes=0 -1",
            "bytes =0-1",
            "bytes=+0-1",
            "bytes=0--1",
            "bytes=0-1,",
            "bytes=0x1-2",
            "items=0-1",
            "0-1",
            "bytes:0-1",
            "bytes=99999999999999999999-88888888888888888888",
        ];
        for value in ignored {
            assert_eq!(text(value, 10), Selection::Full, "{value}");
        }
        assert_eq!(text("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(text("bytes=-1", 0), Selection::Full);
        assert_eq!(
            text("bytes=0-18446744073709551615", u64::MAX),
            part(0, u64::MAX - 1)
        );
        assert_eq!(
            text("bytes=18446744073709551614-", u64::MAX),
            part(u64::MAX - 1, u64::MAX - 1)
        );
        assert_eq!(
            text("bytes=-18446744073709551616", u64::MAX),
            part(0, u64::MAX - 1)
        );
    }

    #[test]
    fn before_the_length_is_known() {
        assert_eq!(
            requested(Some(b"bytes=1-2")),
            Requested::Bounded {
                start: 1,
                end_inclusive: 2
            }
        );
        assert_eq!(requested(Some(b"bytes=7-")), Requested::From { start: 7 });
        assert_eq!(
            requested(Some(b"bytes=-7")),
            Requested::Suffix { length: 7 }
        );
        assert_eq!(requested(Some(b"bytes=7")), Requested::Full);
        assert_eq!(requested(None), Requested::Full);
    }

    #[test]
    fn a_range_split_anywhere_in_its_head_is_the_same() {
        for value in [
            "bytes=2-5",
            "bytes=-4",
            "bytes=3-",
            "bytes=12-",
            "bytes=0-1,3-4",
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nRange: {value}\r\n\r\n");
            for at in 0..=text.len() {
                let mut scan = Scan::default();
                if at < text.len() {
                    assert_eq!(
                        parse_from(&text.as_bytes()[..at], &mut scan),
                        Ok(Parse::Partial)
                    );
                }
                let Ok(Parse::Complete { head, .. }) = parse_from(text.as_bytes(), &mut scan)
                else {
                    panic!("split at {at}");
                };
                assert_eq!(select(head.range, 10), oracle(value, 10), "split at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn as_the_oracle(value in "bytes=[0-9]{0,3}-[0-9]{0,3}", len in 0_u64..200) {
            prop_assert_eq!(text(&value, len), oracle(&value, len), "{}", value);
        }

        #[test]
        fn as_the_oracle_on_noise(value in "(bytes=)?[-0-9, =+]{0,6}", len in 0_u64..20) {
            prop_assert_eq!(text(&value, len), oracle(&value, len), "{}", value);
        }

        #[test]
        fn as_the_oracle_on_huge_numbers(
            value in "bytes=0{0,3}[0-9]{0,25}-0{0,3}[0-9]{0,25}",
            len in 0_u64..20,
        ) {
            prop_assert_eq!(text(&value, len), oracle(&value, len), "{}", value);
        }

        #[test]
        fn parts_are_inside(value in "bytes=[0-9]{0,20}-[0-9]{0,20}", len in any::<u64>()) {
            if let Selection::Part { start, end_inclusive } = text(&value, len) {
                prop_assert!(start <= end_inclusive && end_inclusive < len);
            }
        }
    }
}
