//! Values from text. Each parser fails with what is allowed.
use crate::limits::{
    CACHE_FREE_FLOOR_DEFAULT_PERCENT, CACHE_LIMIT_DEFAULT_PERCENT, CACHE_LIMIT_MIN_BYTES,
    CLONE_SIZE_DEFAULT_PERCENT, NEVER_MS, RESTORE_FREE_FLOOR_DEFAULT_PERCENT,
    WARM_LIMIT_DEFAULT_PERCENT,
};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// How the cores do their input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoDriver {
    /// io_uring where the system allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or do not start.
    Uring,
    /// epoll.
    Epoll,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For a person.
    Human,
    /// One JSON object per line.
    Json,
}

/// The name of a file.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    match text.is_empty() || text.starts_with('~') || text.contains('\0') {
        true => Err("a file; '~' is not expanded here".into()),
        false => Ok(text.into()),
    }
}

/// An amount of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many percent of the file system's size, 0 to 100.
    Percent(u8),
}

impl Share {
    /// The default of `cache_limit`.
    pub const LIMIT_DEFAULT: Self = Self::Percent(CACHE_LIMIT_DEFAULT_PERCENT);
    /// The default of `cache_free_floor`. A share and not bytes, so that it neither eats a small
    /// file system nor is nothing on a large one.
    pub const FLOOR_DEFAULT: Self = Self::Percent(CACHE_FREE_FLOOR_DEFAULT_PERCENT);

    /// What a restore leaves free unless it is told otherwise.
    pub const RESTORE_FLOOR_DEFAULT: Self = Self::Percent(RESTORE_FREE_FLOOR_DEFAULT_PERCENT);

    /// The default of `clone_size_limit`.
    pub const CLONE_DEFAULT: Self = Self::Percent(CLONE_SIZE_DEFAULT_PERCENT);

    /// The default of `warm_limit`.
    pub const WARM_DEFAULT: Self = Self::Percent(WARM_LIMIT_DEFAULT_PERCENT);

    /// Whether it is not less than another one, whatever the file system's size.
    pub(super) fn is_not_below(self, other: Self) -> bool {
        match (self, other) {
            (Self::Bytes(one), Self::Bytes(other)) => one >= other,
            (Self::Percent(one), Self::Percent(other)) => one >= other,
            _ => false,
        }
    }

    /// The bytes that this is of a file system of `total_bytes`; never more than those.
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.min(total_bytes),
            // In u128, where the product of any u64 and 100 fits; the quotient is at most
            // `total_bytes`, so that the cast loses nothing.
            Self::Percent(percent) => {
                (u128::from(total_bytes) * u128::from(percent.min(100)) / 100) as u64
            }
        }
    }
}

pub(super) fn io_driver(text: &str) -> Result<IoDriver, String> {
    match text {
        "auto" => Ok(IoDriver::Auto),
        "uring" => Ok(IoDriver::Uring),
        "epoll" => Ok(IoDriver::Epoll),
        _ => Err("auto, uring or epoll".into()),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err("auto, human or json".into()),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false".into()),
    }
}

/// A count of threads, 1 to `max`.
pub(super) fn threads(max: usize) -> impl Fn(&str) -> Result<NonZeroUsize, String> {
    move |text| {
        let count = digits(text).and_then(|count| usize::try_from(count).ok());
        count
            .filter(|count| *count <= max)
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| format!("a whole number from 1 to {max}"))
    }
}

/// A whole number from `min` to `max`.
pub(super) fn number(min: i32, max: i32) -> impl Fn(&str) -> Result<i32, String> {
    move |text| {
        let number = digits(text).and_then(|number| i32::try_from(number).ok());
        number
            .filter(|number| (min..=max).contains(number))
            .ok_or_else(|| format!("a whole number from {min} to {max}"))
    }
}

/// A duration from `min_ms` to `max_ms`: a whole number and ms, s, m, h or d. `0` needs no unit.
pub(super) fn duration(min_ms: u64, max_ms: u64) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| {
        duration_ms(text)
            .filter(|ms| (min_ms..=max_ms).contains(ms))
            .map(Duration::from_millis)
            .ok_or_else(|| {
                let (min, max) = (show_ms(min_ms), show_ms(max_ms));
                format!("a time such as 250ms, 90s, 15m, 1h or 1d, from {min} to {max}")
            })
    }
}

fn duration_ms(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" if number == 0 => 1,
        _ => return None,
    };
    number.checked_mul(unit_ms)
}

/// The same, or `never`, which is longer than anything lasts.
pub(super) fn duration_or_never(
    min_ms: u64,
    max_ms: u64,
) -> impl Fn(&str) -> Result<Duration, String> {
    move |text| match text {
        "never" => Ok(Duration::from_millis(NEVER_MS)),
        text => duration(min_ms, max_ms)(text).map_err(|allowed| format!("{allowed}, or never")),
    }
}

/// The shortest way to write so many milliseconds that [`duration`] reads.
fn show_ms(ms: u64) -> String {
    match ms {
        0 => "0s".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// Bytes with an optional K, M, G or T (powers of 1024; also as KiB, MiB, GiB, TiB), or percent
/// up to 100; at least `min` of either.
pub(super) fn share(min: u8) -> impl Fn(&str) -> Result<Share, String> {
    move |text| {
        let share = parse_share(text).filter(|share| match share {
            Share::Bytes(bytes) => *bytes >= u64::from(min),
            Share::Percent(percent) => *percent >= min,
        });
        share.ok_or_else(|| format!("{SHARES}, or {min}% to 100% of the file system"))
    }
}

/// [`share`] of what a cache may take: less than that is a unit that was forgotten.
pub(super) fn cache_share(text: &str) -> Result<Share, String> {
    match share(1)(text)? {
        Share::Bytes(bytes) if bytes < CACHE_LIMIT_MIN_BYTES => Err(format!(
            "{}M or more: {text} are bytes, write 500G for 500 GiB",
            CACHE_LIMIT_MIN_BYTES >> 20
        )),
        share => Ok(share),
    }
}

/// [`share`] of what is to stay free: not all, or nothing could be kept.
pub(super) fn free_share(text: &str) -> Result<Share, String> {
    let allowed = || format!("{SHARES}, or 0% to 99% of the file system");
    match parse_share(text) {
        Some(Share::Percent(100)) | None => Err(allowed()),
        Some(share) => Ok(share),
    }
}

const SHARES: &str = "bytes such as 500G (a whole number, alone or with K, M, G or T, which are powers of 1024, as are \
     KiB, MiB, GiB and TiB)";

/// Bytes, with units as [`share`] has them.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    match parse_share(text) {
        Some(Share::Bytes(bytes)) => Ok(bytes),
        _ => Err("bytes such as 500M or 20G (K, M, G and T are powers of 1024)".into()),
    }
}

/// So many bytes, at least `min`, with an optional K, M, G or T as for [`share`].
pub(super) fn bytes_from(min: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| match parse_share(text) {
        Some(Share::Bytes(bytes)) if bytes >= min => Ok(bytes),
        _ => Err(format!(
            "bytes such as 4G (with K, M, G or T as powers of 1024), at least {}M",
            min >> 20
        )),
    }
}

fn parse_share(text: &str) -> Option<Share> {
    let (number, unit) = split_unit(text)?;
    if unit == "%" {
        let percent = u8::try_from(number)
            .ok()
            .filter(|percent| *percent <= 100)?;
        return Some(Share::Percent(percent));
    }
    let shift = match unit {
        "" | "B" => 0,
        "K" | "KiB" => 10,
        "M" | "MiB" => 20,
        "G" | "GiB" => 30,
        "T" | "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift).map(Share::Bytes)
}

/// Leading decimal digits, and what stands behind them.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((digits(number)?, unit))
}

/// Only digits: `u64`'s own parser would take a sign too.
fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// A ref, or a pattern with one `*`, that a mirror follows besides heads and tags. The rules are
/// those of `git check-ref-format --refspec-pattern`, and it must be below `refs/`.
pub(super) fn follow(text: &str) -> Result<String, String> {
    let parts_are_plain = text.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.ends_with('.')
            && !part.ends_with(".lock")
    });
    let banned = |c: char| c.is_control() || c.is_whitespace() || "~^:?[\\".contains(c);
    let is_plain = text.starts_with("refs/")
        && text.matches('*').count() <= 1
        && parts_are_plain
        && !text.contains("..")
        && !text.contains("@{")
        && !text.contains(banned);
    let allowed = || "a ref or a pattern with one *, such as refs/pull/* or refs/notes/commits";
    is_plain
        .then(|| text.to_owned())
        .ok_or_else(|| allowed().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        let parse = duration(0, u64::MAX);
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse("2d"), Ok(Duration::from_secs(172_800)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        for wrong in [
            "",
            "s",
            "15",
            "-1s",
            "+1s",
            "1.5h",
            "1 h",
            "1H",
            "1w",
            "99999999999999999h",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(duration(100, 1000)("99ms").is_err());
        assert!(duration(100, 1000)("1001ms").is_err());
        let allowed = duration(100, 7_200_000)("x").unwrap_err();
        assert!(allowed.ends_with("from 100ms to 2h"), "{allowed}");
    }

    #[test]
    fn shares() {
        let parse = share(1);
        assert_eq!(parse("1"), Ok(Share::Bytes(1)));
        assert_eq!(parse("4K"), Ok(Share::Bytes(4096)));
        assert_eq!(parse("500G"), Ok(Share::Bytes(500 << 30)));
        assert_eq!(parse("2TiB"), Ok(Share::Bytes(2 << 40)));
        assert_eq!(parse("80%"), Ok(Share::Percent(80)));
        for wrong in [
            "",
            "G",
            "0",
            "0%",
            "101%",
            "300%",
            "-1",
            "1.5G",
            "5GB",
            "5g",
            "99999999T",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(share(0)("0"), Ok(Share::Bytes(0)));
        assert_eq!(share(0)("0%"), Ok(Share::Percent(0)));
    }

    #[test]
    fn shares_that_are_slips_are_refused() {
        let said = cache_share("500").unwrap_err();
        assert!(said.contains("500 are bytes, write 500G"), "{said}");
        assert_eq!(cache_share("1M"), Ok(Share::Bytes(1 << 20)));
        assert_eq!(cache_share("1%"), Ok(Share::Percent(1)));
        for slip in ["1.5G", "10GB"] {
            let said = cache_share(slip).unwrap_err();
            assert!(
                said.contains("a whole number") && said.contains("GiB"),
                "{said}"
            );
        }
        assert!(free_share("100%").unwrap_err().contains("0% to 99%"));
        assert_eq!(free_share("99%"), Ok(Share::Percent(99)));
        assert_eq!(free_share("0"), Ok(Share::Bytes(0)));
    }

    #[test]
    fn never_is_a_time() {
        let parse = duration_or_never(100, 1000);
        assert_eq!(parse("never"), Ok(Duration::from_millis(NEVER_MS)));
        assert_eq!(parse("1s"), Ok(Duration::from_secs(1)));
        assert!(
            parse("2s")
                .unwrap_err()
                .ends_with("from 100ms to 1s, or never")
        );
    }

    #[test]
    fn bytes_of_memory() {
        let parse = bytes_from(128 << 20);
        assert_eq!(parse("4G"), Ok(4 << 30));
        assert_eq!(parse("128M"), Ok(128 << 20));
        for wrong in ["127M", "50%", "0", "", "-1", "4g", "99999999T"] {
            let allowed = parse(wrong).unwrap_err();
            assert!(allowed.ends_with("at least 128M"), "{wrong:?}: {allowed}");
        }
    }

    #[test]
    fn a_share_is_never_more_than_the_whole() {
        assert_eq!(Share::Percent(80).of(1000), 800);
        assert_eq!(Share::Percent(100).of(u64::MAX), u64::MAX);
        assert_eq!(Share::Bytes(5000).of(1000), 1000);
        assert_eq!(Share::Bytes(10).of(1000), 10);
    }

    #[test]
    fn followed_refs() {
        for right in [
            "refs/pull/*",
            "refs/pull/*/head",
            "refs/notes/commits",
            "refs/*",
        ] {
            assert_eq!(follow(right).as_deref(), Ok(right));
        }
        let wrong = [
            "",
            "pull/*",
            "refs/",
            "refs//x",
            "refs/*/*",
            "refs/a..b",
            "refs/a:b",
            "+refs/a",
            "refs/.a",
            "refs/a.lock",
            "refs/a b",
            "refs/a\u{7}",
            "refs/a@{1}",
            "refs/a\\b",
            "--x",
        ];
        for wrong in wrong {
            assert!(follow(wrong).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_what_is_read(ms in 0..=1u64 << 50) {
            prop_assert_eq!(duration_ms(&show_ms(ms)), Some(ms));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in ".*") {
            let _ = (duration(0, u64::MAX)(&text), share(0)(&text), follow(&text), switch(&text));
        }
    }
}
