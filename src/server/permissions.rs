//! The upstreams whose own permission decides who may read: how they are reached, found out at the start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{ServerError, start};
use crate::access::issuers::Issuers;
use crate::access::permissions::{ByPermission, Permissions};
use crate::access::question::Questioner;
use crate::access::way::Way;
use crate::config::{Config, Rule};
use crate::limits::VERDICT_YES_MS;
use crate::mirror::{Configured, Git};

/// Finds out how each of them is reached; `tmp` is a directory.
pub(super) fn find_permissions(
    config: &Config,
    tmp: &Path,
    issuers: &Arc<Issuers>,
    young_ms: Option<u64>,
) -> Result<Permissions, ServerError> {
    let mut upstreams = BTreeMap::new();
    for (host, base) in config.upstreams.iter() {
        if config.access.of(host) == Rule::Upstream {
            upstreams.insert(host.to_owned(), by_permission(config, (host, base), tmp)?);
        }
    }
    let young = Duration::from_millis(young_ms.unwrap_or(VERDICT_YES_MS));
    let lasts = (young, config.access_stale);
    Ok(Permissions::new(upstreams, issuers.clone(), lasts))
}

fn by_permission(
    config: &Config,
    (host, base): (&str, &str),
    tmp: &Path,
) -> Result<ByPermission, ServerError> {
    let wrong = |why: String| ServerError::Upstream {
        host: host.to_owned(),
        why,
    };
    let Configured { way, rewritten } = configured(base, tmp)?.map_err(&wrong)?;
    if let Some(rewritten) = rewritten {
        return Err(wrong(format!(
            "git's configuration replaces {rewritten} in its URLs (url.….insteadOf), so that another \
             upstream would be fetched from than the one that is asked"
        )));
    }
    let env = |name: &str| std::env::var_os(name);
    let ignores_case = config.upstreams.ignores_case(host);
    let questioner = Questioner::new(&Way::to(base, &way, &env), ignores_case);
    Ok(ByPermission {
        base: base.to_owned(),
        questioner: questioner.map_err(|e| wrong(e.to_string()))?,
        settings: Arc::from(way),
        has_own: config.upstream_tokens.contains_key(host),
    })
}

/// What the operator has configured git to do there. There is no plane yet that could ask.
fn configured(base: &str, tmp: &Path) -> Result<Result<Configured, String>, ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(start("start a runtime"))?;
    let (git, nowhere) = (Git::default(), tmp.join("no-repository"));
    let configured = runtime.block_on(git.configured(&nowhere, base));
    Ok(configured.map_err(|e| e.to_string()))
}
