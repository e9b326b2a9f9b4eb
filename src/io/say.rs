//! Words for whoever started the program.

use std::fmt::Display;
use std::io::{self, Write};

/// Writes a line to standard error. Nobody has to read it: where it cannot be written, the
/// program goes on, which `eprintln!` does not.
pub fn say(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
