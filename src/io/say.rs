//! Words for whoever started the program. They may quote a server, a file or git: nothing in them moves
//! a terminal's cursor or hides what stands beside it, and no URL in them shows who logs in.

use std::fmt::Display;
use std::io::{self, Write};

use crate::limits::SAID_CHARS_MAX;

/// Writes text to standard error. Nobody has to read it: where it cannot be written, the program
/// goes on, which `eprintln!` does not.
pub fn say(text: impl Display) {
    let text = text.to_string();
    let lines: Vec<String> = text.lines().map(escaped).collect();
    let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
}

/// The same as one line of bounded length.
pub fn say_line(text: impl Display) {
    let _ = writeln!(io::stderr(), "{}", line(&text.to_string()));
}

/// `text` as one line that can be shown anywhere; of a long one the beginning and the end.
pub fn line(text: &str) -> String {
    let lines = text.split(['\n', '\r']).map(str::trim);
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let line = escaped(&lines.join("; "));
    let count = line.chars().count();
    if count <= SAID_CHARS_MAX {
        return line;
    }
    let half = SAID_CHARS_MAX / 2;
    let begin = line.chars().take(half);
    let end = line.chars().skip(count - half);
    begin.chain(" [...] ".chars()).chain(end).collect()
}

/// What stands for who logs in.
const HIDDEN: &str = "***";
/// What follows the scheme of a URL.
const BEGIN: &str = "://";

/// `text` in which no URL says who logs in, nor what is asked there: all before the host, for it may be a token even where there is no
/// password; of ssh and git, where a user opens nothing, the password alone.
pub fn without_logins(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let (before, behind) = rest.split_at(at + BEGIN.len());
        let word = behind.split(char::is_whitespace).next().unwrap_or_default();
        let (login, left) = split_login(before, word);
        out.push_str(before);
        out.push_str(&login);
        rest = &behind[word.len() - left.len()..];
        // What is asked may be a token, too. Another URL has its own.
        if let Some((path, query)) = left
            .split_once('?')
            .filter(|(path, _)| !path.contains(BEGIN))
        {
            out.push_str(&format!("{path}?{HIDDEN}"));
            let end = query.find(['\'', '"', '<', '>', ')', ';', ',']);
            rest = &rest[path.len() + 1 + end.unwrap_or(query.len())..];
        }
    }
    out.push_str(rest);
    out
}

/// The same of one URL, whatever it has in it.
pub fn without_login(url: &str) -> String {
    let Some(at) = url.find(BEGIN) else {
        return url.to_owned();
    };
    let (before, behind) = url.split_at(at + BEGIN.len());
    let (login, left) = split_login(before, behind);
    [before, &login, left].concat()
}

/// What is shown of a login at the beginning of what stands behind a scheme, and what follows it.
fn split_login<'u>(before: &str, behind: &'u str) -> (String, &'u str) {
    let Some(end) = login_end(behind) else {
        return (String::new(), behind);
    };
    let (login, left) = behind.split_at(end);
    let opens_nothing = ["ssh://", "git://"].iter().any(|end| before.ends_with(end));
    let shown = match (opens_nothing, login.split_once(':')) {
        (true, None) => login.to_owned(),
        (true, Some((user, _))) => format!("{user}:{HIDDEN}"),
        (false, _) => HIDDEN.to_owned(),
    };
    (shown, left)
}

/// Where who logs in ends, in a URL behind its scheme: at the last `@` before a path. A password may have a `/` that
/// should have been written as `%2F`; then what looks like a port is none.
fn login_end(url: &str) -> Option<usize> {
    let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
    let has_port = || match authority.split_once(':') {
        Some((host, port)) => host.contains('[') || port.bytes().all(|b| b.is_ascii_digit()),
        None => true,
    };
    authority
        .rfind('@')
        .or_else(|| url.rfind('@').filter(|_| !has_port()))
}

/// Whatever is no printable character by its number, and no login.
fn escaped(text: &str) -> String {
    let text = without_logins(text);
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_what_it_is_and_does_nothing() {
        for (text, shown) in [
            ("plain, \"quoted\" and \\", "plain, \"quoted\" and \\"),
            ("grün 試", "grün 試"),
            ("a\x1b[2J\x07\x08b", "a\\u{1b}[2J\\u{7}\\u{8}b"),
            ("\u{9b}31m\x7f", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}txt\u{200b}", "\\u{202e}txt\\u{200b}"),
            (
                "\r\n first\rsecond\n\n  third\tx\n",
                "first; second; third\\tx",
            ),
        ] {
            assert_eq!(line(text), shown, "{text:?}");
        }
    }

    #[test]
    fn no_url_shows_who_logs_in() {
        for (text, shown) in [
            ("at https://u:p@w@h/a: no", "at https://***@h/a: no"),
            ("\"http://token@h:1/a\"", "\"http://***@h:1/a\""),
            (
                "https://h/a@b https://h:1/a@b",
                "https://h/a@b https://h:1/a@b",
            ),
            ("http://[::1]/a@b", "http://[::1]/a@b"),
            ("https://u:p/w?x#@h/a", "https://***@h/a"),
            ("https://u:p://w@h/a", "https://***@h/a"),
            (
                "https://a,https://u:p@b;http://c@d",
                "https://a,https://***@b;http://***@d",
            ),
            (
                "ssh://git@h/a git://h ssh://u:p@h",
                "ssh://git@h/a git://h ssh://u:***@h",
            ),
            ("at 'https://u@h/a?t=s': no", "at 'https://***@h/a?***': no"),
            ("http://a/?b=http://c@d", "http://a/?***"),
            ("git@h:a u:p @ ://", "git@h:a u:p @ ://"),
        ] {
            assert_eq!(line(text), shown, "{text}");
        }
    }

    #[test]
    fn a_long_line_keeps_its_beginning_and_its_end() {
        let text = format!("begin{}end", "\x1b".repeat(1 << 20));
        let shown = line(&text);
        assert!(shown.starts_with("begin\\u{1b}") && shown.ends_with("end"));
        assert!(shown.chars().count() < SAID_CHARS_MAX + 10);
    }
}
