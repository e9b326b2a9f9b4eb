//! What is read anew at SIGHUP: all of it, or nothing if any of it is wrong.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use arc_swap::ArcSwap;

use super::error::ServerError;
use super::exposed::exposed_files;
use crate::access::own::OwnTokens;
use crate::access::tokens::Tokens;
use crate::config::{self, Config, Secrets};
use crate::http::net::tls::keys::{Keys, Terms};
use crate::io::clock::unix_ms;
use crate::telemetry::metrics::{Event, Meter, ReloadResult};

/// What the files say that can be read anew.
pub(super) struct Files {
    secrets: Secrets,
    tokens: Tokens,
    own: OwnTokens,
}

impl Files {
    /// Reads all of them.
    pub(super) fn read(config: &Config) -> Result<Files, ServerError> {
        Ok(Files {
            secrets: read(
                config.webhook_secrets.as_deref(),
                "--webhook-secrets",
                |path| Secrets::read(path, &config.upstreams),
            )?,
            tokens: read(config.tokens.as_deref(), "--tokens", Tokens::read)?,
            own: OwnTokens::read(&config.upstream_tokens, &config.upstreams).map_err(
                |(path, source)| ServerError::Secrets {
                    setting: "--upstream-token",
                    path,
                    source,
                },
            )?,
        })
    }
}

/// What a setting's file says; without one nothing.
fn read<T: Default>(
    path: Option<&Path>,
    setting: &'static str,
    read: impl Fn(&Path) -> std::io::Result<T>,
) -> Result<T, ServerError> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    read(path).map_err(|source| ServerError::Secrets {
        setting,
        path: path.to_owned(),
        source,
    })
}

/// What is in force, for all who use it.
#[derive(Clone)]
pub(super) struct InForce {
    /// Of TLS, if some listener speaks it.
    pub(super) keys: Option<Arc<Keys>>,
    pub(super) secrets: Arc<ArcSwap<Secrets>>,
    pub(super) tokens: Arc<ArcSwap<Tokens>>,
    /// What the server says to upstreams.
    pub(super) own: Arc<ArcSwap<OwnTokens>>,
}

impl InForce {
    /// Reads all files at the start.
    pub(super) fn read(config: &Config) -> Result<InForce, ServerError> {
        let Files {
            secrets,
            tokens,
            own,
        } = Files::read(config)?;
        let tls = config.listeners.tls.clone();
        let keys = tls.map(Keys::from_files).transpose()?;
        Ok(InForce {
            keys: keys.map(Arc::new),
            secrets: Arc::new(ArcSwap::from_pointee(secrets)),
            tokens: Arc::new(ArcSwap::from_pointee(tokens)),
            own: Arc::new(ArcSwap::from_pointee(own)),
        })
    }

    /// What clients find wrong with the certificates that they are shown.
    pub(super) fn complaints(&self) -> Vec<String> {
        let now_unix_s = unix_ms() / 1000;
        let keys = self.keys.as_ref();
        keys.map_or_else(Vec::new, |keys| keys.terms().complaints(now_unix_s))
    }

    /// Has the metrics tell when they run out.
    pub(super) fn show_certificates(&self, meter: &Meter) {
        if let Some(keys) = &self.keys {
            meter.show_certificates(keys.terms().ends_unix_s());
        }
    }

    /// All that the files say by now, and the settings that have been changed in vain.
    fn anew(&self, config: &Config) -> Result<(Vec<String>, Files, Option<Terms>), String> {
        let text = |why: &dyn std::error::Error| why.to_string();
        let changed = config::changed(config).map_err(|why| text(&why))?;
        let files = Files::read(config).map_err(|why| text(&why))?;
        let terms = self.keys.as_ref().map(|keys| keys.anew_from_files());
        let terms = terms.transpose().map_err(|why| text(&why))?;
        Ok((changed, files, terms))
    }

    /// Reads all files and puts them in force together; the log says what came of it, and which other
    /// settings have been changed in vain.
    fn read_anew(&self, config: &Config, meter: &Meter) {
        let (
            changed,
            Files {
                secrets,
                tokens,
                own,
            },
            terms,
        ) = match self.anew(config) {
            Ok(anew) => anew,
            Err(why) => {
                meter.add(Event::Reload(ReloadResult::Failed), 1);
                tracing::error!("SIGHUP: everything stays as it is: {why}");
                return;
            }
        };
        let (tokens_known, secrets_known) = (tokens.len(), secrets.of(None).count());
        self.secrets.store(Arc::new(secrets));
        self.tokens.store(Arc::new(tokens));
        if let (Some(keys), Some(terms)) = (&self.keys, terms) {
            keys.take(terms);
        }
        self.show_certificates(meter);
        for line in exposed_files(config).into_iter().chain(self.complaints()) {
            tracing::warn!("{line}");
        }
        self.own.store(Arc::new(own));
        meter.add(Event::Reload(ReloadResult::Done), 1);
        tracing::info!(
            tokens = tokens_known,
            webhook_secrets = secrets_known,
            certificates = self.keys.is_some(),
            "SIGHUP: read the files of secrets anew"
        );
        if !changed.is_empty() {
            let changed = changed.join(", ");
            tracing::warn!(changed, "settings of the configuration file need a restart");
        }
    }
}

/// Has the files read at each SIGHUP, by a thread of its own: a disk can keep that waiting, and whoever waits for
/// signals waits for nothing else.
pub(super) struct Reloads(SyncSender<()>);

impl Reloads {
    /// Starts the thread, which ends with this.
    pub(super) fn start(
        in_force: InForce,
        config: Arc<Config>,
        meter: Meter,
    ) -> std::io::Result<Reloads> {
        // One is done, and one more sees all that has changed since that began.
        let (wanted, wants) = sync_channel(1);
        let thread = std::thread::Builder::new().name("reload".into());
        thread.spawn(move || {
            wants
                .iter()
                .for_each(|()| in_force.read_anew(&config, &meter))
        })?;
        Ok(Reloads(wanted))
    }

    /// Has all of it read anew.
    pub(super) fn begin(&self) {
        if self.0.try_send(()).is_err() {
            tracing::warn!(
                "SIGHUP: the files are still being read for those before; is there a disk that does not answer?"
            );
        }
    }
}
