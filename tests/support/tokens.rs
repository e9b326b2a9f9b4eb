//! Tokens as an operator makes them.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A token, and the line for the server's file.
pub struct Token {
    pub token: String,
    pub line: String,
}

impl Token {
    /// `tarpon token new NAME FLAGS`.
    pub fn new(binary: &str, name: &str, flags: &[&str]) -> Token {
        let mut command = Command::new(binary);
        command.args(["token", "new", name]).args(flags);
        let output = command.output().unwrap_or_else(|e| panic!("{binary}: {e}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines = said.lines().map(str::to_owned);
        let (Some(token), Some(line), None) = (lines.next(), lines.next(), lines.next()) else {
            panic!("{said:?} {}", String::from_utf8_lossy(&output.stderr));
        };
        Token { token, line }
    }

    /// The header line that shows it.
    pub fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    /// The same as git does it.
    pub fn basic(&self) -> String {
        format!(
            "Authorization: Basic {}",
            base64(&format!("any:{}", self.token))
        )
    }
}

/// Writes a file of such lines beside the one at `path`, which it then replaces.
pub fn write(path: &Path, tokens: &[&Token]) {
    let lines: Vec<&str> = tokens.iter().map(|token| &*token.line).collect();
    write_text(path, &format!("# a farm's\n{}\n", lines.join("\n")));
}

/// The same with any text.
pub fn write_text(path: &Path, text: &str) {
    let mut new = PathBuf::from(path);
    new.as_mut_os_string().push(".new");
    std::fs::write(&new, text).unwrap_or_else(|e| panic!("{}: {e}", new.display()));
    std::fs::rename(&new, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Base64 (RFC 4648).
pub fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in text.as_bytes().chunks(3) {
        let bits = (0..3).fold(0, |bits, at| {
            bits << 8 | u32::from(part.get(at).copied().unwrap_or(0))
        });
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= part.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    out
}
