//! Finds who asks: in `.netrc`, then with git's helpers, which are asked for the place of one repository. Nothing
//! that is found is stored or erased anywhere.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::error::RestoreError;
use super::link::Link;
use super::login::Own;
use super::netrc;
use super::run;
use super::stop::Stop;
use super::url::User;
use crate::git::stdin_file;
use crate::git::watched::{self, Ended, Said};
use crate::limits::{LOGIN_BYTES_MAX, LOGIN_LIMIT_MS};

/// Whom a credential is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    scheme: &'static str,
    /// `HOST[:PORT]`.
    authority: String,
    host: String,
    /// Without a slash at its beginning.
    path: String,
    name: Option<String>,
}

/// Who asks the server of `link`, and where that was found. Its helpers are told the path, too, whatever is
/// configured: what a server is asked for with one repository's credential may be another's.
pub(super) fn of_server(link: Link<'_>) -> Option<(User, &'static str)> {
    let server = link.server;
    let place = Place {
        scheme: server.scheme(),
        authority: server.authority.clone(),
        host: server.host().to_owned(),
        path: link.place.trim_start_matches('/').to_owned(),
        name: server.user.as_ref().map(|user| user.name.clone()),
    };
    if let Some(user) = of_netrc(&place) {
        return Some((user, "in .netrc"));
    }
    let settings = [format!("credential.{}.useHttpPath=true", server.origin())];
    let user = of_helpers(link.stop, &place, &settings)?;
    Some((user, "of a helper of git's"))
}

/// Who asks the upstream of the repository that is given as `url`, as git would find it.
pub(super) fn of_repository(stop: &Stop, url: &str) -> Result<Own, RestoreError> {
    let Some((place, user)) = upstream(url) else {
        let why = "--send-upstream-credential: the repository is named by no URL of http or https, nor as \
                   HOST/PATH";
        return Err(RestoreError::Usage(why.into()));
    };
    let given = user.filter(|user| user.password.is_some());
    let found = given
        .or_else(|| of_netrc(&place))
        .or_else(|| of_helpers(stop, &place, &[]));
    let missing = || place.missing(url.contains("://"));
    Ok(found.map_or_else(|| Own::Missing(missing()), Own::Sent))
}

/// Whether two repositories are asked for at one place, so that a credential that is meant for the one is for the other,
/// too: the same scheme, host and port.
pub(super) fn is_one_place(one: &str, other: &str) -> bool {
    let (Some((one, _)), Some((other, _))) = (upstream(one), upstream(other)) else {
        return false;
    };
    let is_host = one.authority.eq_ignore_ascii_case(&other.authority);
    one.scheme == other.scheme && is_host
}

/// The place of a repository's URL, and who asks as it says that.
fn upstream(url: &str) -> Option<(Place, Option<User>)> {
    let (scheme, rest) = match url.split_once("://") {
        Some(("https", rest)) => ("https", rest),
        Some(("http", rest)) => ("http", rest),
        Some(_) => return None,
        None => ("https", url),
    };
    let (authority, path) = rest.split_once('/')?;
    let (user, authority) = match authority.rsplit_once('@') {
        Some((user, authority)) => (Some(User::parse(user)?), authority),
        None => (None, authority),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    let is_scp = scheme != "http" && !url.contains("://") && authority.contains(':');
    if authority.is_empty() || !authority.bytes().all(plain) || is_scp {
        return None;
    }
    let is_path = !path.is_empty() && path.bytes().all(|b| b.is_ascii_graphic());
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    };
    let place = Place {
        scheme,
        authority: authority.to_owned(),
        host: host.trim_matches(['[', ']']).to_owned(),
        path: path.trim_end_matches('/').to_owned(),
        name: user.as_ref().map(|user| user.name.clone()),
    };
    is_path.then_some((place, user))
}

fn of_netrc(place: &Place) -> Option<User> {
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    netrc::of_home(&home, &place.host, place.name())
}

/// Has git ask its helpers, with `settings` besides the user's. It asks no person: whoever is asked by a program of
/// his own is not known here.
fn of_helpers(stop: &Stop, place: &Place, settings: &[String]) -> Option<User> {
    let until = Instant::now() + Duration::from_millis(LOGIN_LIMIT_MS);
    let mut command = run::helpers(until, settings);
    command.stdin(stdin_file(place.question().as_bytes()).ok()?);
    let mut said = Said::in_memory(&mut command).ok()?;
    let child = command.spawn().ok()?;
    let over = || {
        let is_over = Instant::now() >= until || said.len_bytes()? > LOGIN_BYTES_MAX;
        Ok(is_over.then_some(()))
    };
    match watched::finish(child, || stop.is_set(), over).ok()? {
        Ended::Itself(status) if status.success() => answer(&Zeroizing::new(said.output().ok()?)),
        Ended::Itself(_) | Ended::Over(()) => None,
    }
}

impl Place {
    fn name(&self) -> Option<&str> {
        self.name.as_deref().filter(|name| !name.is_empty())
    }

    /// Where nothing was found, and what would have been; the name that a server has for a host counts here, whatever
    /// that host is called elsewhere.
    fn missing(&self, is_url: bool) -> String {
        let Place {
            scheme,
            authority,
            host,
            path,
            ..
        } = self;
        let advice = match is_url {
            true => String::new(),
            false => format!(
                "; whatever its upstream is called, \"machine {host} login USER password PASSWORD\" in .netrc would be \
                 found, and USER:PASSWORD in TARPON_SERVER"
            ),
        };
        format!(
            "{scheme}://{authority}/{path}, neither in REPO_URL or .netrc nor with a helper of git's{advice}"
        )
    }

    /// What `git credential fill` reads (git-credential(1)). No value has the end of a line in it.
    fn question(&self) -> String {
        let Place {
            scheme,
            authority,
            path,
            ..
        } = self;
        let name = self.name().map(|name| format!("username={name}\n"));
        let name = name.unwrap_or_default();
        format!("protocol={scheme}\nhost={authority}\npath={path}\n{name}\n")
    }
}

/// What it says.
fn answer(said: &[u8]) -> Option<User> {
    let text = std::str::from_utf8(said).ok()?;
    let value = |key: &str| {
        // Not `lines`: what ends with a return is no other password without it.
        let mut pairs = text.split('\n').filter_map(|line| line.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    User::new(value("username")?, value("password")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_repository() {
        let question = |url| upstream(url).map(|(place, _)| place.question());
        let https = Some("protocol=https\nhost=a.b\npath=c/d.git\n\n".to_owned());
        assert_eq!(question("https://a.b/c/d.git"), https);
        assert_eq!(question("a.b/c/d.git/"), https);
        let named = "protocol=http\nhost=a.b:81\npath=c\nusername=u v\n\n";
        assert_eq!(question("http://u%20v@a.b:81/c").as_deref(), Some(named));
        let (place, user) = upstream("https://u:p@[::1]:2/x").unwrap();
        assert_eq!((&*place.host, &*place.authority), ("::1", "[::1]:2"));
        assert!(user.unwrap().password.is_some());
        for none in [
            "git@a:b/c",
            "ssh://a/b",
            "/srv/a",
            "a",
            "https://a",
            "https://a/",
            "https://a b/c",
            "https://a/b\nhost=evil",
            "https://u%0ahost=evil@a/b",
        ] {
            assert_eq!(question(none), None, "{none}");
        }
    }

    #[test]
    fn a_credential_is_for_one_place() {
        let own = "https://u:p@a.b:1/c";
        for same in ["https://a.b:1/d/e", "https://v@A.b:1/x"] {
            assert!(is_one_place(own, same), "{same}");
        }
        assert!(is_one_place("a.b/c", "https://a.b/d"));
        for other in [
            "http://a.b:1/c",
            "https://a.b/c",
            "https://a.b:2/c",
            "https://x.a.b:1/c",
            "https://a.b:1@evil/c",
            "ssh://a.b:1/c",
            "git@a.b:1/c",
        ] {
            assert!(!is_one_place(own, other), "{other}");
        }
    }

    #[test]
    fn what_helpers_say() {
        let said = |text: &str| {
            let user = answer(text.as_bytes())?;
            Some((user.name, user.password?.text().to_owned()))
        };
        let pair = Some(("u".to_owned(), "p=q".to_owned()));
        assert_eq!(said("protocol=https\nusername=u\npassword=p=q\n"), pair);
        for none in [
            "",
            "username=u\n",
            "password=p\n",
            "username=u\npassword=p\x07\n",
            "username=u\npassword=p\r\n",
            "username=u:v\npassword=p\n",
        ] {
            assert_eq!(said(none), None, "{none}");
        }
    }
}
