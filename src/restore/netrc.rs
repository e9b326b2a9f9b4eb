//! `.netrc`: who logs in where, as ftp, curl and git read it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use super::url::User;
use crate::limits::NETRC_BYTES_MAX;

/// Who logs in at `host`, by the file in the directory `home`, if that says so with a password; as `name`, if one
/// is given. What cannot be read says nothing, as for git.
pub(super) fn of_home(home: &Path, host: &str, name: Option<&str>) -> Option<User> {
    let mut text = Zeroizing::new(Vec::new());
    let file = File::open(home.join(".netrc")).ok()?;
    let read = file.take(NETRC_BYTES_MAX + 1).read_to_end(&mut text);
    let is_whole = read.is_ok_and(|bytes| bytes as u64 <= NETRC_BYTES_MAX);
    is_whole.then(|| find(&text, host, name)).flatten()
}

/// The first entry of `host`, and of `name` if one is given, that has a password. `default`, which is for
/// whoever else asks, is for nobody here. Only what is taken has to be text.
pub fn find(text: &[u8], host: &str, name: Option<&str>) -> Option<User> {
    let mut words = Words { rest: text };
    let mut entry: Option<Entry> = None;
    loop {
        let word = words.next();
        match word.as_deref().map(Vec::as_slice) {
            Some(b"machine") => {
                let machine = words.next();
                if let Some(found) = entry.take().and_then(|entry| entry.user(name)) {
                    return Some(found);
                }
                let is_it =
                    machine.is_some_and(|machine| machine.eq_ignore_ascii_case(host.as_bytes()));
                entry = is_it.then(Entry::default);
            }
            Some(b"macdef") => words.skip_macro(),
            Some(b"login") => {
                let login = words.next();
                if let Some(entry) = &mut entry {
                    entry.login = login;
                }
            }
            Some(b"password") => {
                let password = words.next();
                if let Some(entry) = &mut entry {
                    entry.password = password;
                }
            }
            Some(b"account") => drop(words.next()),
            None | Some(b"default") => return entry.take().and_then(|entry| entry.user(name)),
            Some(_) => {}
        }
    }
}

/// A word, of which nothing is left in memory.
type Word = Zeroizing<Vec<u8>>;

#[derive(Default)]
struct Entry {
    login: Option<Word>,
    password: Option<Word>,
}

impl Entry {
    /// Who that is, if it is who is asked for.
    fn user(mut self, name: Option<&str>) -> Option<User> {
        let login = self.login.take().unwrap_or_default();
        let login = std::str::from_utf8(&login).ok()?;
        let password = self.password.take()?;
        let password = std::str::from_utf8(&password).ok()?;
        let user = User::new(login, password)?;
        name.is_none_or(|name| name == user.name).then_some(user)
    }
}

/// Words between spaces; one that begins with `"` goes on to the next, and `\` there stands for what follows it. A
/// `#` at the beginning of a word makes the rest of its line a comment.
struct Words<'t> {
    rest: &'t [u8],
}

impl<'t> Words<'t> {
    fn next(&mut self) -> Option<Word> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            match self.rest.strip_prefix(b"#") {
                Some(comment) => self.rest = behind_line(comment),
                None => break,
            }
        }
        if let Some(quoted) = self.rest.strip_prefix(b"\"") {
            return self.quoted(quoted);
        }
        let end = self.rest.iter().position(u8::is_ascii_whitespace);
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        (!word.is_empty()).then(|| Zeroizing::new(word.to_owned()))
    }

    /// A quote that does not end is no word, and nothing follows it.
    fn quoted(&mut self, text: &'t [u8]) -> Option<Word> {
        self.rest = b"";
        // In one piece, so that no part of it is left behind.
        let mut word = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut rest = text;
        while let [letter, behind @ ..] = rest {
            rest = behind;
            match letter {
                b'"' => {
                    self.rest = behind;
                    return Some(word);
                }
                b'\\' => {
                    let (escaped, behind) = behind.split_first()?;
                    rest = behind;
                    word.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => *other,
                    });
                }
                other => word.push(*other),
            }
        }
        None
    }

    /// Behind the empty line that ends a macro.
    fn skip_macro(&mut self) {
        self.rest = behind_line(self.rest);
        while !self.rest.is_empty() {
            let line = self.rest.split(|b| *b == b'\n').next();
            let is_empty = line.unwrap_or_default().trim_ascii().is_empty();
            self.rest = behind_line(self.rest);
            if is_empty {
                break;
            }
        }
    }
}

fn behind_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| *b == b'\n');
    end.map_or(b"", |end| &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, host: &str, name: Option<&str>) -> Option<(String, String)> {
        let user = find(text.as_bytes(), host, name)?;
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
        // Only what keyboards and files have between words is between them.
        let spaced = "machine a login x\u{a0}y password p\u{2003}q\r\n";
        assert_eq!(found(spaced, "a", None), pair("x\u{a0}y", "p\u{2003}q"));
        for wrong in [
            "",
            "machine",
            "machine a login x password",
            "machine a password \"x",
            "machine a password \"x\\",
            "machine a login x password \"y\\nz\"",
            "login x password y machine a",
            "machine a login x:y password z",
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
        // Somebody else's entry may be in any letters.
        assert!(at(b"# \xff\nmachine b password \xff machine a password y").is_some());
        assert!(at(b"machine a login x password y\xff").is_none());
        let mut long = b"machine a login x password y ".to_vec();
        long.resize(NETRC_BYTES_MAX as usize + 1, b' ');
        assert!(at(&long).is_none());
    }
}
