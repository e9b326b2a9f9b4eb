//! The tokens of a server: a file of hashes, each with a name and what it is for.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::credential::TOKEN_PREFIX;
use crate::config::{NewToken, Role, check_token_name};
use crate::io::regular::open_regular;
use crate::limits::{TOKEN_BYTES, TOKENS_FILE_BYTES_MAX, TOKENS_MAX};

/// A token, as far as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who has it.
    pub name: Arc<str>,
    /// What it is for.
    pub role: Role,
}

/// What a token is looked up by. Whoever knows it does not know the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// Of what may be a token. What is hashed needs no salt and no time: it is random.
    pub fn of(secret: &[u8]) -> TokenHash {
        TokenHash(Sha256::digest(secret).into())
    }
}

/// All tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    known: HashMap<TokenHash, Token>,
}

impl Tokens {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// Those of the file, and what is wrong with which line.
    pub fn read(path: &Path) -> io::Result<Tokens> {
        let mut text = String::new();
        let file = open_regular(path)?;
        let bytes = file
            .take(TOKENS_FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)?;
        if bytes as u64 > TOKENS_FILE_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Tokens::parse(&text).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))
    }

    /// Lines `NAME ROLE sha256:HASH`, as `tarpon token new` prints them; empty ones and those that begin with
    /// `#` mean nothing. A name may have several, while one replaces another.
    fn parse(text: &str) -> Result<Tokens, String> {
        let mut known = HashMap::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (hash, token) = line_of(line).map_err(|why| format!("line {number}: {why}"))?;
            if known.insert(hash, token).is_some() {
                return Err(format!("line {number}: the same token as in a line above"));
            }
            if known.len() > TOKENS_MAX {
                return Err(format!("more than {TOKENS_MAX} tokens"));
            }
        }
        Ok(Tokens { known })
    }

    /// The token that has this hash.
    pub fn get(&self, hash: TokenHash) -> Option<&Token> {
        self.known.get(&hash)
    }

    /// Whether one of them reads repositories.
    pub fn let_anybody_read(&self) -> bool {
        self.known.values().any(|token| token.role.may_read())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// A new token.
pub struct Fresh {
    /// The token, for whoever is to have it.
    pub token: Zeroizing<String>,
    /// The line for the server's file.
    pub line: String,
}

/// Makes a token.
///
/// # Errors
/// The system gives no random bytes.
pub fn make(NewToken { name, role }: &NewToken) -> io::Result<Fresh> {
    let mut random = Zeroizing::new([0_u8; TOKEN_BYTES]);
    let mut filled = 0;
    while let Some(rest) = random.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    // Room for all of it at once: what grows leaves copies behind.
    let mut token = Zeroizing::new(String::with_capacity(TOKEN_PREFIX.len() + 2 * TOKEN_BYTES));
    token.push_str(TOKEN_PREFIX);
    push_hex(&mut token, &*random);
    let mut line = format!("{name} {} sha256:", role.name());
    push_hex(&mut line, &TokenHash::of(token.as_bytes()).0);
    Ok(Fresh { token, line })
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    text.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
}

/// One line of the file.
fn line_of(line: &str) -> Result<(TokenHash, Token), String> {
    if line.contains(TOKEN_PREFIX) && !line.contains("sha256:") {
        return Err(
            "this is a token itself; write the line that `tarpon token new` prints with it".into(),
        );
    }
    let mut words = line.split_whitespace();
    let (Some(name), Some(role), Some(hash), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("write NAME ROLE sha256:HASH, as `tarpon token new` prints it".into());
    };
    check_token_name(name)?;
    let role = Role::named(role).ok_or("the role is read, metrics or admin")?;
    let digits = hash.strip_prefix("sha256:").and_then(from_hex);
    let hash = digits.ok_or("the hash is sha256: and 64 hex digits")?;
    let token = Token {
        name: name.into(),
        role,
    };
    Ok((TokenHash(hash), token))
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = (16 * digit(0)? + digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::credential::Credential;

    fn make(name: &str, role: Role) -> Fresh {
        let name = name.to_owned();
        super::make(&NewToken { name, role }).unwrap()
    }

    #[test]
    fn what_is_made_is_found_again() {
        let one = make("alice", Role::Read);
        let other = make("ops@farm-1", Role::Admin);
        assert_ne!(*one.token, *other.token);
        let text = format!("# ours\n\n{}\r\n  {}  \n", one.line, other.line);
        let tokens = Tokens::parse(&text).unwrap();
        let found = |token: &str| tokens.get(TokenHash::of(token.as_bytes()));
        let token = found(&one.token).unwrap();
        assert_eq!((&*token.name, token.role), ("alice", Role::Read));
        assert_eq!(found(&other.token).unwrap().role, Role::Admin);
        assert_eq!(found(&one.token[1..]), None);
        assert_eq!((tokens.len(), tokens.is_empty()), (2, false));
        assert!(!text.contains(&*one.token) && !format!("{tokens:?}").contains(&*one.token));
    }

    /// So it is forwarded to nobody.
    #[test]
    fn what_is_made_is_seen_to_be_a_token() {
        let made = make("alice", Role::Metrics);
        let value = format!("Bearer {}", *made.token);
        let read = Credential::read(Some(value.as_bytes())).unwrap();
        assert!(read.is_or_looks_like_token());
    }

    #[test]
    fn wrong_lines_are_named() {
        let hash = "a".repeat(64);
        let good = format!("a read sha256:{hash}");
        let twice = format!("{good}\nb admin sha256:{hash}");
        let many: String = (0..=TOKENS_MAX)
            .map(|n| format!("a read sha256:{n:064x}\n"))
            .collect();
        let made = make("alice", Role::Read);
        for (text, why) in [
            (&*format!("{good}\na read"), "line 2: write NAME ROLE"),
            (&format!("{good} x"), "line 1: write NAME ROLE"),
            (&format!("a\u{e9} read sha256:{hash}"), "line 1: a name"),
            (&format!("a owner sha256:{hash}"), "line 1: the role"),
            (&format!("a read sha256:{hash}0"), "line 1: the hash"),
            (
                &format!("a read sha256:+{}", &hash[1..]),
                "line 1: the hash",
            ),
            (&format!("a read {hash}"), "line 1: the hash"),
            (&twice, "line 2: the same token"),
            (&many, "more than"),
            (&*made.token, "line 1: this is a token itself"),
        ] {
            let refused = Tokens::parse(text).unwrap_err();
            assert!(refused.contains(why), "{refused}");
            assert!(
                !refused.contains(&made.token[TOKEN_PREFIX.len()..]),
                "{refused}"
            );
        }
        assert!(
            Tokens::parse(
                &good
                    .to_uppercase()
                    .replace("SHA", "sha")
                    .replace("READ", "read")
            )
            .is_ok()
        );
    }
}
