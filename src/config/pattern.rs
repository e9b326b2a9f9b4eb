//! Patterns of names in client certificates.

/// A pattern: of URIs if it has `://`, else of DNS names. A `*` stands for one character or more, but for no
/// `.` of a DNS name and no `/` of a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Reads what an operator wrote.
    pub(super) fn read(text: &str) -> Result<Pattern, String> {
        // A comma is in no name: whoever writes one means two patterns.
        let is_plain = text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b',');
        // What allows any name allows whoever the authority has ever signed for.
        let says_something = text.bytes().any(|byte| byte.is_ascii_alphanumeric());
        if !is_plain || !says_something || text.contains("**") {
            let allowed = "a name of client certificates, or a pattern in which * is a part of one: \
                           *.ci.example.org or spiffe://example.org/farm/*; of several each is given by itself";
            return Err(allowed.into());
        }
        let pattern = Pattern(text.to_owned());
        Ok(match pattern.is_of_uris() {
            true => pattern,
            false => Pattern(text.to_ascii_lowercase()),
        })
    }

    fn is_of_uris(&self) -> bool {
        self.0.contains("://")
    }

    /// Whether a name is allowed by it. The case of a DNS name means nothing.
    pub fn allows(&self, name: &str) -> bool {
        if name.contains("://") != self.is_of_uris() {
            return false;
        }
        match self.is_of_uris() {
            true => matches(self.0.as_bytes(), name.as_bytes(), b'/'),
            false => matches(
                self.0.as_bytes(),
                name.to_ascii_lowercase().as_bytes(),
                b'.',
            ),
        }
    }
}

/// In time that grows with the product of both lengths at most: only the last `*` is ever tried anew, as for a
/// name without `border` the shortest part for an earlier one leaves most to those behind it.
fn matches(pattern: &[u8], name: &[u8], border: u8) -> bool {
    let (mut at, mut in_name) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') if name[in_name] != border => {
                star = Some((at, in_name));
                (at, in_name) = (at + 1, in_name + 1);
            }
            Some(byte) if *byte != b'*' && *byte == name[in_name] => {
                if *byte == border {
                    // What stands before it cannot be cut in another way.
                    star = None;
                }
                (at, in_name) = (at + 1, in_name + 1);
            }
            _ => match star {
                Some((of, until)) if name.get(until + 1).is_some_and(|next| *next != border) => {
                    star = Some((of, until + 1));
                    (at, in_name) = (of + 1, until + 2);
                }
                _ => return false,
            },
        }
    }
    at == pattern.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_allowed() {
        let allows = |pattern: &str, name: &str| Pattern::read(pattern).unwrap().allows(name);
        for (pattern, name) in [
            ("a.example.org", "A.example.ORG"),
            ("*.Example.org", "a.example.org"),
            ("runner-*.ci.*", "runner-7.ci.internal"),
            ("x*y*z", "xaybyz"),
            ("x*yb", "xybyb"),
            (
                "spiffe://example.org/ns/*/sa/builder",
                "spiffe://example.org/ns/ci/sa/builder",
            ),
        ] {
            assert!(allows(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("a.example.org", "b.a.example.org"),
            ("*.example.org", "example.org"),
            ("*.example.org", ".example.org"),
            ("*.example.org", "a.b.example.org"),
            ("*.example.org", "a.example.org.evil.net"),
            ("*a", "a"),
            ("a*", "a"),
            ("spiffe://example.org/*", "spiffe://example.org/a/b"),
            ("spiffe://example.org/*", "spiffe://EXAMPLE.org/a"),
            ("*example.org", "spiffe://example.org"),
        ] {
            assert!(!allows(pattern, name), "{pattern} {name}");
        }
        for wrong in ["", "*", "**a", "a b", "é", "*.*"] {
            assert!(Pattern::read(wrong).is_err(), "{wrong}");
        }
    }

    /// In as many ways as there are.
    fn plainly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), Some((byte, left))) if *byte != b'.' => {
                plainly(rest, left) || plainly(pattern, left)
            }
            (Some((wanted, rest)), Some((byte, left))) if wanted == byte && *byte != b'*' => {
                plainly(rest, left)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_it_says(pattern in "[ab.*]{0,8}", name in "[ab.]{0,10}") {
            let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(matches(pattern, name, b'.'), plainly(pattern, name));
        }
    }
}
