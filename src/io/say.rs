//! Words for whoever started the program. They may quote a server or a file: nothing in them moves
//! a terminal's cursor or hides what stands beside it.

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

/// Whatever is no printable character by its number.
fn escaped(text: &str) -> String {
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
    fn a_long_line_keeps_its_beginning_and_its_end() {
        let text = format!("begin{}end", "\x1b".repeat(1 << 20));
        let shown = line(&text);
        assert!(shown.starts_with("begin\\u{1b}") && shown.ends_with("end"));
        assert!(shown.chars().count() < SAID_CHARS_MAX + 10);
    }
}
