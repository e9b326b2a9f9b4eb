//! Request heads and bodies: however the bytes arrive, the verdict is that on the whole; and it
//! is the verdict of a plain reading of RFC 9112, line by line, with the bounds of this server.
//!
//! An input is what a client sends. It is read as a head, and once more as a chunked body.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tarpon::extent::content_checksum;
use tarpon::http::wire::body::Decoder;
use tarpon::http::wire::head::{
    Framing, HookFields, Parse, RequestHead, Scan, Unshown, parse, parse_from,
};
use tarpon::http::wire::route::{RepoRef, Route, route};
use tarpon::http::wire::{FieldLines, Method, Reject, Version};
use tarpon::limits::{
    HEAD_BYTES_MAX, HEADERS_MAX, METHOD_BYTES_MAX, REPO_PATH_BYTES_MAX, TARGET_BYTES_MAX,
};
use tarpon_fuzz::Rng;

/// Content of one body at most; small, so that inputs can exceed it.
const BODY_BYTES_MAX: u64 = 1000;

fuzz_target!(|data: &[u8]| {
    let mut rng = Rng::new(u64::from(content_checksum(data)));
    check_head(data, &mut rng);
    check_body(data, Framing::Chunked, &mut rng);
    check_body(data, Framing::Length(data.len() as u64 / 2), &mut rng);
});

/// Where the input is cut: every byte, and in a few places.
fn cuts(len: usize, rng: &mut Rng) -> [Vec<usize>; 3] {
    let step = if len <= 1024 { 1 } else { 7 };
    let mut few = || {
        let mut cuts: Vec<usize> = (0..3).map(|_| rng.below(len as u64 + 1) as usize).collect();
        cuts.sort_unstable();
        cuts
    };
    [(0..len).step_by(step).collect(), few(), few()]
}

fn check_head(data: &[u8], rng: &mut Rng) {
    let whole = parse(data);
    for cuts in cuts(data.len(), rng) {
        assert_eq!(parse_in_pieces(data, &cuts), whole, "cut at {cuts:?}");
    }
    let model = model_head(data);
    match whole {
        Ok(Parse::Complete { head, head_bytes }) => {
            assert_eq!(model, Some((head, head_bytes)));
            check_route(&head);
            check_body(&data[head_bytes..], head.framing, rng);
        }
        Ok(Parse::Partial) => {
            assert_eq!(model, None, "this is a whole head");
            assert!(data.len() < HEAD_BYTES_MAX);
        }
        Err(reject) => {
            assert_eq!(model, None, "refused: {reject}");
            assert!(reject.close && (400..600).contains(&reject.status));
        }
    }
}

fn parse_in_pieces<'a>(data: &'a [u8], cuts: &[usize]) -> Result<Parse<'a>, Reject> {
    let mut scan = Scan::default();
    for cut in cuts.iter().copied().chain([data.len()]) {
        let verdict = parse_from(&data[..cut], &mut scan);
        if verdict != Ok(Parse::Partial) {
            return verdict;
        }
    }
    Ok(Parse::Partial)
}

/// The head at the start of the input, if a whole one stands there that obeys every rule.
fn model_head(data: &[u8]) -> Option<(RequestHead<'_>, usize)> {
    let skip = if data.starts_with(b"\r\n") { 2 } else { 0 };
    let end = data[skip..]
        .windows(4)
        .position(|four| four == b"\r\n\r\n")?
        + skip;
    if end + 4 > HEAD_BYTES_MAX {
        return None;
    }
    let text = &data[skip..end];
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let (method, target, version) = model_request_line(lines[0])?;
    let headers: Option<Vec<Header<'_>>> = lines[1..].iter().map(|line| header(line)).collect();
    let head = model_fields(method, target, version, &headers?)?;
    Some((head, end + 4))
}

fn model_request_line(line: &[u8]) -> Option<(Method, &str, Version)> {
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return None;
    };
    if !is_token(method) || method.len() > METHOD_BYTES_MAX || target.len() > TARGET_BYTES_MAX {
        return None;
    }
    let is_visible = target.iter().all(|byte| (0x21..=0x7e).contains(byte));
    if !is_visible {
        return None;
    }
    let target = model_target(method, std::str::from_utf8(target).unwrap())?;
    let method = match method {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        _ => Method::Other,
    };
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        _ if version.len() == 8
            && version.starts_with(b"HTTP/1.")
            && version[7].is_ascii_digit() =>
        {
            Version::Http11
        }
        _ => return None,
    };
    Some((method, target, version))
}

/// `/…`, `http://HOST/…`, or `*` of OPTIONS.
fn model_target<'a>(method: &[u8], target: &'a str) -> Option<&'a str> {
    if target.starts_with('/') || (method == b"OPTIONS" && target == "*") {
        return Some(target);
    }
    let lower = target.to_ascii_lowercase();
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|s| lower.starts_with(s))?;
    let rest = &target[scheme.len()..];
    let host: &str = rest.split(['/', '?']).next()?;
    if host.is_empty() || !host.bytes().all(is_host_byte) {
        return None;
    }
    let path = &rest[host.len()..];
    Some(if path.starts_with('/') { path } else { "/" })
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=:[]".contains(&byte)
}

/// Lower-case name and value.
type Header<'a> = (Vec<u8>, &'a [u8]);

fn header(line: &[u8]) -> Option<Header<'_>> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_text = |byte: &u8| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f);
    if !is_token(name) || !value.iter().all(is_text) {
        return None;
    }
    Some((name.to_ascii_lowercase(), value.trim_ascii()))
}

fn is_token(text: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_token)
}

fn model_fields<'a>(
    method: Method,
    target: &'a str,
    version: Version,
    headers: &[Header<'a>],
) -> Option<RequestHead<'a>> {
    let all = |name: &str| -> Vec<&'a [u8]> {
        let named = headers.iter().filter(|header| header.0 == name.as_bytes());
        named.map(|header| header.1).collect()
    };
    // The outer None: sent more often than may be.
    let once = |name| match all(name)[..] {
        [] => Some(None),
        [value] => Some(Some(value)),
        _ => None,
    };
    let list = |name| -> Option<FieldLines<'a>> {
        let mut lines = FieldLines::default();
        let mut all = all(name).into_iter();
        all.all(|line| lines.push(line)).then_some(lines)
    };
    let is_1_1 = version == Version::Http11;
    let host = once("host")?;
    if headers.len() > HEADERS_MAX
        || host.is_none() && is_1_1
        || host.is_some_and(|host| !host.iter().copied().all(is_host_byte))
    {
        return None;
    }
    let framing = model_framing(is_1_1, once("transfer-encoding")?, once("content-length")?)?;
    let expected = all("expect");
    let is_known = |value: &&[u8]| value.eq_ignore_ascii_case(b"100-continue");
    if is_1_1 && !expected.iter().all(is_known) {
        return None;
    }
    let options = all("connection").join(&b","[..]).to_ascii_lowercase();
    let has = |token: &[u8]| {
        options
            .split(|b| *b == b',')
            .any(|o| o.trim_ascii() == token)
    };
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    Some(RequestHead {
        method,
        target,
        version,
        framing,
        keep_alive: !has(b"close") && (is_1_1 || has(b"keep-alive")),
        expect_continue: is_1_1 && has_body && !expected.is_empty(),
        range: once("range")?,
        if_range: once("if-range")?,
        if_match: list("if-match")?,
        if_none_match: list("if-none-match")?,
        content_encoding: once("content-encoding")?,
        content_type: once("content-type")?,
        git_protocol: once("git-protocol")?,
        accept: list("accept")?,
        cache_control: list("cache-control")?,
        forwarded_for: list("x-forwarded-for")?,
        hook: model_hook(headers),
        via: list("tarpon-via")?,
        authorization: once("authorization")?.map(Unshown),
        tarpon_authorization: once("tarpon-authorization")?.map(Unshown),
        host,
        origin: once("origin")?,
        corrupt: once("tarpon-corrupt")?,
        store: once("tarpon-store")?,
    })
}

/// Of several names the first header that has one of them counts.
fn model_hook<'a>(headers: &[Header<'a>]) -> HookFields<'a> {
    let first = |names: &[&str]| -> Option<&'a [u8]> {
        let is_one = |header: &&Header<'a>| names.iter().any(|n| n.as_bytes() == header.0);
        headers.iter().find(is_one).map(|header| header.1)
    };
    let hosts =
        ["x-github", "x-gitea", "x-forgejo", "x-gitlab"].map(|host| format!("{host}-event"));
    HookFields {
        hub_signature: first(&["x-hub-signature-256"]),
        gitea_signature: first(&["x-gitea-signature", "x-forgejo-signature"]),
        gitlab_token: first(&["x-gitlab-token"]),
        event: first(&hosts.each_ref().map(String::as_str)),
    }
}

fn model_framing(is_1_1: bool, coding: Option<&[u8]>, length: Option<&[u8]>) -> Option<Framing> {
    match (coding, length) {
        (None, None) => Some(Framing::None),
        (None, Some(digits)) => {
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
            digits.parse().ok().map(Framing::Length)
        }
        (Some(coding), None) if is_1_1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Some(Framing::Chunked)
        }
        _ => None,
    }
}

/// A repository's names never leave their place, whatever the target.
fn check_route(head: &RequestHead<'_>) {
    let repo = match route(head.method, head.target) {
        Err(reject) => return assert!(!reject.close && reject.status >= 400),
        Ok(
            Route::Liveness
            | Route::Readiness
            | Route::Metrics
            | Route::ServerStatus
            | Route::LogFilter(_)
            | Route::Webhook(None),
        ) => return,
        Ok(Route::Bundle { repo, base, .. }) => {
            assert!(matches!(base.len(), 40 | 64));
            assert!(base.bytes().all(|byte| byte.is_ascii_hexdigit()));
            repo
        }
        Ok(Route::Part { repo, name, .. }) => {
            assert!(!name.is_empty() && !name.contains(['/', '%', '\0']) && !name.starts_with('.'));
            repo
        }
        Ok(
            Route::Snapshot { repo, .. }
            | Route::Manifest { repo, .. }
            | Route::EnsureRefs(repo)
            | Route::InfoRefs(repo)
            | Route::Status(repo)
            | Route::Webhook(Some(repo))
            | Route::Wish(repo, _)
            | Route::UploadPack(repo),
        ) => repo,
    };
    let below = head.target.strip_prefix("/admin").unwrap_or(head.target);
    assert!(below.starts_with(&format!("/git/{}/{}", repo.host, repo.path)));
    assert_eq!(
        RepoRef::new(repo.host, repo.path),
        Ok(repo),
        "named again it is the same"
    );
    assert!(repo.path.len() <= REPO_PATH_BYTES_MAX);
    for part in repo.path.split('/').chain([repo.host]) {
        assert!(!part.is_empty() && part != "." && part != ".." && !part.starts_with('-'));
        assert!(!part.contains(['/', '\\', '%', '\0', '?', '#']));
        assert!(
            part == repo.host || !part.ends_with(".git"),
            "mirrors do not nest"
        );
    }
}

/// Content, and how much of the input the body took; `None` while it is not over.
type Body = Result<(Vec<u8>, Option<usize>), Reject>;

fn check_body(data: &[u8], framing: Framing, rng: &mut Rng) {
    let whole = decode(data, framing, &[]);
    for cuts in cuts(data.len(), rng) {
        assert_eq!(decode(data, framing, &cuts), whole, "cut at {cuts:?}");
    }
    let model = match framing {
        Framing::None => Some((Vec::new(), 0)),
        Framing::Length(len) if len > BODY_BYTES_MAX => None,
        Framing::Length(len) => {
            let content = data.get(..len as usize);
            content.map(|content| (content.to_vec(), content.len()))
        }
        Framing::Chunked => model_chunks(data),
    };
    match whole {
        Ok((content, Some(taken))) => assert_eq!(model, Some((content, taken))),
        Ok((_, None)) => assert_eq!(model, None, "the body is over"),
        Err(reject) => {
            assert_eq!(model, None, "refused: {reject}");
            assert!(reject.close);
        }
    }
}

fn decode(data: &[u8], framing: Framing, cuts: &[usize]) -> Body {
    let mut decoder = Decoder::new(framing, BODY_BYTES_MAX)?;
    let mut content = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([data.len()]) {
        let progress = decoder.decode(&data[at..cut], &mut content)?;
        assert!(content.len() as u64 <= BODY_BYTES_MAX);
        assert_eq!(progress.finished, decoder.is_finished());
        at += progress.consumed;
        if progress.finished {
            return Ok((content, Some(at)));
        }
        assert_eq!(at, cut, "all is taken until the body is over");
    }
    Ok((content, None))
}

/// RFC 9112 section 7.1; extensions and trailers are dropped. Inputs are too short for their
/// bounds to count.
fn model_chunks(data: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut rest = data;
    let mut content = Vec::new();
    loop {
        let line = line(&mut rest)?;
        let digits_end = line.iter().position(|byte| !byte.is_ascii_hexdigit());
        let (digits, extensions) = line.split_at(digits_end.unwrap_or(line.len()));
        if !(1..=16).contains(&digits.len()) || !model_extensions(extensions) {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        if size > BODY_BYTES_MAX - content.len() as u64 {
            return None;
        }
        content.extend_from_slice(rest.get(..size as usize)?);
        rest = rest[size as usize..].strip_prefix(b"\r\n")?;
    }
    loop {
        let line = line(&mut rest)?;
        if line.is_empty() {
            return Some((content, data.len() - rest.len()));
        }
        header(line)?;
    }
}

/// Whether these are chunk extensions, or nothing.
fn model_extensions(mut rest: &[u8]) -> bool {
    fn skip<'a>(rest: &'a [u8], is: impl Fn(u8) -> bool) -> &'a [u8] {
        &rest[rest.iter().take_while(|byte| is(**byte)).count()..]
    }
    let space = |byte| byte == b' ' || byte == b'\t';
    let token = |byte| is_token(&[byte]);
    while !rest.is_empty() {
        let Some(name) = skip(rest, space).strip_prefix(b";") else {
            return false;
        };
        let name = skip(name, space);
        rest = skip(name, token);
        if rest.len() == name.len() {
            return false;
        }
        let Some(value) = skip(rest, space).strip_prefix(b"=") else {
            continue;
        };
        let value = skip(value, space);
        let Some(mut quoted) = value.strip_prefix(b"\"") else {
            rest = skip(value, token);
            if rest.len() == value.len() {
                return false;
            }
            continue;
        };
        let is_text = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        rest = loop {
            quoted = match quoted {
                [b'"', behind @ ..] => break behind,
                [b'\\', escaped, behind @ ..] if is_text(*escaped) => behind,
                [byte, behind @ ..] if *byte != b'\\' && is_text(*byte) => behind,
                _ => return false,
            };
        };
    }
    true
}

/// A line without its CRLF, if a whole one is there.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.windows(2).position(|two| two == b"\r\n")?;
    let line = &rest[..end];
    *rest = &rest[end + 2..];
    Some(line)
}
