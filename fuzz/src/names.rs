//! Git's rules for names, put plainly: of paths (`verify_path` in read-cache.c, with
//! `core.protectHFS` and `core.protectNTFS`) and of refs (git-check-ref-format(1)).

/// Letters that HFS+ does not see in a name.
const IGNORED: [std::ops::RangeInclusive<char>; 4] = [
    '\u{200c}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{206a}'..='\u{206f}',
    '\u{feff}'..='\u{feff}',
];

/// Whether git would have a file, directory or link of this name in a directory of a worktree.
pub fn is_component(name: &[u8], is_link: bool) -> bool {
    let is_special = matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
    let on_hfs = as_on_hfs(name);
    let mut forbidden = on_hfs == ".git" || (is_link && on_hfs == ".gitmodules");
    for part in name.split(|byte| *byte == b'\\') {
        let on_ntfs = as_on_ntfs(part);
        let is_git = matches!(&*on_ntfs, b".git" | b"git~1");
        forbidden |= is_git || (is_link && is_gitmodules(&on_ntfs));
    }
    !is_special && !forbidden
}

fn as_on_hfs(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name).into_owned();
    let is_seen = |letter: &char| !IGNORED.iter().any(|range| range.contains(letter));
    let seen: String = text.chars().filter(is_seen).collect();
    seen.to_ascii_lowercase()
}

/// Without the name of a stream, and without dots and spaces at its end.
fn as_on_ntfs(name: &[u8]) -> Vec<u8> {
    let file = name.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_end = |byte: &u8| matches!(byte, b'.' | b' ');
    let end = file.iter().rposition(|byte| !is_end(byte));
    file[..end.map_or(0, |end| end + 1)].to_ascii_lowercase()
}

/// The name itself, or one of its short ones.
fn is_gitmodules(on_ntfs: &[u8]) -> bool {
    if on_ntfs == b".gitmodules" {
        return true;
    }
    let Some(tilde) = on_ntfs.iter().position(|byte| *byte == b'~') else {
        return false;
    };
    let (begin, number) = (&on_ntfs[..tilde], &on_ntfs[tilde + 1..]);
    let is_number = number.iter().all(u8::is_ascii_digit) && !number.starts_with(b"0");
    let is_first = begin == b"gitmod" && matches!(number, b"1" | b"2" | b"3" | b"4");
    is_first || (on_ntfs.len() == 8 && is_number && tilde < 7 && b"gi7eba".starts_with(begin))
}

/// Whether git would have a ref of this full name below `refs/`, as a file.
pub fn is_ref(name: &[u8]) -> bool {
    let is_part = |part: &[u8]| {
        (1..256).contains(&part.len()) && !part.starts_with(b".") && !part.ends_with(b".lock")
    };
    let has = |text: &[u8]| name.windows(text.len()).any(|window| window == text);
    let is_bad = |byte: &u8| *byte <= b' ' || *byte == 0x7f || b"~^:?*[\\".contains(byte);
    name.starts_with(b"refs/")
        && name.len() < 4096
        && name.split(|byte| *byte == b'/').all(is_part)
        && !name.iter().any(is_bad)
        && !has(b"..")
        && !has(b"@{")
        && !name.ends_with(b".")
}
