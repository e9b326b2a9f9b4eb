//! What may be shown of a URL.

/// Removes `user:password@` after every `://`, so that no message carries a secret.
pub(crate) fn without_password(text: &str) -> String {
    let mut pieces = text.split("://");
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let authority_end = piece
            .find(|c: char| "/?#'\"".contains(c) || c.is_whitespace())
            .unwrap_or(piece.len());
        let secret_end = piece[..authority_end].rfind('@').map_or(0, |at| at + 1);
        out.push_str("://");
        out.push_str(&piece[secret_end..]);
    }
    out
}
