//! The way to the server, as the command line and the environment say it: where it is, whom to believe that it is
//! it, who asks, and how long to wait.

use std::sync::OnceLock;
use std::time::Duration;

use super::credentials;
use super::error::RestoreError;
use super::link::Link;
use super::login::{Given, Login, Own};
use super::origin::is_url;
use super::progress::Progress;
use super::stop::Stop;
use super::straight::Straight;
use super::tls::{Files, Tls};
use super::url::{Server, base_target};
use crate::config::{RestoreArgs, Secret, TOKEN_VARIABLE};
use crate::limits::{
    CONNECTIONS_DEFAULT, RESTORE_GIT_STALL_DEFAULT_MS, RESTORE_STALL_DEFAULT_MS,
    UNSAID_BEFORE_CLONE_MS, UNSAID_DEFAULT_MS, WAIT_BEFORE_CLONE_MS, WAIT_DEFAULT_MS,
};

/// What a [`Link`] leads along.
pub(super) struct Way {
    server: Server,
    /// The path of the repository there; empty if it can have none.
    place: String,
    tls: Option<Tls>,
    login: Login,
    corrupt: OnceLock<String>,
    straight: Straight,
}

impl Way {
    /// As asked for. It may have to ask helpers of git's, but no server.
    pub(super) fn of(args: &RestoreArgs, stop: &Stop) -> Result<Way, RestoreError> {
        let server = Server::parse(args.server.text())?;
        let files = Files::new(
            args.cacert.as_deref(),
            args.cert.as_deref(),
            args.key.as_deref(),
        )?;
        let upstream = match args.send_upstream_credential {
            true => credentials::of_repository(stop, args.repo_url.text())?,
            false => Own::Kept,
        };
        let given = Given {
            token: token()?,
            upstream,
            is_insecure: args.insecure_credentials,
        };
        let place =
            base_target(args.repo_url.text()).map(|target| format!("{}{target}", server.prefix));
        Ok(Way {
            place: place.unwrap_or_default(),
            straight: Straight::believing(files.roots.clone()),
            tls: Tls::new(&server, files)?,
            login: Login::new(&server, given)?,
            server,
            corrupt: OnceLock::new(),
        })
    }

    /// How to ask the server.
    pub(super) fn link<'a>(
        &'a self,
        args: &RestoreArgs,
        stop: &'a Stop,
        progress: &'a Progress,
    ) -> Link<'a> {
        let time = |given: Option<f64>, default_ms| {
            given.map_or(Duration::from_millis(default_ms), Duration::from_secs_f64)
        };
        let has_fallback = args.fallback_clone() && is_url(args.repo_url.text());
        Link {
            server: &self.server,
            place: &self.place,
            tls: self.tls.as_ref(),
            login: &self.login,
            stop,
            progress,
            connections: args.connections.unwrap_or(CONNECTIONS_DEFAULT),
            stall: time(args.stall_timeout_s, RESTORE_STALL_DEFAULT_MS),
            git_stall: time(args.stall_timeout_s, RESTORE_GIT_STALL_DEFAULT_MS),
            wait_unsaid: match has_fallback {
                true => Duration::from_millis(UNSAID_BEFORE_CLONE_MS),
                false => time(args.wait_limit_s, UNSAID_DEFAULT_MS),
            },
            wait: match has_fallback {
                true => time(args.wait_limit_s, WAIT_BEFORE_CLONE_MS),
                false => time(args.wait_limit_s, WAIT_DEFAULT_MS),
            },
            wait_alive: time(args.wait_limit_s, WAIT_DEFAULT_MS),
            corrupt: &self.corrupt,
            straight: &self.straight,
        }
    }
}

/// The token of the environment, if it has one. A file that it was read from may have ended in a line end.
fn token() -> Result<Option<Secret>, RestoreError> {
    let token = std::env::var_os(TOKEN_VARIABLE).map(|token| token.into_string().map(Secret::new));
    let wrong = |_| RestoreError::Usage(format!("{TOKEN_VARIABLE} is no token: it is no text"));
    let token = token.transpose().map_err(wrong)?;
    Ok(token.and_then(|token| {
        let text = token.text();
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        (!line.is_empty()).then(|| Secret::new(line.to_owned()))
    }))
}
