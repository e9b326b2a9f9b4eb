//! The keys of a configuration: their names in the file and in the environment, and what a wrong one
//! may have meant. Pure, and knows neither the flags nor the sources of values.
use std::collections::BTreeMap;
use std::ffi::OsString;

/// A key that the environment and the file may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// As in the file: lower case with underscores.
    pub(super) name: String,
    /// Whether it holds a list.
    pub(super) is_list: bool,
}

/// What one source gives: key to values, never an empty list of values.
pub(super) type Layer = BTreeMap<String, Vec<OsString>>;

/// The environment variable of a key.
pub(super) fn env_name(key: &str) -> String {
    format!("TARPON_{}", key.to_ascii_uppercase())
}

/// The keys that `wrong` may have meant: a slip of a letter or two, or a part of a longer name.
pub(super) fn hint(wrong: &str, keys: &[Key]) -> String {
    let wrong = wrong.to_lowercase().replace('-', "_");
    let names = || keys.iter().map(|key| key.name.as_str());
    let is_near = |name: &&str| {
        let part = wrong.len() >= 3 && (name.contains(&wrong) || wrong.contains(name));
        part || edit_distance(&wrong, name) <= 1 + name.len() / 5
    };
    let near: Vec<&str> = names().filter(is_near).collect();
    if near.is_empty() {
        return format!("known keys: {}", names().collect::<Vec<_>>().join(", "));
    }
    format!("did you mean {}?", near.join(" or "))
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_inserts_deletes_and_replacements() {
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("cores", "cores"), 0);
    }
}
