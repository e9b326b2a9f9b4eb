//! The manual page: the command, then a section for each subcommand. Options come from
//! `clap_mangen`; what `--help` says behind them is laid out here, as a page needs it: examples as
//! they stand, exit codes as a list, and paragraphs that the reader's terminal wraps.
use clap::Command;
use std::io::{self, Write};

/// Writes the page of `command`, which is built.
pub(super) fn write(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut page = once(&page);
    let subs = || {
        command
            .get_subcommands()
            .filter(|sub| sub.get_name() != "help")
    };
    page.push_str(".SH SYNOPSIS\n");
    for sub in subs() {
        page.push_str(&usage(sub));
    }
    page.push_str(&rendered(|out| man.render_description_section(out))?);
    page.push_str(".SH COMMANDS\n");
    for sub in subs() {
        let about = sub.get_about().map(ToString::to_string);
        let (name, about) = (sub.get_name(), about.unwrap_or_default());
        page.push_str(&format!(
            ".TP\n\\fBtarpon {}\\fR\n{}\n",
            text(name),
            text(&about)
        ));
    }
    page.push_str(&rendered(|out| man.render_options_section(out))?);
    page.push_str(&behind(command, ".SH"));
    for sub in subs().filter(|sub| sub.get_after_help().is_some()) {
        page.push_str(&section(sub)?);
    }
    out.write_all(page.as_bytes())
}

/// All about one subcommand.
fn section(sub: &Command) -> io::Result<String> {
    let name = sub.get_name().to_uppercase();
    let options = rendered(|out| clap_mangen::Man::new(sub.clone()).render_options_section(out))?;
    let options = options.replace(".SH ", ".SS ");
    let (synopsis, behind) = (usage(sub), behind(sub, ".SS"));
    Ok(format!(".SH TARPON {name}\n{synopsis}{options}{behind}"))
}

/// What `clap_mangen` makes, without what it says once for each piece, and without its empty lines.
fn rendered(render: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<String> {
    let mut made = Vec::new();
    render(&mut made)?;
    let made = once(&made);
    let lines = made
        .lines()
        .filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "));
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    let lines = lines.replace(".br\n.br\n\\fIPossible values:\\fR\n.RS 14\n", ".RS 7\n");
    Ok(lines)
}

/// As text, without empty lines: a page has other means for space.
fn once(made: &[u8]) -> String {
    let made = String::from_utf8_lossy(made);
    let lines = made.lines().filter(|line| !line.trim().is_empty());
    lines.map(|line| format!("{line}\n")).collect()
}

/// How a subcommand is called.
fn usage(sub: &Command) -> String {
    let usage = sub.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    format!(".B {}\n.br\n", text(usage))
}

/// What is behind the options in `--help`, with headings of the kind `heading`.
fn behind(command: &Command, heading: &str) -> String {
    let help = command.get_after_help().map(ToString::to_string);
    let help = help.unwrap_or_default();
    let mut out = String::new();
    let mut about = "";
    let mut lines: Vec<&str> = Vec::new();
    for line in help.lines() {
        match line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            Some(name) => {
                out.push_str(&block(about, &lines));
                lines.clear();
                about = name;
                let name = match name {
                    "Exit codes" => "EXIT STATUS".to_owned(),
                    name => name.to_uppercase(),
                };
                out.push_str(&format!("{heading} {name}\n"));
            }
            None => lines.push(line),
        }
    }
    out + &block(about, &lines)
}

/// The lines below a heading.
fn block(about: &str, lines: &[&str]) -> String {
    let shown = |line: &&str| format!("{}\n", text(line));
    match about {
        "Examples" => {
            let end = lines.iter().rposition(|line| line.starts_with(' '));
            let (examples, rest) = lines.split_at(end.map_or(0, |end| end + 1));
            let examples: String = examples.iter().map(shown).collect();
            format!(".nf\n{examples}.fi\n{}", paragraphs(rest))
        }
        "Exit codes" => lines.iter().map(|line| code(line)).collect(),
        _ => paragraphs(lines),
    }
}

/// A line of exit codes.
fn code(line: &str) -> String {
    let said = line.trim();
    match said
        .split_once(' ')
        .filter(|(code, _)| code.parse::<u8>().is_ok())
    {
        Some((code, what)) => format!(".TP\n\\fB{code}\\fR\n{}\n", text(what.trim())),
        None if said.is_empty() => String::new(),
        None => format!(".PP\n{}\n", text(said)),
    }
}

/// Lines that belong together, until there is an empty one.
fn paragraphs(lines: &[&str]) -> String {
    let mut out = String::new();
    for some in lines.split(|line| line.trim().is_empty()) {
        if !some.is_empty() {
            out.push_str(".PP\n");
        }
        some.iter()
            .for_each(|line| out.push_str(&format!("{}\n", text(line.trim()))));
    }
    out
}

/// Text that means itself, also where a line begins.
fn text(plain: &str) -> String {
    let safe = plain
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq");
    match safe.starts_with('.') {
        true => format!("\\&{safe}"),
        false => safe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command as Program, Stdio};

    fn page() -> String {
        let mut page = Vec::new();
        super::super::cli::man(&mut page).unwrap();
        String::from_utf8(page).unwrap()
    }

    #[test]
    fn each_part_is_laid_out_as_what_it_is() {
        let page = page();
        let count = |what: &str| page.lines().filter(|line| line.starts_with(what)).count();
        assert_eq!((count(".TH"), count(".SH NAME")), (1, 1), "{page}");
        assert_eq!(count(".SH EXTRA") + count(".SH VERSION"), 0, "{page}");
        assert_eq!(
            (count(".SH TARPON SERVE"), count(".SH TARPON RESTORE")),
            (1, 1)
        );
        assert!(!page.contains("(1)"), "{page}");
        // As they stand, so that they can be copied.
        let (_, examples) = page.split_once(".SH EXAMPLES\n.nf\n").unwrap();
        let (examples, _) = examples.split_once(".fi\n").unwrap();
        assert!(examples.contains("|\n      zstd \\-dc | tar"), "{examples}");
        // A list, each code with what it means.
        let (_, codes) = page.split_once(".SH TARPON RESTORE").unwrap();
        let (_, codes) = codes.split_once(".SS EXIT STATUS\n").unwrap();
        assert!(
            codes.starts_with(".TP\n\\fB0\\fR\nrestored\n.TP\n\\fB1\\fR\n"),
            "{codes}"
        );
        assert!(codes.contains(".TP\n\\fB130\\fR\ninterrupted"), "{codes}");
        // Wrapped by who shows it.
        assert!(
            page.contains(".SS ENVIRONMENT AND FILE\n.PP\nEvery flag is"),
            "{page}"
        );
    }

    #[test]
    fn who_shows_it_finds_nothing_wrong() {
        let groff = Program::new("groff")
            .args(["-man", "-ww", "-Tutf8"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut groff) = groff else {
            println!("not tested: there is no groff");
            return;
        };
        groff
            .stdin
            .take()
            .unwrap()
            .write_all(page().as_bytes())
            .unwrap();
        let out = groff.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && errors.is_empty(), "{errors}");
        assert!(String::from_utf8_lossy(&out.stdout).contains("interrupted"));
    }
}
