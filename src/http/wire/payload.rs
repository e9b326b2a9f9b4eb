//! What the payload of a webhook says: a few values of JSON, found as it comes, whatever its size.
//!
//! Only structure is looked at, and only so far that these values are found where they belong; the rest may
//! be anything. Who sent it is proven before anything that is found counts.

use std::mem::take;

use crate::limits::{PAYLOAD_DEPTH_MAX, PAYLOAD_KEY_BYTES_MAX, PAYLOAD_VALUE_BYTES_MAX};

/// What it says. Nothing of it is checked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    /// The repository's path at its host.
    pub repository: Option<String>,
    /// The ref that was pushed, in full.
    pub ref_name: Option<String>,
    /// What it leads to now; only zeros for nothing.
    pub after: Option<String>,
    /// What has happened, where one kind of webhook is about several things.
    pub event: Option<String>,
    pub is_deleted: bool,
    pub is_forced: bool,
}

impl Said {
    /// Whether commits were added to a branch, and nothing else.
    pub(crate) fn is_plain_push(&self) -> bool {
        let after = self.after.as_deref().unwrap_or_default();
        let is_nothing = after.bytes().all(|byte| byte == b'0');
        let is_branch = |name: &str| name.starts_with("refs/heads/");
        let on_branch = self.ref_name.as_deref().is_some_and(is_branch);
        on_branch && !is_nothing && !self.is_deleted && !self.is_forced
    }

    fn note(&mut self, path: (&[u8], &[u8]), value: &[u8]) {
        let text = || Some(String::from_utf8_lossy(value).into_owned());
        match path {
            // GitHub, Gitea, Forgejo; GitLab has another name in its place.
            (b"repository", b"full_name") | (b"project", b"path_with_namespace") => {
                self.repository = text();
            }
            // GitLab, where a system speaks of all.
            (b"path_with_namespace", b"") => {
                self.repository = self.repository.take().or_else(text);
            }
            (b"ref", b"") => self.ref_name = text(),
            (b"after", b"") => self.after = text(),
            (b"event_name", b"") => self.event = text(),
            (b"deleted", b"") => self.is_deleted = value == b"true",
            (b"forced", b"") => self.is_forced = value == b"true",
            _ => {}
        }
    }
}

/// A payload as it comes.
#[derive(Debug)]
pub(crate) struct Payload {
    form: Option<Form>,
    json: Json,
}

impl Payload {
    /// One that is JSON, or a form with a field of it.
    pub(crate) fn new(is_form: bool) -> Payload {
        Payload {
            form: is_form.then(Form::default),
            json: Json::default(),
        }
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let json = &mut self.json;
        match &mut self.form {
            Some(form) => form.take(bytes, |byte| json.take(byte)),
            None => bytes.iter().for_each(|byte| json.take(*byte)),
        }
    }

    /// What it said.
    pub(crate) fn end(self) -> Said {
        self.json.said
    }
}

/// A form (`application/x-www-form-urlencoded`), of which the field `payload` counts.
#[derive(Debug, Default)]
struct Form {
    key: Vec<u8>,
    in_value: bool,
    /// A `%`, and the digit behind it.
    escape: Option<Option<u8>>,
}

impl Form {
    fn take(&mut self, bytes: &[u8], mut value: impl FnMut(u8)) {
        for &byte in bytes {
            let decoded = match (self.escape, byte) {
                (Some(None), _) => {
                    self.escape = Some(Some(byte));
                    continue;
                }
                (Some(Some(high)), low) => {
                    self.escape = None;
                    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0);
                    (16 * digit(high) + digit(low)) as u8
                }
                (None, b'&') => {
                    *self = Form::default();
                    continue;
                }
                (None, b'=') if !self.in_value => {
                    self.in_value = true;
                    continue;
                }
                (None, b'%') => {
                    self.escape = Some(None);
                    continue;
                }
                (None, b'+') => b' ',
                (None, byte) => byte,
            };
            match self.in_value {
                true if self.key == b"payload" => value(decoded),
                false if self.key.len() < PAYLOAD_KEY_BYTES_MAX => self.key.push(decoded),
                _ => {}
            }
        }
    }
}

/// Where in JSON a byte stands.
#[derive(Debug, Default)]
struct Json {
    /// For each container that is open whether it is an object: the lowest bit for the innermost.
    objects: u64,
    depth: u32,
    /// The next string in this object is a key.
    is_key_next: bool,
    /// The last keys of the outermost object, and of the one in it.
    keys: [Vec<u8>; 2],
    token: Token,
    text: Vec<u8>,
    /// More was nested than is looked at: nothing more is found.
    is_lost: bool,
    said: Said,
}

#[derive(Debug, Default, Clone, Copy)]
enum Token {
    #[default]
    None,
    /// A number or a word.
    Word,
    String,
    /// Behind a backslash.
    Escape,
    /// In the digits behind `\u`: how many are left, and what they are so far.
    Unicode(u8, u32),
}

impl Json {
    fn take(&mut self, byte: u8) {
        if self.is_lost {
            return;
        }
        match self.token {
            Token::String if byte == b'"' => self.end_string(),
            Token::String if byte == b'\\' => self.token = Token::Escape,
            Token::String => self.push(&[byte]),
            Token::Escape if byte == b'u' => self.token = Token::Unicode(4, 0),
            Token::Escape => {
                self.token = Token::String;
                self.push(&[escaped(byte)]);
            }
            Token::Unicode(left, code) => self.take_digit(left, code, byte),
            Token::None | Token::Word => self.take_structure(byte),
        }
    }

    fn take_digit(&mut self, left: u8, code: u32, byte: u8) {
        let code = 16 * code + char::from(byte).to_digit(16).unwrap_or(0);
        self.token = Token::Unicode(left - 1, code);
        if left == 1 {
            self.token = Token::String;
            let mut bytes = [0; 4];
            let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            self.push(character.encode_utf8(&mut bytes).as_bytes());
        }
    }

    fn take_structure(&mut self, byte: u8) {
        let is_word = byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
        if is_word {
            self.token = Token::Word;
            return self.push(&[byte]);
        }
        if let Token::Word = take(&mut self.token) {
            self.value();
        }
        match byte {
            b'"' => self.token = Token::String,
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(),
            b',' => self.is_key_next = self.objects & 1 == 1,
            b':' => self.is_key_next = false,
            _ => {}
        }
    }

    fn open(&mut self, is_object: bool) {
        if self.depth >= PAYLOAD_DEPTH_MAX {
            self.is_lost = true;
            return;
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u64::from(is_object);
        self.is_key_next = is_object;
        if self.depth == 2 {
            self.keys[1].clear();
        }
    }

    fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.objects >>= 1;
        self.is_key_next = false;
        if self.depth == 1 {
            self.keys[1].clear();
        }
    }

    /// Keeps what may be a key or a value that counts, if it is not too long for one.
    fn push(&mut self, bytes: &[u8]) {
        if self.depth <= 2 && self.text.len() <= PAYLOAD_VALUE_BYTES_MAX {
            self.text.extend_from_slice(bytes);
        }
    }

    fn end_string(&mut self) {
        self.token = Token::None;
        if !self.is_key_next {
            return self.value();
        }
        let key = take(&mut self.text);
        let place = (self.depth as usize).checked_sub(1);
        if let Some(place) = place.and_then(|depth| self.keys.get_mut(depth)) {
            *place = key;
        }
        if self.depth == 1 {
            self.keys[1].clear();
        }
    }

    fn value(&mut self) {
        let value = take(&mut self.text);
        // Not one of an array.
        let is_in_object = self.objects & 1 == 1;
        if is_in_object && self.depth <= 2 && value.len() <= PAYLOAD_VALUE_BYTES_MAX {
            let [outer, inner] = &self.keys;
            self.said.note((outer, inner), &value);
        }
    }
}

fn escaped(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b't' => b'\t',
        b'r' => b'\r',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(is_form: bool, bytes: &[u8], step: usize) -> Said {
        let mut payload = Payload::new(is_form);
        bytes.chunks(step).for_each(|piece| payload.take(piece));
        payload.end()
    }

    const GITHUB: &str = r#"{ "ref": "refs/heads/ma\u0069n", "before": "1", "after":"22",
        "commits": [{"ref": "x", "repository": {"full_name": "evil/evil"}}, ["a", {"b": [1]}], "c"],
        "repository": {"id": 7, "owner": {"full_name": "evil"}, "full_name": "Team\/App", "x": null},
        "forced": false, "deleted" : false, "sender": {"repository": {"full_name": "evil/evil"}}}"#;

    #[test]
    fn values_are_found_where_they_belong_in_any_pieces() {
        let expected = Said {
            repository: Some("Team/App".into()),
            ref_name: Some("refs/heads/main".into()),
            after: Some("22".into()),
            ..Said::default()
        };
        let encoded: String = GITHUB.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let form = format!("a=b&payload={encoded}&payloads=%7B");
        for step in [1, 2, 3, 1000, 100_000] {
            assert_eq!(said(false, GITHUB.as_bytes(), step), expected);
            assert_eq!(said(true, form.as_bytes(), step), expected);
        }
        assert!(expected.is_plain_push());
        let gitlab =
            br#"{"event_name":"push","after":"5","ref":"refs/tags/v","repository":{"name":"x"},
            "project":{"path_with_namespace":"a/b/c"}}"#;
        let gitlab = said(false, gitlab, 7);
        assert_eq!(gitlab.repository.as_deref(), Some("a/b/c"));
        assert_eq!(gitlab.event.as_deref(), Some("push"));
        assert!(!gitlab.is_plain_push(), "a tag");
    }

    #[test]
    fn what_takes_something_away_is_no_plain_push() {
        for rest in [
            r#""after":"000""#,
            r#""after":"1","forced":true"#,
            r#""after":"1","deleted":true"#,
        ] {
            let json = format!(r#"{{"ref":"refs/heads/a",{rest}}}"#);
            assert!(!said(false, json.as_bytes(), 9).is_plain_push(), "{json}");
        }
    }

    #[test]
    fn what_is_nested_too_deep_or_too_long_is_not_found() {
        let deep = format!("{}{}", "[".repeat(100_000), r#"{"ref":"refs/heads/a"}"#);
        assert_eq!(said(false, deep.as_bytes(), 1000), Said::default());
        let long = format!(r#"{{"ref":"{}","after":"1"}}"#, "x".repeat(1 << 20));
        let long = said(false, long.as_bytes(), 1000);
        assert_eq!((long.ref_name, long.after.as_deref()), (None, Some("1")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, is_form: bool) {
            said(is_form, &bytes, 3);
        }

        #[test]
        fn it_reads_what_a_parser_writes(name in "\\PC{0,40}", noise in "\\PC{0,40}") {
            let json = serde_json::json!({
                noise.clone() + "-": [noise, {"repository": {"full_name": 1}}],
                "repository": {"a": {"full_name": "no"}, "full_name": name},
            });
            let found = said(false, json.to_string().as_bytes(), 5).repository;
            prop_assert_eq!(found, Some(name));
        }
    }
}
