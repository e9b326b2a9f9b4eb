//! Which of the environment's variables a `git` that tarpon runs gets to see, and which it is given.
//!
//! Git has far more than a hundred variables named `GIT_*`, and new ones come with every version.
//! Many point it at another repository, index or program. So what goes through is named here, for
//! the server and the client alike, and all else is not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

/// What an operator or user sets for ssh, for questions, for TLS and for proxies.
const KEPT: &[&str] = &[
    "GIT_ASKPASS",
    "GIT_HTTP_PROXY_AUTHMETHOD",
    "GIT_PROXY_COMMAND",
    "GIT_PROXY_SSL_CAINFO",
    "GIT_PROXY_SSL_CERT",
    "GIT_PROXY_SSL_CERT_PASSWORD_PROTECTED",
    "GIT_PROXY_SSL_KEY",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_CERT",
    "GIT_SSL_CERT_PASSWORD_PROTECTED",
    "GIT_SSL_CIPHER_LIST",
    "GIT_SSL_KEY",
    "GIT_SSL_NO_VERIFY",
    "GIT_SSL_VERSION",
];

/// Of these what says by which proxy and to whom git connects, and nothing of who speaks.
const KEPT_FOR_ASKERS: &[&str] = &[
    "GIT_HTTP_PROXY_AUTHMETHOD",
    "GIT_PROXY_SSL_CAINFO",
    "GIT_PROXY_SSL_CERT",
    "GIT_PROXY_SSL_CERT_PASSWORD_PROTECTED",
    "GIT_PROXY_SSL_KEY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "GIT_SSL_CIPHER_LIST",
    "GIT_SSL_NO_VERIFY",
    "GIT_SSL_VERSION",
];

/// What makes git say what it does: each begins with one of these.
const KEPT_PREFIXES: &[&str] = &["GIT_TRACE", "GIT_CURL_VERBOSE"];

/// Where the configuration of whoever runs tarpon is.
const CONFIGURATION: &[&str] = &[
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
];
const CONFIGURATION_PREFIXES: &[&str] = &["GIT_CONFIG_KEY_", "GIT_CONFIG_VALUE_"];

/// Where git, curl and what else they ask find something of whoever runs tarpon: names and passwords, tickets,
/// cookies, keys.
const OWN: &[&str] = &[
    "KRB5CCNAME",
    "KRB5_CLIENT_KTNAME",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME",
];

/// Whether a command reads the configuration of the user and of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Configuration {
    /// From where the environment says.
    Users,
    /// The caller says which it reads instead.
    Own,
}

/// What a git finds around it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Surroundings<'a> {
    /// The server's upkeep of mirrors. The operator's configuration counts, nobody is there to be
    /// asked, and the protocols are these unless the operator's environment says otherwise: whose
    /// `insteadOf` needs more than the upstreams do names it there.
    Server { protocols: &'a str },
    /// What the server asks an upstream for somebody: of the operator's configuration, and of whatever else is
    /// there of whoever runs it, nothing counts but what the caller names.
    Asker,
    /// A step of the client. Whoever runs it may be asked by ssh; the protocols are these whatever
    /// else is allowed. Of attributes only the repository's count, and of objects those that are
    /// there.
    Client {
        configuration: Configuration,
        protocols: &'a str,
    },
}

/// Where git reads which protocols it may speak.
const ALLOWED: &str = "GIT_ALLOW_PROTOCOL";

impl Surroundings<'_> {
    /// Gives them to `command`.
    pub(super) fn give(self, command: &mut Command) {
        restrict(command, |name| match self {
            Surroundings::Server { .. } => passes(name, Configuration::Users),
            Surroundings::Asker => KEPT_FOR_ASKERS.iter().any(|kept| name == OsStr::new(kept)),
            Surroundings::Client { configuration, .. } => passes(name, configuration),
        });
        // What it says is looked at; and what leads where is what the objects say: a ref below
        // `refs/replace/` or a file of grafts would hide parents, and with them what must stay.
        let common = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("LC_ALL", "C"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            // One that is there has git say something of grafts, which clients hear.
            ("GIT_GRAFT_FILE", "/dev/null/none"),
        ];
        command.envs(common).env_remove("LANGUAGE");
        match self {
            Surroundings::Server { protocols } => {
                // ssh asks on the terminal of the server unless it is given a program to ask;
                // one that fails makes every question an error at once.
                command.env("SSH_ASKPASS_REQUIRE", "force");
                if std::env::var_os("SSH_ASKPASS").is_none() {
                    command.env("SSH_ASKPASS", "false");
                }
                let operators = std::env::var_os(ALLOWED).filter(|operators| !operators.is_empty());
                command.env(ALLOWED, operators.unwrap_or_else(|| protocols.into()));
            }
            Surroundings::Asker => {
                for name in OWN {
                    command.env_remove(name);
                }
                command
                    .env("GIT_CONFIG_GLOBAL", "/dev/null")
                    .env("GIT_CONFIG_NOSYSTEM", "1")
                    // No program is asked for names and passwords, and no file is where they are looked for.
                    .env("GIT_ASKPASS", "")
                    .env("HOME", "/dev/null")
                    .env(ALLOWED, "http:https");
            }
            Surroundings::Client {
                configuration,
                protocols,
            } => {
                if configuration == Configuration::Own {
                    command
                        .env("GIT_CONFIG_GLOBAL", "/dev/null")
                        .env("GIT_CONFIG_NOSYSTEM", "1");
                }
                command
                    .env(ALLOWED, protocols)
                    .env("GIT_ATTR_NOSYSTEM", "1")
                    .env("GIT_NO_LAZY_FETCH", "1");
            }
        }
    }
}

/// Takes from the environment of `command` each `GIT_*` that does not pass.
fn restrict(command: &mut Command, passes: impl Fn(&OsStr) -> bool) {
    for (name, _) in std::env::vars_os() {
        if is_gits(&name) && !passes(&name) {
            command.env_remove(name);
        }
    }
}

fn is_gits(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"GIT_")
}

fn passes(name: &OsStr, configuration: Configuration) -> bool {
    let is = |known: &&str| name == OsStr::new(known);
    let begins = |prefix: &&str| name.as_bytes().starts_with(prefix.as_bytes());
    let users = configuration == Configuration::Users;
    KEPT.iter().any(is)
        || KEPT_PREFIXES.iter().any(begins)
        || users && CONFIGURATION.iter().any(is)
        || users && CONFIGURATION_PREFIXES.iter().any(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_goes_through() {
        let passes = |name: &str, configuration| {
            !is_gits(OsStr::new(name)) || passes(OsStr::new(name), configuration)
        };
        for name in ["GIT_SSH_COMMAND", "GIT_TRACE2_EVENT", "GIT_SSL_CAINFO"] {
            assert!(passes(name, Configuration::Own), "{name}");
        }
        for name in ["PATH", "SSH_ASKPASS", "https_proxy", "GITHUB_TOKEN"] {
            assert!(passes(name, Configuration::Own), "{name}");
        }
        for name in ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_KEY_0", "GIT_CONFIG_COUNT"] {
            assert!(passes(name, Configuration::Users), "{name}");
            assert!(!passes(name, Configuration::Own), "{name}");
        }
        for name in [
            "GIT_ALLOW_PROTOCOL",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            "GIT_CONFIG",
            "GIT_CONFIG_PARAMETERS",
            "GIT_DIR",
            "GIT_EXEC_PATH",
            "GIT_EXTERNAL_DIFF",
            "GIT_INDEX_FILE",
            "GIT_TEMPLATE_DIR",
            "GIT_WORK_TREE",
            "GIT_OF_NEXT_YEAR",
        ] {
            assert!(!passes(name, Configuration::Users), "{name}");
        }
    }
}
