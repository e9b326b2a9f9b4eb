//! Patterns of names in client certificates.

/// A pattern: of URIs if it has `://`, else of DNS names. A `*` stands for a whole part of one: what is between two dots
/// of a DNS name, or two slashes of a URI.
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
        let border = if text.contains("://") { '/' } else { '.' };
        let are_whole = text
            .split(border)
            .all(|part| part == "*" || !part.contains('*'));
        if !is_plain || !says_something || !are_whole {
            let allowed = "a name of client certificates, or a pattern in which * is a whole part of one: \
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

fn matches(pattern: &[u8], name: &[u8], border: u8) -> bool {
    let (mut parts, mut own) = (
        pattern.split(|byte| *byte == border),
        name.split(|byte| *byte == border),
    );
    loop {
        match (parts.next(), own.next()) {
            (None, None) => return true,
            (Some(b"*"), Some(part)) if !part.is_empty() => {}
            (Some(wanted), Some(part)) if wanted == part && wanted != b"*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_allowed() {
        let allows = |pattern: &str, name: &str| Pattern::read(pattern).unwrap().allows(name);
        for (pattern, name) in [
            ("a.example.org", "A.example.ORG"),
            ("*.Example.org", "a.example.org"),
            ("runner.*.ci.*", "runner.7.ci.internal"),
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
            ("spiffe://example.org/*", "spiffe://example.org/a/b"),
            ("spiffe://example.org/*", "spiffe://EXAMPLE.org/a"),
            ("*.example.org", "spiffe://example.org"),
        ] {
            assert!(!allows(pattern, name), "{pattern} {name}");
        }
        for wrong in [
            "",
            "*",
            "**.a",
            "a b",
            "é",
            "*.*",
            "w*.example.org",
            "*w.example.org",
            "spiffe://example.org/w*",
        ] {
            assert!(Pattern::read(wrong).is_err(), "{wrong}");
        }
    }
}
