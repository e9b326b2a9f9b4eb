//! What is said of a store: a line for each thing that is found, for people or for programs, and one for all of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::io::say::{line, say_line};
use crate::limits::STORE_PROGRESS_MS;

/// See the module's text.
pub(super) struct Told {
    out: RefCell<Box<dyn Write>>,
    is_json: bool,
    counts: RefCell<BTreeMap<&'static str, u64>>,
    /// What was read, in bytes.
    read: Cell<u64>,
}

impl Told {
    /// Says it there; `counts` are what is counted.
    pub(super) fn new(out: Box<dyn Write>, is_json: bool, counts: &[&'static str]) -> Self {
        Told {
            out: RefCell::new(out),
            is_json,
            counts: RefCell::new(counts.iter().map(|name| (*name, 0)).collect()),
            read: Cell::new(0),
        }
    }

    /// What is counted is more by so much; nothing is if it is not counted.
    pub(super) fn count(&self, name: &str, more: u64) {
        if let Some(count) = self.counts.borrow_mut().get_mut(name) {
            *count = count.saturating_add(more);
        }
    }

    /// How much it is.
    pub(super) fn counted(&self, name: &str) -> u64 {
        self.counts.borrow().get(name).copied().unwrap_or(0)
    }

    /// So much more was read.
    pub(super) fn has_read(&self, bytes: u64) {
        self.read.set(self.read.get().saturating_add(bytes));
        self.count("read_bytes", bytes);
    }

    /// One thing, by what is known of it.
    pub(super) fn tell(&self, fields: &[(&'static str, Value)]) -> io::Result<()> {
        let text = match self.is_json {
            true => {
                let fields = fields.iter();
                let object: Map<String, Value> = fields
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect();
                Value::Object(object).to_string()
            }
            false => shown(fields),
        };
        writeln!(self.out.borrow_mut(), "{text}")
    }

    /// All of it.
    pub(super) fn tell_total(&self) -> io::Result<()> {
        let counts = self.counts.borrow().clone();
        match self.is_json {
            true => self.tell(&[("total", json!(counts))])?,
            false => {
                let counts = counts.into_iter().map(|(name, count)| (name, json!(count)));
                let counts: Vec<_> = [("total", json!("total"))]
                    .into_iter()
                    .chain(counts)
                    .collect();
                self.tell(&counts)?;
            }
        }
        self.out.borrow_mut().flush()
    }

    /// Says now and then how far it is.
    pub(super) async fn tell_progress(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(STORE_PROGRESS_MS)).await;
            let (repositories, read) = (self.counted("repositories"), self.read.get());
            say_line(format_args!(
                "tarpon: {repositories} repositories looked at, {read} bytes read"
            ));
        }
    }
}

/// For people: a text as it is, a number with what it is of.
fn shown(fields: &[(&'static str, Value)]) -> String {
    let shown = fields.iter().map(|(name, value)| match value {
        Value::String(text) => line(text),
        value => format!("{name} {value}"),
    });
    Vec::from_iter(shown).join("\t")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use super::*;

    #[test]
    fn people_and_programs_are_told_the_same() {
        let of = |is_json| {
            let mut out = tempfile::tempfile().unwrap();
            let to = Box::new(out.try_clone().unwrap());
            let told = Told::new(to, is_json, &["parts"]);
            told.count("parts", 2);
            told.count("others", 5);
            let fields = [("repository", json!("h/\x1b[2J")), ("bytes", json!(7))];
            told.tell(&fields).unwrap();
            told.tell_total().unwrap();
            let mut said = String::new();
            out.rewind().unwrap();
            out.read_to_string(&mut said).unwrap();
            said
        };
        assert_eq!(of(false), "h/\\u{1b}[2J\tbytes 7\ntotal\tparts 2\n");
        let json = "{\"bytes\":7,\"repository\":\"h/\\u001b[2J\"}\n{\"total\":{\"parts\":2}}\n";
        assert_eq!(of(true), json);
    }
}
