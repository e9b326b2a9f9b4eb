//! Paths that are safe to join.

/// Whether a path stays below the directory it is joined to, whatever that is: relative, and
/// every part a name (not empty, not `.` or `..`) without control characters.
pub(crate) fn is_plain_path(path: &str) -> bool {
    !path.chars().any(char::is_control)
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}
