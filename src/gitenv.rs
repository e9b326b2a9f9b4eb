//! Which of the environment's variables a `git` that tarpon runs gets to see.
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

/// Whether a command reads the configuration of the user and of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configuration {
    /// From where the environment says.
    Users,
    /// The caller says which it reads instead.
    Own,
}

/// Takes from the environment of `command` each `GIT_*` that is not on the list.
pub fn restrict(command: &mut Command, configuration: Configuration) {
    for (name, _) in std::env::vars_os() {
        if is_gits(&name) && !passes(&name, configuration) {
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
