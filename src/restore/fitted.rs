//! How much of a line a terminal shows.

/// The part of a line that a terminal of so many columns shows in one: what it ends with is left out piece
/// by piece, and letters only if its first piece is too long. The last column stays free, or some wrap.
pub(super) fn fitted(line: &str, columns: usize) -> &str {
    let mut width = 0;
    let is_too_far = |&(_, c): &(usize, char)| {
        // Most others take two.
        width += if c.is_ascii() { 1 } else { 2 };
        width >= columns
    };
    let Some((end, _)) = line.char_indices().find(is_too_far) else {
        return line;
    };
    let pieces = line.match_indices([',', ';']).map(|(at, _)| at);
    &line[..pieces.take_while(|at| *at <= end).last().unwrap_or(end)]
}

/// How many columns the terminal behind standard error has; where it does not say, as many as it likes.
pub(super) fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    match size.map(|size| usize::from(size.ws_col)) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(columns) => columns,
    }
}
