//! What a server says in the place of what it was asked for: one line, if it is a tarpon.

/// What an answer without success says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said<'t> {
    Nothing,
    /// Its first line.
    Line(&'t str),
    /// A page for people, of this title.
    Page(&'t str),
}

/// What stands in the text of an answer.
pub(super) fn said(text: &str) -> Said<'_> {
    let text = text.trim();
    let line = text.lines().next().unwrap_or_default().trim();
    match text.starts_with('<') {
        true => Said::Page(title(text).unwrap_or("no title")),
        false if line.is_empty() => Said::Nothing,
        false => Said::Line(line),
    }
}

/// The title of a page.
fn title(page: &str) -> Option<&str> {
    let begin = page.to_ascii_lowercase().find("<title>")? + "<title>".len();
    let title = page.get(begin..)?.split('<').next()?;
    title.lines().map(str::trim).find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_titles_and_lines_speak_for_themselves() {
        let page = "<!DOCTYPE html>\n<HTML><head><Title>\n 404 Not Found </title>";
        assert_eq!(said(page), Said::Page("404 Not Found"));
        assert_eq!(said("<html><p>x"), Said::Page("no title"));
        assert_eq!(said("<title>"), Said::Page("no title"));
        assert_eq!(said("\n one \ntwo"), Said::Line("one"));
        assert_eq!(said(" \n"), Said::Nothing);
    }
}
