//! What is asked of the server.

use zeroize::Zeroizing;

use super::login::Field;

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'r> {
    pub method: &'static str,
    pub target: &'r str,
    pub fields: &'r [(&'r str, &'r str)],
    pub body: &'r [u8],
    /// Whether it is asked of another target where the answer says so.
    pub follows: bool,
}

impl<'r> Request<'r> {
    pub(super) fn get(target: &'r str, fields: &'r [(&'r str, &'r str)]) -> Request<'r> {
        Request {
            method: "GET",
            target,
            fields,
            body: b"",
            follows: true,
        }
    }

    pub(super) fn post(
        target: &'r str,
        fields: &'r [(&'r str, &'r str)],
        body: &'r [u8],
    ) -> Request<'r> {
        Request {
            method: "POST",
            target,
            fields,
            body,
            follows: true,
        }
    }

    /// The same, asked of nobody else.
    pub(super) fn unfollowed(self) -> Request<'r> {
        Request {
            follows: false,
            ..self
        }
    }

    /// Its bytes, which say that `logins` ask.
    pub(super) fn bytes(&self, authority: &str, logins: &[Field]) -> Zeroizing<Vec<u8>> {
        let lines: Vec<Zeroizing<String>> = logins.iter().map(Field::line).collect();
        let mut plain = format!(
            "{} {} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: tarpon/{}\r\n",
            self.method,
            self.target,
            env!("CARGO_PKG_VERSION")
        );
        for (name, value) in self.fields {
            plain.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.method == "POST" {
            plain.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        let secret = lines.iter().map(|line| line.len() + 2).sum::<usize>();
        let len = plain.len() + secret + 2 + self.body.len();
        let mut bytes = Zeroizing::new(Vec::with_capacity(len));
        bytes.extend_from_slice(plain.as_bytes());
        for line in &lines {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Whether the same may be asked of another target, as an answer of this status says (RFC 9110,
    /// section 15.4).
    pub(super) fn may_follow(&self, status: u16) -> bool {
        match status {
            _ if !self.follows => false,
            307 | 308 => true,
            301..=303 => self.method == "GET",
            _ => false,
        }
    }
}
