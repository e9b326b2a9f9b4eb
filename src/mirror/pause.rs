//! For how long an upstream wants to be left alone. Git says that it was refused, but not what the answer
//! held besides; so it is asked once more, with a trace.

use std::path::Path;
use std::time::{Duration, SystemTime};

use gix::bstr::ByteSlice;

use crate::git::Tail;
use crate::limits::{PAUSE_DEFAULT_MS, PAUSE_MAX_MS, REDIRECT_TRACE_BYTES_MAX};
use crate::mirror::error::MirrorError;
use crate::mirror::git::Git;

/// The answers of HTTP that may say so, as git has them.
const REFUSALS: [&str; 3] = ["error: 429", "error: 403", "error: 503"];

impl MirrorError {
    /// Whether the upstream may have said when it is to be asked again.
    pub fn may_want_pause(&self) -> bool {
        let says = |text: &str| REFUSALS.iter().any(|refusal| text.contains(refusal));
        match self {
            Self::Limited { .. } => true,
            Self::Denied { line, .. } | Self::Unreachable { line, .. } => says(line),
            Self::Git { stderr, .. } => says(stderr),
            _ => false,
        }
    }
}

impl Git {
    /// Asks an upstream that has refused for how long it wants to be left alone.
    pub async fn pause_wanted(&self, git_dir: &Path, url: &str) -> Option<Duration> {
        let call = self.listing(url, git_dir, ["ls-remote", "--quiet", "--heads", "--", url]);
        let trace = [("GIT_TRACE_CURL", "2"), ("GIT_TRACE_CURL_NO_DATA", "1")];
        let mut said = Tail::new(REDIRECT_TRACE_BYTES_MAX);
        // It fails, which is known; if not, there is nothing to find in its trace.
        let _ = self
            .run_with(call, &trace, &mut |_| Ok(()), &mut said)
            .await;
        wanted(&said.bytes().to_str_lossy(), SystemTime::now())
    }
}

/// What the last answer in a trace of git's HTTP says: `Retry-After`, of 429, 403 and 503; 429 says so even
/// without.
fn wanted(trace: &str, now: SystemTime) -> Option<Duration> {
    let (mut status, mut after) = (0_u16, None);
    for line in trace.lines() {
        let Some((_, field)) = line.split_once("<= Recv header: ") else {
            continue;
        };
        if let Some(version) = field.strip_prefix("HTTP/") {
            let code = version.split(' ').nth(1);
            status = code.and_then(|code| code.parse().ok()).unwrap_or(0);
            after = None;
        } else if let Some((name, value)) = field.split_once(':')
            && name.eq_ignore_ascii_case("retry-after")
        {
            after = retry_after(value.trim(), now);
        }
    }
    let wanted = match (status, after) {
        (429, None) => Duration::from_millis(PAUSE_DEFAULT_MS),
        (429 | 403 | 503, Some(after)) => after,
        _ => return None,
    };
    Some(wanted.min(Duration::from_millis(PAUSE_MAX_MS)))
}

/// Seconds, or a date.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    if is_number {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_says_for_how_long() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_767);
        let answer = |status: &str, field: &str| {
            let line = |text: &str| format!("12:00:00.1 http.c:872  <= Recv header: {text}\n");
            let before = [line("HTTP/2 401"), line("retry-after: 7"), line("")].concat();
            let fields = [line(&format!("HTTP/1.1 {status}")), line(field)].concat();
            wanted(&format!("{before}{fields}fatal: unable to access"), now)
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            answer("429 Too Many Requests", "Retry-After: 30"),
            seconds(30)
        );
        assert_eq!(answer("429", "x: y"), seconds(60));
        assert_eq!(answer("403 Forbidden", "retry-after: 5"), seconds(5));
        assert_eq!(
            answer("503", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"),
            seconds(10)
        );
        assert_eq!(
            answer("503", "Retry-After: Sun, 06 Nov 1994 08:00:00 GMT"),
            seconds(0)
        );
        assert_eq!(
            answer("429", "Retry-After: 99999999999999999999999"),
            seconds(3600)
        );
        for (status, field) in [
            ("503", "x: y"),
            ("403", "Retry-After: soon"),
            ("500", "Retry-After: 3"),
        ] {
            assert_eq!(answer(status, field), None, "{status} {field}");
        }
        assert_eq!(wanted("", now), None);
    }
}
