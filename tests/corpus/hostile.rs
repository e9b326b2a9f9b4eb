// Requests that must not be served, shared by the unit tests of the HTTP parser and the
// end-to-end tests of the server (each includes this file with `#[path]`).
//
// A row is: what it is, the bytes as sent, the status of the answer, and whether the server
// closes the connection after it (it must where framing is in doubt; where it is not, the next
// request on the same connection must be answered). The host of every repository is one of the
// default upstreams, so each request fails for what its row is about, before any upstream is asked.

#![allow(
    dead_code,
    reason = "a test that includes this may need only one of the tables"
)]

macro_rules! get {
    ($target:literal) => {
        concat!("GET ", $target, " HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()
    };
}
macro_rules! with_length {
    ($value:literal) => {
        concat!(
            "POST /_liveness HTTP/1.1\r\nHost: a\r\nContent-Length: ",
            $value,
            "\r\n\r\nhello"
        )
        .as_bytes()
    };
}
macro_rules! with_coding {
    ($value:literal) => {
        concat!(
            "POST /_liveness HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ",
            $value,
            "\r\n\r\n0\r\n\r\n"
        )
        .as_bytes()
    };
}
/// Requests whose head or target is refused.
pub const HOSTILE: &[(&str, &[u8], u16, bool)] = &[
    // Line ends and control characters.
    (
        "bare LF everywhere",
        b"GET /_liveness HTTP/1.1\nHost: a\n\n",
        400,
        true,
    ),
    (
        "bare LF after the request line",
        b"GET /_liveness HTTP/1.1\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "bare LF after a header",
        b"GET /_liveness HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
        400,
        true,
    ),
    (
        "bare LF ends the head",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\n\n",
        400,
        true,
    ),
    (
        "bare LF before the request",
        b"\nGET /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "bare CR in a value",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n",
        400,
        true,
    ),
    (
        "CR CR LF",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\r\n\r\n",
        400,
        true,
    ),
    (
        "two empty lines first",
        b"\r\n\r\nGET /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "NUL in a value",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n",
        400,
        true,
    ),
    (
        "NUL in a name",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        400,
        true,
    ),
    (
        "NUL in the target",
        b"GET /_live\0ness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "NUL in the method",
        b"GE\0T /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "DEL in a value",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n",
        400,
        true,
    ),
    (
        "escape in a value",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: \x1b[2J\r\n\r\n",
        400,
        true,
    ),
    (
        "vertical tab",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: \x0b\r\n\r\n",
        400,
        true,
    ),
    (
        "TLS client hello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        400,
        true,
    ),
    // Request lines.
    ("HTTP/0.9", b"GET /_liveness\r\n\r\n", 400, true),
    ("no target", b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400, true),
    (
        "empty target",
        b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "two spaces",
        b"GET  /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "two spaces before the version",
        b"GET /_liveness  HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "space in the target",
        b"GET /_live ness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "space behind the version",
        b"GET /_liveness HTTP/1.1 \r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "tab as separator",
        b"GET\t/_liveness\tHTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "leading space",
        b" GET /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "raw UTF-8 in the target",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "broken UTF-8 in the target",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "lower-case version",
        b"GET /_liveness http/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "signed version",
        b"GET /_liveness HTTP/1.+1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "short version",
        b"GET /_liveness HTTP/1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "version 1.2 without a host",
        b"GET /_liveness HTTP/1.2\r\n\r\n",
        400,
        true,
    ),
    (
        "version 0.9",
        b"GET /_liveness HTTP/0.9\r\nHost: a\r\n\r\n",
        505,
        true,
    ),
    (
        "version 2.0",
        b"GET /_liveness HTTP/2.0\r\nHost: a\r\n\r\n",
        505,
        true,
    ),
    (
        "HTTP/2 preface",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        505,
        true,
    ),
    (
        "unknown method",
        b"BREW /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        501,
        false,
    ),
    (
        "lower-case method",
        b"get /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        501,
        false,
    ),
    (
        "TRACE",
        b"TRACE /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        501,
        false,
    ),
    (
        "PUT",
        b"PUT /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        501,
        false,
    ),
    (
        "method not a token",
        b"G(T /_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    ("overlong method", &OVERLONG_METHOD, 501, true),
    // Target forms.
    (
        "absolute form, unknown path",
        b"GET http://a/_livenes HTTP/1.1\r\nHost: a\r\n\r\n",
        404,
        false,
    ),
    (
        "absolute form without a path",
        b"GET http://a HTTP/1.1\r\nHost: a\r\n\r\n",
        404,
        false,
    ),
    (
        "absolute form without a host header",
        b"GET http://a/_liveness HTTP/1.1\r\n\r\n",
        400,
        true,
    ),
    (
        "absolute form without a host",
        b"GET http:///_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "absolute form with a user",
        b"GET http://a@b/_liveness HTTP/1.1\r\nHost: b\r\n\r\n",
        400,
        true,
    ),
    (
        "absolute form of another protocol",
        b"GET git://a/_liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "absolute form, file",
        b"GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "authority form",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        400,
        true,
    ),
    (
        "asterisk form",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        501,
        false,
    ),
    (
        "asterisk form of a GET",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "relative target",
        b"GET _liveness HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "target begins with ?",
        b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    // Header lines.
    (
        "obs-fold",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
        400,
        true,
    ),
    (
        "obs-fold by tab",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX: b\r\n\tc\r\n\r\n",
        400,
        true,
    ),
    (
        "obs-fold hides a length",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nX:\r\n Content-Length: 5\r\n\r\nhello",
        400,
        true,
    ),
    (
        "space before the first header",
        b"GET /_liveness HTTP/1.1\r\n Host: a\r\n\r\n",
        400,
        true,
    ),
    (
        "space before the colon",
        b"GET /_liveness HTTP/1.1\r\nHost : a\r\n\r\n",
        400,
        true,
    ),
    (
        "tab before the colon",
        b"GET /_liveness HTTP/1.1\r\nHost\t: a\r\n\r\n",
        400,
        true,
    ),
    (
        "no colon",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        400,
        true,
    ),
    (
        "empty name",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
        400,
        true,
    ),
    (
        "name in quotes",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\n\"X\": x\r\n\r\n",
        400,
        true,
    ),
    (
        "non-ASCII name",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nX\xe9: x\r\n\r\n",
        400,
        true,
    ),
    ("no Host", b"GET /_liveness HTTP/1.1\r\n\r\n", 400, true),
    (
        "two Hosts",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        400,
        true,
    ),
    (
        "two equal Hosts",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        400,
        true,
    ),
    (
        "two Hosts in 1.0",
        b"GET /_liveness HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        400,
        true,
    ),
    (
        "Host list",
        b"GET /_liveness HTTP/1.1\r\nHost: a, b\r\n\r\n",
        400,
        true,
    ),
    (
        "Host with user",
        b"GET /_liveness HTTP/1.1\r\nHost: u@a\r\n\r\n",
        400,
        true,
    ),
    (
        "Host with path",
        b"GET /_liveness HTTP/1.1\r\nHost: a/b\r\n\r\n",
        400,
        true,
    ),
    (
        "unknown expectation",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n",
        417,
        true,
    ),
    (
        "two Ranges",
        b"GET /_liveness HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\nRange: bytes=2-3\r\n\r\n",
        400,
        true,
    ),
    ("too many headers", &TOO_MANY_HEADERS, 431, true),
    ("overlong head", &OVERLONG_HEAD, 431, true),
    ("overlong target", &OVERLONG_TARGET, 414, true),
    // Content-Length.
    (
        "two lengths",
        with_length!("5\r\nContent-Length: 6"),
        400,
        true,
    ),
    (
        "two equal lengths",
        with_length!("5\r\nContent-Length: 5"),
        400,
        true,
    ),
    (
        "two lengths, other case",
        with_length!("5\r\ncontent-LENGTH: 5"),
        400,
        true,
    ),
    ("length list", with_length!("5, 5"), 400, true),
    ("length list without space", with_length!("5,5"), 400, true),
    ("plus sign", with_length!("+5"), 400, true),
    ("minus sign", with_length!("-5"), 400, true),
    ("negative zero", with_length!("-0"), 400, true),
    ("hex length", with_length!("0x5"), 400, true),
    ("hex digits", with_length!("a"), 400, true),
    ("exponent", with_length!("5e0"), 400, true),
    ("fraction", with_length!("5.0"), 400, true),
    ("underscore", with_length!("1_0"), 400, true),
    ("inner space", with_length!("1 0"), 400, true),
    ("quoted length", with_length!("\"5\""), 400, true),
    ("empty length", with_length!(""), 400, true),
    ("2^64", with_length!("18446744073709551616"), 400, true),
    ("2^64 + 5", with_length!("18446744073709551621"), 400, true),
    (
        "forty digits",
        with_length!("9999999999999999999999999999999999999999"),
        400,
        true,
    ),
    (
        "full-width digit",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nContent-Length: \xef\xbc\x95\r\n\r\nhello",
        400,
        true,
    ),
    ("vertical tab behind", with_length!("5\x0b"), 400, true),
    // Transfer-Encoding.
    (
        "CL.TE",
        with_length!("5\r\nTransfer-Encoding: chunked"),
        400,
        true,
    ),
    (
        "TE.CL",
        with_coding!("chunked\r\nContent-Length: 5"),
        400,
        true,
    ),
    (
        "TE and zero length",
        with_coding!("chunked\r\nContent-Length: 0"),
        400,
        true,
    ),
    (
        "unknown TE and CL",
        with_coding!("xchunked\r\nContent-Length: 5"),
        400,
        true,
    ),
    (
        "TE.TE",
        with_coding!("chunked\r\nTransfer-Encoding: identity"),
        400,
        true,
    ),
    (
        "chunked twice",
        with_coding!("chunked\r\nTransfer-Encoding: chunked"),
        400,
        true,
    ),
    ("chunked list", with_coding!("chunked, chunked"), 400, true),
    ("gzip, chunked", with_coding!("gzip, chunked"), 501, true),
    (
        "chunked, gzip, chunked",
        with_coding!("chunked, gzip, chunked"),
        400,
        true,
    ),
    ("chunked, gzip", with_coding!("chunked, gzip"), 400, true),
    (
        "chunked, identity",
        with_coding!("chunked, identity"),
        400,
        true,
    ),
    ("gzip alone", with_coding!("gzip"), 400, true),
    ("identity", with_coding!("identity"), 400, true),
    ("xchunked", with_coding!("xchunked"), 400, true),
    (
        "chunked with parameter",
        with_coding!("chunked;q=1"),
        400,
        true,
    ),
    ("quoted", with_coding!("\"chunked\""), 400, true),
    ("leading comma", with_coding!(", chunked"), 400, true),
    ("empty", with_coding!(""), 400, true),
    (
        "vertical tab before chunked",
        with_coding!("\x0bchunked"),
        400,
        true,
    ),
    (
        "space before the colon of TE",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        400,
        true,
    ),
    (
        "folded TE",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        400,
        true,
    ),
    (
        "TE behind a bare CR",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nX: y\rTransfer-Encoding: chunked\r\n\r\n",
        400,
        true,
    ),
    (
        "TE in HTTP/1.0",
        b"POST /_liveness HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        true,
    ),
    // Paths. The head is sound, so the connection goes on.
    ("dot dot", get!("/../etc/passwd"), 400, false),
    (
        "dot dot in a repository",
        get!("/git/github.com/a/../b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "dot dot as host",
        get!("/git/../a/b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "dot dot at the end",
        get!("/git/github.com/a/.."),
        400,
        false,
    ),
    (
        "dot dot only",
        get!("/git/github.com/../snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "dot",
        get!("/git/github.com/./a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "dot before .git",
        get!("/git/github.com/a/..git/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded dot dot",
        get!("/git/github.com/%2e%2e/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded dot dot, upper",
        get!("/git/github.com/%2E%2E/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "half-encoded dot dot",
        get!("/git/github.com/.%2e/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded twice",
        get!("/git/github.com/%252e%252e/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded slash",
        get!("/git/github.com/a%2fb/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded NUL",
        get!("/git/github.com/a%00/b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded CRLF",
        get!("/git/github.com/a%0d%0ab/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "encoded letter",
        get!("/git/github.com/%61/b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "stray percent",
        get!("/git/github.com/a%/b/snapshot.tar.zst"),
        400,
        false,
    ),
    ("percent in a query", get!("/_liveness?%2e"), 400, false),
    (
        "unknown key of a snapshot",
        get!("/git/github.com/a/b/snapshot.tar.zst?x=1"),
        400,
        false,
    ),
    (
        "key that is escaped",
        get!("/git/github.com/a/b/snapshot.tar.zst?%72ef=main"),
        400,
        false,
    ),
    (
        "key that is there twice",
        get!("/git/github.com/a/b/snapshot.tar.zst?ref=a&ref=b"),
        400,
        false,
    ),
    (
        "stray percent in a name",
        get!("/git/github.com/a/b/snapshot.tar.zst?ref=a%"),
        400,
        false,
    ),
    (
        "name with a line end",
        get!("/git/github.com/a/b/snapshot.tar.zst?ref=a%0d%0aX:%20y"),
        400,
        false,
    ),
    (
        "name with a NUL",
        get!("/git/github.com/a/b/snapshot.tar.zst?ref=a%00"),
        400,
        false,
    ),
    (
        "name that leads up",
        get!("/git/github.com/a/b/snapshot.tar.zst?ref=refs/heads/../../x"),
        400,
        false,
    ),
    (
        "name without an end",
        get!("/git/github.com/a/b/snapshot.tar.zst?ref=refs/"),
        400,
        false,
    ),
    (
        "short commit",
        get!("/git/github.com/a/b/snapshot.tar.zst?commit=0123456789abcdef"),
        400,
        false,
    ),
    (
        "backslash",
        get!("/git/github.com/a\\b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "backslash dot dot",
        get!("/git/github.com/..\\a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "fragment",
        get!("/git/github.com/a/b/snapshot.tar.zst#x"),
        400,
        false,
    ),
    (
        "empty part",
        get!("/git/github.com/a//b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "absolute path",
        get!("/git/github.com//etc/passwd/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "empty last part",
        get!("/git/github.com/a//snapshot.tar.zst"),
        400,
        false,
    ),
    ("empty host", get!("/git//a/b/snapshot.tar.zst"), 400, false),
    (
        "no repository",
        get!("/git/github.com/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "empty repository",
        get!("/git/github.com//snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "host with user",
        get!("/git/u@github.com/a/b/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "host begins with a dash",
        get!("/git/-oProxyCommand=x/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "host begins with a dot",
        get!("/git/.git/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "part is .git",
        get!("/git/github.com/a/.git/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "only .git",
        get!("/git/github.com/.git/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "inside a mirror",
        get!("/git/github.com/a.git/hooks/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "inside a mirror, upper",
        get!("/git/github.com/a.GIT/hooks/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        ".git twice",
        get!("/git/github.com/a.git.git/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "lock file",
        get!("/git/github.com/a/b.lock/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "lock file with .git",
        get!("/git/github.com/a/b.lock.git/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "option as part",
        get!("/git/github.com/--upload-pack=x/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "shell in a part",
        get!("/git/github.com/$(id)/a/snapshot.tar.zst"),
        400,
        false,
    ),
    (
        "transport in a part",
        get!("/git/github.com/ext::sh/snapshot.tar.zst"),
        400,
        false,
    ),
    ("overlong part", &OVERLONG_PART, 400, false),
    ("overlong last part", &OVERLONG_LAST_PART, 400, false),
    ("overlong path", &OVERLONG_PATH, 400, false),
    ("overlong host", &OVERLONG_HOST, 400, false),
    ("unknown path", get!("/"), 404, false),
    ("no endpoint", get!("/git/github.com/a/b"), 404, false),
    (
        "file of a mirror",
        get!("/git/github.com/a/b.git/HEAD"),
        404,
        false,
    ),
    (
        "config of a mirror",
        get!("/git/github.com/a/b.git/config"),
        404,
        false,
    ),
    (
        "slash behind an endpoint",
        get!("/git/github.com/a/b/snapshot.tar.zst/"),
        404,
        false,
    ),
    (
        "two slashes first",
        get!("//git/github.com/a/b/snapshot.tar.zst"),
        404,
        false,
    ),
    (
        "other case",
        get!("/GIT/github.com/a/b/snapshot.tar.zst"),
        404,
        false,
    ),
    // Methods and parameters.
    (
        "GET where POST",
        get!("/git/github.com/a/b/git-upload-pack"),
        405,
        false,
    ),
    (
        "GET of ensure-refs",
        get!("/git/github.com/a/b/ensure-refs"),
        405,
        false,
    ),
    (
        "POST where GET",
        b"POST /git/github.com/a/b/snapshot.tar.zst HTTP/1.1\r\nHost: a\r\n\r\n",
        405,
        false,
    ),
    (
        "a body where none is expected",
        b"POST /_liveness HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n",
        405,
        false,
    ),
    (
        "dumb git protocol",
        get!("/git/github.com/a/b/info/refs"),
        400,
        false,
    ),
    (
        "push",
        get!("/git/github.com/a/b/info/refs?service=git-receive-pack"),
        403,
        false,
    ),
    (
        "push itself",
        get!("/git/github.com/a/b/git-receive-pack"),
        403,
        false,
    ),
    (
        "unknown service",
        get!("/git/github.com/a/b/info/refs?service=x"),
        400,
        false,
    ),
    (
        "two services",
        get!("/git/github.com/a/b/info/refs?service=git-upload-pack&service=git-receive-pack"),
        400,
        false,
    ),
    (
        "no base",
        get!("/git/github.com/a/b/snapshot.bundle"),
        400,
        false,
    ),
    (
        "short base",
        get!("/git/github.com/a/b/snapshot.bundle?base=abc123"),
        400,
        false,
    ),
    (
        "base is a branch",
        get!("/git/github.com/a/b/snapshot.bundle?base=main"),
        400,
        false,
    ),
    (
        "base is an option",
        get!("/git/github.com/a/b/snapshot.bundle?base=--all"),
        400,
        false,
    ),
];

/// Chunked bodies, behind a sound head of `POST /git/github.com/a/b/ensure-refs` or
/// `git-upload-pack`: all are refused with the given status, and the connection closes.
pub const HOSTILE_CHUNKS: &[(&str, &[u8], u16)] = &[
    ("no size", b"\r\nhello\r\n0\r\n\r\n", 400),
    ("negative size", b"-5\r\nhello\r\n0\r\n\r\n", 400),
    ("signed size", b"+5\r\nhello\r\n0\r\n\r\n", 400),
    ("0x size", b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    ("underscore in the size", b"1_0\r\nhello\r\n0\r\n\r\n", 400),
    ("space behind the size", b"5 \r\nhello\r\n0\r\n\r\n", 400),
    ("space before the size", b" 5\r\nhello\r\n0\r\n\r\n", 400),
    (
        "seventeen digits",
        b"00000000000000005\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "wrapping size",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "largest size",
        b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        413,
    ),
    ("bare LF behind the size", b"5\nhello\r\n0\r\n\r\n", 400),
    ("bare CR behind the size", b"5\rhello\r\n0\r\n\r\n", 400),
    ("bare LF behind the content", b"5\r\nhello\n0\r\n\r\n", 400),
    ("no CR behind the content", b"5\r\nhelloX\n0\r\n\r\n", 400),
    ("no LF behind the content", b"5\r\nhello\rX0\r\n\r\n", 400),
    ("content too long", b"5\r\nhello!\r\n0\r\n\r\n", 400),
    ("content too short", b"6\r\nhello\r\n0\r\n\r\n", 400),
    ("bare LF in an extension", b"5;a\nhello\r\n0\r\n\r\n", 400),
    ("extension without a name", b"5;\r\nhello\r\n0\r\n\r\n", 400),
    ("two semicolons", b"5;;a\r\nhello\r\n0\r\n\r\n", 400),
    (
        "extension that ends in a semicolon",
        b"5;a;\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "extension with an empty value",
        b"5;a=\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "extension with two values",
        b"5;a=b=c\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "extension without a semicolon",
        b"5 a=b\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "space behind an extension",
        b"5;a \r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "no token in an extension",
        b"5;a(b\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "open quotes in an extension",
        b"5;a=\"b\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "quotes that an escape keeps open",
        b"5;a=\"b\\\"\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "text behind quotes",
        b"5;a=\"b\"c\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    ("quotes as a name", b"5;\"a\"\r\nhello\r\n0\r\n\r\n", 400),
    (
        "bare LF in quotes",
        b"5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
        400,
    ),
    ("CRLF in quotes", b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", 400),
    (
        "bare LF behind quotes",
        b"5;a=\"b\"\nhello\r\n0\r\n\r\n",
        400,
    ),
    (
        "bare LF behind the last size",
        b"5\r\nhello\r\n0\n\r\n",
        400,
    ),
    ("NUL in an extension", b"5;\0\r\nhello\r\n0\r\n\r\n", 400),
    ("overlong extension", &OVERLONG_EXTENSION, 400),
    (
        "request as trailer",
        b"0\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        400,
    ),
    ("folded trailer", b"0\r\nX: a\r\n b\r\n\r\n", 400),
    ("bare LF in a trailer", b"0\r\nX: a\n\r\n", 400),
    ("bare LF ends the trailers", b"0\r\n\n", 400),
    ("space before a trailer's colon", b"0\r\nX : a\r\n\r\n", 400),
    ("overlong trailer", &OVERLONG_TRAILER, 431),
];

const HEAD_END: &[u8] = b" HTTP/1.1\r\nHost: a\r\n\r\n";
static OVERLONG_METHOD: [u8; 100] = fill(b"", b"A", b" / HTTP/1.1\r\nHost: a\r\n\r\n");
static OVERLONG_TARGET: [u8; 9000] = fill(b"GET /", b"a", HEAD_END);
static OVERLONG_HEAD: [u8; 66_000] = fill(b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a", b"\r\n\r\n");
static TOO_MANY_HEADERS: [u8; 427] = fill(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X:\r\n", b"\r\n");
static OVERLONG_PART: [u8; 317] = fill(
    b"GET /git/github.com/",
    b"a",
    b"/b/snapshot.tar.zst HTTP/1.1\r\nHost: a\r\n\r\n",
);
static OVERLONG_LAST_PART: [u8; 313] = fill(
    b"GET /git/github.com/a/",
    b"a",
    b"/snapshot.tar.zst HTTP/1.1\r\nHost: a\r\n\r\n",
);
static OVERLONG_PATH: [u8; 1084] = fill(
    b"GET /git/github.com",
    b"/a",
    b"/snapshot.tar.zst HTTP/1.1\r\nHost: a\r\n\r\n",
);
static OVERLONG_HOST: [u8; 308] = fill(
    b"GET /git/",
    b"a",
    b"/a/b/snapshot.tar.zst HTTP/1.1\r\nHost: a\r\n\r\n",
);
static OVERLONG_EXTENSION: [u8; 4200] = fill(b"5;", b"a", b"\r\nhello\r\n0\r\n\r\n");
static OVERLONG_TRAILER: [u8; 8300] = fill(b"0\r\nX: ", b"a", b"\r\n\r\n");

/// `N` bytes that begin with `head`, end with `tail` and repeat `unit` in between.
const fn fill<const N: usize>(head: &[u8], unit: &[u8], tail: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = if at < head.len() {
            head[at]
        } else if at >= N - tail.len() {
            tail[at + tail.len() - N]
        } else {
            unit[(at - head.len()) % unit.len()]
        };
        at += 1;
    }
    bytes
}
