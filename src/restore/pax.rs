//! PAX headers (POSIX, pax, "pax Extended Header"): records of a key and a value that say about an
//! entry what its own header has no room for.

use crate::limits::PATH_BYTES_MAX;

/// Longest name or target that a header may give: the kernel's longest path, and what is taken off
/// it, `./` and the slash of a directory. One header may give it to many entries.
pub(super) const NAME_BYTES: usize = PATH_BYTES_MAX + 3;

/// Why a longer one is refused.
pub(super) const TOO_LONG: &str = "a header gives a name that is longer than any path";

/// What is taken of them. All else is passed over, but for what changes the meaning of the data.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub mtime_s: Option<i64>,
}

/// Reads the data of a header; an error says what is wrong with it.
pub(super) fn read(mut records: &[u8]) -> Result<Pax, &'static str> {
    let mut pax = Pax::default();
    while !records.is_empty() {
        let (key, value, rest) = record(records).ok_or("a record of a PAX header is malformed")?;
        records = rest;
        let is_first = match key {
            b"path" | b"linkpath" if value.len() > NAME_BYTES => return Err(TOO_LONG),
            b"path" => pax.path.replace(value.to_vec()).is_none(),
            b"linkpath" => pax.linkpath.replace(value.to_vec()).is_none(),
            b"size" => {
                let size = number(value).ok_or("a size of a PAX header is no number")?;
                pax.size.replace(size).is_none()
            }
            b"mtime" => {
                let time = seconds(value).ok_or("a time of a PAX header is no number")?;
                pax.mtime_s.replace(time).is_none()
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err("a file with holes (sparse) is not taken");
            }
            _ => true,
        };
        // Programs do not agree on which of two counts.
        if !is_first {
            return Err("a PAX header says the same thing twice");
        }
    }
    Ok(pax)
}

impl Pax {
    /// What `newer` says counts more than this.
    pub(super) fn update(&mut self, newer: Pax) {
        self.path = newer.path.or(self.path.take());
        self.linkpath = newer.linkpath.or(self.linkpath.take());
        self.size = newer.size.or(self.size);
        self.mtime_s = newer.mtime_s.or(self.mtime_s);
    }
}

/// Key and value of the first record, and what follows. `LENGTH KEY=VALUE\n`, where the length is
/// that of all of it; a value may have any bytes.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|b| *b == b' ')?;
    let len = usize::try_from(number(&records[..space])?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|b| *b == b'=')?;
    (equals > 0).then(|| (&record[..equals], &record[equals + 1..], rest))
}

/// Decimal digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let is_plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = is_plain.then(|| std::str::from_utf8(text).ok())??;
    text.parse().ok()
}

/// Whole seconds of a time, which may have a sign and a fraction.
fn seconds(text: &[u8]) -> Option<i64> {
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let has_more = fraction.iter().any(|digit| *digit != b'0');
    match whole.strip_prefix(b"-") {
        Some(whole) => {
            let whole = i64::try_from(number(whole)?).ok()?;
            Some(-whole - i64::from(has_more))
        }
        None => i64::try_from(number(whole)?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_say_what_they_say() {
        let records = b"12 path=a\nb\n20 mtime=-1.5000000\n9 size=7\n17 comment=x=y=z\n5 x=\n";
        let pax = read(records).unwrap();
        let expected = Pax {
            path: Some(b"a\nb".to_vec()),
            linkpath: None,
            size: Some(7),
            mtime_s: Some(-2),
        };
        assert_eq!(pax, expected);
        assert_eq!(
            read(b"18 mtime=12.000000\n"),
            Err("a record of a PAX header is malformed")
        );
        assert_eq!(read(b"19 mtime=12.000000\n").unwrap().mtime_s, Some(12));
        let mut all = pax;
        all.update(read(b"13 linkpath=\n9 size=8\n").unwrap());
        assert_eq!((all.size, all.linkpath), (Some(8), Some(Vec::new())));
        assert!(all.path.is_some());
    }

    #[test]
    fn a_name_that_no_path_has_is_refused_where_it_is_given() {
        for key in ["path", "linkpath", "comment"] {
            let of = |bytes: usize| {
                let rest = format!(" {key}={}\n", "x".repeat(bytes));
                format!("{}{rest}", rest.len() + 4)
            };
            assert!(read(of(NAME_BYTES).as_bytes()).is_ok(), "{key}");
            let longer = read(of(NAME_BYTES + 1).as_bytes());
            assert_eq!(longer.is_ok(), key == "comment", "{key}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in [
            &b"x"[..],
            b"6 a=b",
            b"7 a=b\n",
            b"5 a=b\n",
            b"+6 a=b\n",
            b"6 =ab\n",
            b"6 abc\n",
            b"0 a=b\n",
            b"99999999999999999999 a=b\n",
            b"9 size=x\n",
            b"9 size=\n\n",
            b"28 size=99999999999999999999\n",
            b"13 mtime=1.x\n",
            b"9 size=1\n9 size=1\n",
            b"22 GNU.sparse.major=1\n",
        ] {
            let what = bad.escape_ascii();
            assert!(read(bad).is_err(), "{what}");
        }
    }
}
