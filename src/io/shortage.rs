//! Errors that say what the process or the system has run out of for the moment: descriptors, memory,
//! threads. They are nobody's fault who is being served, and say nothing of what is read.

use std::error::Error;
use std::fmt;
use std::io;

/// Descriptors of the process and of the system, memory, and threads.
const CODES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];

/// Whether an error, or one that it came from, says that there was not enough of something.
pub(crate) fn is_shortage(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref().is_some_and(Detail::is_shortage) {
            return true;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            let inner = error.get_ref();
            if has_code(error) || inner.is_some_and(|inner| is_shortage(inner)) {
                return true;
            }
        }
        next = error.source();
    }
    false
}

/// Whether an error, or one that it came from, says that the disk is full, or has no room for this user.
pub(crate) fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref().and_then(io::Error::raw_os_error);
        if matches!(code, Some(libc::ENOSPC | libc::EDQUOT)) {
            return true;
        }
        next = error.source();
    }
    false
}

fn has_code(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code.is_some_and(|code| CODES.contains(&code))
}

/// What a library says of an error, as text. Libraries hide what their errors came from, so that is
/// looked for in the text of each of them, which ends as the system's error does.
#[derive(Debug)]
pub struct Detail {
    text: String,
    is_shortage: bool,
}

impl Detail {
    /// Of a library's error.
    pub fn of(error: &(dyn Error + 'static)) -> Detail {
        let ends = CODES.map(|code| format!("(os error {code})"));
        let says_so = |text: &str| ends.iter().any(|end| text.ends_with(end));
        let mut is_shortage = is_shortage(error);
        let mut next = Some(error);
        while let Some(level) = next {
            is_shortage |= says_so(&level.to_string());
            next = level.source();
        }
        Detail {
            text: error.to_string(),
            is_shortage,
        }
    }

    fn is_shortage(&self) -> bool {
        self.is_shortage
    }
}

impl<T: Into<String>> From<T> for Detail {
    fn from(text: T) -> Detail {
        Detail {
            text: text.into(),
            is_shortage: false,
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for Detail {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {name}: {source}")]
    struct Ours<E: Error + 'static> {
        name: &'static str,
        source: E,
    }

    #[test]
    fn a_full_disk_is_found_wherever_it_is() {
        let ours = |code| Ours {
            name: "x",
            source: io::Error::from_raw_os_error(code),
        };
        assert!(is_disk_full(&ours(libc::ENOSPC)) && is_disk_full(&ours(libc::EDQUOT)));
        assert!(!is_disk_full(&ours(libc::EFBIG)) && !is_disk_full(&ours(libc::EIO)));
    }

    #[test]
    fn what_has_run_out_is_found_wherever_it_is() {
        let full = || io::Error::from_raw_os_error(libc::EMFILE);
        let ours = Ours {
            name: "x",
            source: full(),
        };
        assert!(is_shortage(&full()) && is_shortage(&ours));
        assert!(is_shortage(&io::Error::other(full())));
        let text = io::Error::other(format!("in a library: {}", full()));
        assert!(!is_shortage(&text), "what a client can write is no proof");
        let hidden = Ours {
            name: "y",
            source: Detail::of(&text),
        };
        assert!(is_shortage(&hidden));
        let other = Ours {
            name: "a (os error 24)",
            source: io::Error::from_raw_os_error(libc::EIO),
        };
        assert!(!is_shortage(&other) && !Detail::of(&other).is_shortage);
    }
}
