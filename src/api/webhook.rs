//! Webhooks: a host says that something has moved. What it says is believed once its signature is that of a
//! secret of the host, which is computed as the body comes; nothing of the body is kept.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::core::{Core, Note};
use super::refused::logged_path;
use crate::config::{Secret, Secrets};
use crate::http::net::body::{Body, BodyReader};
use crate::http::net::service::{Answer, Payload};
use crate::http::wire::caching::Caching;
use crate::http::wire::head::RequestHead;
use crate::http::wire::payload::{self, Said};
use crate::http::wire::response::Head;
use crate::http::wire::route::RepoRef;
use crate::jobs::news::Heard;
use crate::limits::{HASHED_BYTE_WORK, WEBHOOK_BODY_BYTES_MAX, WEBHOOK_HASHED_BYTES_MAX};
use crate::telemetry::metrics::{Event, Outcome, WebhookResult};

const REFUSED: &str =
    "no valid signature: send one of a secret that --webhook-secrets has for this host";

const NOT_HEARD: &str = "this server takes no webhooks: it runs without --webhook-secrets";

/// Bytes of a signature.
type Signature = [u8; 32];

/// A webhook as it comes.
pub(super) struct Hearing {
    /// Whose token stands in the head: these are proven already.
    proven: Vec<String>,
    /// What each secret would make of the body, with the host that it speaks for.
    signed: Vec<(String, Hmac<Sha256>)>,
    signatures: Vec<Signature>,
    payload: payload::Payload,
}

impl BodyReader for Hearing {
    fn take(&mut self, bytes: &[u8]) -> u64 {
        for (_, mac) in &mut self.signed {
            mac.update(bytes);
        }
        self.payload.take(bytes);
        let hashes = 1 + self.signed.len() as u64;
        bytes.len() as u64 * hashes * HASHED_BYTE_WORK
    }
}

impl Hearing {
    /// The hosts that it is proven to come from, and what it says.
    fn end(self) -> (Vec<String>, Said) {
        let mut hosts = self.proven;
        for (host, mac) in self.signed {
            let made = mac.finalize().into_bytes();
            let is_one = |signature: &Signature| bool::from(made.as_slice().ct_eq(signature));
            // All of them are looked at, so that the time says nothing.
            if self.signatures.iter().filter(|one| is_one(one)).count() > 0 {
                hosts.push(host);
            }
        }
        hosts.sort_unstable();
        hosts.dedup();
        (hosts, self.payload.end())
    }
}

impl Core {
    /// Begins to hear a webhook about a repository, or about one that its body names.
    pub(super) fn hearing(&self, head: &RequestHead<'_>, repo: Option<RepoRef<'_>>) -> Hearing {
        let secrets = self.secrets.load();
        let signatures: Vec<Signature> = signatures(head).collect();
        let (mut proven, mut signed) = (Vec::new(), Vec::new());
        for (host, secret) in self.candidates(&secrets, repo) {
            if is_token(head, secret) {
                proven.push(host.to_owned());
            }
            // A key of any length will do.
            if !signatures.is_empty()
                && let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.bytes())
            {
                signed.push((host.to_owned(), mac));
            }
        }
        let is_form = head.content_type.is_some_and(|kind| {
            kind.to_ascii_lowercase()
                .starts_with(b"application/x-www-form-urlencoded")
        });
        Hearing {
            proven,
            signed,
            signatures,
            payload: payload::Payload::new(is_form),
        }
    }

    /// The secrets that can prove a webhook, each with the host that it speaks for.
    fn candidates<'s>(
        &'s self,
        secrets: &'s Secrets,
        repo: Option<RepoRef<'_>>,
    ) -> impl Iterator<Item = (&'s str, &'s Secret)> {
        let host = repo.map(|repo| self.config.upstreams.spelled(repo.host));
        let is_known = host != Some(None);
        secrets.of(host.flatten()).filter(move |_| is_known)
    }

    /// How much of a body is worth reading because it could prove a webhook; `None` for nothing.
    pub(super) fn webhook_bytes(
        &self,
        head: &RequestHead<'_>,
        repo: Option<RepoRef<'_>>,
    ) -> Option<u64> {
        let secrets = self.secrets.load();
        let candidates = || self.candidates(&secrets, repo);
        let hashes = match signatures(head).next() {
            Some(_) => candidates().count() as u64,
            None => 0,
        };
        let is_hopeful = hashes > 0 || candidates().any(|(_, secret)| is_token(head, secret));
        let most = WEBHOOK_HASHED_BYTES_MAX / hashes.max(1);
        is_hopeful.then_some(most.min(WEBHOOK_BODY_BYTES_MAX))
    }

    /// Answers `POST …/webhook` and `POST /webhook`, before anything is done.
    pub(super) fn webhook(
        &self,
        head: &RequestHead<'_>,
        repo: Option<RepoRef<'_>>,
        body: Body,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        let hearing = body.into_reader::<Hearing>();
        let hearing = hearing.map_or_else(|| self.hearing(head, repo), |hearing| *hearing);
        let (hosts, said) = hearing.end();
        let about = repo.map(|repo| format!("{}/{}", repo.host, repo.path));
        let Some(host) = hosts.first() else {
            self.meter.add(Event::Webhook(WebhookResult::Refused), 1);
            let (message, reason) = self.unproven(head, repo);
            let note = self.note(head, Outcome::Refused, 401);
            return Answer {
                payload: self.text(head, 401, message, out),
                keep_alive: head.keep_alive,
                note: noted((head, about), Some(reason.into()), note),
            };
        };
        let path = match repo {
            Some(repo) => Some(repo.path.to_owned()),
            None => said.repository.clone(),
        };
        // Nothing of the payload is noted before it is proven.
        let about = about.or_else(|| Some(format!("{host}/{}", path.as_deref()?)));
        let event = event(head.hook.event, &said);
        let (Some(path), Some(event)) = (path, event) else {
            self.meter.add(Event::Webhook(WebhookResult::Ignored), 1);
            let reason = match (&about, head.hook.event) {
                (None, _) => "it names no repository".to_owned(),
                (_, name) => {
                    let name = String::from_utf8_lossy(name.unwrap_or_default());
                    format!("nothing follows from an event {name:?}")
                }
            };
            return self.no_content((head, about), reason, out);
        };
        self.meter.add(Event::Webhook(WebhookResult::Accepted), 1);
        let pushed = said.ref_name.filter(|_| event == Happened::Pushed);
        let heard = Heard {
            hosts,
            path,
            pushed,
        };
        self.plane.spawn(|jobs| jobs.hear(heard));
        Answer {
            payload: self.text(head, 202, "accepted", out),
            keep_alive: head.keep_alive,
            note: noted((head, about), None, self.note(head, Outcome::Webhook, 202)),
        }
    }

    /// What is said to who proves nothing, and what the log says more of it.
    fn unproven(
        &self,
        head: &RequestHead<'_>,
        repo: Option<RepoRef<'_>>,
    ) -> (&'static str, &'static str) {
        if self.config.webhook_secrets.is_none() {
            return (NOT_HEARD, NOT_HEARD);
        }
        let is_signed = signatures(head).next().is_some() || head.hook.gitlab_token.is_some();
        let secrets = self.secrets.load();
        let has_secret = self.candidates(&secrets, repo).next().is_some();
        let reason = match (is_signed, has_secret) {
            (false, _) => "it has no signature",
            (true, false) => "there is no secret of its host",
            (true, true) => "its signature is of no secret of its host's",
        };
        (REFUSED, reason)
    }

    fn no_content(
        &self,
        (head, about): (&RequestHead<'_>, Option<String>),
        reason: String,
        out: &mut Vec<u8>,
    ) -> Answer<Note> {
        self.with_date(|date| {
            // All values are the program's own.
            let _ = Head::new(out, 204, date, Caching::NEVER)
                .connection(head.keep_alive)
                .finish();
        });
        Answer {
            payload: Payload::Written,
            keep_alive: head.keep_alive,
            note: noted(
                (head, about),
                Some(reason.into()),
                self.note(head, Outcome::Webhook, 204),
            ),
        }
    }
}

/// The note of a webhook: of which repository it is, as far as that is known, and what became of it.
fn noted(
    (head, about): (&RequestHead<'_>, Option<String>),
    reason: Option<Box<str>>,
    note: Note,
) -> Note {
    Note {
        path: about.is_none().then(|| logged_path(head.target)),
        repository: about.map_or(note.repository, Into::into),
        reason,
        ..note
    }
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happened {
    /// Something is other than before.
    Moved,
    /// Commits were added to a branch.
    Pushed,
}

/// What an event is about; `None` for nothing that counts. Whoever names none has something of his own to say.
fn event(event: Option<&[u8]>, said: &Said) -> Option<Happened> {
    let pushed = match said.is_plain_push() {
        true => Happened::Pushed,
        false => Happened::Moved,
    };
    let Some(event) = event else {
        return Some(pushed);
    };
    match (&*event.to_ascii_lowercase(), said.event.as_deref()) {
        (b"push" | b"push hook" | b"tag push hook", _) => Some(pushed),
        (b"create" | b"delete" | b"repository", _) => Some(Happened::Moved),
        (b"system hook", Some("push" | "tag_push")) => Some(pushed),
        (b"system hook", Some("repository_update" | "project_rename" | "project_transfer")) => {
            Some(Happened::Moved)
        }
        _ => None,
    }
}

/// The signatures of a head.
fn signatures(head: &RequestHead<'_>) -> impl Iterator<Item = Signature> {
    let hub = head.hook.hub_signature;
    let hub = hub.and_then(|value| value.strip_prefix(b"sha256="));
    let given = [hub, head.hook.gitea_signature];
    given.into_iter().flatten().filter_map(from_hex)
}

/// Whether a head has a secret as its token.
fn is_token(head: &RequestHead<'_>, secret: &Secret) -> bool {
    let token = head.hook.gitlab_token;
    token.is_some_and(|token| bool::from(token.ct_eq(secret.bytes())))
}

/// A signature in hex.
fn from_hex(text: &[u8]) -> Option<Signature> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let mut signature = Signature::default();
    if text.len() != 2 * signature.len() {
        return None;
    }
    for (byte, pair) in signature.iter_mut().zip(text.chunks_exact(2)) {
        *byte = match pair {
            [high, low] => (16 * digit(high)? + digit(low)?) as u8,
            _ => return None,
        };
    }
    Some(signature)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_from_an_event() {
        let push = Said {
            ref_name: Some("refs/heads/a".into()),
            after: Some("1".into()),
            ..Said::default()
        };
        let forced = Said {
            is_forced: true,
            ..push.clone()
        };
        let system = |event: &str| Said {
            event: Some(event.into()),
            ..push.clone()
        };
        let of = |event: &str, said: &Said| super::event(Some(event.as_bytes()), said);
        for event in ["push", "Push Hook", "Tag Push Hook"] {
            assert_eq!(of(event, &push), Some(Happened::Pushed), "{event}");
            assert_eq!(of(event, &forced), Some(Happened::Moved), "{event}");
        }
        for event in ["create", "delete", "repository"] {
            assert_eq!(of(event, &push), Some(Happened::Moved), "{event}");
        }
        assert_eq!(of("System Hook", &system("push")), Some(Happened::Pushed));
        assert_eq!(
            of("System Hook", &system("project_rename")),
            Some(Happened::Moved)
        );
        assert_eq!(of("System Hook", &system("user_create")), None);
        for event in ["ping", "issues", "", "Merge Request Hook"] {
            assert_eq!(of(event, &push), None, "{event}");
        }
        assert_eq!(event(None, &push), Some(Happened::Pushed));
    }

    #[test]
    fn a_body_counts_for_each_time_that_it_is_hashed() {
        let mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
        let hearing = |secrets: usize| Hearing {
            proven: Vec::new(),
            signed: vec![("host".into(), mac.clone()); secrets],
            signatures: Vec::new(),
            payload: payload::Payload::new(false),
        };
        let work = |secrets: usize| hearing(secrets).take(&[b'x'; 1000]);
        assert_eq!((work(0), work(1), work(63)), (4000, 8000, 256_000));
    }

    #[test]
    fn signatures_are_hex() {
        let text = "0aF9".repeat(16);
        let signature = from_hex(text.as_bytes()).unwrap();
        assert_eq!(signature[..2], [0x0a, 0xf9]);
        for wrong in [
            "",
            &text[1..],
            &format!("{}x", &text[1..]),
            &format!("{}+1", &text[2..]),
        ] {
            assert_eq!(from_hex(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
