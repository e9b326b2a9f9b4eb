//! By way of which servers a request for an upstream goes, as `Via` says it of proxies (RFC 9110
//! section 7.6.3). Each server has a random id, adds it to those that came with a request, and
//! sends all of them with what its git asks upstream. One that meets its own id is its own
//! upstream, directly or through others, and refuses: else each would wait for the next for ever.
use crate::limits;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

/// The header's name.
pub(crate) const HEADER: &str = "Tarpon-Via";
/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// The ids of servers, in the order in which they sent the request on.
///
/// Invariant: each is [`ID_DIGITS`] of `0-9a-f`, none is there twice, and there are at most
/// [`VIA_IDS_MAX`](limits::VIA_IDS_MAX) and one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Via {
    ids: Vec<String>,
}

/// Why the header of a request does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No server sends such a thing.
    Malformed,
    /// It came by way of more than [`VIA_IDS_MAX`](limits::VIA_IDS_MAX) servers.
    TooMany,
}

impl Via {
    /// A new id, that of this process.
    pub fn random() -> Self {
        // Its keys are random, and others each time.
        let half = |_| RandomState::new().hash_one(std::process::id());
        let halves: [u64; 2] = std::array::from_fn(half);
        let id = halves.map(|half| format!("{half:016x}")).concat();
        Self { ids: vec![id] }
    }

    /// What came with a request: the lines of its header.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn read<'l>(lines: impl Iterator<Item = &'l [u8]>) -> Result<Self, Refused> {
        let mut via = Self::default();
        for id in lines.flat_map(|line| line.split(|byte| *byte == b',')) {
            let id = std::str::from_utf8(id.trim_ascii()).map_err(|_| Refused::Malformed)?;
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            if id.len() != ID_DIGITS || !id.bytes().all(is_digit) {
                return Err(Refused::Malformed);
            }
            via.add(id);
            if via.ids.len() > limits::VIA_IDS_MAX {
                return Err(Refused::TooMany);
            }
        }
        Ok(via)
    }

    /// These, then `own`: what goes with the requests that one with these causes.
    #[must_use]
    pub fn then(&self, own: &Via) -> Via {
        let mut all = self.clone();
        own.ids.iter().for_each(|id| all.add(id));
        all
    }

    /// Whether one of `own` is among these.
    pub fn leads_back_to(&self, own: &Via) -> bool {
        own.ids.iter().any(|id| self.ids.contains(id))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn add(&mut self, id: &str) {
        if !self.ids.iter().any(|have| have == id) {
            self.ids.push(id.to_owned());
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.ids.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Via, Refused> {
        Via::read(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let (a, b) = (Via::random(), Via::random());
        assert_ne!(a, b);
        let both = a.then(&b);
        let sent = both.to_string();
        // git may send it twice.
        assert_eq!(read(&[&sent, &sent]), Ok(both.clone()));
        assert_eq!(read(&[&a.to_string(), &format!(" {b} ")]), Ok(both.clone()));
        assert!(both.leads_back_to(&a) && both.leads_back_to(&b));
        assert!(!a.leads_back_to(&b) && !Via::default().leads_back_to(&a));
        assert_eq!(both.then(&a), both, "one is never there twice");
        assert_eq!(read(&[]), Ok(Via::default()));
    }

    #[test]
    fn what_no_server_sends_is_refused() {
        let id = Via::random().to_string();
        for wrong in [
            "",
            ",",
            "x",
            &id[1..],
            &format!("{id}0"),
            &id.to_uppercase().replace(|c: char| c.is_ascii_digit(), "A"),
            &format!("{id}, -c"),
            &format!("{id}\r\nX: y"),
        ] {
            assert_eq!(read(&[wrong]), Err(Refused::Malformed), "{wrong:?}");
        }
        let many = |count| -> Vec<String> { (0..count).map(|n| format!("{n:032x}")).collect() };
        let longest = many(limits::VIA_IDS_MAX).join(",");
        assert!(read(&[&longest]).is_ok());
        assert_eq!(read(&[&longest, &id]), Err(Refused::TooMany));
    }
}
