//! As much of git's protocol as a question needs: packet lines of version 2 (gitprotocol-v2(5)).

use gix::ObjectId;

use crate::limits::PKT_LINE_BYTES_MAX;

/// What an upstream says of whoever shows a credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Yes,
    No,
    /// Neither: this came instead.
    Nothing(String),
}

/// The first line of an answer is read, and no more: behind it may be a pack.
pub(super) const LINE_BYTES_READ: u64 = 1024;

/// How the first line begins of what a git host says first: of version 2, and of those before it.
const FIRST_LINES: [&[u8]; 2] = [b"version 2\n", b"# service=git-upload-pack\n"];
/// How an answer with objects begins.
const SECTIONS: [&[u8]; 2] = [b"packfile\n", b"shallow-info\n"];
/// How git hosts say that they do not give an object out.
const NOT_GIVEN: [&[u8]; 2] = [b"not our ref", b"not valid"];

/// The content of the first line, and what follows it; `None` where no whole line stands there.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (digits, rest) = bytes.split_at_checked(4)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
    match usize::from_str_radix(digits, 16).ok()? {
        0..=2 => Some((b"", rest)),
        length @ 4..=PKT_LINE_BYTES_MAX => rest.split_at_checked(length - 4),
        _ => None,
    }
}

/// Whether what a host says first is one of git's.
pub(super) fn is_gits(bytes: &[u8]) -> bool {
    line(bytes).is_some_and(|(first, _)| FIRST_LINES.contains(&first))
}

/// The request for objects of a host that has said this first, if it speaks version 2: each without what was
/// before it and without what it leads to, as far as the host can leave that out.
pub(super) fn fetch(mut advertised: &[u8], ids: &[ObjectId]) -> Option<Vec<u8>> {
    let (mut is_2, mut features, mut format) = (false, Vec::new(), None);
    while let Some((content, rest)) = line(advertised) {
        advertised = rest;
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        is_2 |= content == b"version 2";
        if let Some(given) = content.strip_prefix(b"fetch=") {
            features = given.split(|byte| *byte == b' ').collect();
        } else if content.starts_with(b"object-format=") {
            format = Some(content);
        }
    }
    if !is_2 {
        return None;
    }
    let mut request = packet(b"command=fetch");
    request.extend(format.map(packet).unwrap_or_default());
    request.extend_from_slice(b"0001");
    request.extend(packet(b"no-progress"));
    for (feature, argument) in [
        (&b"shallow"[..], &b"deepen 1"[..]),
        (b"filter", b"filter tree:0"),
    ] {
        if features.contains(&feature) {
            request.extend(packet(argument));
        }
    }
    for id in ids {
        request.extend(packet(format!("want {id}").as_bytes()));
    }
    request.extend(packet(b"done"));
    request.extend_from_slice(b"0000");
    Some(request)
}

/// What the beginning of an answer to such a request says.
pub(super) fn given(bytes: &[u8]) -> Says {
    let Some((first, _)) = line(bytes) else {
        return Says::Nothing("its answer does not begin as git's do".to_owned());
    };
    let has = |text: &&[u8]| first.windows(text.len()).any(|part| part == *text);
    match first {
        _ if SECTIONS.contains(&first) => Says::Yes,
        _ if first.starts_with(b"ERR ") && NOT_GIVEN.iter().any(has) => Says::No,
        _ => Says::Nothing("it gives no objects".to_owned()),
    }
}

fn packet(content: &[u8]) -> Vec<u8> {
    let length = format!("{:04x}", content.len() + 5);
    [length.as_bytes(), content, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_can_leave_out_is_left_out() {
        let id = ObjectId::null(gix::hash::Kind::Sha1);
        let host = |fetch: &str| {
            let lines = ["version 2", "agent=x", fetch, "object-format=sha1"];
            let mut said = lines.map(|line| packet(line.as_bytes())).concat();
            said.extend_from_slice(b"0000");
            said
        };
        let request = |said: &[u8]| Some(String::from_utf8(fetch(said, &[id])?).unwrap());
        let all = request(&host("fetch=shallow wait-for-done filter")).unwrap();
        assert!(
            all.contains("000ddeepen 1\n0012filter tree:0\n0032want 0000"),
            "{all}"
        );
        assert!(
            all.starts_with("0012command=fetch\n0017object-format=sha1\n0001"),
            "{all}"
        );
        assert!(all.ends_with("0009done\n0000"), "{all}");
        let none = request(&host("fetch")).unwrap();
        assert!(
            !none.contains("deepen") && !none.contains("filter"),
            "{none}"
        );
        assert_eq!(request(b"001e# service=git-upload-pack\n0000"), None);
        assert_eq!(request(b"0"), None);
    }

    #[test]
    fn answers_are_read_by_their_first_line() {
        let said = |line: &str| given(&packet(line.as_bytes()));
        assert_eq!(
            (said("packfile"), said("shallow-info")),
            (Says::Yes, Says::Yes)
        );
        assert_eq!(said("ERR upload-pack: not our ref 11"), Says::No);
        assert_eq!(said("ERR want 11 not valid"), Says::No);
        for other in ["ERR access denied", "acknowledgments", "packfiles"] {
            assert!(matches!(said(other), Says::Nothing(_)), "{other}");
        }
        for cut in [&b""[..], b"00", b"0009do", b"zzzz", b"0003", b"<html>"] {
            assert!(matches!(given(cut), Says::Nothing(_)));
            assert!(!is_gits(cut));
        }
    }
}
