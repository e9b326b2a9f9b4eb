//! What every request to the server needs to know, and what its refusals mean.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::error::RestoreError;
use super::login::Login;
use super::progress::Progress;
use super::said::{Said, said};
use super::stop::Stop;
use super::straight::Straight;
use super::tls::Tls;
use super::url::Server;
use crate::limits::{DOWNLOAD_RETRY_MS, INTERRUPT_POLL_MS};
use crate::manifest::want::{NO_SUCH_NAME, UNSAID};

/// How to ask the server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link<'a> {
    pub server: &'a Server,
    /// The path of the repository there.
    pub place: &'a str,
    /// How TLS is spoken with it, if it is.
    pub tls: Option<&'a Tls>,
    /// Who asks.
    pub login: &'a Login,
    pub stop: &'a Stop,
    pub progress: &'a Progress,
    pub connections: usize,
    /// How long a connection may bring nothing.
    pub stall: Duration,
    /// How long an answer may take that the server may have to clone for first.
    pub wait: Duration,
    /// How long it is asked again while its upstream does not say who may read.
    pub wait_unsaid: Duration,
    /// How long it may say after that answer that it lives, and bring nothing of the archive.
    pub wait_alive: Duration,
    /// The same for those of `git`.
    pub git_stall: Duration,
    /// The tag of an archive that was found corrupt, which the server is told when it is asked again.
    pub corrupt: &'a OnceLock<String>,
    /// Where parts may be had that the server need not send.
    pub straight: &'a Straight,
}

impl Link<'_> {
    /// Where the repository is, without who asks.
    pub(super) fn url(self) -> String {
        let server = self.server;
        format!("{}://{}{}", server.scheme(), server.authority, self.place)
    }

    /// What a status that is no success means; `text` is what the server says.
    pub(super) fn refusal(self, status: u16, text: &str) -> RestoreError {
        let message = match said(text) {
            _ if (300..400).contains(&status) => {
                format!("{status}, a redirect, which is not followed: is it a tarpon server?")
            }
            Said::Line(line) => format!("{status}: {line}{}", self.misplaced(status)),
            Said::Page(title) => {
                let missing = match status {
                    404 => "; is a path missing in --server?",
                    _ => "",
                };
                format!("{status}: {title}: a page, as no tarpon server has one{missing}")
            }
            Said::Nothing if status == 404 => {
                "404 and no word, as no tarpon server says it; check --server or TARPON_SERVER"
                    .into()
            }
            Said::Nothing => status.to_string(),
        };
        match status {
            404 if text.starts_with(NO_SUCH_NAME) => {
                let what = text.strip_prefix(NO_SUCH_NAME).unwrap_or(text);
                RestoreError::Missing(what.trim().to_owned())
            }
            401 | 407 => RestoreError::Denied(format!(
                "{message}; it was asked {}{}",
                self.login.told(),
                self.unshown()
            )),
            // Whoever asks: nobody is refused for showing nothing.
            403 if !self.login.tells() => RestoreError::Denied(message),
            403 => RestoreError::Denied(format!("{message}; it was asked {}", self.login.sent())),
            // Who may not read something is told the same as if it were not there.
            404 if self.login.tells() => {
                RestoreError::NoSnapshot(format!("{message}; it was asked {}", self.login.told()))
            }
            400 | 404 | 410 => RestoreError::NoSnapshot(message),
            412 => RestoreError::Changed,
            _ => RestoreError::Server(format!("the server answers {message}")),
        }
    }

    /// What may be wrong with where the server is said to be.
    fn misplaced(self, status: u16) -> &'static str {
        match status {
            403 | 404 if self.server.prefix.ends_with("/git") => {
                "; --server is the place before the /git of a tarpon's URLs"
            }
            _ => "",
        }
    }

    /// By what else the server could know who asks.
    fn unshown(self) -> &'static str {
        match self.tls {
            Some(tls) if !tls.shows_own() => "; --cert and --key show a certificate",
            _ => "",
        }
    }

    /// For how long a server is asked again that says so and is busy, if it could be for `busy`.
    pub(super) fn patience(self, text: &str, busy: Duration) -> Duration {
        match text.starts_with(UNSAID) {
            true => busy.min(self.wait_unsaid),
            false => busy,
        }
    }
}

/// Waits before try number `tries`, longer each time; less when the restore is to stop.
pub(super) fn pause(stop: &Stop, tries: u32) {
    wait_until(
        stop,
        Instant::now() + Duration::from_millis(DOWNLOAD_RETRY_MS << tries.min(6)),
    );
}

/// Waits until then, or until the restore is to stop.
pub(super) fn wait_until(stop: &Stop, until: Instant) {
    while Instant::now() < until && !stop.is_set() {
        std::thread::sleep(Duration::from_millis(INTERRUPT_POLL_MS / 4));
    }
}
