//! The question whether somebody may read a repository, put to its upstream: what git asks first, with the
//! credential of whoever asks and with nothing of the server's own.
//!
//! A client of HTTP asks, not git. A question is on the way of every credential that was never seen before, and
//! a git is two processes and what they load; what it says of an answer is text for people, and here a status
//! decides. Nothing has to be kept from this client either: it knows no helper, no `.netrc`, no cookie, no
//! header and no client certificate, and stores nothing. The proxy and the certificates that are believed are
//! git's own ([`Way`]).

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gix::ObjectId;
use ureq::http::header::{CONTENT_TYPE, LOCATION};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};
use ureq::{Agent, Body, Proxy, RequestBuilder, http};

use super::packets::Says;
use super::shown::without_password;
use super::way::{Believed, Way};
use super::{packets, redirect};
use crate::config::is_safe;
use crate::io::certificate;
use crate::limits::{
    QUESTION_ANSWER_BYTES_MAX, QUESTION_ANSWER_MS, QUESTION_HEAD_BYTES_MAX, QUESTION_IDLE_MAX,
    REDIRECTS_MAX, ROOTS_FILE_BYTES_MAX,
};

/// What a git host calls what it answers with.
const ADVERTISEMENT: &str = "application/x-git-upload-pack-advertisement";
/// The same of a request for objects, and of its answer.
const REQUEST: &str = "application/x-git-upload-pack-request";
const RESULT: &str = "application/x-git-upload-pack-result";
/// There are hosts that answer git alone.
const USER_AGENT: &str = concat!("git/2.47 (tarpon ", env!("CARGO_PKG_VERSION"), ")");

/// What is asked.
#[derive(Clone, Copy)]
pub(crate) struct Question<'q> {
    /// Of the repository.
    pub url: &'q str,
    /// The value of `Authorization`; nothing for whoever has shown none.
    pub authorization: Option<&'q str>,
    /// The header against loops: its name and value.
    pub via: Option<(&'q str, &'q str)>,
}

/// Puts questions to one upstream. Connections stay open for the next.
#[derive(Clone, Debug)]
pub(crate) struct Questioner {
    agent: Agent,
    /// Whether names that differ in case only are of the same repository there.
    ignores_case: bool,
}

/// What one request has shown.
enum Shown {
    Said(Says),
    /// The beginning of the content, of the kind that was expected.
    Content(Vec<u8>),
    Redirect(Option<String>),
}

/// How much time is left.
#[derive(Clone, Copy)]
struct Until(Instant);

impl Until {
    fn begin() -> Until {
        Until(Instant::now() + Duration::from_millis(QUESTION_ANSWER_MS))
    }

    /// 0 would be no limit.
    fn left(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        Some(left.max(Duration::from_millis(1)))
    }
}

impl Questioner {
    /// One that goes this way, to an upstream that ignores the case of a repository's name or does not.
    ///
    /// # Errors
    /// The certificates cannot be read, or the proxy's URL is none.
    pub(crate) fn new(way: &Way, ignores_case: bool) -> io::Result<Questioner> {
        let (roots, believes_all) = match &way.believed {
            Believed::System => (system_roots()?, false),
            Believed::Own { file, directory } => {
                (own_roots(file.as_deref(), directory.as_deref())?, false)
            }
            Believed::All => (Vec::new(), true),
        };
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ))
            .root_certs(RootCerts::new_with_certs(&roots))
            .disable_verification(believes_all)
            .build();
        let proxy = way.proxy.as_deref().map(Proxy::new).transpose();
        let no_proxy =
            |_| io::Error::new(io::ErrorKind::InvalidInput, "the proxy is no URL of one");
        let agent = Agent::config_builder()
            .tls_config(tls)
            .proxy(proxy.map_err(no_proxy)?)
            .user_agent(USER_AGENT)
            .accept("*/*")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(QUESTION_HEAD_BYTES_MAX)
            .max_idle_connections(QUESTION_IDLE_MAX)
            .max_idle_connections_per_host(QUESTION_IDLE_MAX)
            .build()
            .new_agent();
        Ok(Questioner {
            agent,
            ignores_case,
        })
    }

    /// Asks for the repository; takes [`QUESTION_ANSWER_MS`] at most. Blocks: for a thread of its own.
    pub(crate) fn ask(&self, question: &Question<'_>) -> Says {
        match self.advertised(question, Until::begin()) {
            Ok(_) => Says::Yes,
            Err(says) => says,
        }
    }

    /// Asks for objects by their ids, without what they lead to: yes where all of them are given out.
    pub(crate) fn ask_for(&self, question: &Question<'_>, ids: &[ObjectId]) -> Says {
        let until = Until::begin();
        let (at, advertised) = match self.advertised(question, until) {
            Ok(found) => found,
            Err(says) => return says,
        };
        let Some(request) = packets::fetch(&advertised, ids) else {
            // Before version 2 nothing is given out that no ref names.
            return Says::No;
        };
        let asked = self.agent.post(format!("{at}/git-upload-pack"));
        let asked = with_fields(asked, question).header("Content-Type", REQUEST);
        let sent = asked
            .config()
            .timeout_global(until.left())
            .build()
            .send(&request);
        match sent.and_then(|answer| shown(answer, RESULT, packets::LINE_BYTES_READ)) {
            Ok(Shown::Said(says)) => says,
            Ok(Shown::Content(content)) => packets::given(&content),
            Ok(Shown::Redirect(_)) => Says::No,
            Err(e) => nothing(&e),
        }
    }

    /// What the repository's upstream begins with, and where that is.
    fn advertised(&self, question: &Question<'_>, until: Until) -> Result<(String, Vec<u8>), Says> {
        let mut at = question.url.to_owned();
        for _ in 0..=REDIRECTS_MAX {
            if question.authorization.is_some() && !is_safe(&at) {
                // It was not tried, and is not taken for none.
                return Err(Says::No);
            }
            let asked = with_fields(self.agent.get(redirect::asked(&at)), question);
            let came = asked.config().timeout_global(until.left()).build().call();
            let came =
                came.and_then(|answer| shown(answer, ADVERTISEMENT, QUESTION_ANSWER_BYTES_MAX));
            let location = match came.map_err(|e| nothing(&e))? {
                Shown::Said(says) => return Err(says),
                Shown::Content(content) if packets::is_gits(&content) => return Ok((at, content)),
                Shown::Content(_) => {
                    return Err(Says::Nothing(
                        "its answer does not begin as git's do".to_owned(),
                    ));
                }
                Shown::Redirect(location) => location,
            };
            match redirect::target(&at, location.as_deref().unwrap_or_default()) {
                Ok(to) if redirect::is_same_repository(question.url, &to, self.ignores_case) => {
                    at = to;
                }
                elsewhere => {
                    let to = elsewhere.unwrap_or_else(|why| why);
                    let url = question.url;
                    tracing::warn!(
                        "{url} redirects ({to}), which is another repository: it is as if it were not there"
                    );
                    return Err(Says::No);
                }
            }
        }
        Err(Says::No)
    }
}

fn nothing(error: &ureq::Error) -> Says {
    let about_tls = match error {
        ureq::Error::Io(e) => certificate::why_of_io(e),
        ureq::Error::Rustls(e) => Some(certificate::why(e)),
        _ => None,
    };
    Says::Nothing(match about_tls {
        Some(why) => format!(
            "its certificate is not believed: {why}; another authority is named to git by its user, \
             git config --global http.URL.sslCAInfo FILE, and read at the start"
        ),
        None => without_password(&error.to_string()),
    })
}

fn with_fields<B>(request: RequestBuilder<B>, question: &Question<'_>) -> RequestBuilder<B> {
    let mut request = request
        .header("Git-Protocol", "version=2")
        .header("Pragma", "no-cache");
    if let Some(value) = question.authorization {
        request = request.header("Authorization", value);
    }
    if let Some((name, value)) = question.via {
        request = request.header(name, value);
    }
    request
}

fn shown(answer: http::Response<Body>, kind: &str, bytes_max: u64) -> Result<Shown, ureq::Error> {
    let status = answer.status().as_u16();
    let field = |name| {
        answer
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    let is_kind = |given: &str| {
        let given = given.split(';').next().unwrap_or_default();
        given.trim().eq_ignore_ascii_case(kind)
    };
    Ok(match status {
        200 if field(CONTENT_TYPE).is_some_and(is_kind) => {
            // All of it, if that is little: then the connection can be used again.
            let mut bytes = Vec::new();
            let mut body = answer.into_body();
            let read = body.as_reader().take(bytes_max).read_to_end(&mut bytes);
            read.map_err(ureq::Error::Io)?;
            Shown::Content(bytes)
        }
        // A page for people says nothing.
        200 => Shown::Said(Says::Nothing(
            "it answers, but not as a git host does".to_owned(),
        )),
        401 | 403 | 404 => Shown::Said(Says::No),
        301 | 302 | 303 | 307 | 308 => Shown::Redirect(field(LOCATION).map(str::to_owned)),
        status => Shown::Said(Says::Nothing(format!("it answers {status}"))),
    })
}

pub(super) fn system_roots() -> io::Result<Vec<Certificate<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    let roots = found
        .certs
        .iter()
        .map(|root| Certificate::from_der(root).to_owned());
    let roots = Vec::from_iter(roots);
    match (roots.is_empty(), found.errors.into_iter().next()) {
        (true, Some(e)) => Err(io::Error::other(e)),
        _ => Ok(roots),
    }
}

pub(super) fn own_roots(
    file: Option<&Path>,
    directory: Option<&Path>,
) -> io::Result<Vec<Certificate<'static>>> {
    let mut roots = Vec::new();
    if let Some(file) = file {
        roots_of(file, &mut roots)?;
    }
    if let Some(directory) = directory {
        for entry in std::fs::read_dir(directory).map_err(|e| named(directory, e))? {
            // What is no file, or has no certificate, is something else that lies there.
            drop(roots_of(&entry?.path(), &mut roots));
        }
    }
    match roots.is_empty() {
        true => Err(named(
            file.or(directory).unwrap_or(Path::new("")),
            io::Error::new(io::ErrorKind::InvalidData, "there is no certificate in it"),
        )),
        false => Ok(roots),
    }
}

fn roots_of(file: &Path, roots: &mut Vec<Certificate<'static>>) -> io::Result<()> {
    let mut text = Vec::new();
    let opened = std::fs::File::open(file).map_err(|e| named(file, e))?;
    opened
        .take(ROOTS_FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|e| named(file, e))?;
    for item in parse_pem(&text) {
        if let PemItem::Certificate(root) = item.map_err(|e| named(file, io::Error::other(e)))? {
            roots.push(root);
        }
    }
    Ok(())
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(
        error.kind(),
        format!("certificates in {}: {error}", path.display()),
    )
}

#[cfg(test)]
mod tests;
