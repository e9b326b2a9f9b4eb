//! `.netrc`: who logs in where, as ftp, curl and git read it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use super::url::User;
use crate::config::Secret;
use crate::limits::NETRC_BYTES_MAX;

/// Who logs in at `host`, by the file in the directory `home`, if that says so with a password; as `name`, if one
/// is given. What cannot be read says nothing, as for git.
pub(super) fn of_home(home: &Path, host: &str, name: Option<&str>) -> Option<User> {
    let mut text = Zeroizing::new(Vec::new());
    let file = File::open(home.join(".netrc")).ok()?;
    let read = file.take(NETRC_BYTES_MAX + 1).read_to_end(&mut text);
    let is_whole = read.is_ok_and(|bytes| bytes as u64 <= NETRC_BYTES_MAX);
    let text = std::str::from_utf8(&text).ok().filter(|_| is_whole)?;
    find(text, host, name)
}

/// The first entry of `host`, and of `name` if one is given, that has a password. `default`, which is for
/// whoever else asks, is for nobody here.
pub fn find(text: &str, host: &str, name: Option<&str>) -> Option<User> {
    let mut words = Words { rest: text };
    let mut entry: Option<Entry> = None;
    loop {
        let word = words.next();
        match word.as_deref().map(String::as_str) {
            Some("machine") => {
                let machine = words.next();
                if let Some(found) = entry.take().and_then(|entry| entry.user(name)) {
                    return Some(found);
                }
                let is_it = machine.is_some_and(|machine| machine.eq_ignore_ascii_case(host));
                entry = is_it.then(Entry::default);
            }
            Some("macdef") => words.skip_macro(),
            Some("login") => {
                let login = words.next();
                if let Some(entry) = &mut entry {
                    entry.login = login;
                }
            }
            Some("password") => {
                let password = words.next();
                if let Some(entry) = &mut entry {
                    entry.password = password;
                }
            }
            Some("account") => drop(words.next()),
            None | Some("default") => return entry.take().and_then(|entry| entry.user(name)),
            Some(_) => {}
        }
    }
}

#[derive(Default)]
struct Entry {
    login: Option<Zeroizing<String>>,
    password: Option<Zeroizing<String>>,
}

impl Entry {
    /// Who that is, if it is who is asked for.
    fn user(mut self, name: Option<&str>) -> Option<User> {
        let login = self.login.take().unwrap_or_default();
        let password = self.password.take()?;
        let is_text = !login.contains(char::is_control) && !password.contains(char::is_control);
        let is_asked = name.is_none_or(|name| name == *login);
        (is_text && is_asked).then(|| User {
            name: login.to_string(),
            password: Some(Secret::new(password.to_string())),
        })
    }
}

/// Words between spaces; one that begins with `"` goes on to the next, and `\` there stands for what follows it.
struct Words<'t> {
    rest: &'t str,
}

impl Words<'_> {
    fn next(&mut self) -> Option<Zeroizing<String>> {
        loop {
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix('#') {
                Some(comment) => self.rest = behind_line(comment),
                None => break,
            }
        }
        if let Some(quoted) = self.rest.strip_prefix('"') {
            return self.quoted(quoted);
        }
        let end = self.rest.find(char::is_whitespace);
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        (!word.is_empty()).then(|| Zeroizing::new(word.to_owned()))
    }

    /// A quote that does not end is no word, and nothing follows it.
    fn quoted(&mut self, text: &str) -> Option<Zeroizing<String>> {
        let mut word = Zeroizing::new(String::with_capacity(text.len()));
        let mut letters = text.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    let left = text.len() - at - 1;
                    self.rest = &self.rest[self.rest.len() - left..];
                    return Some(word);
                }
                '\\' => word.push(match letters.next()?.1 {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                }),
                _ => word.push(letter),
            }
        }
        self.rest = "";
        None
    }

    /// Behind the empty line that ends a macro.
    fn skip_macro(&mut self) {
        self.rest = behind_line(self.rest);
        while !self.rest.is_empty() {
            let line = self.rest.lines().next().unwrap_or_default();
            self.rest = behind_line(self.rest);
            if line.trim().is_empty() {
                break;
            }
        }
    }
}

fn behind_line(text: &str) -> &str {
    text.split_once('\n').map_or("", |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, name: Option<&str>) -> Option<(String, String)> {
        let user = find(text, host, name)?;
        Some((user.name, user.password?.text().to_owned()))
    }

    fn pair(name: &str, password: &str) -> Option<(String, String)> {
        Some((name.into(), password.into()))
    }

    #[test]
    fn the_entry_of_a_host() {
        let text = "# machine a login no password no\n\
                    machine b login x\n\
                    machine a login one account q password 1 # machine\n\
                    macdef init\nmachine c login evil password 0\n\n\
                    machine c\n\tpassword \"t w\\\"o\\\\\"\n\tlogin two\n\
                    machine a login three password 3 unknown\n\
                    machine d login four\n\
                    default login any password all\nmachine e login l p password q";
        assert_eq!(found(text, "A", None), pair("one", "1"));
        assert_eq!(found(text, "a", Some("three")), pair("three", "3"));
        assert_eq!(found(text, "c", None), pair("two", "t w\"o\\"));
        for (host, name) in [
            ("a", Some("two")),
            ("b", None),
            ("d", None),
            ("x", None),
            ("e", None),
        ] {
            assert_eq!(found(text, host, name), None, "{host} {name:?}");
        }
        assert_eq!(found("machine a password p", "a", None), pair("", "p"));
        for wrong in [
            "",
            "machine",
            "machine a login x password",
            "machine a password \"x",
            "machine a password \"x\\",
            "machine a login x password \"y\\nz\"",
            "login x password y machine a",
        ] {
            assert_eq!(found(wrong, "a", None), None, "{wrong}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_says_nothing() {
        let home = tempfile::tempdir().unwrap();
        let at = |text: &[u8]| {
            std::fs::write(home.path().join(".netrc"), text).unwrap();
            of_home(home.path(), "a", None)
        };
        assert!(of_home(home.path(), "a", None).is_none());
        assert!(at(b"machine a login x password y").is_some());
        assert!(at(b"machine a login x password y \xff").is_none());
        let mut long = b"machine a login x password y ".to_vec();
        long.resize(NETRC_BYTES_MAX as usize + 1, b' ');
        assert!(at(&long).is_none());
    }
}
