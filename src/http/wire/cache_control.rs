//! What a request says of how old an answer may be (RFC 9111 section 5.2.1, RFC 5861 section 4).

/// What it says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CacheControl {
    /// An answer may have been true so many seconds ago, and not before; `None` for any age.
    pub max_age_s: Option<u64>,
    /// It may be older by so many seconds where it cannot be found out what is true now.
    pub stale_if_error_s: Option<u64>,
}

impl CacheControl {
    /// Reads the lines of `Cache-Control`. `no-cache` is `max-age=0`; of several ages the smallest counts,
    /// and what is no number is none, so that nobody gets anything older than they may have meant.
    pub(crate) fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> CacheControl {
        let mut found = CacheControl::default();
        let directives = lines.flat_map(|line| line.split(|&byte| byte == b','));
        for directive in directives.map(<[u8]>::trim_ascii) {
            let mut parts = directive.splitn(2, |&byte| byte == b'=');
            let name = parts.next().unwrap_or_default().trim_ascii();
            let value = parts.next().map(<[u8]>::trim_ascii);
            if name.eq_ignore_ascii_case(b"max-age") {
                let age_s = value.and_then(seconds).unwrap_or(0);
                found.max_age_s = Some(found.max_age_s.map_or(age_s, |other| other.min(age_s)));
            } else if name.eq_ignore_ascii_case(b"no-cache") {
                found.max_age_s = Some(0);
            } else if name.eq_ignore_ascii_case(b"stale-if-error") {
                found.stale_if_error_s = Some(match value {
                    None => u64::MAX,
                    Some(value) => seconds(value).unwrap_or(0),
                });
            }
        }
        found
    }
}

/// Digits, in quotes or not. More than a number holds is as good as for ever.
fn seconds(value: &[u8]) -> Option<u64> {
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    let digits = quoted.unwrap_or(value);
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let add = |sum: u64, digit: &u8| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    };
    is_number.then(|| digits.iter().fold(0, add))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> (Option<u64>, Option<u64>) {
        let found = CacheControl::read(lines.iter().map(|line| line.as_bytes()));
        (found.max_age_s, found.stale_if_error_s)
    }

    #[test]
    fn what_is_asked_for() {
        let rows: [(&[&str], Option<u64>, Option<u64>); 13] = [
            (&[], None, None),
            (&["max-age=0"], Some(0), None),
            (&["Max-Age = 60 , no-transform"], Some(60), None),
            (&["max-age=\"5\""], Some(5), None),
            (&["max-age=9", "max-age=3"], Some(3), None),
            (&["max-age=9, no-cache"], Some(0), None),
            (&["max-age"], Some(0), None),
            (&["max-age=-1"], Some(0), None),
            (&["max-age=99999999999999999999999"], Some(u64::MAX), None),
            (&["max-age=0, stale-if-error"], Some(0), Some(u64::MAX)),
            (&["max-age=0", "stale-if-error=30"], Some(0), Some(30)),
            (&["stale-if-error=x"], None, Some(0)),
            (&["no-store, max-stale=7, x-max-age=0"], None, None),
        ];
        for (lines, max_age_s, stale_if_error_s) in rows {
            assert_eq!(read(lines), (max_age_s, stale_if_error_s), "{lines:?}");
        }
    }
}
