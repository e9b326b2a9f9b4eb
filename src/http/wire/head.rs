//! Request heads (RFC 9112 sections 2 to 6): bytes in, a borrowed [`RequestHead`] out.
//!
//! Two readers must agree before a head counts: the strict byte scan of this module's sibling,
//! which alone decides where the head ends, and what splits it: two spaces for the request line,
//! httparse for the headers. Where the RFC lets a recipient repair a message, it is refused instead:
//! a repair that a proxy in front of us makes otherwise is a request smuggled.

use std::fmt;

pub use super::scan::Scan;
use super::{FieldLines, Method, Reject, Version};
use crate::limits::HEADERS_MAX;

const NOT_ONE_HOST: Reject = Reject::closing(400, "send exactly one Host header");
const BAD_HOST: Reject = Reject::closing(400, "malformed Host header; send HOST or HOST:PORT");
const TARGET_FORM: Reject = Reject::closing(
    400,
    "the request target must begin with '/' or with http:// and a host",
);
const VERSION: Reject = Reject::closing(505, "unsupported protocol version; speak HTTP/1.1");
const MALFORMED: Reject = Reject::closing(
    400,
    "malformed request; send METHOD SP TARGET SP HTTP/1.1 CRLF and headers",
);
const CONTENT_LENGTHS: Reject = Reject::closing(400, "send Content-Length once");
const CONTENT_LENGTH: Reject = Reject::closing(
    400,
    "malformed Content-Length; send one number of decimal digits",
);
const TRANSFER_ENCODINGS: Reject = Reject::closing(400, "send Transfer-Encoding once");
const TRANSFER_ENCODING: Reject = Reject::closing(
    501,
    "unknown Transfer-Encoding; send chunked or a Content-Length",
);
const NO_END: Reject = Reject::closing(
    400,
    "Transfer-Encoding must end in chunked, which must be sent once",
);
const TRANSFER_ENCODING_1_0: Reject = Reject::closing(
    400,
    "HTTP/1.0 has no Transfer-Encoding; send a Content-Length or speak HTTP/1.1",
);
const TWO_LENGTHS: Reject =
    Reject::closing(400, "send Content-Length or Transfer-Encoding, not both");
const EXPECT: Reject = Reject::closing(417, "unknown expectation; send Expect: 100-continue");
const REPEATED: Reject = Reject::closing(
    400,
    "a header that has a single value is repeated; send it once",
);
const TOO_MANY_LINES: Reject = Reject::closing(
    400,
    "a list header is repeated too often; send it once, joined by commas",
);

/// What the bytes so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "lives on the stack for one match; a box would allocate per request"
)]
pub enum Parse<'a> {
    /// No violation so far, and the end of the head has not come.
    Partial,
    /// A head that obeys all rules.
    Complete {
        /// The head; borrows the buffer.
        head: RequestHead<'a>,
        /// Bytes up to and including the empty line; what follows is body or next request.
        head_bytes: usize,
    },
}

/// How a request's body ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body: the next request follows directly.
    None,
    /// Exactly so many bytes, zero included.
    Length(u64),
    /// Chunked coding, which ends itself.
    Chunked,
}

/// One request head. Values are raw bytes without the white space around them and without
/// control characters; `None` means that the header was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: Method,
    /// The target, visible ASCII only: begins with `/`, or is the `*` of an OPTIONS request. Of one
    /// in absolute form the part behind the host.
    pub target: &'a str,
    /// The version.
    pub version: Version,
    /// How the body ends.
    pub framing: Framing,
    /// True when the client wants the connection to stay open (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// True when the client waits for `100 Continue` before it sends its body.
    pub expect_continue: bool,
    /// `Range`
    pub range: Option<&'a [u8]>,
    /// `If-Range`
    pub if_range: Option<&'a [u8]>,
    /// `If-Match`
    pub if_match: FieldLines<'a>,
    /// `If-None-Match`
    pub if_none_match: FieldLines<'a>,
    /// `Content-Encoding`
    pub content_encoding: Option<&'a [u8]>,
    /// `Content-Type`
    pub content_type: Option<&'a [u8]>,
    /// `Git-Protocol`
    pub git_protocol: Option<&'a [u8]>,
    /// `Tarpon-Via`
    pub via: FieldLines<'a>,
    /// `Accept`
    pub accept: FieldLines<'a>,
    /// `X-Forwarded-For`
    pub forwarded_for: FieldLines<'a>,
    /// `Cache-Control`
    pub cache_control: FieldLines<'a>,
    /// What only webhooks have.
    pub hook: HookFields<'a>,
    /// `Authorization`
    pub authorization: Option<Unshown<'a>>,
    /// `Tarpon-Authorization`: what is meant for this server where the other is an upstream's
    pub tarpon_authorization: Option<Unshown<'a>>,
    /// `Host`
    pub host: Option<&'a [u8]>,
    /// `Origin`: the page of a browser that asks
    pub origin: Option<&'a [u8]>,
    /// `Tarpon-Corrupt`: the tag of an archive that the client found damaged
    pub corrupt: Option<&'a [u8]>,
    /// `Tarpon-Store`: where the client may be sent for a part
    pub store: Option<&'a [u8]>,
}

/// A value that is a secret, or has one in it: what prints a head does not print it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Unshown<'a>(pub &'a [u8]);

impl fmt::Debug for Unshown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unshown")
    }
}

/// The headers of webhooks. Hosts send some of them under several names; the first counts, as all must be
/// true.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HookFields<'a> {
    /// `X-Hub-Signature-256`: of GitHub and those that do as it does
    pub hub_signature: Option<&'a [u8]>,
    /// `X-Gitea-Signature`, `X-Forgejo-Signature`
    pub gitea_signature: Option<&'a [u8]>,
    /// `X-Gitlab-Token`
    pub gitlab_token: Option<&'a [u8]>,
    /// `X-GitHub-Event`, `X-Gitea-Event`, `X-Forgejo-Event`, `X-Gitlab-Event`
    pub event: Option<&'a [u8]>,
}

/// Parses the request head at the start of `buf`. See [`parse_from`].
pub fn parse(buf: &[u8]) -> Result<Parse<'_>, Reject> {
    parse_from(buf, &mut Scan::default())
}

/// As [`parse`], but remembers in `scan` what was checked, so that the work is linear however
/// the head arrives. `buf` holds every byte since the last request, also those of earlier calls;
/// `scan` starts as `Scan::default()` for each request.
///
/// All rejects close the connection, because without a head nobody knows where its body ends.
/// The verdict is the same for every way of splitting the input; a violation may be reported
/// before the head is complete.
pub fn parse_from<'a>(buf: &'a [u8], scan: &mut Scan) -> Result<Parse<'a>, Reject> {
    let Some(range) = scan.run(buf)? else {
        return Ok(Parse::Partial);
    };
    let head_bytes = range.end;
    let section = buf.get(range).ok_or(MALFORMED)?;
    Ok(Parse::Complete {
        head: read(section)?,
        head_bytes,
    })
}

/// Reads a scanned head that is known to be complete.
fn read(section: &[u8]) -> Result<RequestHead<'_>, Reject> {
    let line_bytes = section.iter().position(|&byte| byte == b'\n');
    let (line, rest) = section.split_at(line_bytes.map_or(0, |at| at + 1));
    let line = line.strip_suffix(b"\r\n").ok_or(MALFORMED)?;
    let line = std::str::from_utf8(line).map_err(|_| MALFORMED)?;
    // The scan let two spaces pass.
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(MALFORMED);
    };
    let version = read_version(version)?;
    let target = read_target(method, target)?;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let headers = match httparse::parse_headers(rest, &mut headers) {
        Ok(httparse::Status::Complete((bytes, headers))) if bytes == rest.len() => headers,
        _ => return Err(MALFORMED),
    };
    let mut fields = Fields::default();
    for header in headers {
        fields.take(header.name, header.value)?;
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        _ => Method::Other,
    };
    fields.finish(method, target, version)
}

/// What a client of a later minor version sends means the same in this one (RFC 9110 section 2.5).
fn read_version(version: &str) -> Result<Version, Reject> {
    match version.as_bytes() {
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(VERSION)
        }
        _ => Err(MALFORMED),
    }
}

/// The target without the scheme and host of the absolute form, which every server must accept
/// (RFC 9112 section 3.2.2). They count instead of `Host`; neither routes anything here.
fn read_target<'a>(method: &str, target: &'a str) -> Result<&'a str, Reject> {
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok(target);
    }
    let (scheme, rest) = target.split_once("://").ok_or(TARGET_FORM)?;
    let is_http = ["http", "https"]
        .iter()
        .any(|s| scheme.eq_ignore_ascii_case(s));
    let host_bytes = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_bytes);
    // Without a user in it: that is how one host is passed off as another.
    if !is_http || host.is_empty() || !is_host(host.as_bytes()) {
        return Err(TARGET_FORM);
    }
    match path.starts_with('/') {
        true => Ok(path),
        // An empty path is the root, and no query means anything there.
        false => Ok("/"),
    }
}

/// The headers that mean something here, as they are met.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    expect_continue: bool,
    expect_other: bool,
    range: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
    if_match: FieldLines<'a>,
    if_none_match: FieldLines<'a>,
    content_encoding: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    git_protocol: Option<&'a [u8]>,
    via: FieldLines<'a>,
    accept: FieldLines<'a>,
    cache_control: FieldLines<'a>,
    forwarded_for: FieldLines<'a>,
    hook: HookFields<'a>,
    authorization: Option<&'a [u8]>,
    tarpon_authorization: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
    corrupt: Option<&'a [u8]>,
    store: Option<&'a [u8]>,
}

impl<'a> HookFields<'a> {
    /// Takes a header by its name in lower case, if it is one of these.
    fn take(&mut self, name: &[u8], value: &'a [u8]) {
        let slot = match name {
            b"x-hub-signature-256" => &mut self.hub_signature,
            b"x-gitea-signature" | b"x-forgejo-signature" => &mut self.gitea_signature,
            b"x-gitlab-token" => &mut self.gitlab_token,
            b"x-github-event" | b"x-gitea-event" | b"x-forgejo-event" | b"x-gitlab-event" => {
                &mut self.event
            }
            _ => return,
        };
        slot.get_or_insert(value);
    }
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &str, value: &'a [u8]) -> Result<(), Reject> {
        const NAME_BYTES_MAX: usize = "tarpon-authorization".len();
        let mut lower = [0; NAME_BYTES_MAX];
        let Some(lower) = lower.get_mut(..name.len()) else {
            return Ok(()); // longer than any name known here
        };
        lower.copy_from_slice(name.as_bytes());
        lower.make_ascii_lowercase();
        match &*lower {
            b"host" => once(&mut self.host, value, NOT_ONE_HOST),
            b"content-length" => once(&mut self.content_length, value, CONTENT_LENGTHS),
            b"transfer-encoding" => once(&mut self.transfer_encoding, value, TRANSFER_ENCODINGS),
            b"connection" => {
                self.close |= has_token(value, b"close");
                self.keep_alive |= has_token(value, b"keep-alive");
                Ok(())
            }
            b"expect" => {
                let known = value.eq_ignore_ascii_case(b"100-continue");
                self.expect_continue |= known;
                self.expect_other |= !known;
                Ok(())
            }
            b"range" => once(&mut self.range, value, REPEATED),
            b"if-range" => once(&mut self.if_range, value, REPEATED),
            b"if-match" => also(&mut self.if_match, value),
            b"if-none-match" => also(&mut self.if_none_match, value),
            b"content-encoding" => once(&mut self.content_encoding, value, REPEATED),
            b"content-type" => once(&mut self.content_type, value, REPEATED),
            b"git-protocol" => once(&mut self.git_protocol, value, REPEATED),
            b"tarpon-via" => also(&mut self.via, value),
            b"accept" => also(&mut self.accept, value),
            b"cache-control" => also(&mut self.cache_control, value),
            b"x-forwarded-for" => also(&mut self.forwarded_for, value),
            b"authorization" => once(&mut self.authorization, value, REPEATED),
            b"tarpon-authorization" => once(&mut self.tarpon_authorization, value, REPEATED),
            b"origin" => once(&mut self.origin, value, REPEATED),
            b"tarpon-corrupt" => once(&mut self.corrupt, value, REPEATED),
            b"tarpon-store" => once(&mut self.store, value, REPEATED),
            other => {
                self.hook.take(other, value);
                Ok(())
            }
        }
    }

    fn finish(
        self,
        method: Method,
        target: &'a str,
        version: Version,
    ) -> Result<RequestHead<'a>, Reject> {
        let is_1_1 = version == Version::Http11;
        match self.host {
            Some(host) if !is_host(host) => return Err(BAD_HOST),
            None if is_1_1 => return Err(NOT_ONE_HOST),
            _ => {}
        }
        let framing = self.framing(version)?;
        // HTTP/1.0 has no expectations: they are ignored there (RFC 9110 section 10.1.1).
        if is_1_1 && self.expect_other {
            return Err(EXPECT);
        }
        let has_body = !matches!(framing, Framing::None | Framing::Length(0));
        Ok(RequestHead {
            method,
            target,
            version,
            framing,
            keep_alive: !self.close && (is_1_1 || self.keep_alive),
            expect_continue: is_1_1 && self.expect_continue && has_body,
            range: self.range,
            if_range: self.if_range,
            if_match: self.if_match,
            if_none_match: self.if_none_match,
            content_encoding: self.content_encoding,
            content_type: self.content_type,
            git_protocol: self.git_protocol,
            via: self.via,
            accept: self.accept,
            cache_control: self.cache_control,
            forwarded_for: self.forwarded_for,
            hook: self.hook,
            authorization: self.authorization.map(Unshown),
            tarpon_authorization: self.tarpon_authorization.map(Unshown),
            host: self.host,
            origin: self.origin,
            corrupt: self.corrupt,
            store: self.store,
        })
    }

    fn framing(&self, version: Version) -> Result<Framing, Reject> {
        match (self.transfer_encoding, self.content_length) {
            (Some(_), Some(_)) => Err(TWO_LENGTHS),
            (Some(_), None) if version == Version::Http10 => Err(TRANSFER_ENCODING_1_0),
            (Some(codings), None) => chunked(codings),
            (None, Some(digits)) => decimal(digits).map(Framing::Length).ok_or(CONTENT_LENGTH),
            (None, None) => Ok(Framing::None),
        }
    }
}

/// The framing of a body with transfer codings, the last of which must be chunked, and no other:
/// it alone says where a request's body ends (RFC 9112 section 6.3).
fn chunked(codings: &[u8]) -> Result<Framing, Reject> {
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let mut codings = codings.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    if !codings.next().is_some_and(is_chunked) {
        return Err(NO_END);
    }
    match codings.next() {
        None => Ok(Framing::Chunked),
        Some(coding) if coding.is_empty() || is_chunked(coding) => Err(NO_END),
        Some(_) if codings.any(|coding| coding.is_empty() || is_chunked(coding)) => Err(NO_END),
        Some(_) => Err(TRANSFER_ENCODING),
    }
}

fn once<'a>(slot: &mut Option<&'a [u8]>, value: &'a [u8], again: Reject) -> Result<(), Reject> {
    match slot.replace(value) {
        Some(_) => Err(again),
        None => Ok(()),
    }
}

fn also<'a>(lines: &mut FieldLines<'a>, value: &'a [u8]) -> Result<(), Reject> {
    if lines.push(value) {
        Ok(())
    } else {
        Err(TOO_MANY_LINES)
    }
}

fn has_token(list: &[u8], token: &[u8]) -> bool {
    list.split(|&byte| byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Digits only: no sign, no space, no list, no overflow. `str::parse` would take a plus sign.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// The characters of `uri-host [ ":" port ]` (RFC 9110 section 7.2). An empty value is allowed;
/// the value routes nothing here, so its shape is not looked at further.
fn is_host(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::wire::hostile::HOSTILE;
    use crate::limits::{HEAD_BYTES_MAX, METHOD_BYTES_MAX, TARGET_BYTES_MAX};

    const FULL: &[u8] = b"POST /git/github.com/a/b/ensure-refs?x=1 HTTP/1.1\r\n\
        Host: localhost:3000\r\nUser-Agent: \xc3\xa9 (x)\r\nX-Empty:\r\nX-Blank: \t \r\n\
        CONTENT-length: 12\r\nExpect: 100-Continue\r\nConnection: foo , Close\r\n\
        Range: bytes=0-1\r\nIf-Range: \"a\"\r\nIf-Match: \"a\"\r\nIf-Match: \"b\"\r\n\
        If-None-Match:\t*\t\r\nContent-Encoding: gzip\r\nContent-Type: application/json\r\n\
        Git-Protocol: version=2\r\nAccept: */*\r\n\r\n";

    const SOUND: &[&[u8]] = &[
        FULL,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET /?%00 HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        b"BREW /pot HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
        b"GET / HTTP/1.0\r\nExpect: x\r\nContent-Length: 007\r\n\r\n",
        b"GET HTTP://[::1]:80/a?b HTTP/1.9\r\nHost: c\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ];

    fn head(bytes: &[u8]) -> RequestHead<'_> {
        match parse(bytes) {
            Ok(Parse::Complete { head, .. }) => head,
            other => panic!("{other:?} for {}", bytes.escape_ascii()),
        }
    }

    #[test]
    fn credentials_are_read_once_and_not_printed() {
        let of = |lines: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let both = of("authorization: Basic aHVzaA==\r\nTarpon-Authorization: Bearer hush\r\n");
        let read = head(both.as_bytes());
        assert_eq!(read.authorization, Some(Unshown(b"Basic aHVzaA==")));
        assert_eq!(read.tarpon_authorization, Some(Unshown(b"Bearer hush")));
        let shown = format!("{read:?}");
        assert!(!shown.contains("hush") && !shown.contains("aHVz") && !shown.contains("104"));
        for name in ["Authorization", "Tarpon-Authorization"] {
            let twice = of(&format!("{name}: Bearer a\r\n{name}: Bearer b\r\n"));
            assert_eq!(status(twice.as_bytes()), 400, "{name}");
        }
    }

    fn status(bytes: &[u8]) -> u16 {
        let reject = parse(bytes).expect_err("must be refused");
        assert!(reject.close);
        reject.status
    }

    /// The first verdict that is not Partial, fed byte by byte, equals the verdict on the whole,
    /// with and without remembering the scan; and no prefix decides otherwise later.
    fn assert_bytewise(bytes: &[u8]) {
        let whole = parse(bytes);
        let mut scan = Scan::default();
        for end in 0..=bytes.len() {
            let part = parse_from(&bytes[..end], &mut scan);
            if part == Ok(Parse::Partial) {
                continue;
            }
            assert_eq!(part, whole, "at {end} of {}", bytes.escape_ascii());
            return;
        }
        assert_eq!(whole, Ok(Parse::Partial), "{}", bytes.escape_ascii());
    }

    fn assert_every_split(bytes: &[u8]) {
        let whole = parse(bytes);
        for end in 0..=bytes.len() {
            let mut scan = Scan::default();
            let first = parse_from(&bytes[..end], &mut scan);
            assert_eq!(first, parse(&bytes[..end]));
            if first != Ok(Parse::Partial) {
                assert_eq!(first, whole, "at {end}");
            }
            assert_eq!(parse_from(bytes, &mut scan), whole, "split at {end}");
        }
    }

    #[test]
    fn every_field_is_read() {
        let Ok(Parse::Complete { head, head_bytes }) = parse(FULL) else {
            panic!()
        };
        assert_eq!(head_bytes, FULL.len());
        assert_eq!(head.method, Method::Post);
        assert_eq!(head.target, "/git/github.com/a/b/ensure-refs?x=1");
        assert_eq!(head.version, Version::Http11);
        assert_eq!(head.framing, Framing::Length(12));
        assert!(!head.keep_alive && head.expect_continue);
        assert_eq!(head.range, Some(&b"bytes=0-1"[..]));
        assert_eq!(head.if_range, Some(&b"\"a\""[..]));
        assert_eq!(
            head.if_match.iter().collect::<Vec<_>>(),
            [b"\"a\"", b"\"b\""]
        );
        assert_eq!(head.if_none_match.iter().collect::<Vec<_>>(), [b"*"]);
        assert_eq!(head.content_encoding, Some(&b"gzip"[..]));
        assert_eq!(head.content_type, Some(&b"application/json"[..]));
        assert_eq!(head.git_protocol, Some(&b"version=2"[..]));
        assert_eq!(head.accept.iter().collect::<Vec<_>>(), [b"*/*"]);
    }

    #[test]
    fn defaults_and_versions() {
        let plain = head(SOUND[1]);
        assert_eq!((plain.method, plain.framing), (Method::Get, Framing::None));
        assert!(plain.keep_alive && !plain.expect_continue && plain.if_match.is_absent());
        assert!(!head(SOUND[3]).keep_alive);
        assert!(head(SOUND[4]).keep_alive);
        assert_eq!(head(SOUND[5]).framing, Framing::Chunked);
        assert_eq!(head(SOUND[5]).method, Method::Other);
        assert_eq!(head(SOUND[7]).framing, Framing::Length(u64::MAX));
        let old = head(SOUND[8]);
        assert_eq!(
            (old.version, old.framing),
            (Version::Http10, Framing::Length(7))
        );
        assert!(!old.expect_continue && !old.keep_alive);
        assert!(
            !head(b"HEAD / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").expect_continue
        );
    }

    #[test]
    fn targets_may_be_absolute() {
        let target = |target: &str| {
            let text = format!("GET {target} HTTP/1.1\r\nHost: other\r\n\r\n");
            parse(text.as_bytes()).map(|parsed| match parsed {
                Parse::Complete { head, .. } => head.target.to_owned(),
                Parse::Partial => panic!("{target} is not complete"),
            })
        };
        let sound = [
            ("http://a/_liveness", "/_liveness"),
            ("https://a.b:1/x//y?http://c", "/x//y?http://c"),
            ("HTTP://[::1]/", "/"),
            ("http://a", "/"),
            ("http://a?x=/y", "/"),
            ("/http://a/b", "/http://a/b"),
        ];
        for (sent, expected) in sound {
            assert_eq!(target(sent).as_deref(), Ok(expected), "{sent}");
        }
        let refused = [
            "*",
            "a:80",
            "http:/a/b",
            "http:///a",
            "http://u@a/b",
            "ftp://a/b",
            "://a/b",
        ];
        for sent in refused {
            assert_eq!(target(sent), Err(TARGET_FORM), "{sent}");
        }
        assert_eq!(head(SOUND[9]).target, "/a?b");
        assert_eq!(head(SOUND[9]).version, Version::Http11);
        assert_eq!(head(SOUND[10]).target, "*");
    }

    #[test]
    fn the_rest_belongs_to_the_next_request() {
        let Ok(Parse::Complete { head_bytes, .. }) = parse(SOUND[6]) else {
            panic!()
        };
        assert_eq!(&SOUND[6][head_bytes..], b"GET / HTTP/1.1\r\n\r\n");
        let Ok(Parse::Complete { head_bytes, .. }) = parse(SOUND[2]) else {
            panic!()
        };
        assert_eq!(head_bytes, SOUND[2].len(), "a leading empty line counts");
    }

    #[test]
    fn splits_do_not_matter() {
        for bytes in SOUND {
            assert_bytewise(bytes);
            assert_every_split(bytes);
        }
        for (_, bytes, ..) in HOSTILE.iter().filter(|(_, bytes, ..)| bytes.len() < 1000) {
            assert_bytewise(bytes);
            assert_every_split(bytes);
        }
        for (_, bytes, ..) in HOSTILE.iter().filter(|(_, bytes, ..)| bytes.len() >= 1000) {
            assert_bytewise(bytes);
        }
    }

    #[test]
    fn every_prefix_of_a_sound_head_is_partial() {
        for bytes in SOUND {
            let Ok(Parse::Complete { head_bytes, .. }) = parse(bytes) else {
                panic!()
            };
            for end in 0..head_bytes {
                assert_eq!(parse(&bytes[..end]), Ok(Parse::Partial), "at {end}");
            }
            assert_eq!(parse(&bytes[..head_bytes]).map(|_| ()), Ok(()));
        }
    }

    #[test]
    fn limits_are_exact() {
        let of_size = |bytes: usize| {
            let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nX: ".to_vec();
            head.resize(bytes - 4, b'a');
            head.extend_from_slice(b"\r\n\r\n");
            head
        };
        assert!(parse(&of_size(HEAD_BYTES_MAX)).is_ok());
        assert_eq!(status(&of_size(HEAD_BYTES_MAX + 1)), 431);
        assert_eq!(
            parse(&of_size(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX - 1]),
            Ok(Parse::Partial)
        );
        assert_eq!(status(&of_size(HEAD_BYTES_MAX + 1)[..HEAD_BYTES_MAX]), 431);

        let with_target =
            |bytes| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - 1));
        assert!(parse(with_target(TARGET_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(status(with_target(TARGET_BYTES_MAX + 1).as_bytes()), 414);

        let with_method =
            |start: &str, bytes| format!("{start}{} / HTTP/1.0\r\n\r\n", "A".repeat(bytes));
        for start in ["", "\r\n"] {
            assert!(parse(with_method(start, METHOD_BYTES_MAX).as_bytes()).is_ok());
            assert_eq!(
                status(with_method(start, METHOD_BYTES_MAX + 1).as_bytes()),
                501
            );
        }

        let with_headers = |n| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "X:\r\n".repeat(n - 1)
            )
        };
        assert!(parse(with_headers(HEADERS_MAX).as_bytes()).is_ok());
        assert_eq!(status(with_headers(HEADERS_MAX + 1).as_bytes()), 431);

        let with_lists = |n| {
            format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
                "Accept: a\r\n".repeat(n)
            )
        };
        assert!(parse(with_lists(crate::limits::FIELD_LINES_MAX).as_bytes()).is_ok());
        assert_eq!(
            status(with_lists(crate::limits::FIELD_LINES_MAX + 1).as_bytes()),
            400
        );
    }

    /// How httparse alone would see it: what the scan accepts must not mean more or less there.
    fn assert_readers_agree(bytes: &[u8]) {
        let Ok(Parse::Complete { head, head_bytes }) = parse(bytes) else {
            return;
        };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        // It knows no later version.
        let mut known = bytes.to_vec();
        let line_end = known[2..].iter().position(|&byte| byte == b'\r').unwrap() + 2;
        if head.version == Version::Http11 {
            known[line_end - 1] = b'1';
        }
        assert_eq!(
            request.parse(&known),
            Ok(httparse::Status::Complete(head_bytes))
        );
        let section = &bytes[..head_bytes];
        let end = section.strip_prefix(b"\r\n").unwrap_or(section);
        let first_end = end.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(
            first_end,
            end.len(),
            "the head ends at the first empty line"
        );
        for (at, &byte) in section.iter().enumerate() {
            assert!(byte != b'\n' || section[at - 1] == b'\r');
            assert!(byte != b'\r' || section[at + 1] == b'\n');
        }
        let named = |name: &str| {
            request
                .headers
                .iter()
                .filter(|h| h.name.eq_ignore_ascii_case(name))
                .count()
        };
        let framings = named("content-length") + named("transfer-encoding");
        assert_eq!(framings, usize::from(head.framing != Framing::None));
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            &b"GET "[..],
            b"POST ",
            b"/a",
            b" ",
            b"HTTP/1.1",
            b"HTTP/1.0",
            b"HTTP/1.7",
            b"http://a",
            b"*",
            b"\r\n",
            b"\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b"Host: a\r\n",
            b"Host: a\r\n",
            b"Content-Length: 5\r\n",
            b"Content-Length:",
            b"Transfer-Encoding: chunked\r\n",
            b"Transfer-Encoding:",
            b", chunked\r\n",
            b"5",
            b":",
            b"X",
            b"\t",
            b"\0",
            b"\xff",
            b"GET / HTTP/1.1\r\nHost: a\r\n",
        ]);
        // Half of them begin well, so that whole heads are common.
        let start = prop::sample::select(vec![&b""[..], b"GET / HTTP/1.1\r\nHost: a\r\n"]);
        (start, prop::collection::vec(piece, 0..14))
            .prop_map(|(start, pieces)| [start, &pieces.concat()].concat())
    }

    proptest! {
        #[test]
        fn random_pieces_split_anywhere(bytes in pieces()) {
            assert_bytewise(&bytes);
            assert_every_split(&bytes);
            assert_readers_agree(&bytes);
        }

        #[test]
        fn sound_heads_with_one_byte_changed(
            which in 0..SOUND.len(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            insert in any::<bool>(),
        ) {
            let mut bytes = SOUND[which].to_vec();
            let at = at.index(bytes.len());
            if insert { bytes.insert(at, byte) } else { bytes[at] = byte }
            assert_bytewise(&bytes);
            assert_readers_agree(&bytes);
        }

        #[test]
        fn content_length_is_digits_or_refused(value in "[ -~]{0,22}") {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {value}\r\n\r\n");
            let trimmed = value.trim_matches(' ');
            let digits = !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit());
            let expected = digits.then(|| trimmed.parse().ok()).flatten();
            match parse(text.as_bytes()) {
                Ok(Parse::Complete { head, .. }) => {
                    prop_assert_eq!(head.framing, Framing::Length(expected.unwrap()));
                }
                other => {
                    prop_assert_eq!(other, Err(CONTENT_LENGTH));
                    prop_assert_eq!(expected, None);
                }
            }
        }
    }
}
