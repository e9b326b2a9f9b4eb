//! What of the user's configuration and of what he asks for reaches git and the server: of a list as
//! git prints it the settings that were meant to, as they are; of a repository's name only what fits
//! into a request's line.
//!
//! An input counts three times: as a list, as a recipe for one, and as the name of a repository and
//! of a server.

#![no_main]

use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use tarpon::restore::layers::{Server, User, Users, base_target, scheme, shown};
use tarpon_fuzz::Input;

const SCHEMES: [&str; 5] = ["http", "https", "ssh", "git", "file"];
const SCOPES: [&[u8]; 5] = [b"system", b"global", b"local", b"worktree", b"command"];

/// Keys with what is said of a subsection, and who gets to see them: nobody, or whoever talks to the
/// upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Nobody,
    Upstream,
}

const KEYS: [(&str, Option<bool>, &str, For); 18] = [
    ("credential", None, "helper", For::Upstream),
    ("credential", Some(true), "username", For::Upstream),
    ("http", None, "sslverify", For::Upstream),
    ("http", Some(true), "extraheader", For::Upstream),
    ("http", None, "followredirects", For::Nobody),
    ("http", Some(true), "followredirects", For::Nobody),
    ("core", None, "sshcommand", For::Upstream),
    ("core", None, "askpass", For::Upstream),
    ("core", Some(true), "askpass", For::Nobody),
    ("ssh", None, "variant", For::Upstream),
    ("ssh", Some(true), "variant", For::Nobody),
    ("url", Some(true), "insteadof", For::Upstream),
    ("url", Some(true), "pushinsteadof", For::Nobody),
    ("core", None, "fsmonitor", For::Nobody),
    ("filter", Some(true), "smudge", For::Nobody),
    ("protocol", Some(true), "allow", For::Nobody),
    ("alias", None, "core.sshcommand", For::Nobody),
    ("remote", Some(true), "uploadpack", For::Nobody),
];

type Pair = (Vec<u8>, Vec<u8>);

fuzz_target!(|data: &[u8]| {
    let any = Users::parse(data);
    for (key, _) in environment(&any, "https://host/path") {
        assert!(is_allowed(&key), "{}", key.escape_ascii());
    }
    let mut input = Input::new(data);
    made(&mut input);
    let text = String::from_utf8_lossy(data);
    of_the_line(&text);
    repository(&any, &text);
});

/// What git gets to see by the environment, of a step that asks an upstream at a URL: nothing if that is none.
fn environment(users: &Users, url: &str) -> Vec<Pair> {
    let Ok(settings) = users.for_upstream(url) else {
        return Vec::new();
    };
    assert!(SCHEMES.contains(&settings.scheme()));
    let variables = settings.environment();
    let mut variables = variables.iter();
    let mut next = |expected: String| {
        let (name, value) = variables.next().expect("it counts them");
        assert_eq!(*name, *expected);
        assert!(!value.as_bytes().contains(&0));
        value.as_bytes().to_vec()
    };
    let count = String::from_utf8(next("GIT_CONFIG_COUNT".into())).expect("a number");
    let count: usize = count.parse().expect("a number");
    let pair = |number| {
        let key = next(format!("GIT_CONFIG_KEY_{number}"));
        (key, next(format!("GIT_CONFIG_VALUE_{number}")))
    };
    let pairs = (0..count).map(pair).collect();
    assert!(variables.next().is_none());
    pairs
}

/// Whether a setting may be anybody's but the client's own, by its section and the last of its key.
fn is_allowed(key: &[u8]) -> bool {
    let text = String::from_utf8_lossy(key);
    let parts: Vec<&str> = text.split('.').collect();
    let (first, last) = (parts[0], parts[parts.len() - 1]);
    match first {
        "credential" => parts.len() > 1,
        "http" => parts.len() > 1 && last != "followredirects",
        "core" => parts.len() == 2 && matches!(last, "sshcommand" | "askpass"),
        "ssh" => parts.len() == 2 && last == "variant",
        "url" => last == "insteadof",
        _ => false,
    }
}

/// A list of git's comes back as what it was made from.
fn made(input: &mut Input<'_>) {
    let (mut listed, mut upstream) = (Vec::new(), Vec::new());
    let without_nul =
        |text: &[u8]| -> Vec<u8> { text.iter().copied().filter(|byte| *byte != 0).collect() };
    for _ in 0..input.u8() % 8 {
        let scope = usize::from(input.u8()) % SCOPES.len();
        let (section, has_middle, name, who) = KEYS[usize::from(input.u8()) % KEYS.len()];
        let mut key = section.as_bytes().to_vec();
        if has_middle.is_some() {
            key.push(b'.');
            let middle = input.text().iter().copied();
            // A newline can be no part of it.
            key.extend(middle.filter(|byte| !matches!(byte, 0 | b'\n')));
        }
        key.extend_from_slice(format!(".{name}").as_bytes());
        listed.extend_from_slice(&[SCOPES[scope], b"\0", &key].concat());
        let value = match input.u8() % 4 {
            0 => b"true".to_vec(),
            _ => {
                let value = without_nul(input.text());
                listed.push(b'\n');
                listed.extend_from_slice(&value);
                value
            }
        };
        listed.push(0);
        let is_users = matches!(SCOPES[scope], b"system" | b"global" | b"command");
        if is_users && who == For::Upstream {
            upstream.push((key, value));
        }
    }
    let users = Users::parse(&listed);
    let url = "https://host/path";
    let real = rewritten(&upstream, url);
    match users.for_upstream(url) {
        Ok(settings) => {
            assert_eq!(Some(settings.scheme()), as_git_goes(&real), "{real:?}");
            assert_eq!(environment(&users, url), upstream);
        }
        Err(_) => assert!(real != url, "nobody has said otherwise"),
    }
}

/// A URL as git uses it, by the longest of the rules that it begins with, and the first of those.
fn rewritten(pairs: &[Pair], url: &str) -> String {
    let mut longest: Option<(&[u8], &[u8])> = None;
    for (key, begin) in pairs {
        let base = key
            .strip_prefix(b"url.")
            .and_then(|rest| rest.strip_suffix(b".insteadof"));
        let is_longer = longest.is_none_or(|(_, known)| begin.len() > known.len());
        if let Some(base) = base.filter(|_| is_longer && url.as_bytes().starts_with(begin)) {
            longest = Some((base, begin));
        }
    }
    match longest {
        Some((base, begin)) => String::from_utf8_lossy(base).into_owned() + &url[begin.len()..],
        None => url.to_owned(),
    }
}

/// A scheme is the one by which git would go.
fn repository(users: &Users, url: &str) {
    if let Some(found) = scheme(url.as_bytes()) {
        assert_eq!(Some(found), as_git_goes(url), "{url:?}");
    }
    for (key, _) in environment(users, url) {
        assert!(is_allowed(&key), "{}", key.escape_ascii());
    }
    // Whoever has a password in a URL has it behind his name.
    if let Some((user, rest)) = url.split_once('@') {
        let is_plain = user.chars().all(|c| c.is_ascii_alphanumeric());
        let user = if is_plain { user } else { "u" };
        let shown = shown(format!("https://{user}:0passw0rd0@{rest}").as_bytes());
        assert!(
            url.contains("passw0rd") || !shown.contains("passw0rd"),
            "{shown}"
        );
        assert!(shown.starts_with("https://***@"), "{shown}");
        assert!(rest.contains(shown.rsplit('@').next().unwrap_or_default()));
    }
}

/// transport_get and parse_connect_url of git, put plainly; `None` if a helper would be run.
fn as_git_goes(url: &str) -> Option<&'static str> {
    let is_letter = |c: &char| c.is_ascii_alphanumeric() || "+-.".contains(*c);
    let begin: String = url.chars().take_while(is_letter).collect();
    let rest = &url[begin.len()..];
    if rest.starts_with("::") {
        return None;
    }
    if rest.starts_with("://") {
        return Some(match &*begin.to_ascii_lowercase() {
            "http" => "http",
            "https" => "https",
            "ssh" | "git+ssh" | "ssh+git" => "ssh",
            "git" => "git",
            "file" => "file",
            _ => return None,
        });
    }
    let (colon, slash) = (url.find(':'), url.find('/'));
    match colon {
        Some(colon) if slash.is_none_or(|slash| slash > colon) => Some("ssh"),
        _ => Some("file"),
    }
}

/// What is sent to a server in a line of a request, and as its `Host`.
fn of_the_line(text: &str) {
    if let Some(target) = base_target(text) {
        let parts = target
            .strip_prefix("/git/")
            .and_then(|rest| rest.split_once('/'));
        let (host, path) = parts.expect("a host and a path");
        assert!(!host.is_empty() && !path.is_empty());
        let is_plain = |b: u8| b.is_ascii_graphic() && !b"?#%\\".contains(&b);
        assert!(target.bytes().all(is_plain), "{target:?}");
        assert!(text.contains(host) && text.contains(path));
        // What stands before the host may be a password.
        assert!(!host.contains('@'), "{target:?}");
        assert_eq!(
            base_target(&format!("https://{host}/{path}.git/")),
            Some(target.clone())
        );
    }
    for text in [text, &format!("http://{text}")] {
        let Ok(server) = Server::parse(text) else {
            continue;
        };
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
        assert!(server.authority.bytes().all(is_plain), "{server:?}");
        let behind = format!("{}{}", server.authority, server.prefix);
        assert!(text.trim_end_matches('/').ends_with(&behind), "{server:?}");
        assert!(server.address.starts_with(&server.authority) && server.address.contains(':'));
        let is_path = server
            .prefix
            .split('/')
            .skip(1)
            .all(|part| !matches!(part, "" | "." | ".."));
        assert!(
            is_path && !server.prefix.contains(['?', '#', '%', '\\', ' ']),
            "{server:?}"
        );
        no_control(server.user.as_ref());
    }
    follow(text);
}

/// Who asks goes into a line of a request, and into lines for git's helpers.
fn no_control(user: Option<&User>) {
    let Some(user) = user else {
        return;
    };
    assert!(!user.name.contains(char::is_control));
    let password = user.password.as_ref();
    assert!(password.is_none_or(|password| !password.text().contains(char::is_control)));
}

/// A redirect stays where it is, and is a target.
fn follow(location: &str) {
    let server = Server::parse("https://host/prefix").expect("a server");
    let Some(target) = server.follow(location) else {
        return;
    };
    assert!(target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic()));
    if !location.starts_with('/') || location.starts_with("//") {
        let lower = location.to_ascii_lowercase();
        let starts = ["//host", "https://host"]
            .iter()
            .any(|own| lower.starts_with(own));
        assert!(starts, "{location:?}");
    }
}
