//! Names of what an error tells of: the first few of them, and how many others there are.

use std::fmt;

use crate::limits::LOCAL_NAMED_MAX;

/// See the module's text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    first: Vec<String>,
    count: usize,
    /// Whether there may be others that nobody has counted.
    is_open: bool,
}

impl Names {
    pub(super) fn push(&mut self, name: String) {
        if self.first.len() < LOCAL_NAMED_MAX {
            self.first.push(name);
        }
        self.count += 1;
    }

    /// There may be others.
    pub(super) fn leave_open(&mut self) {
        self.is_open = true;
    }

    /// Adds others, each under another name.
    pub(super) fn append(&mut self, others: Names, renamed: impl Fn(String) -> String) {
        let named = others.first.len();
        others
            .first
            .into_iter()
            .map(renamed)
            .for_each(|name| self.push(name));
        self.count += others.count - named;
        self.is_open |= others.is_open;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}

impl FromIterator<String> for Names {
    fn from_iter<I: IntoIterator<Item = String>>(names: I) -> Names {
        let mut all = Names::default();
        names.into_iter().for_each(|name| all.push(name));
        all
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match (self.count - self.first.len(), self.is_open) {
            (0, false) => Ok(()),
            (_, true) => f.write_str(" and others"),
            (1, false) => f.write_str(" and 1 other"),
            (others, false) => write!(f, " and {others} others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_named_and_the_others_counted() {
        let of = |count: usize| Names::from_iter((0..count).map(|n| n.to_string()));
        assert_eq!(of(2).to_string(), "0, 1");
        assert_eq!(
            of(LOCAL_NAMED_MAX + 1).to_string(),
            "0, 1, 2, 3, 4, 5, 6, 7 and 1 other"
        );
        let mut all = of(1);
        all.append(of(40), |name| format!("x{name}"));
        assert_eq!(
            all.to_string(),
            "0, x0, x1, x2, x3, x4, x5, x6 and 33 others"
        );
        all.leave_open();
        assert!(all.to_string().ends_with(" and others"));
    }
}
