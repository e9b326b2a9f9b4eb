//! The issuers of CI systems whose tokens are believed, and what a token has to say.

use super::error::{ConfigError, Origin};
use super::layers::Layers;
use crate::limits::{
    OIDC_CLAIMS_REQUIRED_MAX, OIDC_ISSUERS_MAX, OIDC_RULE_BYTES_MAX, OIDC_URL_BYTES_MAX,
};

/// Which tokens of an issuer are believed.
///
/// Invariant: the issuer is an https URL of a host and a path, and there is a claim at least, of an issuer that serves
/// everybody one that says whose jobs they are: anybody in the world can have a token of it, for any audience.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerRule {
    /// As it stands in `iss`.
    pub issuer: String,
    /// One that `aud` has to name.
    pub audience: String,
    /// What else has to be said: names and values.
    pub claims: Vec<(String, String)>,
}

/// Claims that say nothing of who has a token: they were looked at already, or differ in each.
const OF_ALL: [&str; 6] = ["iss", "aud", "exp", "nbf", "iat", "jti"];

/// Issuers that serve everybody, and which of their claims say whose a job is. Others are said by everybody's jobs (that a
/// branch is protected, which workflow of somebody's was called), or are what a job asks for (Buildkite's `sub`).
const OF_EVERYBODY: [(&str, &[&str]); 3] = [
    (
        "token.actions.githubusercontent.com",
        &[
            "repository_owner_id",
            "repository_owner",
            "repository_id",
            "repository",
            "enterprise_id",
            "enterprise",
            "sub",
        ],
    ),
    (
        "gitlab.com",
        &[
            "namespace_id",
            "namespace_path",
            "project_id",
            "project_path",
            "sub",
        ],
    ),
    (
        "agent.buildkite.com",
        &["organization_id", "organization_slug", "pipeline_id"],
    ),
];

/// Reads `ISSUER;AUDIENCE;CLAIM=VALUE[;…]`.
///
/// # Errors
/// What is allowed.
pub fn issuer_rule(text: &str) -> Result<IssuerRule, String> {
    if text.len() > OIDC_RULE_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!(
            "at most {OIDC_RULE_BYTES_MAX} bytes, without control characters"
        ));
    }
    let mut parts = text.split(';');
    let (issuer, audience) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    check_issuer(issuer)?;
    if audience.is_empty() {
        return Err("ISSUER;AUDIENCE;CLAIM=VALUE: the audience that jobs ask a token for".into());
    }
    let mut claims: Vec<(String, String)> = Vec::new();
    for part in parts {
        let (name, value) = claim(part)?;
        if claims.iter().any(|(known, _)| known == name) {
            return Err(format!(
                "each claim once: {name} is named twice, and no token has two"
            ));
        }
        claims.push((name.to_owned(), value.to_owned()));
    }
    expect_owner(issuer, &claims)?;
    match claims.len() {
        0 => Err(
            "ISSUER;AUDIENCE;CLAIM=VALUE with a claim at least, such as repository_owner_id=…, namespace_id=… or \
             organization_id=…: anybody in the world can have a token of these issuers, for any audience"
                .into(),
        ),
        1..=OIDC_CLAIMS_REQUIRED_MAX => Ok(IssuerRule {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            claims,
        }),
        _ => Err(format!("at most {OIDC_CLAIMS_REQUIRED_MAX} claims")),
    }
}

/// Of an issuer that serves everybody a claim has to say whose the job is.
fn expect_owner(issuer: &str, claims: &[(String, String)]) -> Result<(), String> {
    let host = issuer.trim_start_matches("https://");
    let host = host.split(['/', ':']).next().unwrap_or_default();
    let public = OF_EVERYBODY.iter();
    let mut public = public.filter(|(known, _)| host.eq_ignore_ascii_case(known));
    let Some((_, owners)) = public.next().filter(|_| !claims.is_empty()) else {
        return Ok(());
    };
    let is_owner = |(name, _): &(String, String)| owners.contains(&&**name);
    match claims.iter().any(is_owner) {
        true => Ok(()),
        false => Err(format!(
            "one of {} besides: what is required is said by the jobs of others as well",
            owners.join(", ")
        )),
    }
}

fn claim(part: &str) -> Result<(&str, &str), String> {
    let (name, value) = part
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| format!("CLAIM=VALUE behind the audience; {part:?} is none"))?;
    match OF_ALL.contains(&name) {
        true => Err(format!(
            "claims that say who has a token, such as repository_owner_id; {name} does not"
        )),
        false => Ok((name, value)),
    }
}

/// Its keys are looked for below it, so it is one that can be asked, and nobody else can answer for.
fn check_issuer(issuer: &str) -> Result<(), String> {
    let wrong = |why: &str| {
        Err(format!(
            "an issuer exactly as its tokens name it, https://HOST[/PATH]: {why}"
        ))
    };
    let Some(rest) = issuer.strip_prefix("https://") else {
        return wrong("it does not begin with https://");
    };
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || host.starts_with(':') {
        return wrong("it has no host");
    }
    if !issuer.bytes().all(|byte| byte.is_ascii_graphic()) || issuer.contains(['?', '#', '@', '\\'])
    {
        return wrong("it has a character that stands in none, such as ? # @ or a space");
    }
    match issuer.len() > OIDC_URL_BYTES_MAX {
        true => wrong("it is too long"),
        false => Ok(()),
    }
}

/// All that were given.
pub(super) fn issuer_rules(layers: &Layers) -> Result<Vec<IssuerRule>, ConfigError> {
    let rules = layers.list("oidc", issuer_rule)?.unwrap_or_default();
    if rules.len() <= OIDC_ISSUERS_MAX {
        return Ok(rules);
    }
    let origin = layers.find("oidc").map(|(_, origin)| origin);
    Err(ConfigError::value(
        "oidc",
        format!("{} of them", rules.len()).as_ref(),
        origin.unwrap_or_else(|| Origin::flag("oidc")),
        format!("at most {OIDC_ISSUERS_MAX}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_stands() {
        let read =
            issuer_rule("https://ci.example.org/a;farm x;repository_owner_id=9;sub=a=b").unwrap();
        assert_eq!(read.issuer, "https://ci.example.org/a");
        assert_eq!(read.audience, "farm x");
        let claims: Vec<_> = read
            .claims
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(claims, [("repository_owner_id", "9"), ("sub", "a=b")]);
    }

    #[test]
    fn what_would_let_the_world_in_is_refused() {
        for good in [
            "https://h;a;b=c",
            "https://gitlab.com;a;ref_protected=true;project_id=1",
            "https://token.actions.githubusercontent.com/e;a;enterprise_id=1",
            "https://gitlab.com.example.org;a;ref_protected=true",
        ] {
            assert!(issuer_rule(good).is_ok(), "{good}");
        }
        let long = format!("https://h;a;b={}", "c".repeat(OIDC_RULE_BYTES_MAX));
        let claims: String = (0..=OIDC_CLAIMS_REQUIRED_MAX)
            .map(|n| format!(";c{n}=v"))
            .collect();
        for (text, why) in [
            ("https://h;a", "with a claim at least"),
            ("https://h;a;", "\"\" is none"),
            ("https://h;a;b", "\"b\" is none"),
            ("https://h;a;b=", "\"b=\" is none"),
            ("https://h;a;=b", "\"=b\" is none"),
            ("https://h;a;aud=a", "aud does not"),
            ("https://h;a;iss=https://h", "iss does not"),
            ("https://h;a;b=1;b=2", "b is named twice"),
            ("https://gitlab.com;a;ref_protected=true", "project_id"),
            ("https://GitLab.com:443/x;a;ref=main", "project_id"),
            (
                "https://token.actions.githubusercontent.com;a;job_workflow_ref=b/c/.github/workflows/d.yml@e",
                "repository_owner_id",
            ),
            ("https://agent.buildkite.com;a;sub=b", "organization_id"),
            ("https://h;;b=c", "the audience"),
            ("https://h", "the audience"),
            ("http://h;a;b=c", "begin with https://"),
            ("h;a;b=c", "begin with https://"),
            ("https://;a;b=c", "has no host"),
            ("https:///p;a;b=c", "has no host"),
            ("https://h?x;a;b=c", "a character"),
            ("https://u@h;a;b=c", "a character"),
            ("https://h\u{e9};a;b=c", "a character"),
            ("https://h;a;b=c\n", "control characters"),
            (&long, "at most"),
            (&format!("https://h;a{claims}"), "claims"),
        ] {
            let refused = issuer_rule(text).unwrap_err();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }
}
