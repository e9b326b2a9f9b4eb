//! What a client may send that is no content. TLS has messages that mean nothing to a request: changes of keys, empty
//! records, warnings. They are opened all the same, so there is a bound to them, which content and requests renew.

use std::io;

use crate::limits::{SLACK_BYTES, SLACK_BYTES_EACH};

/// Bytes of records that may still come.
#[derive(Debug)]
pub(super) struct Slack {
    left_bytes: u64,
}

impl Default for Slack {
    fn default() -> Slack {
        Slack {
            left_bytes: SLACK_BYTES,
        }
    }
}

impl Slack {
    /// So many bytes have come, whatever is in them.
    pub(super) fn take(&mut self, bytes: usize) -> io::Result<()> {
        match self.left_bytes.checked_sub(bytes as u64) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "too much that is no content",
            )),
        }
    }

    /// There was so much content in them.
    pub(super) fn content(&mut self, bytes: usize) {
        let more = (bytes as u64).saturating_mul(SLACK_BYTES_EACH);
        self.left_bytes = self.left_bytes.saturating_add(more).min(SLACK_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_in_the_smallest_records_may_come_for_ever_and_nothing_else() {
        let mut slack = Slack::default();
        for _ in 0..100_000 {
            // A byte in a record of TLS 1.2 with AES-GCM.
            slack.take(5 + 8 + 1 + 16).unwrap();
            slack.content(1);
        }
        let change_of_keys = 5 + 5 + 1 + 16;
        let count = (0..).find(|_| slack.take(change_of_keys).is_err());
        assert!(count.is_some_and(|count| count as u64 * 27 <= SLACK_BYTES));
    }
}
