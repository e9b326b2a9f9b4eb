//! The way to an upstream: by which proxy, and whose certificates are believed. It is the same for all who ask,
//! and is read off what the operator has set for git, so that a question goes the way that a fetch goes after it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::{host_of, is_plain_loopback};

/// Looks up a variable of the environment.
pub(crate) type Variables<'v> = &'v dyn Fn(&str) -> Option<OsString>;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Way {
    /// The URL of a proxy.
    pub proxy: Option<String>,
    pub believed: Believed,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Believed {
    /// Those that the system believes.
    #[default]
    System,
    /// Those in this file and in the files of this directory, and no others.
    Own {
        file: Option<PathBuf>,
        directory: Option<PathBuf>,
    },
    /// Any.
    All,
}

impl Way {
    /// That to `base`, where git's configuration for it has these keys and values.
    pub(crate) fn to(base: &str, settings: &[(String, String)], env: Variables<'_>) -> Way {
        let set = |key: &str| {
            let found = settings.iter().rev().find(|(known, _)| known == key);
            found.map(|(_, value)| value.as_str())
        };
        let text = |name: &str| {
            env(name)?
                .into_string()
                .ok()
                .filter(|text| !text.is_empty())
        };
        let file = |variable: &str, key: &str| {
            let path = text(variable).or_else(|| Some(set(key)?.to_owned()));
            path.filter(|path| !path.is_empty())
                .map(|path| expanded(&path, env))
        };
        let own = (
            file("GIT_SSL_CAINFO", "http.sslcainfo"),
            file("GIT_SSL_CAPATH", "http.sslcapath"),
        );
        let is_off =
            |value: &str| matches!(&*value.to_ascii_lowercase(), "false" | "no" | "off" | "0");
        let believed = match own {
            _ if env("GIT_SSL_NO_VERIFY").is_some() => Believed::All,
            _ if set("http.sslverify").is_some_and(is_off) => Believed::All,
            (None, None) => Believed::System,
            (file, directory) => Believed::Own { file, directory },
        };
        let proxy = match set("http.proxy") {
            Some(set) => Some(set.to_owned()),
            None => of_environment(base, &text),
        };
        // What is said in plain to this machine is said to nobody else.
        let proxy = proxy.filter(|_| !is_plain_loopback(base));
        let passed_by = text("no_proxy").or_else(|| text("NO_PROXY"));
        let goes_past = |list: String| is_listed(host_of(base), &list);
        let proxy = proxy.filter(|proxy| !proxy.is_empty() && !passed_by.is_some_and(goes_past));
        Way { proxy, believed }
    }
}

/// The proxy that the environment names for URLs like this one, as curl reads it: `HTTP_PROXY` could be a header
/// of a CGI program's client.
fn of_environment(base: &str, text: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let names: &[&str] = match base.starts_with("https:") {
        true => &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
        false => &["http_proxy", "all_proxy", "ALL_PROXY"],
    };
    names.iter().find_map(|name| text(name))
}

/// `~/` is the home of whoever runs this.
fn expanded(path: &str, env: Variables<'_>) -> PathBuf {
    let home = path.strip_prefix("~/").zip(env("HOME"));
    home.map_or_else(|| path.into(), |(rest, home)| Path::new(&home).join(rest))
}

/// Whether a list of hosts that need no proxy has this one: by its name, or by the end of it.
fn is_listed(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.split([',', ' ']).any(|entry| {
        let entry = entry.trim().trim_start_matches('.').to_ascii_lowercase();
        let is_end = || {
            host.strip_suffix(&*entry)
                .is_some_and(|rest| rest.ends_with('.'))
        };
        entry == "*" || !entry.is_empty() && (host == entry || is_end())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(base: &str, settings: &[(&str, &str)], variables: &[(&str, &str)]) -> Way {
        let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
        let settings: Vec<_> = settings.iter().map(own).collect();
        let env = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Way::to(base, &settings, &env)
    }

    #[test]
    fn proxies_are_those_that_git_takes() {
        let proxy = |base, settings: &[_], variables: &[_]| to(base, settings, variables).proxy;
        let (plain, safe) = ("http://h.org/", "https://h.org/");
        let here = "http://127.0.0.1:3000/";
        let set = [("http.proxy", "http://p:1")];
        let both = [
            ("http_proxy", "a:1"),
            ("https_proxy", "b:1"),
            ("HTTP_PROXY", "c:1"),
        ];
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(proxy(safe, &set, &both), some("http://p:1"));
        assert_eq!(proxy(safe, &[("http.proxy", "")], &both), None);
        assert_eq!(proxy(safe, &[], &both), some("b:1"));
        assert_eq!(proxy(plain, &[], &both), some("a:1"));
        assert_eq!(proxy(plain, &[], &both[1..]), None);
        assert_eq!(proxy(plain, &[], &[("ALL_PROXY", "d:1")]), some("d:1"));
        assert_eq!(proxy(here, &set, &both), None);
        assert_eq!(proxy("https://127.0.0.1/", &set, &both), some("http://p:1"));
        for (list, is_past) in [
            ("h.org", true),
            ("x, .ORG", true),
            ("*", true),
            ("org", true),
            ("g.org rg", false),
            ("", false),
        ] {
            let variables = [("no_proxy", list), ("http_proxy", "a:1")];
            assert_eq!(proxy(plain, &[], &variables).is_none(), is_past, "{list}");
            assert_eq!(proxy(plain, &set, &variables).is_none(), is_past, "{list}");
        }
    }

    #[test]
    fn certificates_are_believed_as_git_believes_them() {
        let believed =
            |settings: &[_], variables: &[_]| to("https://h/", settings, variables).believed;
        assert_eq!(believed(&[], &[]), Believed::System);
        let own = |file: Option<&str>, directory: Option<&str>| Believed::Own {
            file: file.map(Into::into),
            directory: directory.map(Into::into),
        };
        let home = ("HOME", "/users/me");
        let set = [("http.sslcainfo", "~/ca.pem"), ("http.sslcapath", "/certs")];
        assert_eq!(
            believed(&set, &[home]),
            own(Some("/users/me/ca.pem"), Some("/certs"))
        );
        let variables = [home, ("GIT_SSL_CAINFO", "/other.pem")];
        assert_eq!(
            believed(&set[..1], &variables),
            own(Some("/other.pem"), None)
        );
        assert_eq!(believed(&[("http.sslverify", "False")], &[]), Believed::All);
        assert_eq!(
            believed(&[("http.sslverify", "true")], &[]),
            Believed::System
        );
        assert_eq!(believed(&set, &[("GIT_SSL_NO_VERIFY", "1")]), Believed::All);
    }
}
