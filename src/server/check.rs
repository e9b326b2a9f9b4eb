//! `tarpon check`: what a start would find wrong, without one. It makes nothing, and minds no server that runs.

use std::io;
use std::path::Path;

use rustix::fs::Access;

use super::error::ServerError;
use super::exposed::{exposed_files, overheard, who_reaches};
use super::issuers::{check_issuers, find_issuers, means_nothing};
use super::permissions::find_permissions;
use super::reload::InForce;
use super::start::{choose_driver, marks};
use crate::access::tokens::Tokens;
use crate::config::{At, Config, Rule, SharedStore, is_safe};
use crate::io::fs::{Fs, Os};
use crate::io::net::tcp_socket;
use crate::store::files::StoreError;
use crate::store::remote::probe::try_out;

/// Looks at all that `config` names; gives a line for each thing that a server would go on with, and that its operator
/// should know.
///
/// # Errors
/// What would end the start.
pub fn check_settings(config: &Config) -> Result<Vec<String>, ServerError> {
    choose_driver(config.io_driver)?;
    let in_force = InForce::read(config)?;
    let issuers = find_issuers(config)?;
    find_permissions(config, &std::env::temp_dir(), &issuers, None)?;
    check_state(config)?;
    check_places(config)?;
    check_issuers(&issuers)?;
    let kept = check_store(config)?;
    let mut lines = warnings(config, &in_force);
    lines.extend(kept);
    lines.extend(who_reaches(config));
    Ok(lines)
}

/// What a server goes on with, and its operator should know.
pub(super) fn warnings(config: &Config, in_force: &InForce) -> Vec<String> {
    let mut lines = exposed_files(config);
    lines.extend(overheard(config));
    lines.extend(locked_out(config, &in_force.tokens.load()));
    lines.extend(in_force.complaints());
    lines.extend(means_nothing(config).map(str::to_owned));
    let writes_nothing = |store: &SharedStore| store.is_writer && store.is_readonly;
    if config.store.as_ref().is_some_and(writes_nothing) {
        lines.push("--store-writer means nothing with --store-readonly".to_owned());
    }
    let decides = |(host, _): (&str, &str)| config.access.of(host) == Rule::Upstream;
    if !config.access_stale.is_zero() && !config.upstreams.iter().any(decides) {
        let why = "--access-stale means nothing: no host has --access HOST=upstream";
        lines.push(why.to_owned());
    }
    lines
}

/// Sees to it that this machine has the addresses to listen at, that this user may, and that there is a place for
/// socket files. What a server that runs has already is no fault.
fn check_places(config: &Config) -> Result<(), ServerError> {
    let listeners = &config.listeners;
    let public = listeners
        .listen
        .iter()
        .map(|listen| (&listen.at, "--listen"));
    let admin = listeners.admin.clone().map(At::Unix);
    let admin = admin.iter().map(|at| (at, "--admin-listen"));
    for (at, flag) in public.chain(admin) {
        let failed = |source| ServerError::Listen {
            at: at.clone(),
            flag,
            source,
        };
        match check_place(at) {
            Err(e) if e.kind() != io::ErrorKind::AddrInUse => return Err(failed(e)),
            _ => {}
        }
    }
    Ok(())
}

/// What nobody can try.
const ALONE: &str = "this server writes there alone: whether the store refuses a write where somebody else has written \
                     since was not tried, and all others need --store-readonly";

/// Tries the object store with objects of its own; gives a line for each thing by which it keeps what is removed.
fn check_store(config: &Config) -> Result<Vec<String>, ServerError> {
    let Some(shared @ SharedStore { url, is_writer, .. }) = &config.store else {
        return Ok(Vec::new());
    };
    let kept = try_out(shared).map_err(|why| ServerError::Shared {
        url: url.clone(),
        source: why.into(),
    })?;
    let alone = is_writer.then_some(ALONE);
    let lines = kept.into_iter().chain(alone);
    Ok(lines.map(|why| format!("--store {url}: {why}")).collect())
}

fn check_place(at: &At) -> io::Result<()> {
    match at {
        // Nobody can connect to it.
        At::Tcp(address) => tcp_socket(*address)?.bind(&(*address).into()),
        At::Unix(path) => {
            let inside = path.parent().unwrap_or(Path::new("/")).join(".");
            Ok(rustix::fs::access(
                &inside,
                Access::WRITE_OK | Access::EXEC_OK,
            )?)
        }
    }
}

/// Sees to it that the state directory is one or can be made, and that there is room as the settings want it.
fn check_state(config: &Config) -> Result<(), ServerError> {
    let failed = |op: &'static str, path: &Path, source: io::Error| {
        ServerError::State(StoreError::Io {
            op,
            path: path.to_owned(),
            source,
        })
    };
    let there = config.state.ancestors().find(|path| path.exists());
    let there = there.unwrap_or(Path::new("/"));
    // A name below what is no directory is refused as well.
    let inside = there.join(".");
    rustix::fs::access(&inside, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|e| failed("write to", there, e.into()))?;
    let space = Os.space(there).map_err(|e| failed("look at", there, e))?;
    marks(config, space.total_bytes).map(drop)
}

/// Hosts from which nobody gets anything, as it is set.
fn locked_out(config: &Config, tokens: &Tokens) -> Vec<String> {
    let tls = config.listeners.tls.as_ref();
    let has_clients = tls.is_some_and(|tls| tls.clients.is_some());
    let of = |(host, base): (&str, &str)| match config.access.of(host) {
        Rule::Token if has_clients || tokens.let_anybody_read() || !config.oidc.is_empty() => None,
        Rule::Token if config.tokens.is_some() => Some(format!(
            "nobody may read {host}: the file of --tokens has no token that reads; tarpon token new NAME prints its line"
        )),
        Rule::Token => Some(format!(
            "nobody may read {host}: --access {host}=token needs --tokens, --oidc or --tls-client-ca"
        )),
        Rule::Upstream if !is_safe(base) => Some(format!(
            "no credential goes to {base}, which could be overheard: of {host} only what everybody may read is served"
        )),
        _ => None,
    };
    config.upstreams.iter().filter_map(of).collect()
}
