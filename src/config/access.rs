//! Who may read what of each host.

use std::collections::BTreeMap;

use super::Upstreams;

/// Who may read the repositories of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Whoever reaches the server.
    Open,
    /// Whoever shows the server who he is, whatever the repository.
    Token,
    /// Whoever the upstream lets read the repository, with the credential that he shows.
    Upstream,
}

/// The rule of each host that is served.
///
/// Invariant: either no host has one, and all are open, or each has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    rules: BTreeMap<String, Rule>,
    /// Whether there is a host that is not open.
    is_closed: bool,
}

/// `HOST=RULE`, the host in lower case.
pub(super) type Given = (String, Rule);

/// Reads `HOST=RULE`.
pub(super) fn given(text: &str) -> Result<Given, String> {
    let allowed = "HOST=open, HOST=token or HOST=upstream";
    let (host, rule) = text.rsplit_once('=').ok_or(allowed)?;
    let rule = match rule {
        "open" => Rule::Open,
        "token" => Rule::Token,
        "upstream" => Rule::Upstream,
        _ => return Err(allowed.into()),
    };
    Ok((host.to_ascii_lowercase(), rule))
}

impl Access {
    /// The rules that were `given`. With any of them each host that is served must have one; without, each of
    /// those for which the server has a credential of its `own`.
    ///
    /// # Errors
    /// What has to be said in their place.
    pub(super) fn new(
        given: Vec<Given>,
        upstreams: &Upstreams,
        own: &[&str],
    ) -> Result<Self, String> {
        let mut rules = BTreeMap::new();
        for (host, rule) in given {
            if !upstreams.contains(&host) {
                return Err(format!(
                    "hosts that are served; {host} is none, add --upstream {host}"
                ));
            }
            let base = upstreams.iter().find(|(known, _)| *known == host);
            let is_http = |base: &str| base.starts_with("http://") || base.starts_with("https://");
            if rule == Rule::Upstream && !base.is_some_and(|(_, base)| is_http(base)) {
                return Err(format!(
                    "upstream only for hosts that are reached by http or https; {host} is not"
                ));
            }
            match rules.insert(host.clone(), rule) {
                Some(other) if other != rule => return Err(format!("one rule for {host}")),
                _ => {}
            }
        }
        let served = upstreams.iter().map(|(host, _)| host);
        let must_have = |host: &&str| !rules.is_empty() || own.contains(host);
        let is_missing = |host: &&str| !rules.contains_key(*host);
        let missing: Vec<&str> = served.filter(must_have).filter(is_missing).collect();
        if !missing.is_empty() {
            return Err(format!(
                "a rule for each host that is served, and for each that the server has a credential for; \
                 missing: {}",
                missing.join(", ")
            ));
        }
        let is_closed = rules.values().any(|rule| *rule != Rule::Open);
        Ok(Access { rules, is_closed })
    }

    /// The rule of a host, whatever its case.
    pub fn of(&self, host: &str) -> Rule {
        if !self.is_closed {
            return Rule::Open;
        }
        let mut rules = self.rules.iter();
        let known = rules.find(|(known, _)| known.eq_ignore_ascii_case(host));
        // One that has none is not served.
        known.map_or(Rule::Token, |(_, rule)| *rule)
    }

    /// The hosts of each rule, in a few words.
    pub fn words(&self, upstreams: &Upstreams) -> String {
        let hosts = |rule| -> Vec<&str> {
            let hosts = upstreams.iter().map(|(host, _)| host);
            hosts.filter(|host| self.of(host) == rule).collect()
        };
        let said = [
            (Rule::Open, "everybody who reaches the server reads"),
            (Rule::Token, "who shows a token or a certificate reads"),
            (Rule::Upstream, "who may read there reads"),
        ];
        let said = said.map(|(rule, who)| (hosts(rule), who));
        let said = said.iter().filter(|(hosts, _)| !hosts.is_empty());
        let said: Vec<String> = said
            .map(|(hosts, who)| format!("{who} {}", hosts.join(", ")))
            .collect();
        said.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(texts: &[&str], hosts: &[&str], own: &[&str]) -> Result<Access, String> {
        let given = texts
            .iter()
            .map(|text| given(text))
            .collect::<Result<_, _>>()?;
        let hosts = hosts
            .iter()
            .map(|host| super::super::upstreams::upstream(host).unwrap());
        Access::new(given, &Upstreams::new(hosts.collect(), false).unwrap(), own)
    }

    #[test]
    fn a_host_has_its_rule_in_any_case() {
        let some = access(&["A=open", "b=token"], &["a", "b"], &["b"]).unwrap();
        assert_eq!(
            (some.of("a"), some.of("B"), some.of("b")),
            (Rule::Open, Rule::Token, Rule::Token)
        );
        let none = access(&[], &["a"], &[]).unwrap();
        assert_eq!((none.of("a"), none.is_closed), (Rule::Open, false));
        let port = access(&["h:80=token"], &["h:80"], &[]).unwrap();
        assert_eq!(port.of("H:80"), Rule::Token);
        assert!(access(&["a=token", "A=token"], &["a"], &[]).is_ok());
    }

    #[test]
    fn what_is_not_said_is_refused_by_name() {
        for (texts, own, why) in [
            (&["a=token"][..], &[][..], "missing: b"),
            (&["a=open"], &[], "missing: b"),
            (&[], &["b"], "missing: b"),
            (&["a=open", "b=open", "c=open"], &[], "add --upstream c"),
            (&["a=open", "a=token", "b=open"], &[], "one rule for a"),
            (&["a"], &[], "HOST=open, HOST=token or HOST=upstream"),
            (&["a=Token"], &[], "HOST=open, HOST=token or HOST=upstream"),
        ] {
            let refused = access(texts, &["a", "b"], own).unwrap_err();
            assert!(refused.contains(why), "{texts:?}: {refused}");
        }
        let of = |base: &str| access(&["a=upstream"], &[base], &[]);
        assert_eq!(of("a=http://127.0.0.1/").unwrap().of("a"), Rule::Upstream);
        assert!(of("a").is_ok());
        for base in ["a=ssh://h/", "a=file:///x", "a=git://h/"] {
            assert!(
                of(base).unwrap_err().contains("by http or https; a is not"),
                "{base}"
            );
        }
    }
}
